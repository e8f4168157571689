"""Rooms are used in one direction: an import goes from a later room of ARCHITECTURE.md's order to an earlier one.

A room is a package of eaftgate/; the single modules beside them are each a room of their own. Imports under
TYPE_CHECKING and within functions count like all others: they say the same of who knows whom.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "eaftgate"
ENTRANCES = {"__init__", "__main__"}
"""The package's own faces: what version it is, and `python -m eaftgate`."""


def written_order() -> list[str]:
    """The rooms in the fenced list under the heading "Order of the rooms", lowest first."""
    section = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("## Order of the rooms", 1)[1]
    return re.search(r"```\w*\n(.*?)```", section, re.DOTALL)[1].split()  # type: ignore[index]


def room_of(path: Path, package: Path) -> str:
    return path.relative_to(package).parts[0].removesuffix(".py")


def modules(package: Path) -> Iterator[Path]:
    return (path for path in sorted(package.rglob("*.py")) if room_of(path, package) not in ENTRANCES)


def imported(source: str) -> Iterator[tuple[int, str]]:
    """(line, room) of every import of eaftgate; the package itself (its version) is no room."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here, so that a room is named"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            head, _, rest = name.partition(".")
            room = rest.split(".")[0]
            if head == "eaftgate" and room and not room.startswith("__"):
                yield node.lineno, room


def arrows_back(package: Path, order: list[str]) -> list[str]:
    """Imports of a room that is not lower than the importing one, but for those within a room."""
    place = {room: number for number, room in enumerate(order)}
    return [
        f"{path.relative_to(package.parent)}:{line}: {room} imports {other}"
        for path in modules(package)
        for room in [room_of(path, package)]
        for line, other in imported(path.read_text(encoding="utf-8"))
        if other != room and not place[other] < place[room]
    ]


def test_the_written_order_names_every_room_once() -> None:
    assert sorted(written_order()) == sorted({room_of(path, PACKAGE) for path in modules(PACKAGE)})


def test_no_import_runs_against_the_order() -> None:
    assert arrows_back(PACKAGE, written_order()) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from eaftgate.high.door import a", ["eaftgate/low/room.py:1: low imports high"]),
        ("import eaftgate.high", ["eaftgate/low/room.py:1: low imports high"]),
        ("from eaftgate import high", ["eaftgate/low/room.py:1: low imports high"]),
        ("def late():\n    from eaftgate.high import a", ["eaftgate/low/room.py:2: low imports high"]),
        ("from eaftgate.low.other import a\nfrom eaftgate import __version__\nimport json", []),
    ],
)
def test_an_arrow_that_runs_back_is_seen(tmp_path: Path, line: str, found: list[str]) -> None:
    for room, source in {"low": line, "high": "from eaftgate.low.room import b"}.items():
        (tmp_path / "eaftgate" / room).mkdir(parents=True)
        (tmp_path / "eaftgate" / room / "room.py").write_text(source, encoding="utf-8")
    assert arrows_back(tmp_path / "eaftgate", ["low", "high"]) == found
