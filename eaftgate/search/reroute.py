"""What removing experts does to the output of one layer's mixture, with rerouting: exact, and cheap to ask again.

It is asked by several weights of the tokens at once: what removals do to a token depends on none of them, and searches
by different weights ask about the same experts most of the time.

After a removal a token's next-ranked expert steps in and the softmax runs over the survivors. The output is
sum_e gate_e * y_e, so with change_e = gate_e(kept) - gate_e(all) the squared error of a token is
change' G change, G being the Gram matrix of its experts' outputs. G is all that is kept of them: 4 * E^2 bytes a token
(4 KB for 32 experts, where their outputs take 184 KB at the 20B's width).

Shapes: W weightings, T tokens, E experts, K selections a token (top_k), J = K + 1, I experts that are chosen
from, S = K + I, D hidden size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eaftgate.families.model import Moe

OUTPUT_BYTES, OUTPUT_TOKENS = 1 << 28, 512
"""Bounds on the experts' outputs held at a time, of which the float32 copy takes as much again or twice: of more tokens
at a time a small model's would leave a CPU's caches."""


Kept = frozenset[int]
Errors = Callable[[Kept], NDArray[np.float64]]
"""The error after removing each of the kept experts in turn, [E] by one weighting, [W, E] by several; inf for one that
is not kept."""


@dataclass(frozen=True)
class RoutedTokens:
    """`selected_TK`, `gate_TK`: what the whole layer selects, and its gates. `weight_WT` >= 0, float64. All others but
    ids float32."""

    logit_TE: Tensor
    gram_TEE: Tensor
    selected_TK: Tensor
    gate_TK: Tensor
    weight_WT: Tensor

    @property
    def top_k(self) -> int:
        return self.selected_TK.shape[1]

    @property
    def num_experts(self) -> int:
        return self.logit_TE.shape[1]

    def errors_without(self, kept: Kept) -> NDArray[np.float64]:
        """Squared error of the layer's output, by every weighting, after removing each of the kept experts in turn,
        [W, E]; inf for one that is not kept.

        More than top_k must be kept. Only the K experts a token selects matter to it, so T * K cases cover all E.
        """
        kept_E = torch.zeros(self.num_experts, dtype=torch.bool)
        kept_E[sorted(kept)] = True
        kept_E = kept_E.to(self.logit_TE.device)
        top_TJ, id_TJ = self.logit_TE.masked_fill(~kept_E, -torch.inf).topk(self.top_k + 1)
        # Row j leaves selection j out; the last leaves out the runner-up, which is the selection as it stands.
        others_JK = torch.tensor(
            [[i for i in range(self.top_k + 1) if i != j] for j in range(self.top_k + 1)], device=id_TJ.device
        )
        error_TJ = self._errors(id_TJ, top_TJ, others_JK)
        increase_TJ = error_TJ - error_TJ[:, -1:]
        # Scattered and summed, not added in place: the same bits on every run, also on a GPU.
        increase_TE = torch.zeros_like(self.logit_TE).scatter(1, id_TJ, increase_TJ)
        increase_WE = self.weight_WT @ increase_TE.to(self.weight_WT)
        error_W = self.weight_WT @ error_TJ[:, -1].to(self.weight_WT)
        found_WE: NDArray[np.float64] = (increase_WE + error_W[:, None]).masked_fill(~kept_E, torch.inf).cpu().numpy()
        return found_WE

    def _errors(self, id_TI: Tensor, logit_TI: Tensor, chosen_JK: Tensor) -> Tensor:
        """Squared errors, [T, J], of J alternative selections, each of K of I experts.

        Of the Gram matrices only what is between those experts and the layer's own selection is read.
        """
        experts, (tokens, top_k) = self.num_experts, self.selected_TK.shape
        id_TS = torch.cat([self.selected_TK, id_TI], dim=1)
        pair_TSS = id_TS[:, :, None] * experts + id_TS[:, None]
        gram_TSS = self.gram_TEE.flatten(1).gather(1, pair_TSS.flatten(1)).view_as(pair_TSS)
        change_TJS = gram_TSS.new_zeros(tokens, len(chosen_JK), id_TS.shape[1])
        change_TJS[:, :, :top_k] = -self.gate_TK[:, None]  # an expert that is in both is there twice, and adds up
        change_TJS[:, :, top_k:].scatter_(2, chosen_JK.expand(tokens, -1, -1), logit_TI[:, chosen_JK].softmax(dim=-1))
        return (torch.bmm(change_TJS, gram_TSS) * change_TJS).sum(dim=-1).clamp(min=0)


@torch.inference_mode()
def routed_tokens(moe: Moe, hidden_TD: Tensor, weight_WT: Tensor, *, top_k: int) -> RoutedTokens:
    """Every expert's output for every token, as a Gram matrix; `hidden_TD` is what the layer's router sees."""
    logit_TE = moe.router_logits(hidden_TD).float()
    top_TK, id_TK = logit_TE.topk(top_k)
    most = OUTPUT_BYTES // (logit_TE.shape[1] * moe.width * hidden_TD.element_size())
    chunk = max(1, min(OUTPUT_TOKENS, most))
    grams = []
    for input_TD in hidden_TD.split(chunk):
        output_TED = moe.outputs(input_TD).transpose(0, 1).float()
        grams.append(output_TED @ output_TED.transpose(1, 2))
    return RoutedTokens(
        logit_TE=logit_TE,
        gram_TEE=torch.cat(grams),
        selected_TK=id_TK,
        gate_TK=top_TK.softmax(dim=-1),
        weight_WT=weight_WT.to(logit_TE.device, torch.float64),
    )


def eliminated(errors_without: Errors, experts: int, keep_n: int) -> Kept:
    """Greedy elimination: the `keep_n` experts left after dropping, one by one, the one whose removal leaves the
    smallest error. Ties go to the lower id."""
    kept = frozenset(range(experts))
    while len(kept) > keep_n:
        kept -= {int(errors_without(kept).argmin())}
    return kept


def swapped(errors_without: Errors, experts: int, kept: Kept) -> Kept:
    """`kept` after the best swap, again and again until none lowers the error (by more than rounding)."""
    while adds := sorted({*range(experts)} - kept):
        swaps = [(errors_without(kept | {add}), add) for add in adds]
        error = min(error_E[add] for error_E, add in swaps)  # of `kept` itself
        best_error, best = min((_best_swap(error_E, kept, add) for error_E, add in swaps), key=lambda swap: swap[0])
        if best_error >= error * (1 - 1e-5):
            break
        kept = best
    return kept


def _best_swap(error_E: NDArray[np.float64], kept: Kept, add: int) -> tuple[float, Kept]:
    """The error and what is kept after keeping `add` instead of the expert that can best be spared for it."""
    other_E = error_E.copy()
    other_E[add] = np.inf
    drop = int(other_E.argmin())
    return float(other_E[drop]), (kept | {add}) - {drop}
