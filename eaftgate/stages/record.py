"""OUT/run.json: what the stages of a run were asked, so that a recipe that has changed since is noticed at once, and
what those were made from whose outputs do not say it themselves.

A stage that makes a directory says whether it is up to date, by content: `made_from.json` (outputs.py). For the gate's
results, the report and a lock it is said here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from eaftgate import __version__
from eaftgate.errors import UserError
from eaftgate.files import sha256_file
from eaftgate.gate.results import Parity, is_as_written, read_parity
from eaftgate.outputs import unfinished
from eaftgate.packs.pack import pack_paths
from eaftgate.recipes.recipe import Setting
from eaftgate.records import Record, read_model, write_model
from eaftgate.rewrite.manifest import MANIFEST_FILE
from eaftgate.stages.stage import Stage
from eaftgate.visible import visible

RUN_FILE = "run.json"
Asked = dict[str, str | list[str]]


class StageRecord(Record):
    """`asked` is what the recipe said; `of` what a gate, a report or a lock was made from, by content; `sha256` that of
    the file that was made, None until it is."""

    asked: Asked
    of: dict[str, str] = Field(default_factory=dict)
    sha256: str | None = None


class RunRecord(Record):
    run_schema: Literal["run-1"] = Field(alias="schema", default="run-1")
    stages: dict[str, StageRecord] = Field(default_factory=dict)
    """By their labels."""


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
    record = RunRecord(stages={**record.stages, stage.label: told})
    write_model(out / RUN_FILE, record)
    return record


def check_asked(recipe: Path, record: RunRecord, stages: Sequence[Stage]) -> None:
    """Raises UserError where the recipe asks for something else than what is there, or has begun, was made with."""
    for stage in stages:
        before = record.stages.get(stage.label)
        if before is None or not (stage.out.exists() or is_unfinished(stage)):
            continue
        now = _texts(stage.asked)
        for option in {**before.asked, **now}:
            if before.asked.get(option) != now.get(option):
                where = stage.asked[option].where if option in stage.asked else str(recipe)
                raise UserError(
                    f"{where}: {stage.name}.{option} is {_word(now.get(option))} here, and {stage.out} was made with "
                    f"{_word(before.asked.get(option))}: choose another --out, or remove it and what was made from it"
                )


def is_unfinished(stage: Stage) -> bool:
    """Whether what an interrupted run has left of its directory is there."""
    return unfinished(stage.out).root.is_dir()


def gate_inputs(candidates: Sequence[Path], packs: Path, gates: Path) -> dict[str, str]:
    """What a gate judges and by what, by content: candidates by their manifests, which say it of all their files
    and of their base; the packs; the gates file. Raises UserError for packs that are none."""
    made = {path.name: path / MANIFEST_FILE for path in candidates if (path / MANIFEST_FILE).is_file()}
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
    before = record.stages.get(stage.label)
    return before is not None and before.of == of and stage.out.is_file() and before.sha256 == sha256_file(stage.out)


def made_by_run(record: RunRecord, stage: Stage) -> bool:
    """Whether the file of a stage is what this run has made, so that it may be made anew."""
    before = record.stages.get(stage.label)
    return before is not None and stage.out.is_file() and before.sha256 in (None, sha256_file(stage.out))


def _texts(asked: Mapping[str, Setting]) -> Asked:
    return {option: setting.value for option, setting in asked.items()}


def _word(value: Any) -> str:
    if value is None:
        return "not said"
    return visible(value if isinstance(value, str) else f"[{', '.join(value)}]")[:100]
