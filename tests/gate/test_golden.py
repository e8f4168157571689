"""What near-lossless-v1 and -v2 say is what they said before tokens had classes: figures to 1e-6, verdicts."""

import json
from pathlib import Path
from typing import Any

import pytest
from gate_command import BASE, GATE_PACKS, gate

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.prune.checkpoint import PruneRequest, prune_checkpoint

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "classless.json").read_text(encoding="utf-8"))
CLOSE = 1e-6
"""Nats and shares: what another number of threads or another kernel does to a mean is less."""


@pytest.fixture(scope="module")
def candidate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("golden")
    keep = directory / "keep.json"
    keep.write_text(json.dumps(GOLDEN["keep"]))
    base = open_checkpoint(BASE)
    prune_checkpoint(base, checkpoint_digest(base), None, PruneRequest(keep_sets=keep), directory / "keep24")
    return directory / "keep24"


def test_figures_and_verdicts_of_before_classes(candidate: Path) -> None:
    options = (
        f"--base={BASE}", f"--checkpoint={candidate}", f"--packs={GATE_PACKS}", "--regime=fixture", "--seq-lens=128",
        "--num-blocks=64", "-k", "near_lossless",
    )  # fmt: skip
    for policy, expected in GOLDEN["policies"].items():
        run = gate(candidate.parent / "run", *options, f"--policy={policy}")
        cells = {cell["pack"]: cell for cell in run.parity["cells"]}
        assert cells.keys() == expected.keys()
        for pack, before in expected.items():
            cell = cells[pack]
            assert (cell["tokens"], cell["verdict"]) == (before["tokens"], before["verdict"])
            assert {name: cell[name] for name in before["figures"]} == pytest.approx(before["figures"], abs=CLOSE)
            assert cell["metrics"].keys() == before["metrics"].keys()
            for metric, figures in before["metrics"].items():
                now = cell["metrics"][metric]
                assert now["verdict"] == figures["verdict"], (policy, pack, metric)
                for name in ("estimate", "lower", "upper", "margin"):
                    assert now[name] == (figures[name] and pytest.approx(figures[name], abs=CLOSE)), (metric, name)
