"""Messages that a model would write exactly as they stand, counted without decoding.

Asked to write greedily from the role word on, a model writes just a message when every token of it, header, content and
the token that closes it, is its first choice given those before. That is known from scoring the message once, under
either model, so what a candidate loses of what the base writes right is a matter of counting.

Shapes: T scored tokens, M messages.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eaftgate.packs.blocks import NO_MESSAGE
from eaftgate.packs.harmony import TokenClass
from eaftgate.parity.paired import PairedTokens

NO_CHOICE = -1

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class PairedMessages:
    """Messages that were scored whole, in order. `close_M`: somewhere in it the first two choices of a model lie so
    near each other that rounding may decide. `cut_M`: its block lacks a part of its prompt. `number_M`: as in roles.

    The candidate would write the first `right_M` tokens of it as they stand, all of them where it is exact, and then
    the token `choice_M`, NO_CHOICE where it is."""

    exact_base_M: BoolArray
    exact_M: BoolArray
    close_M: BoolArray
    cut_M: BoolArray
    row_M: NDArray[np.int32]
    block_M: NDArray[np.int32]
    number_M: NDArray[np.int32]
    right_M: NDArray[np.intp]
    choice_M: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.exact_M)

    @property
    def lost_M(self) -> BoolArray:
        return self.exact_base_M & ~self.exact_M

    @property
    def gained_M(self) -> BoolArray:
        return self.exact_M & ~self.exact_base_M


def paired_messages(tokens: PairedTokens, kind: TokenClass) -> PairedMessages:
    """The messages whose content is of this class."""
    message_T = tokens.roles.message
    wanted = np.unique(message_T[(tokens.roles.kind == kind) & (message_T != NO_MESSAGE)])
    chosen_T = np.isin(message_T, wanted)
    number_M, first_M, place_T = np.unique(message_T[chosen_T], return_index=True, return_inverse=True)

    def everywhere(flag_T: BoolArray) -> BoolArray:
        missing_M = np.bincount(place_T, weights=~flag_T[chosen_T], minlength=len(number_M))
        all_M: BoolArray = missing_M == 0
        return all_M

    # Tokens of a message follow each other, so the first wrong one says how many before it are right.
    end_M = first_M + np.bincount(place_T, minlength=len(number_M))
    wrong_M, first_wrong_T = end_M.copy(), np.flatnonzero(~tokens.first_T[chosen_T])
    np.minimum.at(wrong_M, place_T[first_wrong_T], first_wrong_T)
    choice_M = np.full(len(number_M), NO_CHOICE, np.int32)
    choice_M[wrong_M < end_M] = tokens.choice_T[chosen_T][wrong_M[wrong_M < end_M]]
    return PairedMessages(
        exact_base_M=everywhere(tokens.first_base_T),
        exact_M=everywhere(tokens.first_T),
        close_M=~everywhere(~tokens.close_T),
        cut_M=tokens.cut_T[chosen_T][first_M],
        row_M=tokens.row_T[chosen_T][first_M],
        block_M=tokens.block_T[chosen_T][first_M],
        number_M=number_M,
        right_M=wrong_M - first_M,
        choice_M=choice_M,
    )
