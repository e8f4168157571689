"""What is found in a text that a model wrote, well-formed or not."""

from typing import Any

import pytest
from generations import TOOLS, call, final, think
from hypothesis import given
from hypothesis import strategies as st

from eaftgate.behaviour.turn import call_of, judge_call, repeated_share, what_was_done
from eaftgate.chats.signatures import offered_functions


@pytest.mark.parametrize(
    ("text", "recipient", "answer"),
    [
        (think(1) + call(1), "functions.look_up", None),
        (think(1) + final(5), None, "number 5"),
        (final(1) + "<|start|>assistant" + final(2), None, "number 2"),  # the last is the one that is kept
        (call(1) + "<|start|>assistant" + call(1).replace("look_up", "other"), "functions.other", None),
        (" to=functions.f<|channel|>commentary<|message|>{}<|call|>", "functions.f", None),
        ("<|channel|>commentary to=functions.f <|constrain|>json<|message|>{", "functions.f", None),  # cut off
        ("<|channel|>final<|message|>so 1, 2,", None, "number 2"),
        (think(1) + "<|channel|>final<|end|>" + "<|start|>assistant" + final(3), None, "number 3"),  # malformed between
        ("<|channel|>analysis<|message|>hm<|end|><|start|>user<|message|>9?<|end|>", None, None),
        ("<|start|><|message|>", None, None),
        ("", None, None),
        ("just text", None, None),
        ("<|channel|>commentary<|message|>I look it up.<|end|>", None, None),  # to the user, who is not addressed
        ("<|channel|>analysis<|end|>", None, None),
        ("<|channel|>final to=all", None, None),
        (think(1) + "<|start|>assistant<|channel|>", None, None),  # cut off before it says
        # Meant to be calls:
        ("<|channel|>commentary to<|return|>", "", None),
        ("<|channel|>commentary to=look_up <|constrain|>json{}<|call|>", "", None),
        ("<|channel|>commentary tofunctions.look_up <|constrain|>json<|message|>{}<|call|>", "", None),
        ("<|channel|>commentary to=<|message|>look_up<|message|>{}<|call|>", "", None),
        ("<|channel|>commentary to=functions.look", "", None),  # cut off
        ("<|channel|>commentaryto=functions.look_up<|message|>{}<|call|>", "", None),
        (call(1) + "<|start|>assistant<|channel|>commentary to<|end|>", "", None),
        ("<|channel|>commentary to<|end|><|start|>assistant" + call(1), "functions.look_up", None),
        ("<|channel|>commentary to<|end|><|start|>assistant" + final(3), "", "number 3"),
    ],
)
def test_what_was_done(text: str, recipient: str | None, answer: str | None) -> None:
    done = what_was_done(text)
    assert (done.call and done.call.recipient, done.answer) == (recipient, answer)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a":1,"b":[1,2]}', '{ "b": [1.0, 2], "a": 1 }', True),
        ('{"a":1}', '{"a":"1"}', False),
        ('{"a":true}', '{"a":1}', False),
        ('{"a":[1,2]}', '{"a":[2,1]}', False),
        ('{"a":1', ' {"a":1 ', True),  # no JSON: as text
        ('{"a":1', '{"a":1}', False),
        ('{"a":1,"a":1}', '{"a":1}', False),  # a key that is there twice is no JSON here
    ],
)
def test_arguments_are_equal_as_values(one: str, other: str, same: bool) -> None:
    assert call_of("functions.f", one).is_same(call_of("functions.f", other)) is same
    assert not call_of("functions.f", one).is_same(call_of("functions.g", one))


@pytest.mark.parametrize(
    ("recipient", "arguments", "judged"),
    [
        ("functions.look_up", '{"item":"x"}', (True, True, True)),
        ("functions.look_up", '{"item":1}', (True, True, False)),
        ("functions.look_up", '{"item":"x"', (False, True, False)),
        ("functions.look_up", '["x"]', (False, True, False)),
        ("look_up", '{"item":"x"}', (True, False, False)),
        ("functions.other", '{"item":"x"', (False, False, False)),
        ("python", "print(1)", (True, True, True)),
        ("", "assistant<|channel|>commentary to<|return|>", (False, False, False)),
    ],
)
def test_a_call_parses_is_offered_and_suits(recipient: str, arguments: str, judged: Any) -> None:
    found = judge_call(call_of(recipient, arguments), offered_functions(f"{TOOLS}\n## python\n\nRuns code."))
    assert (found.parses, found.offered, found.suits) == judged


PIECES = (
    "<|start|>", "assistant", "<|channel|>", "final", "analysis", "commentary", " to=functions.look_up", "<|message|>",
    "<|end|>", "<|call|>", "<|return|>", "<|constrain|>json", '{"item":', '"x"', "}", "[", "]", "12", "answer is ",
)  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text(max_size=60))
def test_whatever_is_written_can_be_judged(text: str) -> None:
    done = what_was_done(text)
    if done.call is not None:
        assert done.call.is_same(done.call)
        judged = judge_call(done.call, offered_functions(TOOLS))
        assert judged.offered >= judged.suits <= judged.parses


def test_what_is_no_text_is_no_json() -> None:
    """Half of a character, which JSON on its way may have."""
    assert not call_of("functions.f", '{"a":"\ud800"}').parses


def test_arguments_may_be_nested_as_deep_as_people_do() -> None:
    assert call_of("functions.f", "[" * 50 + "1" + "]" * 50).parses


@pytest.mark.parametrize("levels", [51, 900, 100_000])
def test_what_is_nested_without_end_is_no_json(levels: int) -> None:
    for begin, end in (("[", "]"), ('{"a":', "}")):
        found = call_of("functions.look_up", begin * levels + "1" + end * levels)
        assert not found.parses
        assert found.is_same(found)


def test_the_share_that_stood_before() -> None:
    assert repeated_share(range(7)) == 0
    assert repeated_share(range(100)) == 0
    assert repeated_share([1, 2] * 10) == 1 - 2 / 13
    assert repeated_share([*range(8), *range(8)]) == pytest.approx(1 / 9)
    assert repeated_share([3] * 1000) == pytest.approx(1, abs=2e-3)
