"""How many passes a refinement is said to take, against those that it takes."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from content import content_blocks
from tiny_checkpoint import Size
from tiny_model import load_lively, write_lively_checkpoint

from eaftgate.search import forecast
from eaftgate.search.forecast import expected_passes
from eaftgate.search.half import Half
from eaftgate.search.objective import Predictions
from eaftgate.search.refined import Refinement, halves_of, layers_of, ranked_starts, refinements
from eaftgate.select.keep import KeepSets, random_keep_sets

SIZE = Size(layers=3, experts=8, top_k=2)
ASKED = {"tokens": 100_000, "scored": 30_000, "layers": 12, "experts": 32, "top_k": 4, "keep_n": 24}


def test_what_a_search_takes_grows_with_what_it_does() -> None:
    passes = expected_passes(**ASKED)
    for name, value in {"layers": 24, "experts": 64, "keep_n": 20}.items():
        assert expected_passes(**ASKED | {name: value}).whole > passes.whole
    for name, value in {"scored": 60_000, "top_k": 8}.items():
        assert expected_passes(**ASKED | {name: value}).whole < passes.whole
    assert expected_passes(**ASKED, positions=1000).greedy == pytest.approx(passes.greedy / 30)
    more = expected_passes(**ASKED | {"tokens": 200_000, "scored": 60_000})
    assert passes.whole < 2 * more.whole < 2 * passes.whole


def test_either_turn_comes_through_every_layer() -> None:
    passes = expected_passes(**ASKED)
    assert len(passes.through) == 1 + 2 * len(passes.layers) == 1 + 2 * 12
    assert passes.through[0] == passes.begun
    assert passes.through[-1] == pytest.approx(passes.begun + 2 * sum(passes.layers))
    assert passes.layers[0] == pytest.approx(12 * passes.layers[-1])
    assert passes.whole == 1 + passes.through[-1]


@pytest.mark.parametrize(
    ("experts", "top_k", "keep_n", "fewest_tokens"),
    [(8, 2, 6, 2048), (8, 2, 6, 16), (8, 2, 2, 2048), (40, 4, 32, 2048), (40, 4, 32, 16)],
)
def test_as_many_as_are_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experts: int, top_k: int, keep_n: int, fewest_tokens: int
) -> None:
    """Where no move is made, so that nothing is asked again; how many promise anything, nobody knows before."""
    for module in ("forecast", "half"):
        monkeypatch.setattr(f"eaftgate.search.{module}.FEWEST_TOKENS", fewest_tokens)
    model = load_lively(write_lively_checkpoint(tmp_path, size=replace(SIZE, experts=experts, top_k=top_k)))
    rng = np.random.default_rng(0)
    shape = 32, 16
    row_BS = np.broadcast_to(np.arange(shape[0], dtype=np.int32)[:, None], shape)
    scored_BS = rng.random(shape) < 0.7
    scored_BS[:, 0] = False
    ids_BS = rng.integers(0, len(model.head_VD), shape).astype(np.int32)
    blocks = content_blocks("chat", shape[1], ids_BS, scored_BS, row_BS, tuple(map(str, range(shape[0]))))
    run = 0.0

    def measured(half: Half, keep: KeepSets, places: tuple[int, ...]) -> dict[int, Predictions]:
        nonlocal run
        run += len(places) / shape[0] * (1 - half._layer / SIZE.layers)
        return measure(half, keep, places)

    measure = Half._measured
    monkeypatch.setattr(Half, "_measured", measured)
    monkeypatch.setattr(Half, "change", lambda *_: SimpleNamespace(value=0.0, standard_error=0.0))
    halves = halves_of(model, blocks, np.zeros(shape[0], int), batch_size=8)
    starts = {str(seed): random_keep_sets(SIZE.layers, experts, keep_n, seed) for seed in range(18)}
    best = ranked_starts(halves, starts)[0]
    passes = expected_passes(
        tokens=ids_BS.size, scored=int(scored_BS.sum()), layers=SIZE.layers, experts=experts, top_k=top_k, keep_n=keep_n
    )
    assert run / 1.5 < passes.starts < run * 1.5
    run = 0.0
    list(refinements(halves, layers_of(list(starts.values())[:8]), Refinement(starts[best])))
    assert run / 1.5 < 2 * sum(passes.layers) / forecast.AGAIN < run * 1.5
