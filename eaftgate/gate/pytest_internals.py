"""What the gate uses of pytest beyond its documented interface, all of it.

tests/gate/test_pytest_internals.py holds every line to the installed version; pyproject.toml says up to which one.
"""

import argparse
import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from eaftgate.visible import sentence


def config_of(pluginmanager: pytest.PytestPluginManager) -> pytest.Config:
    """The config that the plugins are registered for, where a hook is not handed it."""
    config: Any = pluginmanager.get_plugin("pytestconfig")
    assert isinstance(config, pytest.Config)
    return config


def parse_early(config: pytest.Config, parser: pytest.Parser, args: Sequence[str]) -> argparse.Namespace:
    """What `args` say to the options that are known before any conftest.py is loaded. Raises UsageError, with nothing
    but what is wrong with a value that is none for its option."""
    try:
        return parser.parse_known_args(args, namespace=copy.copy(config.option))
    except pytest.UsageError as error:
        if not isinstance(error.__context__, argparse.ArgumentError):
            raise
        raise pytest.UsageError(sentence(str(error.__context__).removeprefix("argument "))) from None


def is_free(parser: pytest.Parser, option: str) -> bool:
    """Whether nobody has defined `option`, like `--base`, before."""
    try:
        _, unknown = parser.parse_known_and_unknown_args([f"{option}=0"])
    except pytest.UsageError:  # somebody has, and 0 is no value for it
        return False
    return bool(unknown)


def load_conftest_of(config: pytest.Config, known: argparse.Namespace, directory: Path) -> None:
    """Have the conftest.py of `directory` loaded, and none of where pytest was started or of directories above.

    `known` are the arguments as parsed so far.
    """
    known.file_or_dir = [str(directory)]
    known.confcutdir = str(directory)
    config.known_args_namespace = known


def use_settings(config: pytest.Config, known: argparse.Namespace, settings: Mapping[str, Any]) -> None:
    """Go on as if the ini file held `settings` and nothing else; what the arguments `known` override (-o) stays."""
    overridden = {said.partition("=")[0] for said in known.override_ini or ()}
    entries: Any = config._inicfg if hasattr(config, "_inicfg") else config.inicfg
    for name in entries.keys() - overridden:
        del entries[name]
    config._inicache.clear()
    config._inicache.update({name: value for name, value in settings.items() if name not in overridden})


def add_junit_property(config: pytest.Config, name: str, value: str) -> None:
    """A property of the whole JUnit file, where one is written. (record_testsuite_property is for test cases.)"""
    from _pytest.junitxml import xml_key

    if junit := config.stash.get(xml_key, None):
        junit.add_global_property(name, value)


def junit_file(config: pytest.Config) -> Path | None:
    """Where pytest is going to write JUnit."""
    from _pytest.junitxml import xml_key

    junit = config.stash.get(xml_key, None)
    return None if junit is None else Path(junit.logfile)


@contextmanager
def junit_written_to(config: pytest.Config, path: Path) -> Iterator[None]:
    """Have pytest write JUnit to `path`, if it writes any; where it says that it does stays.

    Cases that never ended are left out: they have no name in it. So are properties of cases in a family other than
    xunit1: junit-10.xsd, which xunit2 is written for, has none, and pytest writes them all the same.
    """
    from _pytest.junitxml import xml_key

    junit = config.stash.get(xml_key, None)
    if junit is None:
        yield
        return
    junit.node_reporters_ordered = [case for case in junit.node_reporters_ordered if case.to_xml().get("name")]
    if junit.family != "xunit1":
        for case in junit.node_reporters_ordered:
            element = case.to_xml()  # of a case that has ended the one that is written
            for properties in element.findall("properties"):
                element.remove(properties)
    said, junit.logfile = junit.logfile, str(path)
    try:
        yield
    finally:
        junit.logfile = said
