"""What lies in a results directory is believed for what it says of itself, never by its name."""

import re
import shutil
from pathlib import Path

from gate_command import BASE, GATE_PACKS, Run, gate
from prepared import TINY


def test_a_collection_under_the_name_of_another_is_collected_again(
    bad_run: Run, random8: Path, raised: Path, tmp_path: Path
) -> None:
    """The base's own collections as a candidate's: that candidate would lose nothing."""
    results = Path(shutil.copytree(bad_run.results, tmp_path / "results"))
    before = bad_run.cells("random8")
    names = [cell["inputs"]["collections"] for cell in before.values()]
    for name in names:
        shutil.copyfile(results / "collections" / name["base"], results / "collections" / name["checkpoint"])
    candidates = (f"--checkpoint={random8}", f"--checkpoint={raised}")
    again = gate(results, f"--base={BASE}", *candidates, f"--packs={GATE_PACKS}", *TINY)
    assert again.code == bad_run.code == 1
    assert again.cells("random8") == before
    for name in names:
        line = rf"^\S+{name['checkpoint']} is not used but collected again: it is of another checkpoint$"
        assert len(re.findall(line, again.output, re.M)) == 1
    assert "of an earlier version" not in again.output
    said = [case.properties["collected_again"] for case in again.junit.values() if "collected_again" in case.properties]
    assert len(said) == len(names)
