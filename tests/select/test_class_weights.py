"""What a token counts by its class and by how rare it is, counted token by token."""

from collections import Counter

import numpy as np
import pytest
from class_trace import CONTENT, KIND, TOKEN, trace

from eaftgate.errors import UserError
from eaftgate.packs.harmony import TokenClass
from eaftgate.select.class_sums import region_sums
from eaftgate.select.class_weights import BALANCED_WEIGHTS, ClassWeights, parse_class_weights


def test_plain_weights_are_those_of_content_alike() -> None:
    weight_T = ClassWeights().token_weights(trace()).of_trace(trace())
    assert weight_T.tolist() == [float(content) for content in CONTENT]


@pytest.mark.parametrize(
    "weights", [BALANCED_WEIGHTS, ClassWeights(call=3, header=2, type_power=1), ClassWeights(final=0)]
)
def test_weights_are_those_of_counting(weights: ClassWeights) -> None:
    count = Counter(zip(KIND, TOKEN, strict=True))
    power = [max(count[key], 3) ** -weights.type_power for key in zip(KIND, TOKEN, strict=True)]
    of_class = {kind: [value for value, other in zip(power, KIND, strict=True) if other == kind] for kind in KIND}
    expected = [
        getattr(weights, kind.name.lower()) * value / np.mean(of_class[kind])
        for kind, value in zip(KIND, power, strict=True)
    ]
    assert weights.token_weights(trace()).of_trace(trace()).tolist() == pytest.approx(expected)


def test_a_type_that_the_profile_has_not_seen_weighs_as_the_rarest() -> None:
    weights = BALANCED_WEIGHTS.token_weights(trace())
    seen, unseen = (
        weights.of(np.array([TokenClass.FINAL]), np.array([token]), np.array([True]))[0] for token in (3, 1_000)
    )
    assert seen == unseen > weights.of(np.array([TokenClass.FINAL]), np.array([1]), np.array([True]))[0]


def test_sums_weigh_every_token() -> None:
    weights = ClassWeights(call=3, header=2, close=1)
    sums = region_sums(trace(), alignment="predicting", low_quantile=0.15, classes=weights)
    expected = np.zeros(5)
    for t, kind in enumerate(KIND):
        for k in range(2):
            gate, norm = (float(getattr(trace().shards[0], name)[t, 0, k]) for name in ("gate_XLK", "norm_XLK"))
            expected[t % 4 + k] += getattr(weights, kind.name.lower()) * gate * norm * 16
    np.testing.assert_allclose(sums.mass_PRLE.sum(axis=(0, 1))[0], expected, rtol=1e-5)


def test_a_profile_of_before_classes_has_plain_weights_only() -> None:
    assert ClassWeights().token_weights(trace(of_before=True)).of_trace(trace(of_before=True)).tolist() == [1.0] * 9
    with pytest.raises(UserError, match="profile again"):
        ClassWeights(call=2).token_weights(trace(of_before=True))


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("balanced", BALANCED_WEIGHTS),
        ("plain", ClassWeights()),
        ("plain,call=8", ClassWeights(call=8)),
        ("call=8,header=4", ClassWeights(call=8, header=4)),
        ("balanced, call=2", ClassWeights(header=1, call=2, close=1, type_power=0.75)),
    ],
)
def test_parsing(text: str, weights: ClassWeights) -> None:
    assert parse_class_weights(text) == weights


@pytest.mark.parametrize("text", ["", "call", "call=x", "calls=2", "call=-1", "call=nan", "balance", "call=2,,"])
def test_what_is_no_weight_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--class-weight"):
        parse_class_weights(text)


@pytest.mark.parametrize(
    "weights",
    [
        ClassWeights(header=0, analysis=0, final=0, commentary=0, call=0, other=0, close=0),
        ClassWeights(final=0, call=0),  # others do not occur
        ClassWeights(call=1e308),
        ClassWeights(type_power=1000),
    ],
)
def test_weights_that_rank_nothing_are_refused(weights: ClassWeights) -> None:
    with pytest.raises(UserError, match="cannot be ranked"):
        weights.token_weights(trace())


def test_a_class_is_given_once() -> None:
    with pytest.raises(UserError, match="gives call twice"):
        parse_class_weights("balanced,call=2,call=3")
