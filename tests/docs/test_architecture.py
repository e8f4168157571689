"""ARCHITECTURE.md speaks of the rooms, the files and the dependencies that there are."""

import re
import tomllib
from pathlib import Path

import pytest
import tables
from test_rooms import written_order

ROOT = tables.ROOT
_PATH = re.compile(r"`((?:[\w.-]+/)+(?:[\w.-]+\.(?:py|sh|json|md))?|[\w-]+\.(?:py|json|md))`")
_REQUIREMENT = re.compile(r"[\w-]+")


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


MADE = re.compile(
    r"(RUN_DIR/)?parity\.md|gate-out/.*|calibration/|gate/|(manifest|made_from|parity|expert_mapping|config|training)\.json"
)
"""What a run makes, and no repository holds."""


def missing_paths(text: str, *, beside: Path) -> list[str]:
    """Files and folders in backticks that are not in the root, in eaftgate/ or beside the document."""
    places = (ROOT, ROOT / "eaftgate", beside)
    named = [path for path in _PATH.findall(text) if not MADE.fullmatch(path)]
    return [path for path in named if not any((at / path).exists() for at in places)]


def test_every_room_has_its_line() -> None:
    rows = re.findall(r"^\| (`.*?) \|", text_of("ARCHITECTURE.md").split("## Order of the rooms")[0], re.MULTILINE)
    named = {name.removesuffix("/").removesuffix(".py") for row in rows for name in re.findall(r"`(.*?)`", row)}
    assert named == set(written_order())


@pytest.mark.parametrize("document", [str(path.relative_to(ROOT)) for path in tables.documents()])
def test_files_that_documents_name_are_there(document: str) -> None:
    assert missing_paths(text_of(document), beside=(ROOT / document).parent) == []


def test_a_file_that_is_not_there_is_seen() -> None:
    text = "`parity/bounds.py` `eaftgate/packs/` `parity/gone.py` `no_room/` `README.md` `tables.py`"
    assert missing_paths(text, beside=ROOT / "docs") == ["parity/gone.py", "no_room/"]


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    declared = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    names = {match[0] for one in declared if (match := _REQUIREMENT.match(one))} - {"eaftgate"}
    reasons = set(re.findall(r"\*\*([\w-]+)\*\*", text_of("ARCHITECTURE.md").split("## Dependencies")[1]))
    assert reasons == names
