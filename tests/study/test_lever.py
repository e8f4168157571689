"""What to try next: one planted cause at a time, and the sentence that must name it."""

from typing import Any
from unittest.mock import Mock

import pytest

from eaftgate.judge.verdict import MetricVerdict
from eaftgate.parity.clusters import Estimate
from eaftgate.study.diagnose import CellLoss, Diagnosis, LayerLoss
from eaftgate.study.lever import next_lever

ERROR = 0.001


def cell(pack: str, loss: float, *, seq_len: int = 64, verdict: str = "fail", error: float = ERROR) -> CellLoss:
    judged = MetricVerdict(loss, loss - 2 * error, loss + 2 * error, 0.05, verdict)  # type: ignore[arg-type]
    return CellLoss(pack, seq_len, Mock(verdict=verdict, verdicts={"ppl": judged}))


def diagnosis(layers: list[float], together: float, *packs: CellLoss) -> Diagnosis:
    found = tuple(LayerLoss(layer, Estimate(loss, ERROR, 50)) for layer, loss in enumerate(layers))
    return Diagnosis((cell("UNION", together), *packs), Estimate(together, ERROR, 50), found, ())


EVEN = [0.03, 0.03, 0.03, 0.03]
ALIKE = (cell("chat", 0.12), cell("reasoning", 0.1), cell("tools", 0.13))


def test_one_layer_carries_the_loss() -> None:
    found = diagnosis([0.01, 0.09, 0.02, -0.01], 0.12, *ALIKE)
    said = next_lever(found, method="reap")
    assert said.startswith("layer 1 pruned alone loses +9.42%, 75% of what")
    assert "--method refined, or raise --keep-n" in said
    assert next_lever(found, method="refined").endswith("one by one: raise --keep-n")


def test_one_pack_carries_the_loss() -> None:
    packs = (cell("chat", 0.02), cell("reasoning", 0.03), cell("tools", 0.3), cell("chat", 0.9, seq_len=128))
    said = next_lever(diagnosis(EVEN, 0.12, *packs), method="reap")
    assert said.startswith("pack tools loses +34.99%")
    assert "more of its rows" in said
    assert said.endswith(", or choose with --method refined")
    assert next_lever(diagnosis(EVEN, 0.12, *packs), method="refined").endswith("more of its rows")


@pytest.mark.parametrize(
    "packs",
    [
        ALIKE,
        (cell("tools", 0.3),),  # alone
        (cell("chat", 0.02), cell("tools", 0.3, error=0.14)),  # perhaps by chance
    ],
)
def test_no_pack_stands_out(packs: tuple[CellLoss, ...]) -> None:
    assert "pack tools" not in next_lever(diagnosis(EVEN, 0.12, *packs), method="reap")


def test_errors_compound() -> None:
    found = diagnosis(EVEN, 0.3, *ALIKE)
    said = next_lever(found, method="reap")
    assert said.startswith("the layers lose +12.75% one by one and +34.99% together")
    assert said.endswith("compound: choose with --method refined, or raise --keep-n")
    assert next_lever(found, method="refined").endswith("compound: raise --keep-n")


def test_nothing_stands_out() -> None:
    found = diagnosis(EVEN, 0.12, *ALIKE)
    assert "--method refined, or" in next_lever(found, method="reap")
    assert next_lever(found, method="refined").endswith("stands out: raise --keep-n")


def test_a_loss_that_cannot_be_seen_and_none_at_all() -> None:
    unseen: Any = Diagnosis((cell("UNION", 0.1, error=0.1),), Estimate(0.1, 0.1, 50), (), ())
    assert "raise --num-blocks" in next_lever(unseen, method="reap")
    passing: Any = Diagnosis((cell("UNION", 0.01, verdict="pass"),), Estimate(0.01, ERROR, 50), (), ())
    assert "every pack passes" in next_lever(passing, method="reap")
