"""`eaftgate run`: from data to a verdict, by one recipe."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eaftgate.commands.options import JsonOption
from eaftgate.commands.output import result
from eaftgate.errors import UserError
from eaftgate.recipes.command_line import use_recipe
from eaftgate.recipes.recipe import Section, read_sections
from eaftgate.stages.stage import GATE, LOCK, STAGES, Layout, Stage, section_of, stages_of
from eaftgate.visible import plain

COMMANDS = typer.Typer()

if TYPE_CHECKING:  # the table's names, which no type checker sees
    from eaftgate.stages.record import EnoughRecord, RunRecord

    StageChoice = str
else:
    StageChoice = StrEnum("StageChoice", {name: name for name in STAGES})
_LAST = StageChoice(LOCK)


def _take(ctx: typer.Context, recipe: Path) -> Path:
    """The recipe's own section says how it is run, if there is one."""
    if "run" in read_sections(recipe):
        use_recipe(ctx, recipe)
    return recipe


@COMMANDS.command()
def run(
    ctx: typer.Context,
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE", help="YAML file, or the name of a shipped one.", is_eager=True, callback=_take
        ),
    ],
    out_dir: Annotated[Path, typer.Option("--out", help="Directory of everything that is made; a run is resumed.")],
    to: Annotated[StageChoice, typer.Option(help="Stop after this one.")] = _LAST,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, what is there, and what it needs; make nothing.")
    ] = False,
    rate: Annotated[
        float | None, typer.Option(min=1.0, help="With --dry-run: tokens a second that your machine scores.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs to profile on at a time, by torchrun.")] = 1,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes of the gate (pytest -n); default: one a GPU.")
    ] = None,
    allow_undecided: Annotated[
        bool,
        typer.Option("--allow-undecided", help="Go on where the rows cannot be enough for a verdict."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Do all that a recipe says: split, profile, prune (one or several keep_n), gate, report, lock, in one directory.

    What is up to date is not done again, and after an interruption the same command goes on. Before anything is
    profiled it asks whether the rows are enough to decide on, as packs check does. A recipe that has changed since is
    an error, but for the gate's section and further keep_n. Exits with 1 when a candidate does not pass; report and
    locks are made all the same.
    """
    sections = read_sections(recipe)
    layout = Layout(out_dir)
    many = gpus if workers is None else workers
    stages = stages_of(recipe, sections, out_dir, to=str(to), gpus=gpus, workers=many)
    _check_options(ctx, recipe, sections, stages)
    if dry_run:
        _show_plan(recipe, sections, stages, layout, rate=rate, as_json=as_json)
        return
    from eaftgate.stages.enough import enough_of
    from eaftgate.stages.run import run_stages

    def line(text: str) -> None:
        typer.echo(plain(text), err=as_json)

    outcome = run_stages(
        recipe,
        stages,
        layout,
        say=line,
        enough=lambda record, say: enough_of(recipe, sections, layout, record, say),
        allow_undecided=allow_undecided,
    )
    if outcome.code > 1:
        raise typer.Exit(outcome.code)
    made = {one.label: str(one.out) for one in outcome.ended}
    summary = {
        "out": str(out_dir),
        "stages": [{"stage": one.label, "out": str(one.out), "seconds": one.seconds} for one in outcome.ended],
        "verdicts": outcome.verdicts,
        "reason": outcome.reason,
        "enough": _told(outcome.enough),
    }
    said = [f"{name}: {verdict.upper()}" for name, verdict in outcome.verdicts.items()]
    said += [outcome.reason] if outcome.reason else []
    result(as_json, summary, *said, *(f"{label}: {where}" for label, where in made.items()))
    if outcome.code:
        raise typer.Exit(outcome.code)


def _told(found: "EnoughRecord | None") -> dict[str, Any] | None:
    """For scripts; None where it was not asked."""
    return (
        None if found is None else found.model_dump(mode="json", include={"enough", "problems", "remedy", "num_blocks"})
    )


def _check_options(ctx: typer.Context, recipe: Path, sections: dict[str, Section], stages: tuple[Stage, ...]) -> None:
    """Raises UserError for what a stage would refuse hours later: an option that it has not, a value that is none."""
    from eaftgate.gate.options import gate_options
    from eaftgate.gate.recipe import gate_settings
    from eaftgate.stages.forecast import kept_of, local_base

    root: Any = ctx.find_root()
    for stage in stages:
        if stage.name == GATE:
            if any(word.startswith("--recipe=") for word in stage.words):
                _check_gates(gate_settings(recipe, gate_options))
            continue
        context: Any = root
        *groups, name = section_of(stage.name).split()
        for group in groups:
            context = type(root)(context.command.commands[group], info_name=group, parent=context)
        command = context.command.commands[name]
        command.make_context(name, list(stage.words[len(groups) + 1 :]), parent=context)
    if (base := local_base(recipe, sections)) is not None:
        kept_of(base, sections)


def _check_gates(settings: dict[str, Any]) -> None:
    """Raises UserError for a policy or a regime that the gates file has not."""
    from eaftgate.judge.policy import DEFAULT_GATES, load_gates

    gates = load_gates(settings.get("gates") or DEFAULT_GATES)
    gates.policy(settings.get("policy"))
    if "regime" in settings:
        gates.regime(settings["regime"])


def _show_plan(
    recipe: Path,
    sections: dict[str, Section],
    stages: tuple[Stage, ...],
    layout: Layout,
    *,
    rate: float | None,
    as_json: bool,
) -> None:
    from eaftgate.stages.forecast import forecast_lines, forecast_of, known_base
    from eaftgate.stages.process import shown_command
    from eaftgate.stages.record import check_asked, is_unfinished, read_record
    from eaftgate.stages.run import check_place

    check_place(layout.out)
    record = read_record(layout.out)
    check_asked(recipe, record, stages)
    states = {
        stage.label: "unfinished, goes on"
        if is_unfinished(stage)
        else "is there"
        if stage.out.exists()
        else "to be made"
        for stage in stages
    }
    commands = {stage.label: " ".join(shown_command(stage)) for stage in stages}
    lines = [f"{label} ({states[label]}): {command}" for label, command in commands.items()]
    enough, about_rows = _dry_enough(recipe, sections, layout, record)
    found, why = None, "keep sets say what is kept"
    try:
        found = forecast_of(known_base(recipe, sections), sections, layout, rate)
    except UserError as error:
        why = str(error)
    needs = [f"what it needs is not known: {why}"] if found is None else forecast_lines(found)
    summary = {
        "out": str(layout.out),
        "stages": [{"stage": label, "state": states[label], "command": commands[label]} for label in states],
        "enough": _told(enough),
        "needs": None if found is None else asdict(found) | {"gate_seconds": found.gate_seconds},
    }
    result(as_json, summary, *lines, *about_rows, *needs)


def _dry_enough(
    recipe: Path, sections: dict[str, Section], layout: Layout, record: "RunRecord"
) -> "tuple[EnoughRecord | None, list[str]]":
    """Whether the rows are enough, once they are there, and what is said of it."""
    from eaftgate.stages.enough import enough_of, gate_packs

    packs = gate_packs(sections, layout)
    if not packs.is_dir():
        return None, [f"whether the rows are enough to decide on is known when {packs} is there"]
    try:
        found = enough_of(recipe, sections, layout, record, lambda _: None)
    except UserError as error:
        return None, [f"whether the rows are enough to decide on is not known: {error}"]
    return found, list(found.lines)
