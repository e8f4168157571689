"""Writing greedily: every next token is the model's first choice. What `transformers.generate` does, in a batch whose
places are taken anew as soon as a conversation has ended.

Shapes: B places, S tokens of a prompt, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eaftgate.families.model import WritingModel
from eaftgate.model.kept import Kept

Ends = Callable[[Sequence[int]], bool]
"""Whether what was written so far has come to its end."""


@torch.inference_mode()
def write_greedily(
    model: WritingModel,
    prompts: Sequence[NDArray[np.int32]],
    *,
    ends: Ends,
    max_tokens: int,
    places: int,
    logits: Callable[[Tensor], Tensor],
) -> Iterator[tuple[int, list[int]]]:
    """(number of the prompt, what follows it), in the order in which they end: with a token that `ends` says yes to, or
    after `max_tokens`. `logits` turns hidden states [B, D] into float32 logits [B, V].

    Raises ValueError for an empty prompt.
    """
    if not all(map(len, prompts)):
        raise ValueError("a prompt has no token to go on from")
    # The longest first: what is written last is short, and memory that suffices at first suffices.
    waiting = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    places = min(places, len(prompts))
    kept = Kept(places, max(map(len, prompts), default=0) + max_tokens, model.device)
    asked: list[int | None] = [None] * places
    written: dict[int, list[int]] = {}
    while waiting or any(number is not None for number in asked):
        for place in range(places):
            while asked[place] is None and waiting:
                number = waiting.pop()
                first = int(_read(model, kept, place, prompts[number], logits))
                if ends([first]) or max_tokens == 1:
                    yield number, [first]
                else:
                    asked[place], written[number] = number, [first]
        if not written:
            continue
        choice_B = _next(model, kept, [[0] if n is None else written[n][-1:] for n in asked], logits)
        for place, token in enumerate(choice_B):
            number_there = asked[place]
            if number_there is None:
                continue
            text = written[number_there]
            text.append(token)
            if ends(text) or len(text) == max_tokens:
                yield number_there, written.pop(number_there)
                asked[place] = None
                kept.put(place, 0)


def _read(
    model: WritingModel, kept: Kept, place: int, prompt_S: NDArray[np.int32], logits: Callable[[Tensor], Tensor]
) -> Tensor:
    """Keep a prompt in a place; the token that follows it."""
    ids_1S = torch.from_numpy(prompt_S.astype(np.int64)).to(kept.device)[None]
    position_1S = torch.arange(len(prompt_S), device=kept.device)[None]
    kept.reading = place
    hidden_1SD = model.continued(ids_1S, position_1S, kept)
    kept.reading = None
    kept.put(place, len(prompt_S))
    return logits(hidden_1SD[:, -1]).argmax(dim=-1)[0]


def _next(
    model: WritingModel, kept: Kept, last_B1: Sequence[Sequence[int]], logits: Callable[[Tensor], Tensor]
) -> list[int]:
    ids_B1 = torch.tensor(last_B1, device=kept.device)
    hidden_B1D = model.continued(ids_B1, kept.length_B[:, None], kept)
    kept.grow()
    chosen: list[int] = logits(hidden_B1D[:, 0]).argmax(dim=-1).tolist()
    return chosen
