"""Recipes: the options of the commands in a YAML file, so that a run is repeated by naming it instead of retyping it.

    extends: base.yaml                       # or a list; relative to this file
    profile: {packs: split/calibration, seq_len: 2048}
    gate: {regime: bigblocks, seq_lens: [1024, 2048]}

A value is the text that the command line would have: `010`, `no` and `1e3` are what stands there and mean what the
option makes of them. Paths, but for `extends`, are relative to the working directory, as on the command line.
A recipe that is named, to be used or extended, and is no file there is a shipped one, with or without its .yaml.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eaftgate.choices import listed
from eaftgate.errors import UserError
from eaftgate.files import is_regular
from eaftgate.strict_yaml import read_yaml

RECIPE_FILE = "reap-recipe.yaml"
"""Of a pruned checkpoint: what made it."""
EXTENDS = "extends"
MAX_EXTENDED = 50
"""Files one after the other, and in one file."""
SHIPPED = Path(__file__).parent / "shipped"
SECTIONS = (
    "packs build", "packs check", "packs split", "profile", "prune", "yardstick", "sweep", "diagnose", "overlap",
    "gate", "report", "memo", "budgets", "lock", "verify", "cost", "run", "publish",
)  # fmt: skip
"""Every command of `eaftgate`, and the gate, which is pytest's."""


@dataclass(frozen=True)
class Setting:
    """What a recipe says of one option: text, or a list of texts. `where` is FILE:LINE, for error sentences."""

    value: str | list[str]
    where: str


Section = dict[str, Setting]
"""Options by long name, without the dashes in front and with underscores for those within."""


def read_section(path: Path, name: str) -> Section:
    """What the recipe `path`, and what it extends, says about the command `name`.

    Raises UserError for a file that is missing or no recipe, or is one for other commands only, and for files that
    extend each other in a circle.
    """
    sections = read_sections(path)
    if name not in sections:  # the wrong file, most likely; its command would run with nothing but defaults
        raise UserError(f"{path} has no section {name!r}: it has {', '.join(sections) or 'none'}")
    return sections[name]


def read_sections(path: Path) -> dict[str, Section]:
    """Every section of the recipe `path` and of what it extends, by the name of its command. Raises UserError."""
    return {
        name: {option: Setting(value, where) for option, (value, where) in options.items() if value is not None}
        for name, options in _merged(_found(path, Path()), (), {}).items()
    }


def _found(recipe: Path, within: Path) -> Path:
    """`recipe`, which is relative to `within`; or, where it is only a name and no file there, the shipped one."""
    shipped = SHIPPED / (recipe if recipe.suffix else f"{recipe}.yaml")
    named = recipe.name == str(recipe) and is_regular(shipped) and not os.path.lexists(within / recipe)
    return shipped if named else within / recipe


def recipe_text(sections: Mapping[str, Mapping[str, Any]], *, comment: str) -> str:
    """A recipe as YAML, under a comment of one or more lines."""
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    body: str = yaml.safe_dump({name: dict(options) for name, options in sections.items()}, sort_keys=False)
    return lines + body


_Options = dict[str, tuple[str | list[str] | None, str]]
"""Value and place by option; null takes back what an extended recipe says."""


def _merged(path: Path, extending: tuple[Path, ...], done: dict[Path, dict[str, _Options]]) -> dict[str, _Options]:
    """Every section of `path` over those of what it extends, of which later ones win.

    `extending`: the way here; `done`: files that were read before, for whatever else extends them.
    """
    by = f", which {extending[-1]} {EXTENDS}" if extending else ""
    if not is_regular(path):
        shipped = sorted(file.stem for file in SHIPPED.glob("*.yaml"))
        raise UserError(
            f"recipe not found: there is no file {str(path)[:1000]}{by}; shipped are {listed(shipped, meant=path.stem)}"
        )
    place = path.resolve()
    if place in extending:
        raise UserError(f"{extending[-1]}: {EXTENDS} goes in a circle, back to {path}")
    if place in done:
        return done[place]
    if len(extending) == MAX_EXTENDED:
        raise UserError(f"{extending[0]}: {EXTENDS} goes over more than {MAX_EXTENDED} files, to {path}")
    own = _mapping(read_yaml(path, what="recipe"), str(path))
    named = _value(own.pop(EXTENDS), f"{path}: {EXTENDS}") if EXTENDS in own else []
    names = [named] if isinstance(named, str) else named or []
    if len(names) > MAX_EXTENDED:
        raise UserError(f"{path}: {EXTENDS} names {len(names)} files, more than {MAX_EXTENDED}")
    layers = [_merged(_found(Path(name), path.parent), (*extending, place), done) for name in names]
    layers.append({name: _options(node, path, name) for name, node in own.items()})
    merged: dict[str, _Options] = {}
    for layer in layers:
        for name, options in layer.items():
            merged[name] = merged.get(name, {}) | options
    done[place] = merged
    return merged


def _options(node: Any, path: Path, section: str) -> _Options:
    if section not in SECTIONS:
        raise UserError(
            f"{_where(node, path)}: {section!r} is no command: it must be one of {listed(SECTIONS, meant=section)}"
        )
    if _is_null(node):
        return {}
    options: _Options = {}
    for key, value in _mapping(node, f"{path}: {section}").items():
        name = key.replace("-", "_")
        where = _where(value, path)
        if name in options:
            raise UserError(f"{where}: {section}.{key} is there twice")
        options[name] = (_value(value, f"{where}: {section}.{key}"), where)
    return options


def _mapping(node: Any, what: str) -> dict[str, Any]:
    """The value nodes of a mapping node by key."""
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{what} must be a mapping, like prune: {{keep_n: 24}}")
    return {key.value: value for key, value in node.value}


def _value(node: Any, what: str) -> str | list[str] | None:
    if _is_null(node):
        return None
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return [str(item.value) for item in node.value]
    raise UserError(f"{what} must be one value or a list of values")


def _is_null(node: Any) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _where(node: Any, path: Path) -> str:
    return f"{path}:{node.start_mark.line + 1}"
