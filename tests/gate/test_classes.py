"""What a terminal shows by class and of messages: on any width, without colour, whatever is in a conversation."""

import re
from dataclasses import replace
from typing import Any

import pytest
from results import lost_message, parity_cell, parity_of

from eaftgate.gate.classes import class_lines, class_tables, lost_lines, red_by_exactness
from eaftgate.gate.results import ParityCell
from eaftgate.judge.verdict import MetricVerdict

HEADER = MetricVerdict(0.01, 0.005, 0.02, 0.0488, "pass", documents=120, effective_documents=90.0)
CALL = replace(HEADER, estimate=0.09, lower=0.07, upper=0.11, verdict="fail")
FEW = replace(HEADER, verdict="inconclusive", underpowered=True, decides=False, lacks="20 of 100 documents")
FEW_CALLS: dict[str, Any] = {"verdict": "inconclusive", "underpowered": True, "decides": False}
SHOWN = replace(HEADER, margin=None, verdict=None, decides=False)
ABSENT = MetricVerdict(None, None, None, None, None, decides=False, lacks="other tokens do not occur")
EXACT = replace(CALL, estimate=0.2, lower=0.18, upper=0.23, margin=0.03, events=1761, lost=1353, gained=12)
METRICS = {
    "ppl": replace(HEADER, decides=False), "nll_header": HEADER, "nll_call": CALL, "nll_final": FEW,
    "nll_recipient": SHOWN, "nll_other": ABSENT, "exact_calls": EXACT, "exact_finals": ABSENT,
}  # fmt: skip
DETAILS: dict[str, Any] = {"nll_header": {"tokens": 1_234_567}, "exact_calls": {"messages": 2000, "close": 17}}
EVIL = "[red]<script>\x1b[31m\u202e\\`\n"
SAFE = "[red]<script>\\x1b[31m\\u202e\\\\`\\n"


def cell(**changes: Any) -> ParityCell:
    return parity_cell(**{"metrics": METRICS, "details": DETAILS, "verdict": "fail", **changes})


@pytest.mark.parametrize("width", [60, 70, 78, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(width: int) -> None:
    cells = [cell(seq_len=16384), cell(seq_len=131072)]
    tokens, messages = class_tables(cells, width=width, colour=False)
    assert max(len(line) for line in (tokens + "\n" + messages).splitlines()) <= width
    assert re.search(r"^header +131072 1,234,567 +\+1.01% +\+2.02% PASS$", tokens, re.M)
    assert re.search(r"^call +16384 +1,000 +\+9.42% +\+11.63% FAIL$", tokens, re.M)
    assert re.search(r"^final +16384 .* \(underpowered\)$", tokens, re.M)
    assert re.search(r"^recipient +16384 .* -$", tokens, re.M)
    assert re.search(r"^all content +16384 .* \(pass\)$", tokens, re.M)
    assert "other" not in tokens
    counts = r"1,761 1,353 +12 +17" if width >= 78 else r"1,353 +12"
    assert re.search(rf"^call +131072 +{counts} \+20.00% \+23.00% FAIL$", messages, re.M)
    assert "final" not in messages


def test_classes_come_in_the_order_in_which_a_model_writes_them() -> None:
    tokens, _ = class_tables([cell()], width=80, colour=False)
    assert [line.split(" 1024")[0].strip() for line in tokens.splitlines()[1:]] == [
        "header", "recipient", "call", "final", "all content"
    ]  # fmt: skip


def test_colour_only_when_asked() -> None:
    coloured, plain = ("".join(class_tables([cell()], width=80, colour=colour)) for colour in (True, False))
    assert "\x1b[31mFAIL" in coloured
    assert "\x1b" not in plain


def test_a_policy_without_classes_has_no_table_of_them() -> None:
    assert class_lines(parity_of(parity_cell()), width=80, colour=False) == []


def test_every_candidate_has_its_tables_of_the_packs_that_decide() -> None:
    cells = [
        cell(name=name, pack=pack, severity=severity)
        for name in ("a", EVIL)
        for pack, severity in (("UNION", "primary"), ("chat", "advisory"))
    ]
    lines = class_lines(parity_of(*cells), width=80, colour=False)
    assert [line for line in lines if line.endswith("by class:")] == [
        "a on UNION, by class:", f"{SAFE} on UNION, by class:"
    ]  # fmt: skip


def test_what_the_primary_pack_has_too_little_of_is_shown_of_the_pack_that_decides_it() -> None:
    """UNION holds a third of every pack: a PASS of calls is often decided in the pack that is full of them."""
    union = cell(metrics={**METRICS, "nll_call": FEW, "exact_calls": replace(EXACT, **FEW_CALLS)})
    tools = cell(pack="tools", severity="advisory", deciding=("nll_header", "nll_call", "exact_calls"))
    lines = class_lines(parity_of(union, tools), width=80, colour=False)
    (place,) = [i for i, line in enumerate(lines) if line == "keep24 on tools, which decides these:"]
    shown = "\n".join(lines[place:])
    assert re.search(r"^call +1024 +1,000 +\+9.42% +\+11.63% FAIL$", shown, re.M)
    assert re.search(r"^call +1024 +1,761 1,353 +12 +17 \+20.00% \+23.00% FAIL$", shown, re.M)
    assert "header" not in shown, "UNION decides it"
    silent = tools.model_copy(update={"deciding": ()})
    assert not any("decides these" in line for line in class_lines(parity_of(union, silent), width=80, colour=False))


@pytest.mark.parametrize(
    ("verdict", "red"),
    [
        (EXACT, True),
        (replace(EXACT, verdict="inconclusive"), True),
        (replace(EXACT, verdict="pass"), False),
        (replace(EXACT, decides=False), False),
        (replace(EXACT, verdict=None), False),
    ],
)
def test_lost_messages_are_shown_where_their_loss_keeps_a_run_from_a_pass(verdict: MetricVerdict, red: bool) -> None:
    found = cell(metrics={**METRICS, "exact_calls": verdict})
    assert red_by_exactness([found]) == red
    parity = parity_of(found, lost_messages={"keep24": (lost_message(),)})
    assert ("    <|channel|>final" in "\n".join(class_lines(parity, width=80, colour=False))) == red


def test_a_lost_message_is_shown_as_it_is_whatever_is_in_it() -> None:
    """No markup, no escape sequence, no line of its own; what is shown is what is there."""
    evil = lost_message(pack=EVIL, domain=EVIL, reference=EVIL, before=EVIL, expected=EVIL, written=EVIL, close=True)
    title, first, reference = lost_lines(parity_of(cell(), lost_messages={"keep24": (evil,)}), "keep24")
    assert title == "messages that the base writes exactly and keep24 does not, the first of them:"
    assert first == (
        f"  final of {SAFE}, {SAFE}, row {'a' * 12}, a close choice: `{SAFE}` instead of `{SAFE}` after `{SAFE}`"
    )
    assert reference == f"    {SAFE}"


def test_the_first_few_are_shown_and_the_number_of_the_others() -> None:
    lost = tuple(lost_message(offset=offset, prompt_cut=offset == 0, before="") for offset in range(20))
    lines = lost_lines(parity_of(cell(), lost_messages={"keep24": lost}), "keep24")
    assert len(lines) == 1 + 2 * 5 + 1
    assert lines[1].startswith(
        f"  final of chat, verse, row {'a' * 12}, prompt cut off by the block: `no` instead of `yes`"
    )
    assert "after" not in lines[1]
    assert lines[-1] == "  and 15 further ones in parity.json and in the report"
    assert lost_lines(parity_of(cell()), "keep24") == []
