"""One observed forward pass against the model's MLPs redone by hand: what was selected, how strongly, how large."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_model import (
    Reference,
    Selection,
    TinyModel,
    load_lively,
    load_reference,
    reference_logits,
    reference_routing,
    slow_token_stats,
    write_lively_checkpoint,
)

from eaftgate.profile.observe import Observation, observe_batch
from eaftgate.profile.trace import NORM_SCALE

BLOCKS, SEQ_LEN = 4, 21
HALF = 2.0**-11
"""Relative rounding of a float16 (11 bits); gates are above 6e-5, where it holds."""


@dataclass(frozen=True)
class Case:
    model: TinyModel
    reference: Reference
    token_ids: NDArray[np.int32]
    counted: NDArray[np.bool_]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    path: Path = write_lively_checkpoint(tmp_path_factory.mktemp("lively"))
    rng = np.random.default_rng(7)
    counted = rng.random((BLOCKS, SEQ_LEN)) < 0.4
    counted[:, 0] = False
    counted[0, 1] = counted[1, -1] = True  # the first and the last that can count
    counted[2] = False
    token_ids = rng.integers(0, 265, (BLOCKS, SEQ_LEN), dtype=np.int32)
    return Case(load_lively(path), load_reference(path), token_ids, counted)


@pytest.fixture(scope="module")
def observation(case: Case) -> Observation:
    return observe_batch(case.model, case.token_ids, case.counted)


def places(case: Case) -> list[tuple[int, int]]:
    """(block, position) of every counted token, in block order."""
    return [(b, s) for b in range(BLOCKS) for s in range(SEQ_LEN) if case.counted[b, s]]


def recorded(observation: Observation, position: int) -> list[list[Selection]]:
    """Per layer, what the observation holds of one position, strongest first."""
    return [
        [
            (int(expert), float(gate), float(norm) * NORM_SCALE)
            for expert, gate, norm in zip(*columns, strict=True)
        ]
        for columns in zip(
            *(getattr(observation, name)[position] for name in ("expert_XLK", "gate_XLK", "norm_XLK")), strict=True
        )
    ]  # fmt: skip


@pytest.mark.parametrize(("index", "shift"), [("predicting_T", 1), ("own_T", 0)])
def test_selections_equal_the_slow_reference(case: Case, observation: Observation, index: str, shift: int) -> None:
    """`predicting_T` is the position before the token, `own_T` the token's own; gates and norms in float64 by hand."""
    routing = [reference_routing(case.reference, ids.tolist()) for ids in case.token_ids]
    at = getattr(observation, index)
    assert len(at) == len(places(case))
    for token, (b, s) in enumerate(places(case)):
        for layer, selections in enumerate(recorded(observation, at[token])):
            expected = routing[b][layer][s - shift]
            assert [expert for expert, _, _ in selections] == [expert for expert, _, _ in expected]
            for (_, gate, norm), (_, true_gate, true_norm) in zip(selections, expected, strict=True):
                assert gate == pytest.approx(true_gate, rel=HALF + 1e-4, abs=1e-7)
                assert norm == pytest.approx(true_norm, rel=HALF + 1e-4)


def test_neighbouring_positions_select_differently(observation: Observation) -> None:
    """Or the alignments above could not be told apart."""
    experts = observation.expert_XLK
    differ = (experts[observation.own_T] != experts[observation.predicting_T]).any(axis=(1, 2))
    assert differ.mean() > 0.9


def test_token_statistics_equal_brute_force(case: Case, observation: Observation) -> None:
    logits = [reference_logits(case.reference, ids.tolist()) for ids in case.token_ids]
    expected = [slow_token_stats(logits[b][s - 1], int(case.token_ids[b, s])) for b, s in places(case)]
    np.testing.assert_allclose(observation.stats.logprob_T, [e[0] for e in expected], rtol=0, atol=1e-4)
    np.testing.assert_allclose(observation.stats.entropy_T, [e[1] for e in expected], rtol=0, atol=1e-4)


def test_every_position_is_held_once(case: Case, observation: Observation) -> None:
    needed = {b * SEQ_LEN + s - shift for b, s in places(case) for shift in (0, 1)}
    assert len(observation.expert_XLK) == len(observation.gate_XLK) == len(observation.norm_XLK) == len(needed)
    assert set(observation.predicting_T.tolist()) | set(observation.own_T.tolist()) == set(range(len(needed)))


def test_a_batch_is_its_blocks(case: Case, observation: Observation) -> None:
    """One block after the other gives the same selections, to the rounding of float32 in float16 steps."""
    first = 0
    for b in range(BLOCKS):
        alone = observe_batch(case.model, case.token_ids[b : b + 1], case.counted[b : b + 1])
        together = slice(first, first + len(alone.own_T))
        for index in ("predicting_T", "own_T"):
            at, at_alone = getattr(observation, index)[together], getattr(alone, index)
            assert np.array_equal(observation.expert_XLK[at], alone.expert_XLK[at_alone])
            for name in ("gate_XLK", "norm_XLK"):
                found, expected = (getattr(o, name)[i] for o, i in ((observation, at), (alone, at_alone)))
                np.testing.assert_allclose(
                    found.astype(np.float32), expected.astype(np.float32), rtol=2 * HALF, atol=1e-6
                )
        first = together.stop
    assert first == len(observation.own_T)


def test_a_batch_without_counted_tokens(case: Case) -> None:
    observation = observe_batch(case.model, case.token_ids[2:3], case.counted[2:3])
    assert len(observation.stats) == len(observation.own_T) == len(observation.expert_XLK) == 0
