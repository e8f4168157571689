"""A model that writes as its base does passes; one that loops, never ends or calls what nobody offers does not."""

from dataclasses import replace

import numpy as np
import pytest
from generations import (
    TOOLS,
    Model,
    as_reference,
    call,
    calls_unknown,
    final,
    loops,
    never_closes,
    planted,
    shipped,
    some,
    think,
)
from scipy.stats import t

from eaftgate.behaviour.paired import PairedTurns, pair_turns
from eaftgate.generate.generations import Generations
from eaftgate.judge.behaviour import JudgedTurns, judge_turns
from eaftgate.judge.behaviours import BEHAVIOURS

POLICY, BEHAVIOUR = shipped()
EVERYTHING = BEHAVIOUR.deciding_in(union=True, strict=False)


def judged(candidate: Generations, base: Generations | None = None, *, best_of: int = 1) -> JudgedTurns:
    turns = pair_turns([base or planted(turns=len(candidate))], [candidate])
    return judge_turns(POLICY, BEHAVIOUR, turns, deciding=EVERYTHING, best_of=best_of)


def verdicts(found: JudgedTurns) -> dict[str, str | None]:
    return {name: verdict.verdict for name, verdict in found.verdicts.items()}


def wrong_arguments(number: int, _: str) -> str:
    return think(number) + (call(number + 1) if number % 2 else final(number))


def wrong_answer(number: int, _: str) -> str:
    return think(number) + (call(number) if number % 2 else final(number + 1))


def no_json(number: int, reference: str) -> str:
    return think(number) + call(number, arguments='{"item":') if number % 2 else reference


def unsuitable(number: int, reference: str) -> str:
    return think(number) + call(number, arguments='{"count":1}') if number % 2 else reference


def otherwise_formatted(number: int, _: str) -> str:
    """The same calls and answers in other words."""
    arguments = f'{{"count":{number}.0,"item":"thing {number}"}}'
    answer = f"<|channel|>final<|message|>I have found **{number}** now!<|return|>"
    return think(number) + (call(number, arguments=arguments) if number % 2 else answer)


@pytest.mark.parametrize("model", [as_reference, otherwise_formatted, some(200, loops)])
def test_passes(model: Model) -> None:
    found = judged(planted(model))
    assert set(verdicts(found).values()) == {"pass"} or model not in (as_reference, otherwise_formatted)
    assert "fail" not in verdicts(found).values()
    if model is as_reference:  # no event at all is no certainty
        ends = found.verdicts["ends"]
        assert ends.lower is not None
        assert ends.upper is not None
        assert ends.lower < -0.004 < 0.004 < ends.upper
    assert list(found.verdicts) == list(BEHAVIOURS)


@pytest.mark.parametrize(
    ("model", "failing"),
    [
        (loops, {"ends", "repeats", "length", "calls_equal", "finals_equal"}),
        (some(20, loops), {"ends", "repeats", "calls_equal", "finals_equal"}),
        (never_closes, {"ends", "calls_parse", "calls_suit", "calls_equal"}),
        (calls_unknown, {"calls_offered", "calls_suit", "calls_equal"}),
        (some(20, calls_unknown), {"calls_offered", "calls_suit"}),
        (wrong_arguments, {"calls_equal"}),
        (wrong_answer, {"finals_equal"}),
        (no_json, {"calls_parse", "calls_suit", "calls_equal"}),
        (unsuitable, {"calls_suit", "calls_equal"}),
    ],
)
def test_a_planted_fault_is_red_where_it_is(model: Model, failing: set[str]) -> None:
    found = verdicts(judged(planted(model)))
    outside = {name for name, verdict in found.items() if verdict == "fail"}
    assert failing <= outside, outside
    if model in (calls_unknown, wrong_arguments, wrong_answer, no_json, unsuitable):
        assert outside == failing


def test_a_better_candidate_loses_nothing() -> None:
    """Only a loss is outside, whatever the base does; but for the length, which may not change."""
    found = verdicts(judged(planted(), planted(some(10, never_closes))))
    assert {name for name, verdict in found.items() if verdict == "fail"} == set()


@pytest.mark.parametrize("turns", [4, 8, 20])
def test_no_bound_lies_beyond_what_a_share_of_turns_can_be(turns: int) -> None:
    """A handful of turns has standard errors of any size. Of what the base has right no more than all is lost, but many
    times as much may be gained beside it."""
    good, bad = planted(turns=turns), planted(loops, turns=turns)
    for base, candidate in ((good, bad), (bad, good), (good, good)):
        for name, verdict in judged(candidate, base).verdicts.items():
            if BEHAVIOURS[name].unit == "share" and verdict.upper is not None:
                assert verdict.lower is not None
                assert verdict.upper <= 1
                assert verdict.lower >= -1 or name in ("calls_equal", "finals_equal")
    ends = judged(bad).verdicts["ends"]
    assert (ends.estimate, ends.upper) == (1.0, 1.0)
    # A base that has two answers of fifty right, and a candidate that has all of them.
    gains = judged(planted(turns=100), planted(lambda n, r: r if n < 4 else loops(n, r), turns=100))
    finals = gains.verdicts["finals_equal"]
    assert finals.estimate == -24
    assert finals.lower is not None
    assert finals.lower < -24


def test_the_figures_are_those_of_lost_and_gained() -> None:
    base, candidate = planted(some(10, wrong_answer)), planted(lambda n, r: wrong_answer(n, r) if n % 10 == 4 else r)
    found = judged(candidate, base).verdicts["finals_equal"]
    # Of 200 answers the base has 160 right: of every ten turns, the one in place 0 is wrong under it, that in place 4
    # under the candidate.
    assert (found.events, found.lost, found.gained) == (160, 40, 40)
    assert found.estimate == 0
    # What the base has not right cannot be lost, and is no evidence either.
    both = judged(planted(lambda n, r: wrong_answer(n, r) if n % 10 in (0, 4) else r), base).verdicts["finals_equal"]
    assert (both.events, both.documents, both.lost, both.gained, both.estimate) == (160, 160, 40, 0, 0.25)
    alone = judged(candidate).verdicts["finals_equal"]
    assert (alone.events, alone.lost, alone.gained, alone.estimate) == (200, 40, 0, 0.2)
    assert alone.lower is not None
    assert alone.lower == pytest.approx(0.2 - t.ppf(0.95, 199) * np.sqrt(0.2 * 0.8 / 200), abs=0.003)


@pytest.mark.parametrize(("tokens", "right"), [(9, 200), (10, 0)])
def test_a_turn_goes_in_circles_when_more_than_half_of_it_stood_before(tokens: int, right: int) -> None:
    """Of two stretches one, of three two."""
    whole = planted(turns=200)
    found = judged(replace(whole, written=tuple(replace(turn, tokens=(3,) * tokens) for turn in whole.written)))
    assert found.details["repeats"] == {"turns": 200, "base": 200, "candidate": right}


def test_too_few_documents_decide_nothing() -> None:
    for found in (judged(planted(loops, turns=60)), judged(planted(loops, rows=50), planted(rows=50))):
        assert {verdict.verdict for verdict in found.verdicts.values()} == {"inconclusive"}
        assert all(verdict.underpowered and not verdict.decides for verdict in found.verdicts.values())
    ends = judged(planted(loops, turns=60)).verdicts["ends"]
    assert ends.lacks == "60 of 100 documents"
    assert ends.blocks_needed == 100
    calls = judged(planted(turns=150)).verdicts["calls_equal"]
    assert "75 of 100 calls that equal the reference's" in calls.lacks


def test_what_does_not_occur_is_not_judged() -> None:
    only_finals = planted(turns=400)
    kept = [place for place in range(400) if place % 2 == 0]
    finals = replace(
        only_finals,
        asked=tuple(only_finals.asked[place] for place in kept),
        written=tuple(only_finals.written[place] for place in kept),
    )
    found = judge_turns(POLICY, BEHAVIOUR, pair_turns([finals], [finals]), deciding=EVERYTHING)
    for name in ("calls_parse", "calls_offered", "calls_suit", "calls_equal"):
        assert found.verdicts[name].verdict is None
        assert not found.verdicts[name].decides
        assert "do not occur" in found.verdicts[name].lacks


def test_a_call_that_nobody_asked_for_counts() -> None:
    """Neither the reference nor the base calls in those turns."""
    found = judged(planted(lambda n, r: call(n, name="functions.made_up") if n % 20 == 0 else r)).verdicts
    assert found["calls_offered"].verdict == "fail"
    assert found["calls_offered"].lost == 20


@pytest.mark.parametrize("tools", ["", TOOLS.replace("item: string", "item: number")])
def test_a_prompt_that_does_not_say_what_may_be_called_is_not_asked(tools: str) -> None:
    """The reference itself calls what is not offered, or with what does not suit."""
    found = judged(planted(calls_unknown, tools=tools), planted(tools=tools)).verdicts
    assert found["calls_offered"].verdict is found["calls_suit"].verdict is None
    assert found["calls_equal"].verdict == "fail"


def test_a_turn_whose_reference_calls_is_one_that_calls() -> None:
    """Also where neither model does: no call is no faulty one."""
    answers = planted(lambda number, _: final(number))
    found = judged(answers, answers)
    assert found.details["calls_parse"] == {"turns": 200, "base": 200, "candidate": 200}
    assert found.details["calls_equal"] == {"turns": 200, "base": 0, "candidate": 0}


def test_the_bounds_of_the_length_are_those_of_a_ratio() -> None:
    """Of a jackknife of its logarithm over the documents, by brute force."""

    def longer(number: int, reference: str) -> str:
        return reference.replace("This is", "This is " + "well " * (number % 40))

    base, candidate = planted(), planted(longer)
    found = judged(candidate, base).verdicts["length"]
    base_N, longer_N = (np.array([len(turn.tokens) for turn in one.written], float) for one in (base, candidate))
    without_N = np.log((longer_N.sum() - longer_N) / (base_N.sum() - base_N))
    error = np.sqrt(399 / 400 * ((without_N - without_N.mean()) ** 2).sum())
    assert found.estimate == pytest.approx(longer_N.sum() / base_N.sum())
    assert found.estimate is not None
    assert found.estimate > 2
    assert found.lower is not None
    assert found.upper is not None
    assert np.log(found.upper / found.lower) / 2 == pytest.approx(t.ppf(0.95, 399) * error, rel=0.05)


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_two_equal_models_have_what_is_called_unchanged(name: str) -> None:
    found = BEHAVIOURS[name].measure(pair_turns([planted()], [planted()]))
    assert found is not None
    assert BEHAVIOURS[name].reported(found.estimate.value) == BEHAVIOURS[name].unchanged


def test_a_rule_without_a_margin_is_shown_and_lacks_nothing() -> None:
    rules = {**BEHAVIOUR.rules, "ends": BEHAVIOUR.rules["ends"].model_copy(update={"margin": None, "role": "advisory"})}
    turns = pair_turns([planted(turns=60)], [planted(loops, turns=60)])
    policy = BEHAVIOUR.model_copy(update={"rules": rules})
    found = judge_turns(POLICY, policy, turns, deciding=EVERYTHING).verdicts
    assert (found["ends"].estimate, found["ends"].verdict, found["ends"].underpowered) == (1.0, None, False)
    assert found["repeats"].underpowered


def test_a_rule_that_names_no_side_has_that_of_its_metric() -> None:
    told = BEHAVIOUR.model_dump()
    for rule in told["rules"].values():
        del rule["side"]
    sides = {name: rule.side for name, rule in type(BEHAVIOUR).model_validate(told).rules.items()}
    assert sides == {name: rule.side for name, rule in BEHAVIOUR.rules.items()}


def test_the_best_of_several_needs_more() -> None:
    candidate = planted(lambda n, r: wrong_answer(n, r) if n % 200 == 0 else r)
    assert judged(candidate).verdicts["finals_equal"].verdict == "pass"
    assert judged(candidate, best_of=10**6).verdicts["finals_equal"].verdict == "inconclusive"


def test_packs_are_judged_together_and_by_themselves() -> None:
    base = [planted(pack="a"), planted(pack="b")]
    candidate = [planted(pack="a"), planted(loops, pack="b")]
    turns = pair_turns(base, candidate)
    assert len(turns) == 800

    def ends(of: PairedTurns) -> str | None:
        return judge_turns(POLICY, BEHAVIOUR, of, deciding=EVERYTHING).verdicts["ends"].verdict

    assert (ends(turns), ends(turns.of_pack("a")), ends(turns.of_pack("b"))) == ("fail", "pass", "fail")
    assert BEHAVIOUR.deciding_in(union=False, strict=False) == frozenset()
    assert BEHAVIOUR.deciding_in(union=False, strict=True) == EVERYTHING
    with pytest.raises(ValueError, match="different turns"):
        pair_turns(base, candidate[:1])


def test_what_decides_is_what_is_asked() -> None:
    turns = pair_turns([planted()], [planted(loops)])
    found = judge_turns(POLICY, BEHAVIOUR, turns, deciding=frozenset({"repeats"}))
    assert {name for name, verdict in found.verdicts.items() if verdict.decides} == {"repeats"}
