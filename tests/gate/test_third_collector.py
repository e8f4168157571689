"""A gate with a collector that is one file and nothing else (tests/third_collector/lengths.py)."""

from pathlib import Path

from gate_command import BASE, GATE_PACKS, gate
from prepared import SMALL


def test_a_gate_with_a_third_collector(base_copy: Path, tmp_path: Path) -> None:
    """It has an option of its own, serves no copies, and thinks that a copy is as good as its base."""
    given = (f"--base={BASE}", f"--checkpoint={base_copy}", f"--packs={GATE_PACKS}", *SMALL)
    run = gate(tmp_path / "run", *given, "--collector=lengths", "--slope=0.5", "-p", "third_collector_plugin")
    assert run.code == 0, run.output
    cell = run.cells("copy")["UNION-64"]
    assert cell["inputs"]["collector"] == {"collector": "lengths", "slope": 0.5, "batch_size": 8, "others": False}
    assert cell["metrics"]["ppl"]["estimate"] == 0.0
    assert not any(name.startswith("test_noop::test_metrics") for name in run.junit)
    refused = gate(tmp_path / "other", *given, "--slope=0.5", "-p", "third_collector_plugin")
    assert refused.code == 4
    assert "--slope is for --collector=lengths" in refused.output
