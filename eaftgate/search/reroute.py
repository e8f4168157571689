"""What removing experts does to the output of one layer's mixture, with rerouting: exact, and cheap to ask again.

After a removal a token's next-ranked expert steps in and the softmax runs over the survivors. The output is
sum_e gate_e * y_e, so with change_e = gate_e(kept) - gate_e(all) the squared error of a token is
change' G change, G being the Gram matrix of its experts' outputs. G is all that is kept of them: 4 * E^2 bytes a token
(4 KB for 32 experts, where their outputs take 184 KB at the 20B's width).

Shapes: T tokens, E experts, K selections a token (top_k), J = K + 1, I experts that are chosen from, S = K + I, D
hidden size.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eaftgate.families.model import Moe

OUTPUT_BYTES = 1 << 28
"""Bound on the experts' outputs held at a time, of which the float32 copy takes as much again or twice."""


@dataclass(frozen=True)
class RoutedTokens:
    """`selected_TK`, `gate_TK`: what the whole layer selects, and its gates. `weight_T` >= 0. All but ids float32."""

    logit_TE: Tensor
    gram_TEE: Tensor
    selected_TK: Tensor
    gate_TK: Tensor
    weight_T: Tensor

    @property
    def top_k(self) -> int:
        return self.selected_TK.shape[1]

    def weighing(self, factor_T: NDArray[np.float64]) -> "RoutedTokens":
        """The same tokens, each weighing `factor_T` times as much."""
        return replace(self, weight_T=self.weight_T * torch.from_numpy(factor_T).to(self.weight_T))

    def error(self, kept_E: Tensor) -> float:
        """Weighted squared error of the layer's output when only the experts of the mask `kept_E` are there."""
        top_TK, id_TK = self._survivors(kept_E).topk(self.top_k)
        as_it_is_JK = torch.arange(self.top_k, device=id_TK.device)[None]
        return float(self._errors(id_TK, top_TK, as_it_is_JK).sum(dtype=torch.float64))

    def errors_without(self, kept_E: Tensor) -> Tensor:
        """The error after removing each of the kept experts in turn, [E], float64; inf for one that is not kept.

        More than top_k must be kept. Only the K experts a token selects matter to it, so T * K cases cover all E.
        """
        top_TJ, id_TJ = self._survivors(kept_E).topk(self.top_k + 1)
        # Row j leaves selection j out; the last leaves out the runner-up, which is the selection as it stands.
        others_JK = torch.tensor(
            [[i for i in range(self.top_k + 1) if i != j] for j in range(self.top_k + 1)], device=id_TJ.device
        )
        error_TJ = self._errors(id_TJ, top_TJ, others_JK)
        increase_TJ = error_TJ - error_TJ[:, -1:]
        # Scattered and summed, not added in place: the same bits on every run, also on a GPU.
        increase_E = torch.zeros_like(self.logit_TE).scatter(1, id_TJ, increase_TJ).sum(dim=0, dtype=torch.float64)
        return (increase_E + error_TJ[:, -1].sum(dtype=torch.float64)).masked_fill(~kept_E, torch.inf)

    def _survivors(self, kept_E: Tensor) -> Tensor:
        return self.logit_TE.masked_fill(~kept_E, -torch.inf)

    def _errors(self, id_TI: Tensor, logit_TI: Tensor, chosen_JK: Tensor) -> Tensor:
        """Weighted squared errors, [T, J], of J alternative selections, each of K of I experts.

        Of the Gram matrices only what is between those experts and the layer's own selection is read.
        """
        experts, (tokens, top_k) = self.logit_TE.shape[1], self.selected_TK.shape
        id_TS = torch.cat([self.selected_TK, id_TI], dim=1)
        pair_TSS = id_TS[:, :, None] * experts + id_TS[:, None]
        gram_TSS = self.gram_TEE.flatten(1).gather(1, pair_TSS.flatten(1)).view_as(pair_TSS)
        change_TJS = gram_TSS.new_zeros(tokens, len(chosen_JK), id_TS.shape[1])
        change_TJS[:, :, :top_k] = -self.gate_TK[:, None]  # an expert that is in both is there twice, and adds up
        change_TJS[:, :, top_k:].scatter_(2, chosen_JK.expand(tokens, -1, -1), logit_TI[:, chosen_JK].softmax(dim=-1))
        square_TJ = (torch.bmm(change_TJS, gram_TSS) * change_TJS).sum(dim=-1)
        return square_TJ.clamp(min=0) * self.weight_T[:, None]


@torch.inference_mode()
def routed_tokens(moe: Moe, hidden_TD: Tensor, weight_T: Tensor, *, top_k: int) -> RoutedTokens:
    """Every expert's output for every token, as a Gram matrix; `hidden_TD` is what the layer's router sees."""
    logit_TE = moe.router_logits(hidden_TD).float()
    top_TK, id_TK = logit_TE.topk(top_k)
    chunk = max(1, OUTPUT_BYTES // (logit_TE.shape[1] * moe.width * hidden_TD.element_size()))
    grams = []
    for input_TD in hidden_TD.split(chunk):
        output_TED = moe.outputs(input_TD).transpose(0, 1).float()
        grams.append(output_TED @ output_TED.transpose(1, 2))
    return RoutedTokens(
        logit_TE=logit_TE,
        gram_TEE=torch.cat(grams),
        selected_TK=id_TK,
        gate_TK=top_TK.softmax(dim=-1),
        weight_T=weight_T.to(logit_TE),
    )


def eliminated(tokens: RoutedTokens, keep_n: int) -> Tensor:
    """Greedy elimination: the mask of `keep_n` experts left after dropping, one by one, the one whose removal leaves
    the smallest error. Ties go to the lower id."""
    kept_E = tokens.logit_TE.new_ones(tokens.logit_TE.shape[1], dtype=torch.bool)
    while int(kept_E.sum()) > keep_n:
        kept_E = _without(kept_E, int(tokens.errors_without(kept_E).argmin()))
    return kept_E


def swapped(tokens: RoutedTokens, kept_E: Tensor) -> Tensor:
    """`kept_E` after the best swap, again and again until none lowers the error (by more than rounding)."""
    error = tokens.error(kept_E)
    while True:
        others = [_best_swap(tokens, kept_E, add) for add in (~kept_E).nonzero().flatten().tolist()]
        best_error, best_E = min(others, key=lambda other: other[0], default=(error, kept_E))
        if best_error >= error * (1 - 1e-5):
            return kept_E
        kept_E, error = best_E, best_error


def _best_swap(tokens: RoutedTokens, kept_E: Tensor, add: int) -> tuple[float, Tensor]:
    """The error and the mask after keeping `add` instead of the expert that can best be spared for it."""
    more_E = _with(kept_E, add)
    error_E = tokens.errors_without(more_E)
    error_E[add] = torch.inf
    drop = int(error_E.argmin())
    return float(error_E[drop]), _without(more_E, drop)


def _with(kept_E: Tensor, expert: int) -> Tensor:
    changed_E = kept_E.clone()
    changed_E[expert] = True
    return changed_E


def _without(kept_E: Tensor, expert: int) -> Tensor:
    changed_E = kept_E.clone()
    changed_E[expert] = False
    return changed_E
