"""Where the loss is, held to masking by hand and running the whole model every time."""

import numpy as np
import pytest
import torch
from content import content_blocks
from tiny_checkpoint import Size
from tiny_model import TinyModel, load_lively, write_lively_checkpoint

from eaftgate.packs.blocks import Blocks
from eaftgate.search.evaluate import collected, collected_after
from eaftgate.search.prefix import embedded, through_layer
from eaftgate.study.diagnose import Diagnosis, diagnose

EXPERTS, BATCH = 8, 4
KEEP = [[0, 2, 3, 5, 6], [1, 3, 4, 6, 7], [0, 1, 2, 4, 7]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    size = Size(layers=len(KEEP), experts=EXPERTS)
    return load_lively(write_lively_checkpoint(tmp_path_factory.mktemp("base"), size=size))


def blocks_of(model: TinyModel, pack: str, seed: int) -> Blocks:
    rng = np.random.default_rng(seed)
    scored_BS = rng.random((6, 24)) < 0.5
    scored_BS[:, 0] = False
    row_BS = np.repeat(np.arange(6, dtype=np.int32), 24).reshape(6, 24)
    ids_BS = rng.integers(0, len(model.head_VD), (6, 24)).astype(np.int32)
    return content_blocks(pack, 24, ids_BS, scored_BS, row_BS, tuple(f"row {row}" for row in range(6)))


@pytest.fixture(scope="module")
def cells(model: TinyModel) -> list[Blocks]:
    return [blocks_of(model, "UNION", 0), blocks_of(model, "chat", 1)]


@pytest.fixture(scope="module")
def found(model: TinyModel, cells: list[Blocks]) -> Diagnosis:
    return diagnose(model, cells, KEEP, worst_layers=2, batch_size=BATCH)


def nll(model: TinyModel, blocks: Blocks, keep: list[list[int]]) -> float:
    with model.keeping(keep):
        return -float(collected(model, blocks, batch_size=BATCH).stats.logprob_T.astype(np.float64).mean())


def everyone_but(layer: int) -> list[list[int]]:
    return [KEEP[layer] if other == layer else list(range(EXPERTS)) for other in range(len(KEEP))]


WHOLE = [list(range(EXPERTS))] * len(KEEP)


@pytest.mark.parametrize("layer", range(len(KEEP) + 1))
def test_a_prefix_that_is_reused_changes_no_bit(model: TinyModel, cells: list[Blocks], layer: int) -> None:
    with model.keeping(KEEP):
        prefix = embedded(model, cells[0], batch_size=BATCH)
        for before in range(layer):
            prefix = through_layer(model, before, prefix)
        reused = collected_after(model, layer, prefix, cells[0])
        again = collected(model, cells[0], batch_size=BATCH)
    for name in ("logprob_T", "entropy_T", "top_ids_TK", "top_logprobs_TK"):
        np.testing.assert_array_equal(getattr(reused.stats, name), getattr(again.stats, name), err_msg=name)


def test_packs_are_judged_with_all_layers_pruned(model: TinyModel, cells: list[Blocks], found: Diagnosis) -> None:
    assert [(loss.pack, loss.seq_len) for loss in found.cells] == [("UNION", 24), ("chat", 24)]
    for loss, blocks in zip(found.cells, cells, strict=True):
        expected = nll(model, blocks, KEEP) - nll(model, blocks, WHOLE)
        assert loss.cell.verdicts["ppl"].estimate == pytest.approx(expected, abs=1e-6)
    assert found.together.value == found.cells[0].cell.verdicts["ppl"].estimate


def test_layers_are_pruned_alone(model: TinyModel, cells: list[Blocks], found: Diagnosis) -> None:
    assert [loss.layer for loss in found.layers] == [0, 1, 2]
    for loss in found.layers:
        expected = nll(model, cells[0], everyone_but(loss.layer)) - nll(model, cells[0], WHOLE)
        assert loss.loss.value == pytest.approx(expected, abs=1e-6)
    assert max(abs(loss.loss.value) for loss in found.layers) > 0.1  # or the agreement would say nothing


def test_experts_of_the_worst_layers_are_put_back_alone(
    model: TinyModel, cells: list[Blocks], found: Diagnosis
) -> None:
    worst = sorted(found.layers, key=lambda loss: -loss.loss.value)[:2]
    dropped = [(loss.layer, e) for loss in worst for e in range(EXPERTS) if e not in KEEP[loss.layer]]
    assert [(gain.layer, gain.expert) for gain in found.experts] == sorted(dropped)
    for gain in found.experts:
        restored = [[*kept, gain.expert] if layer == gain.layer else kept for layer, kept in enumerate(KEEP)]
        expected = nll(model, cells[0], KEEP) - nll(model, cells[0], restored)
        assert gain.gain.value == pytest.approx(expected, abs=1e-6)


def test_no_experts_and_nothing_pruned(model: TinyModel, cells: list[Blocks]) -> None:
    assert diagnose(model, cells[:1], KEEP, worst_layers=0, batch_size=BATCH).experts == ()
    copy = diagnose(model, cells[:1], WHOLE, worst_layers=3, batch_size=BATCH)
    assert copy.experts == ()
    assert [loss.loss.value for loss in copy.layers] == [0.0, 0.0, 0.0]


def test_the_model_is_left_as_it_was(model: TinyModel, found: Diagnosis) -> None:
    assert found.experts
    assert all(torch.isfinite(layer.mlp.router.bias).all() for layer in model.module.model.layers)
