"""Removal with reroute on one layer, against plain loops over tokens, experts and every subset of them."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_checkpoint import Size
from tiny_model import TinyModel, load_lively, slow_expert, write_lively_checkpoint

from eaftgate.search import reroute
from eaftgate.search.reroute import Errors, RoutedTokens, eliminated, routed_tokens, swapped

EXPERTS, TOP_K, TOKENS, KEEP = 9, 3, 40, 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    size = Size(layers=1, experts=EXPERTS, top_k=TOP_K)
    return load_lively(write_lively_checkpoint(tmp_path_factory.mktemp("base"), size=size))


@pytest.fixture(scope="module")
def hidden_TD(model: TinyModel) -> torch.Tensor:
    return torch.randn(TOKENS, model.head_VD.shape[1], generator=torch.Generator().manual_seed(3))


WEIGHTS = np.random.default_rng(4).choice([0.0, 0.25, 1.0], TOKENS)
OTHER_WEIGHTS = np.random.default_rng(5).random(TOKENS) ** 4


@pytest.fixture(scope="module")
def tokens(model: TinyModel, hidden_TD: torch.Tensor) -> RoutedTokens:
    return routed_tokens(model.moe(0), hidden_TD, torch.from_numpy(np.stack([WEIGHTS, OTHER_WEIGHTS])), top_k=TOP_K)


@pytest.fixture(scope="module")
def slow_errors_of_both(model: TinyModel, hidden_TD: torch.Tensor) -> dict[tuple[int, ...], NDArray[np.float64]]:
    """By either weights the error of every keep set of TOP_K experts or more, token by token in float64."""
    mlp = model.module.model.layers[0].mlp
    weight, bias = mlp.router.weight.detach().double().numpy(), mlp.router.bias.detach().double().numpy()
    hidden = hidden_TD.double().numpy()
    logits = [(weight @ x + bias).tolist() for x in hidden]
    outputs = [[slow_expert(mlp.experts, expert, x) for expert in range(EXPERTS)] for x in hidden]

    def output(token: int, kept: Sequence[int]) -> NDArray[np.float64]:
        chosen = sorted(kept, key=lambda expert: -logits[token][expert])[:TOP_K]
        total = sum(math.exp(logits[token][expert]) for expert in chosen)
        shares = [math.exp(logits[token][expert]) / total * outputs[token][expert] for expert in chosen]
        mixed: NDArray[np.float64] = np.sum(shares, axis=0)
        return mixed

    everyone = range(EXPERTS)
    whole = [output(token, everyone) for token in range(TOKENS)]
    return {
        kept: np.stack([WEIGHTS, OTHER_WEIGHTS])
        @ [float(((output(token, kept) - whole[token]) ** 2).sum()) for token in range(TOKENS)]
        for size in range(TOP_K, EXPERTS + 1)
        for kept in itertools.combinations(everyone, size)
    }


@pytest.fixture(scope="module")
def slow_errors(slow_errors_of_both: dict[tuple[int, ...], NDArray[np.float64]]) -> dict[tuple[int, ...], float]:
    return {kept: float(error_W[0]) for kept, error_W in slow_errors_of_both.items()}


def test_the_error_after_every_removal_by_either_weights(
    tokens: RoutedTokens, slow_errors_of_both: dict[tuple[int, ...], NDArray[np.float64]]
) -> None:
    scale_W = np.max(list(slow_errors_of_both.values()), axis=0)
    for kept in slow_errors_of_both:
        if len(kept) == TOP_K:
            continue
        error_WE = tokens.errors_without(frozenset(kept))
        for expert in range(EXPERTS):
            if expert in kept:
                left = tuple(e for e in kept if e != expert)
                np.testing.assert_allclose(
                    error_WE[:, expert] / scale_W, slow_errors_of_both[left] / scale_W, 1e-4, 1e-5
                )
            else:
                assert (error_WE[:, expert] == math.inf).all()
    big = np.mean([error_W > 1e-2 * scale_W for error_W in slow_errors_of_both.values()], axis=0)
    assert (big > 0.2).all(), "or the agreement would say nothing"


def by_the_first(tokens: RoutedTokens) -> Errors:
    return lambda kept: tokens.errors_without(kept)[0]


def slow_greedy(slow_errors: dict[tuple[int, ...], float], keep_n: int) -> tuple[int, ...]:
    kept = tuple(range(EXPERTS))
    while len(kept) > keep_n:
        smaller = [tuple(e for e in kept if e != drop) for drop in kept]
        kept = min(smaller, key=slow_errors.__getitem__)
    return kept


@pytest.mark.parametrize("keep_n", range(TOP_K, EXPERTS + 1))
def test_elimination_is_greedy(tokens: RoutedTokens, slow_errors: dict[tuple[int, ...], float], keep_n: int) -> None:
    assert tuple(sorted(eliminated(by_the_first(tokens), EXPERTS, keep_n))) == slow_greedy(slow_errors, keep_n)


def steepest(errors: dict[tuple[int, ...], float], kept: tuple[int, ...]) -> tuple[int, ...]:
    """The best of all swaps, until none helps."""
    while True:
        best = min((other for other in errors if len({*other} - {*kept}) == 1), key=errors.__getitem__)
        if errors[best] >= errors[kept] * (1 - 1e-5):
            return kept
        kept = best


@pytest.mark.parametrize("keep_n", range(TOP_K, EXPERTS))
def test_swapping_ends_where_no_swap_helps(
    tokens: RoutedTokens, slow_errors: dict[tuple[int, ...], float], keep_n: int
) -> None:
    """From a bad start; never below the optimum, never above the start."""
    allowed = {kept: error for kept, error in slow_errors.items() if len(kept) == keep_n}
    start = max(allowed, key=allowed.__getitem__)
    end = tuple(sorted(swapped(by_the_first(tokens), EXPERTS, frozenset(start))))
    neighbours = [kept for kept in allowed if len(set(kept) - set(end)) == 1]
    assert allowed[end] <= min(allowed[kept] for kept in neighbours) * (1 + 1e-4)
    assert end == steepest(allowed, start)
    assert min(allowed.values()) <= allowed[end] < allowed[start]


def test_nothing_to_swap_when_all_are_kept(tokens: RoutedTokens) -> None:
    everyone = frozenset(range(EXPERTS))
    assert swapped(by_the_first(tokens), EXPERTS, everyone) == everyone


def test_chunks_do_not_change_the_gram_matrix(
    model: TinyModel,
    hidden_TD: torch.Tensor,
    tokens: RoutedTokens,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reroute, "OUTPUT_BYTES", 1)
    one_by_one = routed_tokens(
        model.moe(0), hidden_TD, torch.from_numpy(np.stack([WEIGHTS, OTHER_WEIGHTS])), top_k=TOP_K
    )
    torch.testing.assert_close(one_by_one.gram_TEE, tokens.gram_TEE, rtol=1e-4, atol=1e-4)
