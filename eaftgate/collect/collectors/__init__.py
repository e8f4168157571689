"""The kinds of collectors, a module each: one more in this folder is one more that --collector may name.

A module has one name that counts, COLLECTOR, a CollectorKind (eaftgate.collect.collector). Importing it imports nothing
that is slow.
"""

from importlib import import_module
from pkgutil import iter_modules

from eaftgate.collect.collector import CollectorKind

DEFAULT = "transformers"


def collector_kinds() -> dict[str, CollectorKind]:
    """By name, the default first."""
    modules = (import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__))
    kinds: list[CollectorKind] = [module.COLLECTOR for module in modules]
    return {kind.name: kind for kind in sorted(kinds, key=lambda kind: (kind.name != DEFAULT, kind.name))}


def options_of(kind: CollectorKind) -> list[str]:
    """The names of its own options, as they are given, like `--tp`."""
    names: list[str] = []
    kind.add_options(lambda name, **_: names.append(name))
    return names
