"""The JUnit file of a gate run: red from before its start, and replaced by the real one as a whole.

Who reads it then never takes an earlier run's answer, or half of this one's, for this one's. Nothing that is slow is
imported here: the file is made red before pytest has read its options.
"""

import argparse
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from eaftgate.errors import UserError
from eaftgate.files import write_failure, write_text

NOT_ENDED = "the run did not end"
_ASKS_ONLY = {"-h", "--help", "-V", "--version", "--markers", "--fixtures", "--funcargs", "--fixtures-per-test"}
_DEVICES = ("/dev/", "/proc/")
_JUNIT = re.compile(rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*(>|\Z))?\s*(<testsuite|\Z)")
"""How one begins, also one that was cut off; an HTML page or a figure does not."""


def junit_path(arguments: Sequence[str], *, within: Path) -> Path | None:
    """Where the last --junitxml of a command line says, as pytest takes it; None where none is given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False, fromfile_prefix_chars="@")
    parser.add_argument("--junitxml", "--junit-xml", dest="path")
    try:
        given = parser.parse_known_args(list(arguments))[0].path
    except (argparse.ArgumentError, SystemExit):
        return None
    return within / os.path.expanduser(os.path.expandvars(given)) if given else None  # noqa: PTH111


def forget_earlier(arguments: Sequence[str], *, within: Path) -> None:
    """Make the file red that an earlier run left where `arguments` say.

    A command line that is refused runs nothing, and what was there is not its answer.
    """
    path = junit_path(arguments, within=within)
    if path is not None and path.is_file() and is_file_or_free(path) and not _ASKS_ONLY & set(arguments):
        with suppress(UserError):  # it is said where the session starts
            make_red(path)


def is_file_or_free(path: Path) -> bool:
    """Whether a file at `path` may be replaced: a terminal, a pipe or a device is written to, as pytest does."""
    if os.path.abspath(path).startswith(_DEVICES):  # noqa: PTH100 (links are not to be followed)
        return False
    with suppress(OSError):
        return path.is_file() or not os.path.lexists(path.resolve())
    return False


def make_red(path: Path, reason: str = NOT_ENDED) -> None:
    """Replace the file at `path`, or what it is a link to, by one with a single case that failed, for `reason`.

    Raises UserError where that is something else than a JUnit file, or cannot be written; what is there then is gone,
    too, unless it is as red.
    """
    target, red, there = path.resolve(), _red(reason), b""
    with suppress(OSError), target.open("rb") as stream:
        there = stream.read(len(red))
    if there.strip() and not _JUNIT.match(there):
        raise UserError(f"--junitxml would overwrite {path}, which is no JUnit file: choose another place")
    try:
        write_text(target, red)
    except OSError as error:
        if not there.startswith(red.partition(" message=")[0].encode()):
            with suppress(OSError):
                target.unlink(missing_ok=True)
        raise write_failure(error, path) from None


def _red(reason: str) -> str:
    suites = ElementTree.Element("testsuites", name="pytest tests")
    suite = ElementTree.SubElement(
        suites, "testsuite", name="pytest", errors="0", failures="1", skipped="0", tests="1", time="0.000"
    )
    case = ElementTree.SubElement(
        suite, "testcase", classname="eaftgate.suite.test_run", name="test_complete", time="0.000"
    )
    ElementTree.SubElement(case, "failure", message=reason).text = reason
    return '<?xml version="1.0" encoding="utf-8"?>' + ElementTree.tostring(suites, encoding="unicode")
