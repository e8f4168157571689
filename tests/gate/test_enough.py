"""`packs check` counts what is in packs, and says before anything is scored whether a run on them could decide."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_data import FIXTURES, PACKS, texts_of
from cli_command import Command, refused

from eaftgate.packs.blocks import TokenisedPack, tokenised
from eaftgate.packs.pack import Pack

BASE = FIXTURES / "checkpoint"


def write_packs(directory: Path, **texts: list[str]) -> Path:
    directory.mkdir()
    for name, rows in texts.items():
        pq.write_table(pa.table({"text": rows}), directory / f"{name}.parquet")
    return directory


def test_rows_left_out_repeated_silent_and_shared_are_counted(eaftgate: Command, tmp_path: Path) -> None:
    chat = texts_of("chat")[:200]
    silent, broken = "<|start|>user<|message|>a<|end|>", "<|start|>user<|end|>"
    packs = write_packs(tmp_path / "p", a=[*chat, chat[3], silent, broken], b=chat[150:])
    ended = eaftgate("packs", "check", packs, "--json")
    assert ended.code == 0
    told = json.loads(ended.out)
    a, b = told["packs"]
    assert (a["rows"], a["malformed"], a["twice"], a["silent"]) == (203, 1, 1, 1)
    assert "the first is row 202, counted from 0" in a["left_out"]
    assert (b["rows"], b["malformed"], b["twice"], b["silent"]) == (50, 0, 0, 0)
    assert told["shared"] == [{"packs": ["a", "b"], "rows": 50}]
    said = eaftgate("packs", "check", packs, "--regime", "fixture").out
    assert "a and b share 50 rows" in said
    assert "could decide: give --base" in said


@pytest.mark.parametrize("option", ["regime", "policy"])
def test_a_name_that_is_none_is_said_without_a_base_too(eaftgate: Command, option: str) -> None:
    wrong = {"regime": "fixtur", "policy": "near-lossles-v3"}[option]
    refused(eaftgate("packs", "check", FIXTURES / "packs" / "gate", f"--{option}", wrong), "did you mean")


def test_every_pack_is_tokenised_once_for_all_lengths(
    eaftgate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs = write_packs(tmp_path / "p", a=texts_of("chat")[:50], b=texts_of("chat")[50:90])
    seen: list[str] = []

    def counted(pack: Pack, *arguments: Any, **settings: Any) -> TokenisedPack:
        seen.append(pack.name)
        return tokenised(pack, *arguments, **settings)

    monkeypatch.setattr("eaftgate.gate.enough.tokenised", counted)
    arguments = ("packs", "check", packs, "--base", BASE, "--regime", "fixture", "--seq-lens", "64,128,256", "--json")
    cells = json.loads(eaftgate(*arguments).out)["cells"]
    assert sorted(seen) == ["UNION", "a", "b"]
    assert [(cell["pack"], cell["seq_len"]) for cell in cells] == [
        (pack, seq_len) for pack in ("UNION", "a", "b") for seq_len in (64, 128, 256)
    ]


def test_the_embedded_packs_are_enough_for_their_regime(eaftgate: Command) -> None:
    """What it counts is what the run of make gate rests on: docs/reference.md of the same packs has 716 exact calls."""
    arguments = ("packs", "check", FIXTURES / "packs" / "gate", "--base", BASE, "--regime", "fixture")
    ended = eaftgate(*arguments, "--seq-lens", "512", "--json")
    assert ended.code == 0, ended.out
    told = json.loads(ended.out)
    assert (told["enough"], told["problems"]) == (True, [])
    cells = {cell["pack"]: cell for cell in told["cells"]}
    assert set(cells) == {"UNION", *PACKS}
    tools = cells["tool_agentic"]
    assert (tools["blocks"], tools["num_blocks"]) == (417, 400)
    exact = next(rule for rule in tools["rules"] if rule["metric"] == "exact_calls")
    assert (exact["decides"], exact["lacks"], exact["events"]) == (True, "", tools["calls"])
    assert tools["calls"] >= 716
    assert cells["chat"]["classes"].get("call") is None
    assert any("cc_ratio needs 100 confident conflicts" in said for said in told["open"])


def test_a_table_fits_60_columns(eaftgate: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packs = write_packs(tmp_path / "p", tool_agentic=texts_of("tool_agentic")[:40])
    monkeypatch.setenv("COLUMNS", "60")
    out = eaftgate("packs", "check", packs, "--base", BASE, "--regime", "fixture", "--num-blocks", 9).out
    rows = [line for line in out.splitlines() if re.match(r"(pack|tokens|UNION|tool_agentic) ", line)]
    assert len(rows) == 2 + 2 * 5
    assert max(map(len, rows)) <= 60


def test_too_few_blocks_say_how_many_more_rows(eaftgate: Command, tmp_path: Path) -> None:
    texts = texts_of("chat")
    few = write_packs(tmp_path / "few", chat=texts[:300])
    asked = ("--base", BASE, "--regime", "fixture", "--seq-lens", "512", "--num-blocks", 150)
    ended = eaftgate("packs", "check", few, *asked, "--json")
    assert ended.code == 1
    (problem,) = [said for said in json.loads(ended.out)["problems"] if said.startswith("chat has")]
    more = int(re.search(r"about ([\d,]+) more rows", problem)[1].replace(",", ""))  # type: ignore[index]
    enough = write_packs(tmp_path / "enough", chat=texts[: 300 + round(1.1 * more)])
    told = json.loads(eaftgate("packs", "check", enough, *asked, "--json").out)
    assert not [said for said in told["problems"] if "blocks of" in said]


def test_a_rule_that_can_decide_nowhere_is_named_with_what_it_lacks(eaftgate: Command, tmp_path: Path) -> None:
    """160 calls of 80 documents: too few for exact_calls and for the documents of every rule."""
    packs = write_packs(tmp_path / "p", tool_agentic=texts_of("tool_agentic")[:80])
    ended = eaftgate(
        "packs", "check", packs, "--base", BASE, "--regime", "fixture", "--seq-lens", "256", "--num-blocks", 60
    )
    assert ended.code == 1
    assert re.search(
        r"not enough: exact_calls can decide nowhere: \w+ at 256 comes nearest with .*200 exact calls", ended.out
    )
    assert re.search(
        r"not enough: ppl can decide nowhere: .* of 300 documents.*; at best \d+ blocks would do", ended.out
    )
    assert "no rule can decide in UNION at 256" in ended.out


def test_a_class_that_does_not_occur_is_not_asked_for(eaftgate: Command, tmp_path: Path) -> None:
    packs = write_packs(tmp_path / "p", chat=texts_of("chat"))
    asked = ("--base", BASE, "--regime", "fixture", "--seq-lens", "256", "--num-blocks", 300)
    ended = eaftgate("packs", "check", packs, *asked)
    assert (ended.code, "exact_calls can" in ended.out) == (0, False), ended.out


def test_a_policy_of_points_needs_blocks_alone(eaftgate: Command, tmp_path: Path) -> None:
    packs = write_packs(tmp_path / "p", chat=texts_of("chat")[:40])
    asked = ("--base", BASE, "--policy", "near-lossless-v1", "--seq-lens", "256", "--num-blocks", 9)
    assert eaftgate("packs", "check", packs, *asked).code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--seq-lens", "a"], "--seq-lens"), (["--regime", "bigblock"], "did you mean"), (["--policy", "x"], "--policy")],
)
def test_what_cannot_be_asked(eaftgate: Command, tmp_path: Path, arguments: list[str], said: str) -> None:
    packs = write_packs(tmp_path / "p", chat=texts_of("chat")[:4])
    refused(eaftgate("packs", "check", packs, "--base", BASE, *arguments), said)
