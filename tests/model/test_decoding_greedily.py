"""Written in a batch with what was kept, token by token, a text is what transformers alone writes by itself."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tiny_model import WINDOW, Reference, TinyModel, load_lively, load_reference, write_lively_checkpoint

from eaftgate.collect.token_stats import linear_logits
from eaftgate.model.greedy import write_greedily

LONGEST = 3 * WINDOW


def ends(written: Sequence[int]) -> bool:
    return written[-1] % 9 == 0


@torch.no_grad()
def slowly(model: Reference, prompt: Sequence[int], longest: int) -> list[int]:
    """No cache, no batch, float64: the whole text again for every token."""
    written: list[int] = []
    while len(written) < longest and not (written and ends(written)):
        logits = model(input_ids=torch.tensor([[*prompt, *written]]), use_cache=False).logits[0, -1]
        written.append(int(logits.argmax()))
    return written


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyModel, Reference]:
    path = write_lively_checkpoint(tmp_path_factory.mktemp("lively"))
    return load_lively(path), load_reference(path)


PROMPTS = [
    np.random.default_rng(length).integers(0, 250, length).astype(np.int32)
    for length in (1, 2, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 5 * WINDOW + 3)
]


def test_a_batch_writes_what_each_would_alone(models: tuple[TinyModel, Reference]) -> None:
    """Prompts shorter and longer than the window, texts that end at once, later and never, places taken anew."""
    model, reference = models
    expected = [slowly(reference, prompt.tolist(), LONGEST) for prompt in PROMPTS]
    lengths = [len(text) for text in expected]
    assert min(lengths) < WINDOW < max(lengths) == LONGEST, lengths
    for places in (1, 3, 64):
        found = dict(
            write_greedily(
                model, PROMPTS, ends=ends, max_tokens=LONGEST, places=places, logits=linear_logits(model.head_VD)
            )
        )
        assert [found[number] for number in range(len(PROMPTS))] == expected, places


def test_one_token_is_the_least_that_is_written(models: tuple[TinyModel, Reference]) -> None:
    model, _ = models
    found = list(
        write_greedily(model, PROMPTS[:3], ends=ends, max_tokens=1, places=2, logits=linear_logits(model.head_VD))
    )
    assert sorted(number for number, _ in found) == [0, 1, 2]
    assert {len(text) for _, text in found} == {1}
