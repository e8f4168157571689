"""Final answers that say the same are equal, and others are not: the rule of behaviour.answers, line by line."""

import pytest

from eaftgate.behaviour.answers import answer_of


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So we get $\boxed{42}$. That is all of the 7 steps.", "number 42"),
        (r"First \boxed{1}, then \boxed{2}.", "number 2"),
        ("12 apples.\n#### 1,234.50", "number 1234.5"),
        ("The answer is: 17. It was computed in 3 steps.", "number 3"),  # of what stands behind the mark, the last
        ("**Answer:** 17", "number 17"),
        ("The answer is (B).", "option B"),
        ("Answer: C) Paris", "option C"),
        ("The answer is option d", "option D"),
        ("B", "option B"),
        ("(a)", "option A"),
        ("A.", "option A"),
        ("A tree stands on the hill.", "text a tree stands on the hill"),  # no option: an article
        ("A. There are 7 of them.", "number 7"),  # too long for an option without a mark
        ("Answer: a cat", "text a cat"),
        ("Answer: K", "text k"),
        ("There are 12 apples at $1,000.00 each, 12000 in all.", "number 12000"),
        ("The bus leaves at 06:25.", "number 25"),
        ("It is -3 degrees", "number -3"),
        ("items 1-3", "number 3"),
        ("It costs 1.50", "number 1.5"),
        ("007", "number 7"),
        ("-0", "number 0"),
        ("1,2,3", "number 3"),
        ("Version v2 of x86", "text version v2 of x86"),
        ("  **The Vltava**,\n flows   through Prague!  ", "text the vltava**, flows through prague"),
        ("", "text "),
    ],
)
def test_the_rule(text: str, answer: str) -> None:
    assert answer_of(text) == answer


@pytest.mark.parametrize("text", ["9" * 5000, "," * 1000, "1," * 1000, "\\boxed{" * 500, "answer is " * 300])
def test_whatever_a_model_writes_has_an_answer(text: str) -> None:
    assert answer_of(text)
