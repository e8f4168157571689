"""The pytest plugin that every run of an environment with eaftgate loads. It is inert unless the suite is asked for.

Asked for is, on the command line: `--pyargs eaftgate.suite` or a module of it, a path in its directory, or one in a
directory whose conftest.py imports it, like gates/ in a clone. The gate is then the same wherever it is run: neither
the conftest.py nor the ini file of a project around it counts, only what pytest is given.

Nothing but the standard library and pytest is imported before.
"""

import inspect
import os
import re
import shlex
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

import eaftgate
from eaftgate.choices import did_you_mean
from eaftgate.gate.junit import forget_earlier
from eaftgate.gate.options import gate_options, option_names
from eaftgate.gate.pytest_internals import config_of, is_free, load_conftest_of, parse_early, use_settings

SUITE = "eaftgate.suite"
SUITE_DIR = Path(eaftgate.__file__).resolve().parent / "suite"
SETTINGS = {
    "junit_family": "xunit1",
    # Ids hold the names of checkpoints and packs, which may be of any script.
    "disable_test_id_escaping_and_forfeit_all_rights_to_community_support": True,
    "empty_parameter_set_mark": "fail_at_collect",
}
"""What a gate session has instead of an ini file."""
RUN_MODULE = "test_run"
"""The module of the suite whose cases no process collects."""
REPORT, CASES = "eaftgate-report", "eaftgate-session"
"""The plugins that a gate session has besides this one: what is said of it, and what its cases are."""
DIRECTORY = pytest.StashKey[Path]()
"""In the config of a gate session: where its cases were found."""
_DEFINED = pytest.StashKey[bool]()
"""In a config that has the options, because a word of its command line names the suite."""
_GIVEN = pytest.StashKey[list[str]]()
"""In the config of a gate session: its command line."""
_IMPORTS_SUITE = re.compile(rb"^(from|import) eaftgate\.suite\b", re.M)

pytest.register_assert_rewrite(SUITE)


def suite_directory(arguments: Sequence[str], *, pyargs: bool, within: Path) -> Path | None:
    """Where the cases are that `arguments` name: the suite's directory, one that imports it, or None.

    Without arguments it is `within`, the directory pytest was started in, that is named.
    """
    for argument in arguments or [""]:
        name = argument.partition("::")[0]
        if pyargs and (name == SUITE or name.startswith(f"{SUITE}.")):
            return SUITE_DIR
        path = (within / name).resolve()
        directory = path if os.path.isdir(path) else path.parent  # noqa: PTH112 (which may raise)
        if directory == SUITE_DIR or _imports_suite(directory / "conftest.py"):
            return directory
    return None


def _imports_suite(conftest: Path) -> bool:
    try:
        return _IMPORTS_SUITE.search(conftest.read_bytes()) is not None
    except OSError:
        return False


def is_case(function: object) -> bool:
    """Whether a test function is the suite's, whatever module it was found in."""
    return inspect.isfunction(function) and function.__module__.startswith(f"{SUITE}.")


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Where the suite is named, and there only, define the options (names like --seed are other projects' to give).

    What is named is the command line's to say: of an ini file nothing counts from here on.
    """
    config = config_of(pluginmanager)
    given = [*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *map(str, config.invocation_params.args)]
    where = config.invocation_params.dir
    words = [word for word in given if not word.startswith("-")]  # with values of options among them
    if suite_directory([*words, ""], pyargs="--pyargs" in given, within=where) is None:
        return
    if taken := [option for option in option_names() if not is_free(parser, option)]:
        raise pytest.UsageError(f"another pytest plugin has an option {taken[0]}: leave it out with -p no:NAME")
    gate_options(parser.getgroup("eaftgate", "near-lossless gate").addoption)
    config.stash[_DEFINED] = True
    _forget_earlier_junit(given, words, where)
    known = parse_early(config, parser, given)
    if directory := suite_directory(known.file_or_dir, pyargs=known.pyargs, within=where):
        config.stash[DIRECTORY] = directory
        config.stash[_GIVEN] = given
        use_settings(config, known, SETTINGS)


def _forget_earlier_junit(given: Sequence[str], words: Sequence[str], where: Path) -> None:
    """In a process of pytest-xdist, which is given the same words, the file is there and as red as it gets."""
    if words and suite_directory(words, pyargs="--pyargs" in given, within=where):
        forget_earlier(given, within=where)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, object, object]:
    """Before anything of a project around is loaded: leave its conftest.py out, and the options of its ini file."""
    if directory := early_config.stash.get(DIRECTORY, None):
        given = early_config.stash[_GIVEN]
        args[:] = given
        load_conftest_of(early_config, parse_early(early_config, parser, given), directory)
    result = yield
    if _DEFINED not in early_config.stash:
        _answer_outside(early_config, parser, args)
    else:
        _check_spelling(parser, args)
    return result


def _check_spelling(parser: pytest.Parser, args: Sequence[str]) -> None:
    """pytest itself names an option that there is not, and none that there is."""
    _, unknown = parser.parse_known_and_unknown_args(args)
    for argument in unknown:
        name = argument.partition("=")[0]
        if name.startswith("--") and (meant := did_you_mean(name, option_names())):
            raise pytest.UsageError(f"there is no option {name}{meant}")


def _answer_outside(config: pytest.Config, parser: pytest.Parser, args: Sequence[str]) -> None:
    """Where the suite is not asked for, `--help` shows its options, and to give one is an error that says how."""
    if config.known_args_namespace.help:
        group = parser.getgroup("eaftgate", f"near-lossless gate (pytest --pyargs {SUITE} ...)")

        def show(name: str, **settings: Any) -> None:
            with suppress(ValueError):  # another plugin's value of that name
                if is_free(parser, name):
                    group.addoption(name, **settings)

        gate_options(show)
    elif mine := [argument for argument in args if argument.partition("=")[0] in option_names()]:
        _, unknown = parser.parse_known_and_unknown_args(args)
        if foreign := [argument for argument in mine if argument in unknown]:
            _refuse(foreign[0].partition("=")[0])


def _refuse(option: str) -> NoReturn:
    raise pytest.UsageError(
        f"{option} is an option of eaftgate's gate, which must be named: pytest gates/ ... in a clone, "
        f"pytest --pyargs {SUITE} ... or eaftgate gate ... anywhere"
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, int, int]:
    """A gate that lost a worker is not run to its end on another one: it is red, and the same command goes on.

    Whoever else has a say in the exit code, it is 0 only for a run whose verdict is pass.
    """
    if DIRECTORY in config.stash and getattr(config.option, "maxworkerrestart", "") is None:  # it is there with xdist
        config.option.maxworkerrestart = "0"
    code = None
    try:
        code = yield
    finally:
        report: Any = config.pluginmanager.get_plugin(REPORT)  # not there in a worker, nor for --help
        ended = code if report is None else report.exit_code(pytest.ExitCode.INTERNAL_ERROR if code is None else code)
    return ended


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.option.help:
        return
    if DIRECTORY in config.stash:
        from eaftgate.gate.hooks import start  # what it takes to plan; what runs a model comes later still

        start(config)
    elif suite_directory(config.args, pyargs=config.option.pyargs, within=config.invocation_params.dir):
        raise pytest.UsageError(f"{SUITE} is named in an ini file: name it on the command line")
    elif _DEFINED in config.stash and (said := [name for name in option_names() if config.getoption(name)]):
        _refuse(said[0])


def pytest_pycollect_makeitem(collector: pytest.Collector, obj: object) -> list[pytest.Item] | None:
    """Outside of a gate session, as with `pytest .` in a clone, the suite's cases are not collected."""
    return [] if DIRECTORY not in collector.config.stash and is_case(obj) else None
