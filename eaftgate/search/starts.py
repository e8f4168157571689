"""What a refinement may begin with: selections by several weights of the tokens, of which the loss chooses one.

No weights are the best on every model and at every size: what keeps the calls of one costs another its answers
(docs/log/2026-11-27-search.md). A greedy selection by other weights costs next to nothing once the experts' outputs are
there, so several are made, and each is measured.

Shapes: T scored tokens.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from eaftgate.profile.trace import Trace
from eaftgate.select.class_weights import BALANCED_WEIGHTS, ClassWeights, TokenWeights, type_weights

STRUCTURE = ((0.5, 0.15, 0.5), (1.0, 0.3, 0.5), (1.0, 0.3, 1.0), (2.0, 1.0, 0.5), (4.0, 0.3, 0.75), (4.0, 1.0, 1.0))
"""What a call's token counts beside one of an answer, what a header's or closing one, and the power of its rarity."""

_TEXT = ClassWeights(call=0)
"""Answers and analyses, every token alike."""
_NO_TEXT = ClassWeights(analysis=0, final=0, commentary=0, other=0)


def start_weights(trace: Trace, classes: ClassWeights | None) -> dict[str, NDArray[np.float64]]:
    """The weights of the scored tokens, by names for people; only those of `classes` if they are given."""
    chosen = {name: only.token_weights(trace).of_trace(trace) for name, only in ranking_weights(trace, classes).items()}
    if classes is not None or not trace.knows_classes:
        return chosen
    text_T = _of_trace(_TEXT, trace)
    for call, frame, power in STRUCTURE:
        others = replace(_NO_TEXT, call=call, header=frame, close=frame, type_power=power)
        name = f"call={call:g}, header and close={frame:g}, type_power={power:g}"
        chosen[name] = text_T + _of_trace(others, trace)
    return chosen


def _of_trace(weights: ClassWeights, trace: Trace) -> NDArray[np.float64]:
    """Which may be 0 throughout: there may be no text, or nothing else."""
    return TokenWeights(weights, type_weights(trace, weights.type_power)).of_trace(trace)


def ranking_weights(trace: Trace, classes: ClassWeights | None) -> Mapping[str, ClassWeights]:
    """Those that a ranking can be made by."""
    if classes is not None:
        return {"as asked": classes}
    return {"plain": ClassWeights()} | ({"balanced": BALANCED_WEIGHTS} if trace.knows_classes else {})
