"""A gate has base and candidate do tasks, judges them by document, and says so everywhere; here by a planted harness,
by lm-evaluation-harness itself in a case that takes longer."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gate_command
import pytest
from gate_command import BASE, GATE_PACKS, ROOT, gate

from eaftgate.collect.collectors import collector_kinds
from eaftgate.errors import UserError
from eaftgate.files import sha256_json
from eaftgate.gate.again import differences, judged_again
from eaftgate.gate.cases import cases, models_of, order_of, required_cases
from eaftgate.gate.cells import TaskCell
from eaftgate.gate.conclusion import CaseOutcome, conclude, of_checkpoint, read_all_tasks
from eaftgate.gate.plan import Plan
from eaftgate.gate.planning import make_plan
from eaftgate.gate.request import GateOptions
from eaftgate.gate.results import Parity, copy_gates, read_parity, write_parity
from eaftgate.gate.run import GateRun
from eaftgate.gate.summary import parity_markdown
from eaftgate.gate.tasks import why_no_pass
from eaftgate.gate.tasks_table import tasks_lines, tasks_remarks
from eaftgate.judge.policy import DEFAULT_GATES
from eaftgate.progress import AGAIN
from eaftgate.report.html import render
from eaftgate.report.lock import make_lock, verify_lock, write_lock
from eaftgate.tasks.evaluated import Document, Scores
from eaftgate.tasks.harness import Harness

DOCUMENTS = 600


def plan_of(results: Path, *checkpoints: Path, **options: Any) -> Plan:
    given = GateOptions(
        results=results, base=str(BASE), checkpoints=tuple(map(str, checkpoints)), packs=GATE_PACKS, regime="fixture",
        seq_lens=(64,), num_blocks=6, generate=0, **options,
    )  # fmt: skip
    return make_plan(given, fixture_packs=GATE_PACKS)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every task is a third right, but random8 gets every tenth document wrong; `prose` has a metric that is no mean.
    Returns which task was done, by whom."""
    asked: list[str] = []

    def evaluate(
        _: Harness, task: str, module: Any, tokenizer: Path, *, batch_size: int
    ) -> tuple[tuple[Document, ...], dict[str, Scores]]:
        assert module.config._attn_implementation == "eager"
        assert tokenizer == BASE
        assert batch_size == 8
        model = "random8" if module.config.num_local_experts == 8 else "base"
        asked.append(f"{task} {model}")
        right = [float(n % 3 == 0 and (model == "base" or n % 10 > 0)) for n in range(DOCUMENTS)]
        documents = tuple(Document(task, n, f"{task}{n}", "") for n in range(DOCUMENTS))
        printed = sum(right) / DOCUMENTS
        if task == "prose":
            return documents, {"bleu": Scores((None,) * DOCUMENTS, {task: 10 * printed}, True)}
        return documents, {"acc": Scores(tuple(right), {task: printed}, True)}

    monkeypatch.setattr(Harness, "evaluate", evaluate)
    monkeypatch.setattr(Harness, "asked", lambda _, task: f"asked {task}")
    return asked


def judged(plan: Plan) -> Parity:
    """What a run of the cases of tasks alone leaves behind."""
    run = GateRun(plan, session="s", fixture=ROOT / "fixtures")
    copy_gates(plan.options.results, DEFAULT_GATES)
    outcomes = []
    for i, cell in cases(plan, "task_case").items():
        record = run.task(cell)
        red = record.verdict != "pass"
        said = {"verdict": record.verdict or "inconclusive"} if red else {}
        outcomes.append(CaseOutcome(f"gates/test_tasks.py::test_task[{i}]", not red, "red" if red else "", said))
    parity = conclude(plan, {}, outcomes=outcomes, missing=(), complete=True, tasks=read_all_tasks(plan, "s"))
    write_parity(plan.options.results, parity)
    run.close()
    return read_parity(plan.options.results)


def test_a_copy_is_green_and_a_loss_is_red(tmp_path: Path, base_copy: Path, random8: Path, done: list[str]) -> None:
    plan = plan_of(tmp_path, base_copy, random8, tasks=("sums", "prose"))
    parity = judged(plan)
    # What is equal is done once: a copy is its base.
    assert sorted(done) == ["prose base", "prose random8", "sums base", "sums random8"]
    by_label = {task.label: task for task in parity.tasks}
    assert {label: task.verdict for label, task in by_label.items()} == {
        "copy sums": "pass", "copy prose": None, "random8 sums": "fail", "random8 prose": None,
    }  # fmt: skip
    assert by_label["random8 sums"].metrics["acc"].estimate == pytest.approx(-20 / DOCUMENTS)
    assert by_label["random8 sums"].details["acc"] == {"base": 200 / DOCUMENTS, "candidate": 180 / DOCUMENTS}
    assert (parity.verdict, of_checkpoint(parity, "copy").verdict) == ("fail", "inconclusive")
    assert [task.task for task in of_checkpoint(parity, "copy").tasks] == ["sums", "prose"]
    # The same command goes on with what is there.
    assert judged(plan).tasks == parity.tasks
    assert len(done) == 4


def test_a_task_is_named_before_it_begins(
    tmp_path: Path,
    base_copy: Path,
    done: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A process that is killed for memory says nothing more."""
    said: list[str] = []
    planted = Harness.evaluate

    def evaluate(*given: Any, **options: Any) -> Any:
        said.append(capsys.readouterr().err)
        return planted(*given, **options)

    monkeypatch.setattr(Harness, "evaluate", evaluate)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # whose lines begin with its name
    results = tmp_path / "run"
    GateRun(plan_of(results, base_copy, tasks=("sums",)), session="s", fixture=ROOT / "fixtures").evaluated(
        "base", "sums"
    )
    line = f"evaluate sums base to {results}: 0 of 1 tasks; {AGAIN}"
    assert [text.splitlines()[-1] for text in said] == [line]
    assert done == ["sums base"]


def test_it_is_judged_again_and_believed_for_its_own(
    tmp_path: Path, base_copy: Path, random8: Path, done: list[str]
) -> None:
    parity = judged(plan_of(tmp_path, base_copy, random8, tasks=("sums",)))
    again = judged_again(tmp_path, parity)
    assert differences(parity.model_dump(mode="json"), again.model_dump(mode="json")) == []
    with pytest.raises(UserError, match=r"test_tasks::test_task\[random8-sums-task\] fails by what was evaluated"):
        judged_again(tmp_path, parity.model_copy(update={"failed": ()}))
    with pytest.raises(UserError, match=r"test_task\[copy-sums-task\] fails by what was evaluated"):
        judged_again(tmp_path, parity.model_copy(update={"tasks": parity.tasks[1:]}))
    better = {**parity.tasks[1].metrics, "acc": replace(parity.tasks[1].metrics["acc"], estimate=0.0)}
    told = parity.model_copy(
        update={"tasks": (parity.tasks[0], parity.tasks[1].model_copy(update={"metrics": better}))}
    )
    assert differences(told.model_dump(mode="json"), again.model_dump(mode="json"))
    path = tmp_path / "evaluations" / parity.tasks[1].inputs.evaluations["checkpoint"]
    whole = json.loads(path.read_text(encoding="utf-8"))
    changes: list[dict[str, Any]] = [{"task": "x"}, {"checkpoint": "x"}, {"asked": "x"}, {"documents": []}]
    for change in changes:
        resealed = {key: value for key, value in {**whole, **change}.items() if key != "sha256"}
        path.write_text(json.dumps({**resealed, "sha256": sha256_json(resealed)}), encoding="utf-8")
        with pytest.raises(UserError, match="remove the file and run again"):
            judged_again(tmp_path, parity)
    path.unlink()
    with pytest.raises(UserError, match="is gone: run the gate again"):
        judged_again(tmp_path, parity)
    assert done


def test_people_see_the_tasks(tmp_path: Path, base_copy: Path, random8: Path, done: list[str]) -> None:
    parity = judged(plan_of(tmp_path, base_copy, random8, tasks=("sums", "prose")))
    wide = "\n".join(tasks_lines(parity, width=150, colour=False))
    narrow = "\n".join(tasks_lines(parity, width=70, colour=False))
    for said in ("0.3333", "0.3000", "-3.33%", "FAIL", "(not judged)"):
        assert said in wide
    assert "-3.33%" in narrow
    assert "FAIL" in narrow
    assert max(map(len, narrow.splitlines())) <= 70
    assert "0.3000" not in narrow
    assert " to " in narrow, "the bounds, which the verdict is on, are spared last"
    named = parity.model_copy(
        update={"tasks": tuple(t.model_copy(update={"task": "tool_agentic_answers_of_a_turn"}) for t in parity.tasks)}
    )
    for width in (80, 110):  # which is too narrow for all that stands in HEAD
        text = "\n".join(tasks_lines(named, width=width, colour=False))
        assert max(map(len, text.splitlines())) <= width
        assert text.count(" tool_agentic_answers_of_a_turn ") == len(named.tasks)
    remarks = tasks_remarks(parity)
    assert "random8: task sums: acc -3.33%" in remarks[0]
    assert "is outside its margin +1.00% (600 documents)" in remarks[0]
    assert "copy: task prose decides nothing: of bleu it is no mean over documents of figures from 0 to 1" in remarks
    assert why_no_pass("prose", parity.tasks[1]) in "\n".join(remarks)
    assert "| acc | 0\\.3333 | 0\\.3000 |" in parity_markdown(parity)
    page = render(parity)
    assert '<h2 id="tasks">Tasks</h2>' in page
    assert "20 lost, 0 gained" in page
    assert '<h2 id="tasks">' not in render(parity.model_copy(update={"tasks": ()}))
    assert done


def test_which_tasks_are_planned(tmp_path: Path, base_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tmp_path, base_copy, tasks=("sums", "prose"))
    assert list(cases(plan, "task_case")) == ["copy-sums-task", "copy-prose-task"]
    assert "test_tasks::test_task[copy-sums-task]" in required_cases(plan)
    assert models_of(plan)["test_evaluated[base-sums-task]"] == "base"
    place = order_of(plan)
    assert place("test_evaluations", "test_evaluated[copy-sums-task]") < place(
        "test_tasks", "test_task[copy-sums-task]"
    )
    assert plan_of(tmp_path, base_copy).task_cells == ()
    # Advisory by a gates file of one's own: nothing has to pass.
    gates = json.loads(DEFAULT_GATES.read_text(encoding="utf-8"))
    rules = {"sums": {"role": "advisory", "margin": None}}
    gates["policies"]["near-lossless-v3"]["tasks"]["rules"] = rules
    own = tmp_path / "gates.json"
    own.write_text(json.dumps(gates), encoding="utf-8")
    plan = plan_of(tmp_path, base_copy, tasks=("sums", "prose"), gates=own)
    assert [plan.task_decides(TaskCell("copy", task)) for task in plan.tasks] == [False, True]
    assert "test_tasks::test_task[copy-sums-task]" not in required_cases(plan)
    file = tmp_path / "file"
    file.touch()
    for given, said in (
        ({"policy": "near-lossless-v2"}, "--tasks needs a policy with a block tasks: near-lossless-v2 has none"),
        ({"tasks_path": file}, "which is no directory: it holds task files"),
        (
            {"collector": "sglang"},
            "--tasks needs the model in the gate's own process, which --collector=sglang has not",
        ),
        ({"tasks": (), "tasks_path": tmp_path}, "--tasks-path needs --tasks: the names of the tasks to do"),
        ({"tasks": (), "tasks_chat_template": True}, "--tasks-chat-template needs --tasks"),
    ):
        with pytest.raises(UserError, match=said):
            plan_of(tmp_path, base_copy, **{"tasks": ("sums",), **given})
    assert [name for name in ("transformers", "sglang") if collector_kinds()[name].needs({}).lends] == ["transformers"]
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # planning does not import it
    plan_of(tmp_path, base_copy, tasks=("sums",))


def test_a_name_that_is_no_task_is_said_before_anything_is_scored(tmp_path: Path) -> None:
    on = (f"--checkpoint={BASE}", f"--base={BASE}", f"--packs={GATE_PACKS}", "--regime=fixture")
    run = gate(tmp_path / "run", "-p", "no_tasks_plugin", *on, "--policy=near-lossless-v3", "--tasks=summs")
    assert (run.code, run.output.strip()) == (4, "ERROR: there is no task 'summs'")
    assert not run.results.exists()


@pytest.mark.slow
def test_a_gate_with_tasks_from_the_models_to_the_lock(
    tmp_path: Path, base_copy: Path, random8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command, the harness itself, and the local task that is made of packs: what stands in parity.json is what
    it has evaluated, a copy is green, and what was done is locked and verified."""
    monkeypatch.syspath_prepend(str(ROOT / "fixtures"))
    made = __import__("local_tasks").write_tasks(GATE_PACKS, tmp_path / "tasks", 24)
    assert made == {"sums": 24, "answers": 24}
    gates = json.loads(DEFAULT_GATES.read_text(encoding="utf-8"))
    policies = gates["policies"]
    policies["near-lossless-v2"]["tasks"] = policies["near-lossless-v3"]["tasks"]
    policies["near-lossless-v2"]["tasks"]["default"]["margin"]["value"] = 0.2
    file, results = tmp_path / "gates.json", tmp_path / "run"
    file.write_text(json.dumps(gates), encoding="utf-8")
    monkeypatch.setitem(gate_command.ENVIRONMENT, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setitem(gate_command.ENVIRONMENT, "HF_HUB_OFFLINE", "1")
    run = gate(
        results, f"--checkpoint={base_copy}", f"--checkpoint={random8}", f"--base={BASE}", f"--packs={GATE_PACKS}",
        f"--gates={file}", "--policy=near-lossless-v2", "--regime=fixture", "--seq-lens=64", "--num-blocks=48",
        "--tasks=sums", f"--tasks-path={tmp_path / 'tasks'}",
    )  # fmt: skip
    tasks = {task["name"]: task for task in run.parity["tasks"]}
    assert (tasks["copy"]["verdict"], tasks["random8"]["verdict"]) == ("pass", "fail"), run.output
    assert tasks["copy"]["details"]["acc"]["base"] > tasks["random8"]["details"]["acc"]["candidate"] + 0.2
    case = run.junit["test_tasks::test_task[random8-sums-task]"]
    assert (case.outcome, case.properties["verdict"], case.properties["documents"]) == ("failure", "fail", "24")
    evaluated = run.junit["test_evaluations::test_evaluated[base-sums-task]"]
    assert float(evaluated.properties["sums acc"]) == tasks["copy"]["details"]["acc"]["base"]
    lock = tmp_path / "copy.lock.json"
    write_lock(results, str(base_copy), lock)
    assert verify_lock(lock, results=results) == []
    assert make_lock(results, str(base_copy)).tasks[0].verdict == "pass"
    told = json.loads(lock.read_text(encoding="utf-8"))
    elsewhere = Path(shutil.copytree(results, tmp_path / "elsewhere"))
    path = elsewhere / "evaluations" / next(iter(told["evaluations"]))
    path.write_text(path.read_text(encoding="utf-8").replace("1.0", "0.0", 1), encoding="utf-8")
    assert "its checksum does not hold" in verify_lock(lock, results=elsewhere)[0]
