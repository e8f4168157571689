"""OUT/run.json: what the stages of a run were asked, so that a recipe that has changed since is noticed at once, and
what those were made from whose outputs do not say it themselves.

A stage that makes a directory says whether it is up to date, by content: made_from.json. For the
gate's results, the report and a lock it is said here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from eaftgate import __version__
from eaftgate.errors import UserError
from eaftgate.files import sha256_file
from eaftgate.gate.enough import Remedy
from eaftgate.gate.identity import RUN_FILE
from eaftgate.gate.results import Parity, is_as_written, read_parity
from eaftgate.packs.pack import pack_paths
from eaftgate.recipes.recipe import Setting
from eaftgate.records import Record, read_model, write_model
from eaftgate.rewrite.manifest import MANIFEST_FILE
from eaftgate.stages.stage import GATE, PRUNE, Stage
from eaftgate.unfinished import unfinished
from eaftgate.visible import visible

Asked = dict[str, str | list[str]]


class StageRecord(Record):
    """`asked` is what the recipe said; `of` what a gate, a report or a lock was made from, by content; `sha256` that of
    the file that was made, of the gate's the one that parity.json says of itself, None until it is there."""

    asked: Asked
    of: dict[str, str] = Field(default_factory=dict)
    sha256: str | None = None


class EnoughRecord(Record):
    """Whether the rows `of` which it was asked, by content, are enough to decide on; `lines` say it, `remedy` what
    would be (gate/enough.py). `num_blocks` is what the gate takes instead of the regime's number, which is not enough
    and nobody has asked for; None where that does not help."""

    of: dict[str, str]
    enough: bool
    problems: tuple[str, ...]
    lines: tuple[str, ...]
    remedy: Remedy | None
    num_blocks: int | None = None


class RunRecord(Record):
    run_schema: Literal["run-1"] = Field(alias="schema", default="run-1")
    stages: dict[str, StageRecord] = Field(default_factory=dict)
    """By what they make (`key`)."""
    enough: EnoughRecord | None = None
    """None until it is asked, and in files of earlier versions."""


def read_record(out: Path) -> RunRecord:
    """Nothing where no run has begun. Raises UserError when the file is damaged."""
    if not (out / RUN_FILE).exists():
        return RunRecord()
    return read_model(out / RUN_FILE, RunRecord, what="what the run was asked", remedy=f"remove {out / RUN_FILE}")


def remember(
    out: Path, record: RunRecord, stage: Stage, *, of: Mapping[str, str] | None = None, sha256: str | None = None
) -> RunRecord:
    """Write down that a stage begins, or what it has made."""
    told = StageRecord(asked=_texts(stage.asked), of=dict(of or {}), sha256=sha256)
    record = record.model_copy(update={"stages": {**record.stages, stage.key: told}})
    write_model(out / RUN_FILE, record)
    return record


def remember_enough(out: Path, record: RunRecord, found: EnoughRecord) -> RunRecord:
    """Write down what was found of the rows."""
    record = record.model_copy(update={"enough": found})
    write_model(out / RUN_FILE, record)
    return record


def before(record: RunRecord, stage: Stage) -> StageRecord | None:
    """What is recorded of a stage; earlier versions did not say of which checkpoint the only one was."""
    return record.stages.get(stage.key) or record.stages.get(stage.name)


def check_asked(recipe: Path, record: RunRecord, stages: Sequence[Stage]) -> None:
    """Raises UserError where the recipe asks for something else than what is there, or has begun, was made with. Not of
    the gate: it judges again what it has scored."""
    for stage in stages:
        if stage.name == GATE or not (stage.out.exists() or is_unfinished(stage)):
            continue
        for option, was, now in changes(record, stage):
            where = stage.asked[option].where if option in stage.asked else str(recipe)
            raise UserError(
                f"{where}: {stage.name}.{option} is {now} here, and {stage.out} was made with {was}: choose another "
                "--out, or remove it and what was made from it"
            )


def changes(record: RunRecord, stage: Stage) -> list[tuple[str, str, str]]:
    """The options of which a recipe says something else than when the stage was last begun: what it said and what it
    says now, in words."""
    told, now = before(record, stage), _texts(stage.asked)
    if told is None:
        return []
    was = told.asked
    return [
        (option, _word(was.get(option)), _word(now.get(option)))
        for option in {**was, **now}
        if was.get(option) != now.get(option)
    ]


def no_longer_named(out: Path, record: RunRecord, stages: Sequence[Stage]) -> list[str]:
    """Checkpoints that were made here, are there, and are in the recipe no more."""
    now = {stage.key for stage in stages}
    made = [key.removeprefix(f"{PRUNE} ") for key in record.stages if key.startswith(f"{PRUNE} ") and key not in now]
    return [name for name in made if (out / name).is_dir()]


def is_unfinished(stage: Stage) -> bool:
    """Whether what an interrupted run has left of its directory is there."""
    return unfinished(stage.out).root.is_dir()


def gate_inputs(candidates: Sequence[Path], packs: Path, gates: Path, tasks: Path | None = None) -> dict[str, str]:
    """What a gate judges and by what, by content: candidates by their manifests, which say it of all their files
    and of their base; the packs; the gates file; the folder of task files. Raises UserError for packs that are none."""
    made = {path.name: path / MANIFEST_FILE for path in candidates if (path / MANIFEST_FILE).is_file()}
    own = [path for path in sorted(tasks.rglob("*")) if path.is_file()] if tasks is not None else []
    made |= {f"tasks/{path.relative_to(tasks)}": path for path in own if tasks is not None}
    files = {**made, **{f"packs/{path.name}": path for path in pack_paths(packs)}, "gates": gates}
    return {"eaftgate": __version__, **{name: sha256_file(path) for name, path in files.items()}}


def judged(results: Path) -> Parity | None:
    """What a gate run came to, if it came to its end and nobody has changed it since."""
    try:
        parity = read_parity(results)
        return parity if parity.complete and parity.verdict != "incomplete" and is_as_written(results) else None
    except UserError:
        return None


def made_of(record: RunRecord, stage: Stage, of: Mapping[str, str]) -> bool:
    """Whether the file of a stage is there, as it was made, from just that."""
    told = before(record, stage)
    return told is not None and told.of == of and stage.out.is_file() and told.sha256 == sha256_file(stage.out)


def made_by_run(record: RunRecord, stage: Stage) -> bool:
    """Whether the file of a stage is what this run has made, so that it may be made anew."""
    told = before(record, stage)
    return told is not None and stage.out.is_file() and told.sha256 in (None, sha256_file(stage.out))


def _texts(asked: Mapping[str, Setting]) -> Asked:
    return {option: setting.value for option, setting in asked.items()}


def _word(value: Any) -> str:
    if value is None:
        return "not said"
    return visible(value if isinstance(value, str) else f"[{', '.join(value)}]")[:100]
