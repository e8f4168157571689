"""A task under two models: the difference of its metrics by document, and what it is worth."""

import math
from typing import Any

import numpy as np
import pytest
from evaluations import evaluated, scores

from eaftgate.errors import UserError
from eaftgate.judge.policy import IntervalPolicy, TasksPolicy, load_gates
from eaftgate.judge.tasks import JudgedTask, judge_task
from eaftgate.tasks.evaluated import Evaluated
from eaftgate.tasks.paired import pair_task

POLICY = load_gates().policy("near-lossless-v3")[1]
assert isinstance(POLICY, IntervalPolicy)
assert POLICY.tasks is not None


def judged(base: Evaluated, candidate: Evaluated, *, task: str = "sums", **options: Any) -> JudgedTask:
    assert isinstance(POLICY, IntervalPolicy)
    assert POLICY.tasks is not None
    return judge_task(POLICY, POLICY.tasks.rule_of(task), pair_task(base, candidate), **options)


def flipped(values: list[float], *places: int) -> list[float]:
    return [1 - value if place in places else value for place, value in enumerate(values)]


RIGHT = [1.0, 1.0, 1.0, 0.0] * 500


def test_the_difference_is_candidate_less_base_and_its_error_is_that_of_pairs() -> None:
    base, candidate = evaluated(acc=RIGHT), evaluated(acc=flipped(RIGHT, 0, 1, 2, 3, 7))
    found = pair_task(base, candidate).difference("acc")
    assert found is not None
    assert found.estimate.value == pytest.approx((2 - 3) / 2000)
    assert (found.lost, found.gained) == (3, 2)
    assert found.details == {"base": 0.75, "candidate": 0.7495}
    # Five documents of 2,000 differ, and two made-up ones: the error of unpaired means would be ten times that.
    change_N = np.array(flipped(RIGHT, 0, 1, 2, 3, 7)) - RIGHT
    squares = ((change_N - change_N.mean()) ** 2).sum() + 2
    assert found.estimate.standard_error == pytest.approx(math.sqrt(squares) / 2000, rel=1e-3)


def test_a_copy_passes_and_a_loss_fails_and_little_cannot_tell() -> None:
    base = evaluated(acc=RIGHT)
    assert judged(base, base).verdict == "pass"
    assert judged(base, evaluated(acc=flipped(RIGHT, *range(0, 240, 4)))).verdict == "fail"
    gained = judged(base, evaluated(acc=flipped(RIGHT, *range(3, 243, 4))))
    assert gained.verdict == "pass"
    few = judged(evaluated(acc=RIGHT[:200]), evaluated(acc=RIGHT[:200]))
    assert few.verdict == "inconclusive"
    assert few.verdicts["acc"].blocks_needed is not None
    assert 200 < few.verdicts["acc"].blocks_needed < 2000


def test_no_bound_lies_beyond_what_a_difference_of_shares_can_be() -> None:
    right, wrong = evaluated(acc=[1.0] * 4), evaluated(acc=[0.0, 0.0, 0.0, 1.0])
    lost, gained = (judged(*pair).verdicts["acc"] for pair in ((right, wrong), (wrong, right)))
    assert (lost.estimate, lost.lower, lost.verdict) == (-0.75, -1.0, "inconclusive")
    assert (gained.estimate, gained.upper, gained.verdict) == (0.75, 1.0, "inconclusive")


def test_where_less_is_better_a_rise_is_the_loss() -> None:
    base = evaluated(brier=scores(RIGHT, higher_is_better=False))
    rise = evaluated(brier=scores(flipped(RIGHT, *range(3, 243, 4)), higher_is_better=False))
    assert judged(base, rise).verdict == "fail"
    assert judged(rise, base).verdict == "pass"


def test_a_margin_is_a_tasks_own() -> None:
    rule = {"role": "decides", "margin": {"value": 0.2, "rationale": "r", "origin": "o"}}
    assert POLICY.tasks is not None  # type: ignore[union-attr]
    policy = TasksPolicy.model_validate({**POLICY.tasks.model_dump(), "rules": {"easy": rule}})  # type: ignore[union-attr]
    margins = [policy.rule_of(task).margin for task in ("easy", "sums")]
    assert [margin.value for margin in margins if margin is not None] == [0.2, 0.01]
    assert policy.rule_of("easy").side == "worse"
    with pytest.raises(ValueError, match="easy: of a task only a loss counts"):
        TasksPolicy.model_validate({"default": rule, "rules": {"easy": {**rule, "side": "both"}}})


def test_the_best_of_several_needs_more() -> None:
    base, candidate = evaluated(acc=RIGHT), evaluated(acc=flipped(RIGHT, *range(12)))
    alone, of_many = judged(base, candidate), judged(base, candidate, best_of=50)
    assert alone.verdicts["acc"].lower is not None
    assert of_many.verdicts["acc"].lower is not None
    assert of_many.verdicts["acc"].lower < alone.verdicts["acc"].lower
    assert of_many.verdicts["acc"].upper == alone.verdicts["acc"].upper


def test_what_is_no_mean_over_documents_is_shown_and_not_judged() -> None:
    not_means = {
        "not what is printed": scores(RIGHT, sums=0.7),
        "beyond 1": scores([2.0 * value for value in RIGHT]),
        "not of every document": scores([None, *RIGHT[1:]]),
        "of no direction": scores(RIGHT, higher_is_better=None),
    }
    for name, of in not_means.items():
        task = evaluated(metric=of)
        found = judged(task, task)
        assert (found.verdict, found.verdicts["metric"].verdict) == (None, None), name
        assert found.verdicts["metric"].lacks == "it is no mean over documents of figures from 0 to 1"
    lower = evaluated(metric=scores(RIGHT, sums=0.6))
    assert judged(evaluated(metric=not_means["not what is printed"]), lower).verdicts[
        "metric"
    ].estimate == pytest.approx(-0.1)


def test_a_group_is_all_of_its_documents_however_it_is_printed() -> None:
    tasks = ["easy"] * 500 + ["hard"] * 1500
    values = [1.0] * 500 + [0.0] * 1500
    group = evaluated(task="both", tasks=tasks, acc=scores(values, easy=1.0, hard=0.0, both=0.5))
    found = judged(group, group, task="both")
    assert found.verdict == "pass"
    assert found.details["acc"]["base"] == 0.25
    other = evaluated(task="both", tasks=tasks, acc=scores(values, easy=1.0, hard=0.1, both=0.5))
    assert judged(other, other).verdict is None


def test_a_document_that_is_asked_again_is_no_further_evidence() -> None:
    apart = evaluated(acc=RIGHT), evaluated(acc=flipped(RIGHT, *range(20)))
    texts = [str(number // 2) for number in range(len(RIGHT))]
    twice = evaluated(acc=RIGHT, texts=texts), evaluated(acc=flipped(RIGHT, *range(20)), texts=texts)
    errors = []
    for base, candidate in (apart, twice):
        found = pair_task(base, candidate).difference("acc")
        assert found is not None
        errors.append((found.evidence.documents, found.estimate.standard_error))
    assert [documents for documents, _ in errors] == [2000, 1000]


def test_other_documents_or_metrics_are_not_compared() -> None:
    base = evaluated(acc=RIGHT)
    for other in (evaluated(acc=RIGHT, asked="b"), evaluated(acc=RIGHT, texts=["x"] * 2000), evaluated(acc=RIGHT[1:])):
        with pytest.raises(ValueError, match="different documents"):
            pair_task(base, other)
    with pytest.raises(ValueError, match="different metrics"):
        pair_task(base, evaluated(acc_norm=RIGHT))


def test_a_policy_is_told_what_is_wrong_with_it() -> None:
    with pytest.raises((UserError, ValueError), match="default"):
        TasksPolicy.model_validate({"rules": {}})
