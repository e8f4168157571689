"""How many passes a refinement is said to take, against those that it takes."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from content import content_blocks
from tiny_checkpoint import Size
from tiny_model import load_lively, write_lively_checkpoint

from eaftgate.packs.blocks import Blocks
from eaftgate.search import forecast
from eaftgate.search.forecast import expected_passes
from eaftgate.search.half import Half
from eaftgate.search.objective import Predictions
from eaftgate.search.refined import Refinement, halves_of, layers_of, ranked_starts, refinements
from eaftgate.select.keep import KeepSets, random_keep_sets

SIZE = Size(layers=3, experts=8, top_k=2)
ASKED = {"layers": 12, "experts": 32, "top_k": 4, "keep_n": 24}
VOCABULARY = 100


def made(number: int, seq_len: int, *, answered: int | None = None, share: float = 0.7) -> Blocks:
    """A row a block, of which the last ones have no answers."""
    rng = np.random.default_rng(0)
    shape = number, seq_len
    row_BS = np.broadcast_to(np.arange(number, dtype=np.int32)[:, None], shape)
    scored_BS = rng.random(shape) < share
    scored_BS[:, 0] = False
    scored_BS[number if answered is None else answered :] = False
    ids_BS = rng.integers(0, VOCABULARY, shape).astype(np.int32)
    return content_blocks("chat", seq_len, ids_BS, scored_BS, row_BS, tuple(map(str, range(number))))


def test_what_a_search_takes_grows_with_what_it_does() -> None:
    blocks = made(100, 1000, share=0.3)
    passes = expected_passes(blocks, **ASKED)
    assert passes.tokens == 100_000
    for name, value in {"layers": 24, "experts": 64, "keep_n": 20}.items():
        assert expected_passes(blocks, **ASKED | {name: value}).whole > passes.whole
    assert expected_passes(blocks, **ASKED | {"top_k": 8}).whole < passes.whole
    assert expected_passes(made(100, 1000, share=0.6), **ASKED).whole < passes.whole
    assert expected_passes(blocks, **ASKED, positions=1000).greedy == pytest.approx(
        passes.greedy * 1000 / blocks.num_scored
    )
    more = expected_passes(made(200, 1000, share=0.3), **ASKED)
    assert passes.seconds(100) < more.seconds(100) < 2 * passes.seconds(100)
    assert passes.seconds(100) == pytest.approx(1000 * passes.whole)


def test_swaps_are_counted_where_a_layer_keeps_as_many_as_a_token_is_routed_to() -> None:
    blocks = made(8, 100)  # all of which is measured every time

    def of_a_layer(keep_n: int) -> float:
        return expected_passes(blocks, **ASKED | {"keep_n": keep_n}).layers[0]

    assert of_a_layer(4) - of_a_layer(5) == pytest.approx(forecast.AGAIN / 2 * (4 * 28 - 32))
    assert of_a_layer(5) == of_a_layer(6)


def test_either_turn_comes_through_every_layer() -> None:
    passes = expected_passes(made(10, 100), **ASKED)
    assert len(passes.through) == 1 + 2 * len(passes.layers) == 1 + 2 * 12
    assert passes.through[0] == passes.begun
    assert passes.through[-1] == pytest.approx(passes.begun + 2 * sum(passes.layers))
    assert passes.layers[0] == pytest.approx(12 * passes.layers[-1])
    assert passes.whole == 1 + passes.through[-1]


@pytest.mark.parametrize(
    ("experts", "top_k", "keep_n", "fewest_tokens", "blocks"),
    [
        (8, 2, 6, 2048, made(32, 16)),
        (8, 2, 6, 16, made(32, 16)),
        (8, 2, 2, 2048, made(32, 16)),
        (40, 4, 32, 2048, made(32, 16)),
        (40, 4, 32, 16, made(32, 16)),
        (40, 4, 32, 16, made(4, 128)),
        (40, 4, 32, 16, made(48, 16, answered=12)),
    ],
)
def test_as_many_as_are_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    experts: int,
    top_k: int,
    keep_n: int,
    fewest_tokens: int,
    blocks: Blocks,
) -> None:
    """Where no move is made, so that nothing is asked again; how many promise anything, nobody knows before."""
    for module in ("forecast", "half"):
        monkeypatch.setattr(f"eaftgate.search.{module}.FEWEST_TOKENS", fewest_tokens)
    model = load_lively(write_lively_checkpoint(tmp_path, size=replace(SIZE, experts=experts, top_k=top_k)))
    answered = int(blocks.scored_BS.any(axis=1).sum())
    run = 0.0

    def measured(half: Half, keep: KeepSets, places: tuple[int, ...]) -> dict[int, Predictions]:
        nonlocal run
        run += len(places) / answered * (1 - half._layer / SIZE.layers)
        return measure(half, keep, places)

    measure = Half._measured
    monkeypatch.setattr(Half, "_measured", measured)
    monkeypatch.setattr(Half, "change", lambda *_: SimpleNamespace(value=0.0, standard_error=0.0))
    halves = halves_of(model, blocks, np.zeros(blocks.num_blocks, int), batch_size=8)
    starts = {str(seed): random_keep_sets(SIZE.layers, experts, keep_n, seed) for seed in range(18)}
    best = ranked_starts(halves, starts)[0]
    passes = expected_passes(blocks, layers=SIZE.layers, experts=experts, top_k=top_k, keep_n=keep_n)
    assert run / 1.5 < passes.starts < run * 1.5
    run = 0.0
    list(refinements(halves, layers_of(list(starts.values())[:8]), Refinement(starts[best])))
    assert run / 1.5 < 2 * sum(passes.layers) / forecast.AGAIN < run * 1.5
