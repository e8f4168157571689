"""parity.md: the run in Markdown, within what a comment on GitHub may have; and the summary of a step."""

from pathlib import Path

import gate_command
import pytest
from gate_command import BASE, GATE_PACKS, Run, gate
from prepared import TINY

from eaftgate.gate.results import Parity, read_parity
from eaftgate.gate.summary import LIMIT, STEP_LIMIT, add_step_summary, parity_markdown


@pytest.fixture
def parity(bad_run: Run) -> Parity:
    return read_parity(bad_run.results)


def test_it_lies_beside_parity_json_and_says_what_that_says(bad_run: Run, parity: Parity) -> None:
    text = (bad_run.results / "parity.md").read_text(encoding="utf-8")
    assert text == parity_markdown(parity)
    assert text.startswith(f"## eaftgate: {parity.verdict.upper()}\n")
    lines = text.splitlines()
    for cell in parity.cells:
        (row,) = (line for line in lines if line.startswith(f"| `{cell.name}` | `{cell.pack}` | {cell.seq_len} |"))
        assert f"| {cell.tokens:,} |" in row
        assert row.endswith(f"| **{cell.verdict.upper()}** |" if cell.decides_something else f"| ({cell.verdict}) |")
    assert [line for line in lines if line.startswith("- `random8`: **FAIL**")]


def test_a_candidate_says_what_it_keeps_and_an_interrupted_run_that_it_was(parity: Parity) -> None:
    assert "- `random8`: **FAIL**, 8 of 32 experts, 49.0% of the bytes saved" in parity_markdown(parity)
    assert "did not end by itself" not in parity_markdown(parity)
    interrupted = parity.model_copy(update={"complete": False, "not_run": ("a::b", "c::d"), "verdict": "incomplete"})
    assert "The session did not end by itself; 2 planned cases did not run." in parity_markdown(interrupted)


def test_it_stays_within_what_a_comment_may_have(parity: Parity) -> None:
    cells = tuple(cell.model_copy(update={"name": f"candidate{n}"}) for n in range(2000) for cell in parity.cells[:1])
    text = parity_markdown(parity.model_copy(update={"cells": cells, "candidates": ()}))
    assert len(text) < 65_536
    assert "further lines are in parity\\.json" in text
    assert LIMIT < 65_536


def test_names_are_text(parity: Parity) -> None:
    name = "a|b`<img src=x>@someone"
    cells = tuple(cell.model_copy(update={"name": name, "pack": name}) for cell in parity.cells[:1])
    text = parity_markdown(parity.model_copy(update={"cells": cells, "failed": (), "candidates": ()}))
    row = next(line for line in text.splitlines() if line.startswith("| ``a"))
    assert row.count("``a\\|b`<img src=x>@someone``") == 2


def test_the_summary_of_a_step_is_never_more_than_github_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parity: Parity
) -> None:
    place, text = tmp_path / "summary.md", parity_markdown(parity)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(place))
    room = len(text.encode()) + 1
    for before, added in ((STEP_LIMIT - room, True), (STEP_LIMIT - room + 1, False)):
        place.write_bytes(b"x" * before)
        add_step_summary(text)
        assert place.stat().st_size == before + room * added


def test_a_step_on_github_gets_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Added to what other steps have said, also by a run that has no verdict."""
    place = tmp_path / "summary.md"
    place.write_text("before\n", encoding="utf-8")
    monkeypatch.setitem(gate_command.ENVIRONMENT, "GITHUB_STEP_SUMMARY", str(place))
    run = gate(tmp_path / "run", f"--base={BASE}", f"--packs={GATE_PACKS}", *TINY, "-k", "nothing_of_the_kind")
    assert run.code != 0
    assert place.read_text(encoding="utf-8") == f"before\n{(run.results / 'parity.md').read_text(encoding='utf-8')}\n"
    assert "## eaftgate: INCOMPLETE" in place.read_text(encoding="utf-8")
