"""lm-evaluation-harness as it is, with a model that is loaded already: its numbers are those that it has by itself."""

import importlib.metadata
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_checkpoint import Size
from tiny_model import write_lively_checkpoint

from eaftgate.collect.collector import ScoredModel
from eaftgate.collect.collectors import collector_kinds
from eaftgate.collect.lender import Lender
from eaftgate.errors import UserError
from eaftgate.tasks import harness
from eaftgate.tasks.harness import Harness, installed_version, read_results

BATCH = 4
PICK = """\
task: pick
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: prompt
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
fewshot_split: test
num_fewshot: 2
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
WRITE = """\
task: write
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: generate_until
doc_to_text: prompt
doc_to_target: !function told.target
generation_kwargs: {until: ["<|return|>"], do_sample: false, max_gen_toks: 6}
filter_list:
  - name: letter
    filter: [{function: regex, regex_pattern: "([A-Za-z])"}, {function: take_first}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}]
"""
TOLD = """\
from functools import partial


def _of(doc, name):
    return doc[name]


target = partial(_of, name="letter")
"""


def write_folder(folder: Path, *, documents: int = 24) -> Path:
    """Documents of unequal length, so that batches are padded."""
    folder.mkdir(exist_ok=True)
    data = folder / "documents.jsonl"
    rows = [
        {
            "prompt": f"{number} is to {number * 7 % 11} as " + "so " * (number % 5),
            "choices": [f"{number}", "x" * (1 + number % 3), "no", f"{number * number}"],
            "answer": number % 4,
            "letter": "etaoin"[number % 6],
        }
        for number in range(documents)
    ]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    for name, said in (("pick", PICK), ("write", WRITE)):
        (folder / f"{name}.yaml").write_text(said % json.dumps(str(data)), encoding="utf-8")
    (folder / "told.py").write_text(TOLD, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not quantised, so that lm_eval by itself runs it in float32, too."""
    path = write_lively_checkpoint(tmp_path_factory.mktemp("lively") / "model", size=Size(layers=2), mxfp4=False)
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|return|>", "pad_token": "<|endoftext|>"}
    (path / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    return path


def by_itself(checkpoint: Path, folder: Path, task: str) -> Any:
    """As `lm_eval --model hf --model_args pretrained=...,dtype=float32 --tasks TASK --include_path FOLDER` does."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    return simple_evaluate(
        model="hf", model_args={"pretrained": str(checkpoint), "dtype": "float32"}, device="cpu", batch_size=BATCH,
        tasks=[task], task_manager=TaskManager(include_path=str(folder), include_defaults=False),
    )  # fmt: skip


@pytest.mark.filterwarnings("default")
def test_the_gates_own_model_has_the_numbers_that_lm_eval_prints(
    checkpoint: Path, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scorer = collector_kinds()["transformers"].open({"device": "cpu", "dtype": None}, batch_size=BATCH, logs=tmp_path)
    assert isinstance(scorer, Lender)
    model = ScoredModel("base", str(checkpoint), checkpoint, "digest", is_mxfp4=False)
    harness = Harness(folder, chat_template=False)
    for task in ("pick", "write"):
        with scorer.lent(model) as module:
            documents, metrics = harness.evaluate(task, module, checkpoint, batch_size=BATCH)
        assert module.config._attn_implementation == "eaftgate_sink"
        assert capfd.readouterr() == ("", "")  # a gate's own progress is all that is shown
        expected = by_itself(checkpoint, folder, task)
        capfd.readouterr()
        assert (documents, metrics) == read_results(expected)
        assert len(documents) == 24
        for name, of in metrics.items():
            key = name if "," in name else f"{name},none"
            assert of.printed == {task: expected["results"][task][key]}
            assert of.higher_is_better is True
            assert 0 < sum(value or 0 for value in of.values) < 24 or name.startswith("exact_match")
    assert list(metrics) == ["exact_match,letter"]
    (unsafe := tmp_path / "unsafe").mkdir()
    text = (folder / "pick.yaml").read_text(encoding="utf-8")
    (unsafe / "pick.yaml").write_text(f"{text}unsafe_code: true\n", encoding="utf-8")
    with scorer.lent(model) as module, pytest.raises(UserError, match=r"pick cannot be evaluated .* unsafe"):
        Harness(unsafe, chat_template=False).evaluate("pick", module, checkpoint, batch_size=BATCH)
    assert scorer.lent_settings(model)["batch_size"] == BATCH
    scorer.close()


@pytest.mark.filterwarnings("default")
def test_what_a_task_asks_has_a_digest_of_its_own(tmp_path: Path, folder: Path) -> None:
    """The same in every process, a function in the configuration or not; another where a document is another."""
    asked = {task: Harness(folder, chat_template=False).asked(task) for task in ("pick", "write")}
    told = [name for name, module in sys.modules.items() if getattr(module, "__file__", "") == str(folder / "told.py")]
    kept = [sys.modules.pop(name) for name in told]  # in another process its functions are elsewhere
    assert kept
    assert asked == {task: Harness(folder, chat_template=False).asked(task) for task in ("pick", "write")}
    assert len(set(asked.values())) == 2
    other = write_folder(tmp_path / "other", documents=23)
    assert Harness(other, chat_template=False).asked("pick") != asked["pick"]
    (other / "told.py").write_text(TOLD.replace("letter", "prompt"), encoding="utf-8")
    assert Harness(other, chat_template=False).asked("write") != asked["write"]
    assert Harness(folder, chat_template=True).settings() != Harness(folder, chat_template=False).settings()


@pytest.mark.filterwarnings("default")
def test_what_cannot_be_done_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = write_folder(tmp_path / "broken")
    text = (broken / "pick.yaml").read_text(encoding="utf-8")
    (broken / "gone.yaml").write_text(text.replace("task: pick", "task: gone").replace("documents.", "no_such."))
    (broken / "odd.yaml").write_text(text.replace("task: pick", "task: odd").replace("doc_to_choice: choices\n", ""))
    for task in ("gone", "odd"):
        with pytest.raises(UserError, match=f"task {task} cannot be loaded by lm_eval {installed_version()}: "):
            Harness(broken, chat_template=False).asked(task)
    monkeypatch.setattr(Harness, "_every", Harness(broken, chat_template=False)._own)
    with pytest.raises(UserError, match=r"task pikc cannot be loaded: there is no task 'pikc'; did you mean 'pick'\?"):
        Harness(broken, chat_template=False).asked("pikc")
    Harness(broken, chat_template=False).check("gone")  # there is one of that name
    with pytest.raises(UserError, match=r"--tasks cannot be done: there is no task 'pikc'; did you mean 'pick'\?"):
        Harness(broken, chat_template=False).check("pikc")

    def missing(_: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match=r"is not installed: pip install 'eaftgate\[tasks\]'"):
        installed_version()


def test_results_are_read_as_they_are_printed() -> None:
    """A group of two tasks, one of which has a metric more; NumPy's numbers, and what is none."""

    def sample(number: int, filtered_by: str, **figures: Any) -> dict[str, Any]:
        hashes = {"doc_hash": f"d{number}", "prompt_hash": "p", "target_hash": "t"}
        return {"doc_id": number, "filter": filtered_by, "metrics": list(figures), **hashes, **figures}

    found: dict[str, Any] = {
        "samples": {
            "a": [sample(0, "none", acc=1, bleu=("x", "y")), sample(0, "strict", acc=True)],
            "b": [sample(0, "none", acc=0.0)],
        },
        "results": {"a": {"acc,none": 1, "acc,strict": 1.0, "bleu,none": 7.0}, "b": {"acc,none": 0.0}},
        "groups": {"g": {"acc,none": 0.5, "acc_stderr,none": "N/A"}},
        "higher_is_better": {"a": {"acc": True, "bleu": True}, "b": {"acc": True}, "g": {"acc": False}},
    }
    documents, metrics = read_results(found)
    assert [(one.task, one.number, one.text) for one in documents] == [("a", 0, "d0"), ("b", 0, "d0")]
    assert metrics["acc"].values == (1.0, 0.0)
    assert metrics["acc"].printed == {"a": 1.0, "b": 0.0, "g": 0.5}
    assert metrics["acc"].higher_is_better is True
    assert metrics["acc,strict"].values == (1.0, None)
    assert metrics["bleu"].values == (None, None)
    found["samples"]["a"][1]["doc_hash"] = "another"
    with pytest.raises(UserError, match="asks about document 0 in several ways"):
        read_results(found)


@pytest.mark.parametrize(("device", "batch"), [("cpu", 1), ("cuda", 32)])
def test_a_cpu_takes_one_document_at_a_time(device: str, batch: int) -> None:
    """With 32 of up to 6,000 tokens the harness took 24 GB, and the process was killed."""
    assert harness._batch_for(SimpleNamespace(device=SimpleNamespace(type=device)), 32) == batch
