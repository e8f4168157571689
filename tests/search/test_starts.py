"""What a refinement may begin with: text counts alike, what frames it and calls by several weights."""

import dataclasses

import numpy as np
import pytest
from class_trace import CONTENT, KIND, trace

from eaftgate.packs.harmony import TokenClass
from eaftgate.search.starts import STRUCTURE, ranking_weights, start_weights
from eaftgate.select.class_weights import BALANCED_WEIGHTS, ClassWeights

KIND_T = np.array(KIND)


def test_a_calls_token_counts_on_average_what_its_start_says_and_text_counts_one() -> None:
    weights = start_weights(trace(), None)
    assert len(weights) == len(STRUCTURE) + 2
    for call, frame, power in STRUCTURE:
        weight_T = weights[f"call={call:g}, header and close={frame:g}, type_power={power:g}"]
        assert np.isclose(weight_T[KIND_T == TokenClass.CALL].mean(), call)
        assert np.isclose(weight_T[KIND_T == TokenClass.HEADER].mean(), frame)
        assert (weight_T[KIND_T == TokenClass.FINAL] == 1).all()
    assert weights["plain"].tolist() == [float(content) for content in CONTENT]


@pytest.mark.parametrize("kinds", [(TokenClass.CALL, TokenClass.CLOSE), (TokenClass.FINAL,)])
def test_where_there_is_no_text_or_nothing_else_the_starts_are_as_many(kinds: tuple[TokenClass, ...]) -> None:
    """Packs of calls alone: nobody asked for weights, so none can be refused."""
    whole = trace()
    only_T = np.resize(np.array(kinds, np.uint8), len(KIND))
    of_one = dataclasses.replace(whole, shards=(dataclasses.replace(whole.shards[0], kind_T=only_T),))
    weights = start_weights(of_one, None)
    assert len(weights) == len(STRUCTURE) + 2
    for name, weight_T in weights.items():
        assert weight_T.sum() > 0, name


def test_weights_that_are_given_are_the_only_ones() -> None:
    assert list(start_weights(trace(), BALANCED_WEIGHTS)) == ["as asked"]
    assert ranking_weights(trace(), BALANCED_WEIGHTS) == {"as asked": BALANCED_WEIGHTS}


def test_a_profile_of_before_classes_begins_plainly() -> None:
    assert list(start_weights(trace(of_before=True), None)) == ["plain"]
    assert ranking_weights(trace(of_before=True), None) == {"plain": ClassWeights()}
