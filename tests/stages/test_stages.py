"""What a recipe makes of the stages of a run, and that nothing is done twice: with commands that are noted down."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from cli_command import Command, refused
from gate_command import BASE, ROOT
from huggingface_hub.errors import LocalEntryNotFoundError
from typer.testing import CliRunner

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.commands.app import app
from eaftgate.errors import UserError
from eaftgate.recipes.recipe import read_sections
from eaftgate.stages import enough as asking
from eaftgate.stages import forecast as forecasting
from eaftgate.stages import run as running
from eaftgate.stages.process import command_of
from eaftgate.stages.record import EnoughRecord
from eaftgate.stages.stage import Stage, stages_of

WHOLE = """
run: {{out: {out}, workers: 2}}
packs split: {{dir: my-packs, seed: 7}}
profile: {{base: {base}, seq_len: 512}}
prune: {{keep_n: [24, 20], class_weight: balanced}}
gate: {{regime: fixture}}
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return written(tmp_path / "r.yaml", WHOLE.format(out=tmp_path / "out", base=BASE))


def planned(recipe: Path, **options: Any) -> dict[str, str]:
    """Command lines by label, without the recipe."""
    stages = stages_of(recipe, read_sections(recipe), Path("out"), **options)
    return {stage.label: " ".join(word for word in stage.words if "--recipe" not in word) for stage in stages}


def test_what_a_stage_needs_from_an_earlier_one_is_filled_in(recipe: Path) -> None:
    assert planned(recipe, workers=2) == {
        "split": "packs split --out=out/split",
        "profile": "profile --packs=out/split/calibration --out=out/profile",
        "prune keep24": f"prune {BASE} --profile=out/profile --keep-n=24 --out=out/keep24",
        "prune keep20": f"prune {BASE} --profile=out/profile --keep-n=20 --out=out/keep20",
        "gate": f"gate --base={BASE} --checkpoint=out/keep24 --checkpoint=out/keep20 --packs=out/split/gate "
        "--results=out/run --junitxml=out/junit.xml --numprocesses=2 -q",
        "report": "report out/run --out=out/report.html",
        "lock keep24": "lock out/run --checkpoint=out/keep24 --out=out/keep24.lock.json",
        "lock keep20": "lock out/run --checkpoint=out/keep20 --out=out/keep20.lock.json",
    }
    assert list(planned(recipe, to="prune")) == ["split", "profile", "prune keep24", "prune keep20"]


@pytest.mark.parametrize(
    ("prune", "words"),
    [
        ("{keep_n: 24, method: refined}", "--profile=out/profile --packs=c --keep-n=24"),
        ("{keep_n: 24, pre_gate: true}", "--profile=out/profile --packs=c --keep-n=24"),
        ("{keep_n: 24, method: ean}", "--profile=out/profile --keep-n=24"),
        ("{keep_frac: 0.6, profile: mine}", "--keep-frac=0.6"),
        ("{keep_n: 20, scores: s.yaml}", "--keep-n=20"),
        ("{keep_sets: k.json}", ""),
    ],
)
def test_prune_gets_a_profile_and_its_packs_where_it_looks_at_them(tmp_path: Path, prune: str, words: str) -> None:
    recipe = written(tmp_path / "r.yaml", f"profile: {{base: b, packs: c}}\nprune: {prune}\ngate: {{packs: g}}")
    (line,) = (said for label, said in planned(recipe).items() if label == "prune")
    assert line.removeprefix("prune b ").rpartition("--out")[0].strip() == words


def test_a_profile_that_nothing_looks_at_is_not_made(tmp_path: Path) -> None:
    recipe = written(tmp_path / "r.yaml", "prune: {base: b, keep_n: 24, scores: s.yaml}\ngate: {packs: g}")
    assert list(planned(recipe)) == ["prune", "gate", "report", "lock"]


def test_gpus_profile_by_torchrun(recipe: Path) -> None:
    stages = {stage.name: stage for stage in stages_of(recipe, read_sections(recipe), Path("out"), gpus=2)}
    assert "--nproc-per-node=2" in command_of(stages["profile"])
    assert all("torch.distributed.run" not in command_of(stages[name]) for name in ("split", "prune", "gate"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prune: {keep_n: 24}", "r.yaml: profile.base is missing"),
        ("profile: {base: a}\nprune: {base: b, keep_n: 24}", "r.yaml:2: the recipe names two bases: a, b"),
        ("profile: {base: a, packs: p}\ngate: {packs: p}", "prune.keep_n is missing"),
        (
            "profile: {base: a, packs: p}\nprune: {keep_n: [24, 24]}",
            "r.yaml:2: prune.keep_n must be numbers that differ",
        ),
        ("profile: {base: a}\nprune: {keep_n: 24}", "profile.packs is missing"),
        ("profile: {base: a, packs: p}\nprune: {keep_n: 24}", "gate.packs is missing"),
        ("profile: {base: a, out: x}\nprune: {keep_n: 24}", "r.yaml:1: profile.out is where the run itself puts it"),
        ("profile: {base: a}\npacks split: {seed: 1}\nprune: {keep_n: 24}", "packs split.dir is missing"),
    ],
)
def test_what_is_missing_or_not_to_be_said_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    recipe = written(tmp_path / "r.yaml", text)
    with pytest.raises(UserError) as refusal:
        planned(recipe)
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("gate: {packs: p, regmie: fixture}", "gate has no option 'regmie'"),
        ("gate: {packs: p, regime: fixtuer}", "did you mean 'fixture'"),
        ("profile: {seq_len: many}", "Invalid value for '--seq-len'"),
        ("prune: {methd: ean}", "prune has no option 'methd'"),
        ("prune: {keep_n: 26}", "keeping 26 experts is not a multiple of 4"),
        ("lock: {gate: x}", "lock has no option 'gate'"),
    ],
)
def test_a_mistake_of_any_stage_is_found_before_the_first(
    eaftgate: Command, tmp_path: Path, section: str, said: str
) -> None:
    text = f"extends: base.yaml\n{section}"
    written(tmp_path / "base.yaml", f"profile: {{base: {BASE}, packs: p}}\nprune: {{keep_n: 24}}\ngate: {{packs: p}}")
    refused(eaftgate("run", written(tmp_path / "r.yaml", text), "--out", tmp_path / "out"), said)
    assert not (tmp_path / "out").exists()


def test_the_place_comes_from_the_recipe_and_the_command_line_wins(
    eaftgate: Command, recipe: Path, tmp_path: Path
) -> None:
    there = json.loads(eaftgate("run", recipe, "--dry-run", "--json").out)
    assert there["out"] == str(tmp_path / "out")
    assert "--numprocesses=2" in next(one["command"] for one in there["stages"] if one["stage"] == "gate")
    assert json.loads(eaftgate("run", recipe, "--dry-run", "--json", "--out", tmp_path / "x").out)["out"].endswith("/x")
    refused(eaftgate("run", recipe, "--to", "prnue"), "did you mean 'prune'")
    written(recipe, recipe.read_text().replace("workers", "workres"))
    refused(eaftgate("run", recipe), "run has no option 'workres'")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_is_needed_and_makes_nothing(eaftgate: Command, recipe: Path, tmp_path: Path) -> None:
    said = eaftgate("run", recipe, "--dry-run").out
    assert "no speed has been measured" in said
    assert "of checkpoints" in said
    needs = json.loads(eaftgate("run", recipe, "--dry-run", "--json", "--rate", "1000").out)["needs"]
    # UNION and three packs at 640 blocks of 256 and 400 of 512, of the base and two candidates; the floor's 4 more.
    assert needs["gate_tokens"] == (640 * 256 + 400 * 512) * (3 * 4 + 4)
    assert needs["gate_seconds"] == needs["gate_tokens"] / 1000
    assert not (tmp_path / "out").exists()
    profile = tmp_path / "out" / "profile"
    profile.mkdir(parents=True)
    assert "profile (is there)" in eaftgate("run", recipe, "--dry-run").out


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_reach(source: str) -> None:
        raise UserError(f"the Hub does not tell of {source} (ConnectError)")

    monkeypatch.setattr(forecasting, "describe_checkpoint", out_of_reach)


@pytest.mark.usefixtures("no_hub")
def test_a_base_that_nobody_tells_of_is_said_in_one_line(eaftgate: Command, tmp_path: Path) -> None:
    recipe = written(tmp_path / "r.yaml", "profile: {base: a/b, packs: p}\nprune: {keep_n: 24}\ngate: {packs: p}")
    ended = eaftgate("run", recipe, "--dry-run", "--out", tmp_path / "out")
    assert ended.code == 0
    assert "what it needs is not known: the Hub does not tell of a/b (ConnectError)\n" in ended.out


def test_a_base_on_the_hub_is_told_by_its_headers(
    eaftgate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as of the directory."""
    text = "profile: {{base: {base}, packs: p}}\nprune: {{keep_n: 24}}\ngate: {{packs: p}}"
    here = written(tmp_path / "here.yaml", text.format(base=BASE))
    there = written(tmp_path / "there.yaml", text.format(base="a/b@c"))
    local = open_checkpoint(BASE)
    files = {
        shard.name: SimpleNamespace(
            tensors={
                name: SimpleNamespace(dtype=e.dtype, shape=list(e.shape), data_offsets=(e.begin, e.end))
                for name, e in local.tensors.items()
                if e.shard == shard.name
            }
        )
        for shard in local.shards
    }
    asked: list[tuple[str, str | None]] = []

    def metadata(repo: str, *, revision: str | None) -> Any:
        asked.append((repo, revision))
        return SimpleNamespace(files_metadata=files)

    def nothing_here(*_: object, **__: object) -> None:
        raise LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nothing_here)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda _, name, **__: str(BASE / name))
    monkeypatch.setattr(huggingface_hub, "get_safetensors_metadata", metadata)
    needs = [
        json.loads(eaftgate("run", recipe, "--dry-run", "--json", "--out", tmp_path / "out").out)["needs"]
        for recipe in (here, there)
    ]
    assert needs[0] == needs[1] is not None
    assert asked == [("a/b", "c")]


# A run, with commands that make what they are to make, and nothing else.

Noted = list[str]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Noted:
    """The labels of the stages whose command was given."""
    noted: Noted = []

    def run_stage(stage: Stage, *, line: Callable[[str], None], **_: Any) -> int:
        noted.append(stage.label)
        line(f"{stage.label} says so")
        if "." in stage.out.name:
            stage.out.write_text(stage.label)
        else:
            stage.out.mkdir(exist_ok=True)
        if stage.name == "split":
            rows_in(stage.out)
        return 0

    monkeypatch.setattr(running, "run_stage", run_stage)
    return noted


def rows_in(split: Path) -> None:
    (split / "gate").mkdir(parents=True, exist_ok=True)
    (split / "gate" / "chat.parquet").write_bytes(b"")


@pytest.fixture
def enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the rows are."""
    found = EnoughRecord(of={}, enough=True, problems=(), lines=("enough",), remedy=None)
    monkeypatch.setattr(asking, "enough_of", lambda *_: found)


@pytest.mark.usefixtures("enough")
def test_a_changed_recipe_is_refused_before_anything_runs(
    eaftgate: Command, recipe: Path, tmp_path: Path, commands: Noted
) -> None:
    assert eaftgate("run", recipe, "--to", "prune").code == 0
    assert commands == ["split", "profile", "prune keep24", "prune keep20"]
    written(recipe, recipe.read_text().replace("seq_len: 512", "seq_len: 256"))
    ended = eaftgate("run", recipe, "--to", "prune")
    refused(ended, f"{recipe}:4: profile.seq_len is 256 here, and {tmp_path}/out/profile was made with 512")
    assert len(commands) == 4
    (tmp_path / "out" / "profile").rmdir()  # what was told: then it is made anew
    assert eaftgate("run", recipe, "--to", "profile").code == 0
    written(recipe, recipe.read_text().replace("seq_len: 256", ""))
    refused(eaftgate("run", recipe), "profile.seq_len is not said here")


@pytest.mark.usefixtures("enough")
def test_without_a_verdict_there_is_neither_report_nor_lock(eaftgate: Command, recipe: Path, commands: Noted) -> None:
    ended = eaftgate("run", recipe)
    assert commands[-1] == "gate"
    assert "no report: the gate has not come to a verdict" in ended.out


def test_what_is_up_to_date_is_one_line(
    eaftgate: Command, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every command that makes a directory says of it, whatever else it says."""

    def run_stage(stage: Stage, *, line: Callable[[str], None], **_: Any) -> int:
        line(f"{stage.out} is up to date" if stage.out.exists() else f"written to {stage.out}")
        line("chat: 60 of 60 rows")
        stage.out.mkdir(exist_ok=True)
        return 0

    monkeypatch.setattr(running, "run_stage", run_stage)
    first = eaftgate("run", recipe, "--to", "split").out
    assert f"written to {tmp_path}/out/split" in first
    assert "== 1 of 1: split took" in first
    again = eaftgate("run", recipe, "--to", "split").out
    assert again.splitlines()[0] == f"== 1 of 1: {tmp_path}/out/split is up to date"
    assert "rows" not in again


@pytest.mark.usefixtures("enough")
@pytest.mark.parametrize(("code", "said"), [(2, 2), (130, 130), (1, 2)])
def test_the_first_stage_that_fails_ends_the_run(
    eaftgate: Command, recipe: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: int
) -> None:
    begun: Noted = []

    def run_stage(stage: Stage, **_: Any) -> int:
        begun.append(stage.label)
        rows_in(recipe.parent / "out" / "split")
        return code if stage.name == "profile" else 0

    monkeypatch.setattr(running, "run_stage", run_stage)
    assert eaftgate("run", recipe).code == said
    assert begun == ["split", "profile"]


def test_a_stage_that_is_killed_says_how_to_go_on(
    eaftgate: Command, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "run_stage", lambda *_, **__: -9)
    ended = eaftgate("run", recipe)
    assert ended.code == 2
    assert "split was ended by signal 9" in ended.err


@pytest.mark.usefixtures("enough", "no_hub")
@pytest.mark.parametrize(
    "name", sorted(path.name for path in (ROOT / "recipes").glob("*.yaml") if "\nrun:" in path.read_text())
)
def test_shipped_recipes_can_be_planned(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    ended = CliRunner().invoke(app, ["run", f"recipes/{name}", "--dry-run", "--out", str(tmp_path / "out")])
    assert ended.exit_code == 0, ended.output
    assert "report (" in ended.output


def test_packs_are_built_first_where_the_recipe_says_of_what(tmp_path: Path) -> None:
    text = f"packs build: {{file_or_dir: [a.jsonl, b.jsonl]}}\nprofile: {{base: {BASE}}}\nprune: {{keep_n: 24}}"
    recipe = written(tmp_path / "r.yaml", text)
    said = planned(recipe)
    assert said["build"] == "packs build --out=out/packs"
    assert said["split"] == "packs split out/packs --out=out/split"
    assert said["profile"] == "profile --packs=out/split/calibration --out=out/profile"
