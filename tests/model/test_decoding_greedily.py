"""Written in a batch with what was kept, token by token, a text is what transformers alone writes by itself."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tiny_model import WINDOW, Reference, TinyModel, load_lively, load_reference, write_lively_checkpoint

from eaftgate.collect.token_stats import linear_logits
from eaftgate.model.greedy import write_greedily
from eaftgate.model.kept import Kept

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
    # Alone, a prompt has no more room than it needs.
    for prompt, text in zip(PROMPTS, expected, strict=True):
        found = dict(
            write_greedily(
                model, [prompt], ends=ends, max_tokens=len(text), places=1, logits=linear_logits(model.head_VD)
            )
        )
        assert found == {0: text}


@pytest.mark.parametrize(("max_tokens", "at_once"), [(1, False), (LONGEST, True)])
def test_one_token_is_the_least_that_is_written(
    models: tuple[TinyModel, Reference], max_tokens: int, at_once: bool
) -> None:
    """Where no more is allowed, and where the first is the end."""
    model, reference = models
    found = write_greedily(
        model,
        PROMPTS[:3],
        ends=lambda written: at_once or ends(written),
        max_tokens=max_tokens,
        places=2,
        logits=linear_logits(model.head_VD),
    )
    assert dict(found) == {number: slowly(reference, prompt.tolist(), 1) for number, prompt in enumerate(PROMPTS[:3])}


class Counting:
    """Writes the number that follows the last token; `seen` are positions, of a prompt, or of a token in each place."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def continued(self, ids_BS: torch.Tensor, position_BS: torch.Tensor, _: Kept) -> torch.Tensor:
        self.seen.append(position_BS[:, -1].tolist())
        return torch.nn.functional.one_hot(ids_BS + 1, 100).float()


def test_the_longest_is_read_first_and_a_text_is_asked_whole_whether_it_ends() -> None:
    """A place that nobody needs any more is free: it costs the others no attention."""
    model, prompts = Counting(), [np.full(length, 10 * length, np.int32) for length in (2, 5, 3)]
    found = write_greedily(
        model,
        prompts,
        ends=lambda written: len(written) == {51: 2, 31: 7, 21: 4}[written[0]],
        max_tokens=9,
        places=2,
        logits=lambda hidden: hidden,
    )
    assert list(found) == [(1, [51, 52]), (0, [21, 22, 23, 24]), (2, [31, 32, 33, 34, 35, 36, 37])]
    # Two prompts are read; the longer one ends with its second token, and the third takes its place, but ends first.
    assert model.seen == [[4], [2], [5, 3], [1], [2, 4], [3, 5], [4, 6], [0, 7], [0, 8]]
