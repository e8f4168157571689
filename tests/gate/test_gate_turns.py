"""A gate has both models write the same turns, judges them in pairs, and says so everywhere; here by planted writers,
by the models themselves in a case that takes longer."""

import html
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from gate_command import BASE, GATE_PACKS, ROOT, gate
from generations import final, planted
from rungs import closing, eaftgate, names_misrouted, with_rows

from eaftgate.behaviour.paired import pair_turns
from eaftgate.collect.collectors import collector_kinds
from eaftgate.collect.transformers import TransformersWriter
from eaftgate.errors import UserError
from eaftgate.files import sha256_json
from eaftgate.gate.again import differences, judged_again
from eaftgate.gate.cases import cases, models_of, required_cases
from eaftgate.gate.cells import TurnCell
from eaftgate.gate.conclusion import CaseOutcome, conclude, read_all_turns
from eaftgate.gate.more_blocks import more_blocks
from eaftgate.gate.plan import Plan
from eaftgate.gate.planning import make_plan
from eaftgate.gate.request import GateOptions
from eaftgate.gate.results import FailedCase, Parity, copy_gates, read_parity, write_parity
from eaftgate.gate.run import GateRun
from eaftgate.gate.summary import parity_markdown
from eaftgate.gate.turns import turns_apart
from eaftgate.gate.turns_table import turns_lines, turns_remarks
from eaftgate.judge.behaviours import BEHAVIOURS
from eaftgate.judge.policy import DEFAULT_GATES
from eaftgate.packs.blocks import build_blocks
from eaftgate.packs.pack import UNION, named_packs, read_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.packs.turns import Ending, IntArray, choose_turns
from eaftgate.progress import progress_bar
from eaftgate.report.html import render
from eaftgate.report.lock import make_lock, verify_lock, write_lock

TURNS = 110
TOKENIZER = load_tokenizer(BASE)


def plan_of(results: Path, *checkpoints: Path, **options: Any) -> Plan:
    given = GateOptions(
        results=results, base=str(BASE), checkpoints=tuple(map(str, checkpoints)), packs=GATE_PACKS, regime="fixture",
        seq_lens=(64,), num_blocks=6, **options,
    )  # fmt: skip
    return make_plan(given, fixture_packs=GATE_PACKS)


@pytest.fixture(scope="module")
def references() -> dict[bytes, list[int]]:
    """By prompt: what stands in the packs."""
    found = {}
    for pack in read_packs(GATE_PACKS):
        chosen = choose_turns(pack, TOKENIZER, count=TURNS, seed=3407, max_tokens=400, context=None)
        for turn, prompt in zip(chosen.turns, chosen.prompts, strict=True):
            found[prompt.tobytes()] = TOKENIZER.backend.encode(turn.reference, add_special_tokens=False).ids
    return found


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, references: dict[bytes, list[int]]) -> list[str]:
    """The base and its copies write what stands in the packs; every other model loops after the first turns. Returns
    which model was asked for what pack."""
    asked: list[str] = []

    def write(
        self: TransformersWriter, prompts: Sequence[IntArray], *, ending: Ending, max_tokens: int
    ) -> Iterator[tuple[int, list[int]]]:
        assert ending.ids
        asked.append(self._path.name)
        for number, prompt in enumerate(prompts):
            text = references[prompt.tobytes()]
            loops = self._path.name == "random8" and number > 3
            yield number, (text[:4] * max_tokens)[:max_tokens] if loops else text

    monkeypatch.setattr(TransformersWriter, "write", write)
    return asked


def judged(plan: Plan) -> tuple[GateRun, Parity]:
    """What a run of the cases of behaviour alone leaves behind."""
    run = GateRun(plan, session="s", fixture=ROOT / "fixtures")
    copy_gates(plan.options.results, DEFAULT_GATES)
    outcomes = []
    for i, (cell, metric) in cases(plan, "turns_case").items():
        verdict = run.turns(cell).verdicts[metric]
        red = verdict.decides and verdict.verdict != "pass"
        case = f"gates/test_behaviour.py::test_behaviour[{i}]"
        outcomes.append(CaseOutcome(case, not red, "red" if red else "", {"verdict": verdict.verdict} if red else {}))
    parity = conclude(plan, {}, outcomes=outcomes, missing=(), complete=True, turns=read_all_turns(plan, "s"))
    write_parity(plan.options.results, parity)
    return run, read_parity(plan.options.results)


def test_a_copy_is_green_and_a_loop_is_red(tmp_path: Path, base_copy: Path, random8: Path, written: list[str]) -> None:
    plan = plan_of(tmp_path, base_copy, random8, generate=TURNS, generate_tokens=400)
    assert plan.turn_packs == ("chat", "reasoning", "tool_agentic")
    with patch("eaftgate.gate.run.progress_bar", wraps=progress_bar) as bars:
        run, parity = judged(plan)
    assert [bar.kwargs["steady"] for bar in bars.call_args_list] == [False] * 6, "turns end in bunches"
    # What is equal is written once: a copy is its base.
    assert sorted(written) == ["copy"] * 3 + ["random8"] * 3
    by_label = {turns.label: turns for turns in parity.behaviour}
    assert list(by_label)[:2] == ["copy UNION turns", "copy chat turns"]
    copy, random = by_label["copy UNION turns"], by_label["random8 UNION turns"]
    assert (copy.turns, copy.verdict, random.verdict) == (3 * TURNS, "pass", "fail")
    assert {"ends", "repeats", "length", "finals_equal"} <= {
        metric for metric in random.deciding if random.metrics[metric].verdict == "fail"
    }
    assert {case.case.partition("[")[2].split("-")[0] for case in parity.failed} == {"random8"}
    # The packs' own turns are shown: they decide under --strict-cells.
    assert by_label["random8 chat turns"].deciding == ()
    assert by_label["random8 chat turns"].metrics["ends"].verdict == "fail"
    strict = replace(plan, options=replace(plan.options, strict_cells=True))
    assert "ends" in strict.turns_deciding(TurnCell("random8", "chat"))
    # The first turns that differ, those before all in which something is lost.
    assert parity.turns_apart["copy"] == ()
    apart = parity.turns_apart["random8"]
    assert len(apart) == 20
    assert all("ends" in turn.lost for turn in apart)
    assert apart[0].reference == apart[0].base != apart[0].candidate
    run.close()


def test_what_was_written_is_judged_again_and_believed_for_its_own(
    tmp_path: Path, base_copy: Path, random8: Path, written: list[str]
) -> None:
    _, parity = judged(plan_of(tmp_path, base_copy, random8, generate=TURNS, generate_tokens=400))
    again = judged_again(tmp_path, parity)
    assert differences(parity.model_dump(mode="json"), again.model_dump(mode="json")) == []
    told = parity.model_copy(update={"failed": parity.failed[1:]})
    with pytest.raises(UserError, match=r"test_behaviour\[random8-UNION-turns-ends\] fails by what was written"):
        judged_again(tmp_path, told)
    with pytest.raises(UserError, match="was asked for turns, and tells of none"):
        judged_again(tmp_path, parity.model_copy(update={"behaviour": ()}))
    named = parity.behaviour[-1].inputs.generations["checkpoint"][0]
    path = tmp_path / "generations" / named
    whole = json.loads(path.read_text(encoding="utf-8"))
    for change in ({"turns": "other"}, {"checkpoint": "other"}, {"written": whole["written"][:-1]}):
        resealed = {key: value for key, value in {**whole, **change}.items() if key != "sha256"}
        path.write_text(json.dumps({**resealed, "sha256": sha256_json(resealed)}), encoding="utf-8")
        with pytest.raises(UserError, match="remove the file and run again"):
            judged_again(tmp_path, parity)
    path.unlink()
    with pytest.raises(UserError, match="is gone: run the gate again"):
        judged_again(tmp_path, parity)
    assert written


def test_people_see_it(tmp_path: Path, base_copy: Path, random8: Path, written: list[str]) -> None:
    _, parity = judged(plan_of(tmp_path, base_copy, random8, generate=TURNS, generate_tokens=400))
    wide, narrow = (list(turns_lines(parity, width=width, colour=False)) for width in (80, 60))
    assert [line for line in wide if line.endswith(":")] == [
        f"{name}, written by itself, UNION, 330 turns of up to 400 tokens:" for name in ("copy", "random8")
    ]
    assert "ends          330 of 330  318      0 +96.36%  +98.21% FAIL" in wide[3]
    assert "ends           318      0 +96.36%  +98.21% FAIL" in narrow[3]
    assert max(len(line) for table in narrow[1::2] for line in table.splitlines()) <= 60
    for metric, verdict in parity.behaviour[0].metrics.items():
        assert (f"\n{metric} " in wide[1]) == (f"\n{metric} " in narrow[1]) == (verdict.estimate is not None)
    said = "\n".join(turns_remarks(parity))
    assert "random8 UNION turns: ends" in said
    assert "is outside its margin +2.00% (330 turns)" in said
    assert "copy UNION turns: underpowered and undecided are calls_" in said
    assert "--generate=" in said
    assert "written by itself" in parity_markdown(parity)
    page = render(parity)
    assert "random8, the first turns that differ" in page
    assert "copy, the first turns that differ" not in page
    assert "<wbr>&lt;|channel|&gt;final" in page
    assert html.escape(BEHAVIOURS["calls_offered"].meaning) in page
    assert "base right in 330 of 330<br>318 lost, 0 gained" in page
    base, candidate = re.findall(r"<figcaption>(?:base|candidate)</figcaption><code>(.*?)</code>", page, re.DOTALL)[:2]
    (same, base), (also, candidate) = base.split("<mark>"), candidate.split("<mark>")
    assert same == also
    assert same.startswith("<wbr>&lt;|channel|&gt;")
    assert base[0] != candidate[0]
    assert written


def test_turns_in_which_something_is_lost_come_first() -> None:
    def candidate(number: int, reference: str) -> str:
        otherwise = final(number).replace("There are", "I find") if number == 0 else final(number + 1)
        return otherwise if number in (0, 4) else reference

    base, other = [planted(turns=10)], [planted(candidate, turns=10)]
    apart = turns_apart(pair_turns(base, other), base, other)
    assert [(turn.number, turn.lost) for turn in apart] == [(4, ("finals_equal",)), (0, ())]
    assert (apart[0].asked, apart[0].candidate) == ("turn 4?<|start|>assistant", final(5))


def test_what_is_planned(tmp_path: Path, base_copy: Path) -> None:
    plan = plan_of(tmp_path, base_copy, generate=5)
    ids = cases(plan, "turns_case")
    assert "copy-UNION-turns-ends" in ids
    assert "copy-chat-turns-calls_equal" in ids
    required = required_cases(plan)
    assert "test_behaviour::test_behaviour[copy-UNION-turns-ends]" in required
    assert "test_behaviour::test_behaviour[copy-chat-turns-ends]" not in required
    assert models_of(plan)["test_written[base-chat-turns]"] == "base"
    # The fixture's regime has them written, for the eye; bigblocks' asks nothing; where they were asked for and its
    # `must_decide` is all, none of them may be silent.
    assert (plan_of(tmp_path, base_copy).turns, plan_of(tmp_path, base_copy).turns_must_decide) == (32, ())
    assert plan_of(tmp_path, base_copy, generate=0).turn_packs == ()
    big = {"regime": "bigblocks"}
    options = GateOptions(results=tmp_path, base=str(BASE), checkpoints=(str(base_copy),), packs=GATE_PACKS, **big)  # type: ignore[arg-type]
    assert make_plan(options, fixture_packs=GATE_PACKS).turns == 0
    asked = make_plan(replace(options, generate=9), fixture_packs=GATE_PACKS)
    assert asked.turns_must_decide == asked.behaviour.metrics
    assert "test_behaviour::test_decides[copy-turns-ends]" in required_cases(asked)
    # An older policy judges none, and only says so where it is asked to.
    assert plan_of(tmp_path, base_copy, policy="near-lossless-v2").turns == 0
    for given, said in (
        ({"policy": "near-lossless-v2", "generate": 3}, "--generate needs a policy with a block behaviour"),
        ({"generate": -1}, "--generate is -1: it must be at least 0"),
        ({"generate": 1, "generate_tokens": 0}, "--generate-tokens is 0: it must be at least 1"),
    ):
        with pytest.raises(UserError, match=said):
            plan_of(tmp_path, base_copy, **given)
    assert all(collector_kinds()[name].needs({}).writes for name in ("transformers", "sglang"))


def test_turns_that_cannot_tell_say_how_many_would(tmp_path: Path, base_copy: Path, written: list[str]) -> None:
    _, parity = judged(plan_of(tmp_path, base_copy, generate=20, generate_tokens=400))
    assert {turns.verdict for turns in parity.behaviour} == {None}
    case = "gates/test_behaviour.py::test_decides[copy-turns-ends]"
    silent = parity.model_copy(
        update={
            "verdict": "inconclusive",
            "failed": (FailedCase(case=case, reason="decides nowhere", verdict="inconclusive"),),
        }
    )
    needed = more_blocks(silent)
    assert needed is not None
    assert needed.said.startswith("The turns cannot tell. About 34 of every pack would")
    assert written


@pytest.fixture
def planted_checkpoints(tmp_path: Path, base_copy: Path) -> dict[str, Path]:
    """By name: a copy, experts rounded to 4 bits, an output matrix that closes no message, one that names other
    functions."""
    union = named_packs(GATE_PACKS, seed=3407)[UNION]
    blocks = build_blocks(union, TOKENIZER.backend, eos_id=TOKENIZER.eos_id, seq_len=256, num_blocks=200)
    eaftgate("yardstick", BASE, "--bits", 4, "--out", tmp_path / "rounded4")
    return {
        "copy": base_copy,
        "rounded4": tmp_path / "rounded4",
        "open": with_rows(BASE, tmp_path / "open", zeroed=closing(blocks)),
        "names": with_rows(BASE, tmp_path / "names", instead=names_misrouted(blocks)),
    }


@pytest.mark.slow
def test_a_gate_from_the_models_to_the_lock(tmp_path: Path, planted_checkpoints: dict[str, Path]) -> None:
    """By the command, with the models themselves: a copy and 4 bits are green, what never closes and what calls other
    functions are red; and what was written is locked and verified."""
    gates = json.loads(DEFAULT_GATES.read_text(encoding="utf-8"))
    policy = gates["policies"]["near-lossless-v2"]
    policy["behaviour"] = gates["policies"]["near-lossless-v3"]["behaviour"]
    policy["behaviour"]["evidence"] = {"min_documents": 8, "max_document_share": 1.0, "min_effective_documents": 5}
    for name, rule in policy["behaviour"]["rules"].items():
        rule["margin"]["value"] = 1.5 if name == "length" else 0.4
        rule.pop("min_base_events", None)
    file, results = tmp_path / "gates.json", tmp_path / "run"
    file.write_text(json.dumps(gates), encoding="utf-8")
    packs = tmp_path / "packs"
    packs.mkdir()
    shutil.copy(GATE_PACKS / "tool_agentic.parquet", packs)
    run = gate(
        results, *(f"--checkpoint={path}" for path in planted_checkpoints.values()), f"--base={BASE}",
        f"--packs={packs}", f"--gates={file}", "--policy=near-lossless-v2", "--candidate-kind=other",
        "--regime=fixture", "--seq-lens=64", "--num-blocks=48", "--generate=20", "--generate-tokens=160",
    )  # fmt: skip
    behaviour = {(turns["name"], turns["pack"]): turns for turns in run.parity["behaviour"]}

    def outside(name: str) -> set[str]:
        metrics = behaviour[name, "UNION"]["metrics"]
        return {metric for metric, verdict in metrics.items() if verdict["verdict"] != "pass"}

    assert (outside("copy"), outside("rounded4")) == (set(), set()), run.output
    assert {"ends", "finals_equal"} <= outside("open")
    assert outside("names") == {"calls_offered", "calls_suit", "calls_equal"}
    case = run.junit["test_behaviour::test_behaviour[names-UNION-turns-calls_offered]"]
    assert case.outcome == "failure"
    assert (case.properties["turns"], case.properties["severity"]) == ("20", "primary")
    assert run.junit["test_behaviour::test_behaviour[copy-UNION-turns-ends]"].outcome == "passed"
    assert int(run.junit["test_generations::test_written[base-tool_agentic-turns]"].properties["tokens"]) > 100
    lock = tmp_path / "copy.lock.json"
    copy = str(planted_checkpoints["copy"])
    write_lock(results, copy, lock)
    assert verify_lock(lock, results=results) == []
    assert make_lock(results, copy).behaviour[0].verdict == "pass"
    told = json.loads(lock.read_text(encoding="utf-8"))
    assert [turns["pack"] for turns in told["behaviour"]] == ["UNION", "tool_agentic"]
    for key, other in (("behaviour", told["behaviour"][:1]), ("generations", {})):
        resealed = {name: value for name, value in {**told, key: other}.items() if name != "sha256"}
        lock.write_text(json.dumps({**resealed, "sha256": sha256_json(resealed)}), encoding="utf-8")
        problems = verify_lock(lock, results=results)
        assert problems
        assert all(problem.startswith(f"the lock's {key}") for problem in problems), problems
    write_lock(results, copy, tmp_path / "again.lock.json")
    lock = tmp_path / "again.lock.json"
    elsewhere = Path(shutil.copytree(results, tmp_path / "elsewhere"))
    path = elsewhere / "generations" / next(iter(told["generations"]))
    path.write_text(path.read_text(encoding="utf-8").replace('"ended": true', '"ended": false', 1), encoding="utf-8")
    assert "its checksum does not hold" in verify_lock(lock, results=elsewhere)[0]
