"""The loss that a search lowers, token by token, and that it is what the default policy's rules judge."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_checkpoint import Size
from tiny_model import load_lively, write_lively_checkpoint

from eaftgate.families.model import MoeModel
from eaftgate.judge.metrics import METRICS
from eaftgate.judge.policy import IntervalPolicy, load_gates
from eaftgate.packs.blocks import NO_MESSAGE, Blocks, Roles
from eaftgate.packs.harmony import TokenClass
from eaftgate.parity.estimates import PairedCell
from eaftgate.parity.js2d import Bins
from eaftgate.parity.metrics import Thresholds
from eaftgate.parity.paired import PairedTokens, pair
from eaftgate.search import objective
from eaftgate.search.evaluate import collected, predicted, referred
from eaftgate.search.objective import Objective, Predictions, Reference, gated_margins

BLOCKS, SEQ_LEN, ROWS = 12, 24, 24
CONTENTS = (TokenClass.CALL, TokenClass.FINAL, TokenClass.ANALYSIS, TokenClass.COMMENTARY, TokenClass.OTHER)
MARGINS = {"ppl": 0.04, "nll_call": 0.06, "nll_header": 0.05, "nll_final": 0.03, "exact_calls": 0.03,
           "exact_finals": 0.05}  # fmt: skip
PACK_R = (np.arange(ROWS) % 3 == 0).astype(np.intp)
KEEP = [[0, 2, 3, 5], [1, 4, 6, 7]]


def class_blocks(vocabulary: int) -> Blocks:
    """Two rows a block, of three messages of four tokens each: header, content, content, closing token. The first
    message of a block lacks its first token, and so counts as no message; every fourth row has prompts in between."""
    shape = (BLOCKS, SEQ_LEN)
    place = np.arange(BLOCKS * SEQ_LEN).reshape(shape)
    message_BS = place // 4
    content_BS = np.array(CONTENTS, np.uint8)[message_BS % 7 % 5]
    kind_BS = np.choose(place % 4, [TokenClass.HEADER, content_BS, content_BS, TokenClass.CLOSE]).astype(np.uint8)
    prompt_BS = message_BS % 11 == 10
    kind_BS[prompt_BS] = TokenClass.NONE
    scored_BS = ~prompt_BS
    scored_BS[:, 0] = False
    whole_BS = scored_BS & (place % SEQ_LEN >= 4)
    return Blocks(
        pack="union",
        seq_len=SEQ_LEN,
        token_ids_BS=np.random.default_rng(0).integers(0, vocabulary, shape).astype(np.int32),
        scored_BS=scored_BS,
        roles=Roles(
            kind=kind_BS,
            content=(place % 4 % 3 > 0) & ~prompt_BS,
            recipient=np.zeros(shape, bool),
            message=np.where(whole_BS, message_BS, NO_MESSAGE).astype(np.int32),
        ),
        row_BS=(place // 12).astype(np.int32),
        continued_B=np.zeros(BLOCKS, bool),
        identities=tuple(f"row {row}" for row in range(ROWS)),
    )


@pytest.fixture(autouse=True)
def _small_cells_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "FEWEST", 5)
    monkeypatch.setattr(objective, "FEWEST_MESSAGES", 5)


def drawn(blocks: Blocks, seed: int, lead: float) -> Predictions:
    rng = np.random.default_rng(seed)
    return Predictions(rng.gamma(1.0, 1.0, blocks.num_scored), rng.normal(lead, 1.5, blocks.num_scored))


BLOCKS_ = class_blocks(50)
BEFORE, NOW, OTHER = (drawn(BLOCKS_, seed, lead) for seed, lead in enumerate((2.0, 1.56, 1.0)))
WITHIN = drawn(BLOCKS_, 1, 1.9)
"""Of messages in every rule within the margin; NOW is in one, OTHER in none."""
BASE = Reference(
    np.zeros((BLOCKS_.num_scored, 0), np.int32), np.zeros((BLOCKS_.num_scored, 0), np.float32), BEFORE.lead_T
)


def made(blocks: Blocks = BLOCKS_, base: Reference = BASE) -> Objective:
    return Objective(blocks, base, PACK_R, MARGINS)


Tokens = tuple[int, ...]


def slow_terms(
    on: Objective, now: Predictions
) -> tuple[list[tuple[float, dict[int, float]]], list[tuple[float, dict[Tokens, float]]]]:
    """(margins worse, what every token counts in that) of every rule of a mean, ppl of UNION first; and of messages,
    with what every message counts, by its tokens."""
    tokens = [(int(block), int(place)) for block, place in np.argwhere(on.blocks.scored_BS)]
    roles = on.blocks.roles
    means: list[tuple[float, dict[int, float]]] = []
    exact: list[tuple[float, dict[Tokens, float]]] = []
    kinds = {"ppl": None} | {f"nll_{kind.name.lower()}": kind for kind in TokenClass}
    for pack in (None, 0, 1):
        for name in sorted(on.margins, key=lambda name: (name != "ppl", name)):
            if name not in kinds:
                continue
            of = [
                t for t, at in enumerate(tokens)
                if (pack is None or on.pack_R[on.blocks.row_BS[at]] == pack)
                and (roles.content[at] if kinds[name] is None else roles.kind[at] == kinds[name])
            ]  # fmt: skip
            documents = {int(on.blocks.row_BS[tokens[t]]) for t in of}
            if len(documents) >= objective.FEWEST:
                share = {t: 1 / len(of) / on.margins[name] for t in of}
                means.append((sum(share[t] * now.divergence_T[t] for t in of), share))
    for name, kind in (("exact_calls", TokenClass.CALL), ("exact_finals", TokenClass.FINAL)):
        if name in on.margins:
            messages = exact_messages(on, tokens, kind)
            events = sum(all(on.base.lead_T[t] >= 0 for t in of) for of in messages)
            if events >= objective.FEWEST_MESSAGES:
                lost = sum(exactness(on.base, of) - exactness(now, of) for of in messages)
                exact.append((lost / events / on.margins[name], dict.fromkeys(messages, 1 / events / on.margins[name])))
    return means, exact


def exact_messages(on: Objective, tokens: list[tuple[int, int]], kind: TokenClass) -> list[Tokens]:
    """The tokens of every message of a kind that was scored whole."""
    roles = on.blocks.roles
    found: list[Tokens] = []
    for number in {int(roles.message[at]) for at in tokens} - {NO_MESSAGE}:
        of = tuple(t for t, at in enumerate(tokens) if roles.message[at] == number)
        if any(roles.kind[tokens[t]] == kind for t in of):
            found.append(of)
    return found


def exactness(said: Predictions | Reference, of: Tokens) -> float:
    return math.prod(1 / (1 + math.exp(-said.lead_T[t] / objective.SOFT)) for t in of)


def slow_size(ratios: list[float]) -> float:
    return math.sqrt(math.sqrt(sum(max(0.0, ratio) ** 4 for ratio in ratios) / len(ratios)))


def slow_loss(on: Objective, now: Predictions, *, messages: bool = True) -> float:
    means, exact = slow_terms(on, now)
    worse = [value for value, _ in means]
    return 16 * worse[0] + slow_size(worse) + 2 * sum(max(value - 1, 0.0) for value, _ in exact if messages)


@pytest.mark.parametrize("messages", [True, False])
@pytest.mark.parametrize("now", [NOW, OTHER], ids=["now", "other"])
def test_the_loss_by_plain_loops(now: Predictions, messages: bool) -> None:
    means, exact = slow_terms(made(), now)
    assert len(means) == 12, "every rule in every cell"
    assert len(exact) == 2
    assert (0.5 < min(value for value, _ in exact) < 1) == (now is NOW), (
        "of NOW one rule of messages is within its margin"
    )
    assert made().loss(now, messages=messages) == pytest.approx(slow_loss(made(), now, messages=messages))
    assert made().loss(now, messages=True) != pytest.approx(made().loss(now, messages=False))


def test_equal_models_lose_nothing() -> None:
    same = Predictions(np.zeros(BLOCKS_.num_scored), BEFORE.lead_T)
    assert made().loss(same) == 0
    assert made().change(same, same).value == 0


@pytest.mark.parametrize(
    ("now", "other"),
    [(NOW, OTHER), (OTHER, NOW), (WITHIN, NOW), (NOW, WITHIN), (WITHIN, WITHIN)],
    ids=["near", "far beyond", "within", "back within", "the same"],
)
def test_the_change_is_the_difference_and_its_error_that_of_the_linear_part(
    now: Predictions, other: Predictions
) -> None:
    on = made()
    change = on.change(now, other)
    assert change.value == pytest.approx(slow_loss(on, other) - slow_loss(on, now))
    (means, exact), (_, then) = slow_terms(on, now), slow_terms(on, other)
    size = slow_size([value for value, _ in means])
    tokens = np.argwhere(BLOCKS_.scored_BS)
    rise_T = np.zeros(len(tokens))
    for place, (value, share) in enumerate(means):
        slope = (max(0.0, value) / size) ** 3 / len(means) + (16 if place == 0 else 0)
        for t, weight in share.items():
            rise_T[t] += slope * weight * (other.divergence_T[t] - now.divergence_T[t]) * len(tokens)
    for (value, counts), (after, _) in zip(exact, then, strict=True):
        slope = 2 * (value > 1 or after > 1)
        for of, weight in counts.items():
            rise_T[of[-1]] += slope * weight * (exactness(now, of) - exactness(other, of)) * len(tokens)
    errors = []
    for clusters in (BLOCKS_.row_BS[BLOCKS_.scored_BS], tokens[:, 0]):
        squares = [((rise_T - rise_T.mean())[clusters == cluster].sum()) ** 2 for cluster in np.unique(clusters)]
        errors.append(math.sqrt(len(squares) / (len(squares) - 1) * sum(squares)) / len(tokens))
    assert change.standard_error == pytest.approx(max(errors))


def test_the_linear_part_is_the_slope_of_the_loss() -> None:
    """A small step in one token's divergence moves the loss by what that token rises."""
    on = made()
    means, _ = slow_terms(on, NOW)
    size = slow_size([value for value, _ in means])
    for token in range(0, len(NOW.divergence_T), 37):
        step_T = np.where(np.arange(len(NOW.divergence_T)) == token, 1e-6, 0)
        slope = sum(
            ((max(0.0, value) / size) ** 3 / len(means) + 16 * (place == 0)) * share.get(token, 0.0)
            for place, (value, share) in enumerate(means)
        )
        change = on.change(NOW, Predictions(NOW.divergence_T + step_T, NOW.lead_T))
        assert change.value / 1e-6 == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_a_message_counts_by_how_far_its_tokens_lead() -> None:
    """One that is hardly lost counts for more than one that is hardly kept, but for little more."""
    on = made()
    (message, *_) = exact_messages(on, [tuple(at) for at in np.argwhere(BLOCKS_.scored_BS)], TokenClass.CALL)
    zero_T = np.zeros(BLOCKS_.num_scored)

    def loss(lead: float) -> float:
        lead_T = BASE.lead_T.copy()
        lead_T[message[0]] = lead
        return on.loss(Predictions(zero_T, lead_T))

    leads = [loss(lead) for lead in (5.0, 0.01, -0.01, -5.0)]
    assert leads == sorted(leads)
    assert leads[2] - leads[1] < 0.05 * (leads[3] - leads[0])


def test_messages_beyond_their_margin_count_as_much_however_many_are_lost() -> None:
    """Also where another rule is much farther beyond its own; and none that is lost within the margin."""
    on = replace(made(), margins={"exact_calls": 0.03, "ppl": 0.04})
    calls = exact_messages(on, [tuple(at) for at in np.argwhere(BLOCKS_.scored_BS)], TokenClass.CALL)
    events = sum(all(BASE.lead_T[t] >= 0 for t in of) for of in calls)
    far_T = np.full(BLOCKS_.num_scored, 10 * 0.04)
    before = sum(exactness(BASE, of) for of in calls)

    def loss(lost: float) -> float:
        """With a share of the events lost, of every call as much."""
        lead_T = BASE.lead_T.copy()
        for of in calls:
            rest = exactness(BASE, of) * (1 - lost * events / before)
            lead_T[list(of)] = -objective.SOFT * math.log(rest ** (-1 / len(of)) - 1)
        return on.loss(Predictions(far_T, lead_T))

    assert [loss(lost) - loss(0.0) for lost in (0.01, 0.03, 0.06, 0.3)] == pytest.approx([0, 0, 2, 18])


def test_of_some_blocks_is_as_if_made_on_them() -> None:
    some = np.array([0, 1, 4, 5, 6, 8, 9, 11])
    chosen_T = np.isin(np.argwhere(BLOCKS_.scored_BS)[:, 0], some)
    part, alone = made().of_blocks(some), made(BLOCKS_.reordered(some), BASE.at(chosen_T))
    assert part.loss(NOW.at(chosen_T)) == alone.loss(NOW.at(chosen_T))
    assert part.loss(NOW.at(chosen_T)) == pytest.approx(slow_loss(alone, NOW.at(chosen_T)))
    assert part.change(NOW.at(chosen_T), OTHER.at(chosen_T)) == alone.change(NOW.at(chosen_T), OTHER.at(chosen_T))


def test_blocks_without_content_are_judged_by_what_they_score() -> None:
    """Of a small profile a half may hold nothing but the ends of messages, which is no reason to end a search."""
    of_T = BLOCKS_.roles.kind[BLOCKS_.scored_BS] == TokenClass.HEADER
    chosen_BS = BLOCKS_.roles.kind == TokenClass.HEADER
    roles = replace(BLOCKS_.roles, content=np.zeros_like(chosen_BS), message=np.full_like(BLOCKS_.row_BS, NO_MESSAGE))
    headers = replace(BLOCKS_, scored_BS=BLOCKS_.scored_BS & chosen_BS, roles=roles)
    on, now, other = made(headers, BASE.at(of_T)), NOW.at(of_T), OTHER.at(of_T)
    means, _ = slow_terms(on, now)
    assert len(means) == 3, "headers of UNION and of both packs"
    assert on.loss(now) == pytest.approx(slow_size([0.0, *(value for value, _ in means)]))
    assert on.change(now, other).value == pytest.approx(on.loss(other) - on.loss(now)) != 0


@pytest.mark.parametrize(
    ("fewest", "rules", "messages"), [(6, 12, 2), (7, 10, 2), (9, 8, 2), (11, 7, 2), (12, 6, 0), (17, 3, 0)]
)
def test_rules_over_too_few_take_no_part(
    monkeypatch: pytest.MonkeyPatch, fewest: int, rules: int, messages: int
) -> None:
    """Some rules are over 6 documents, both of messages over 11 that are exact under the base."""
    monkeypatch.setattr(objective, "FEWEST", fewest)
    monkeypatch.setattr(objective, "FEWEST_MESSAGES", fewest)
    means, exact = slow_terms(made(), NOW)
    assert (len(means), len(exact)) == (rules, messages)
    assert made().loss(NOW) == pytest.approx(slow_loss(made(), NOW))


def test_perplexity_of_union_always_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "FEWEST", 1000)
    monkeypatch.setattr(objective, "FEWEST_MESSAGES", 1000)
    worse = float(NOW.divergence_T[BLOCKS_.roles.content[BLOCKS_.scored_BS]].mean()) / MARGINS["ppl"]
    assert made().loss(NOW) == pytest.approx(16 * worse + max(0.0, worse))


def test_margins_are_those_of_the_default_policys_rules_that_decide_in_every_pack() -> None:
    _, policy = load_gates().policy(None)
    assert isinstance(policy, IntervalPolicy)
    margins = gated_margins()
    assert {"ppl", "nll_call", "exact_calls"} <= margins.keys() <= METRICS.keys()
    for name, rule in policy.rules.items():
        decides = rule.role == "decides" and (rule.cells == "every" or name == "ppl")
        assert (name in margins) == decides
        if decides:
            assert rule.margin is not None
            assert margins[name] == rule.margin.value


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MoeModel:
    return load_lively(write_lively_checkpoint(tmp_path_factory.mktemp("base"), size=Size(layers=2, experts=8)))


@pytest.mark.parametrize("name", sorted(gated_margins()))
def test_what_a_search_lowers_is_what_the_policy_judges(
    model: MoeModel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """One definition: a rule's share is its metric's value, as the gate measures it, by its margin; but that a rise of
    the log-loss is taken as the base expects it, and that messages are taken as nearly exact, here as hardly that."""
    monkeypatch.setattr(objective, "FEWEST", 1)
    monkeypatch.setattr(objective, "SOFT", 1e-9)
    blocks, margins = said_by(model), gated_margins()
    whole, base = collected(model, blocks), referred(model, blocks)
    with model.keeping(KEEP):
        tokens, lead_T = pair(whole, collected(model, blocks)), predicted(model, blocks, base).lead_T
    now = Predictions(tokens.nll_delta_T, lead_T)
    only = Objective(blocks, base, PACK_R, {name: margins[name]} | {"ppl": margins["ppl"]})
    packs: tuple[int | None, ...] = (None, 0, 1)

    def worse(metric: str, pack: int | None) -> float:
        there_T = np.ones(len(tokens), bool) if pack is None else PACK_R[tokens.row_T] == pack
        found = METRICS[metric].measure(cell_of(tokens.select(there_T)))
        assert found is not None
        return found.estimate.value / margins[metric]

    ppl = [worse("ppl", pack) for pack in packs]
    more = [] if name == "ppl" else [worse(name, pack) for pack in (packs[:1] if name.startswith("exact") else packs)]
    exact = name.startswith("exact")
    expected = slow_size([*ppl, *([] if exact else more)]) + 2 * sum(max(value - 1, 0.0) for value in more if exact)
    assert only.loss(now) == pytest.approx(16 * ppl[0] + expected, rel=1e-4)
    assert any(more) or name == "ppl"


def said_by(model: MoeModel) -> Blocks:
    """Blocks of which three in four hold the whole model's own first choices, so that it writes messages exactly."""
    blocks = class_blocks(len(model.head_VD))
    ids_BS = torch.from_numpy(blocks.token_ids_BS.astype(np.int64))
    with torch.no_grad():
        for place in range(1, SEQ_LEN):
            first_B = (model.hidden_states(ids_BS[:, :place])[:, -1] @ model.head_VD.T).argmax(dim=-1)
            ids_BS[:, place] = torch.where(torch.arange(BLOCKS) % 4 > 0, first_B, ids_BS[:, place])
    tokens: NDArray[np.int32] = ids_BS.numpy().astype(np.int32)
    return Blocks(**{**vars(blocks), "token_ids_BS": tokens})


def cell_of(scored: PairedTokens) -> PairedCell:
    return PairedCell(scored.content(), scored, Thresholds(0.5, 0.5), Bins(4, 3), 60, jackknife=True)
