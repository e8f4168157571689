"""`eaftgate packs ...`: directories of packs."""

import datetime
import hashlib
from contextlib import suppress
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eaftgate.commands.examples import EXAMPLES, as_it_is
from eaftgate.commands.options import JsonOption, whole_numbers
from eaftgate.commands.output import made, result, say, show_whole
from eaftgate.errors import UserError

if TYPE_CHECKING:
    from eaftgate.chats.build import Render
    from eaftgate.chats.harmony import Rendering

COMMANDS = typer.Typer(
    help="Make, look at and split directories of packs (Parquet files of Harmony conversations).",
    epilog=as_it_is("Examples:", (EXAMPLES[f"packs {name}"][0] for name in ("build", "check", "split"))),
    no_args_is_help=True,
)


class Template(StrEnum):
    HARMONY = "harmony"
    LIBRARY = "openai-harmony"
    CHECKPOINT = "checkpoint"


class Preamble(StrEnum):
    FULL = "full"
    EFFORT = "effort"
    NONE = "none"


class Analysis(StrEnum):
    KEEP = "keep"
    SERVED = "served"


class Effort(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@COMMANDS.command("build")
def packs_build(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="FILE_OR_DIR", help="JSONL, JSON, Parquet or Arrow, or a directory of a dataset."),
    ],
    out_dir: Annotated[Path, typer.Option("--out", help="Directory of packs: gets NAME.parquet and NAME.build.json.")],
    name: Annotated[str | None, typer.Option(help="One pack of all inputs; default: one of each, by its name.")] = None,
    column: Annotated[
        str | None, typer.Option(help="Column of conversations; default: messages, conversations or text.")
    ] = None,
    domain_column: Annotated[str | None, typer.Option(help="What losses are listed by; default: domain.")] = None,
    source_column: Annotated[str | None, typer.Option(help="Where a row is from; default: the file's name.")] = None,
    split: Annotated[str | None, typer.Option(help="Which split of a dataset's directory.")] = None,
    max_rows: Annotated[int | None, typer.Option(min=1, help="Rows of a pack, drawn by --seed.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides which rows are drawn.")] = 3407,
    template: Annotated[
        Template,
        typer.Option(help="Harmony, as openai-harmony itself has it (extra `packs`), or --base's own template."),
    ] = Template.HARMONY,
    base: Annotated[str | None, typer.Option(help="Of --template checkpoint: directory or hub id.")] = None,
    preamble: Annotated[
        Preamble, typer.Option(help="Harmony's system message: whole, its reasoning effort alone, or none.")
    ] = Preamble.FULL,
    reasoning_effort: Annotated[Effort, typer.Option(help="Of rows that say none.")] = Effort.MEDIUM,
    date: Annotated[str | None, typer.Option(help="Today, as the system message has it: YYYY-MM-DD.")] = None,
    analysis: Annotated[
        Analysis, typer.Option(help="Reasoning of earlier turns: kept, or left out as servers leave it out.")
    ] = Analysis.KEEP,
    as_json: JsonOption = False,
) -> None:
    """Make packs from chat data: OpenAI or ShareGPT messages with calls and reasoning, or texts in Harmony already.

    What is left out is counted by reason, with the first row of each; nothing else is changed.
    """
    from eaftgate.chats.build import BuildOptions, build_packs
    from eaftgate.chats.harmony import Rendering
    from eaftgate.chats.report import lines_of

    if date is not None and not _is_date(date):
        raise UserError(f"--date is {date!r}: it must be a day, YYYY-MM-DD")
    rendering = Rendering(
        preamble=preamble.value,
        effort=reasoning_effort.value,
        date=date,
        keep_analysis=analysis is Analysis.KEEP,
    )
    options = BuildOptions(
        out=out_dir, name=name, column=column, domain_column=domain_column, source_column=source_column,
        split=split, max_rows=max_rows, seed=seed,
    )  # fmt: skip
    render, settings = _renderer(template, base, rendering)
    reports = build_packs(inputs, options, render, settings)
    summary = {"out": str(out_dir), "packs": [report.model_dump(mode="json") for report in reports]}
    result(as_json, summary, *(line for report in reports for line in lines_of(report)))


def _is_date(text: str) -> bool:
    with suppress(ValueError):
        return datetime.date.fromisoformat(text).isoformat() == text
    return False


def _renderer(template: Template, base: str | None, rendering: "Rendering") -> tuple["Render", dict[str, Any]]:
    """What renders a chat, and what it was made from."""
    from eaftgate.chats.harmony import harmony_text
    from eaftgate.chats.library import library_renderer
    from eaftgate.chats.template import template_renderer

    if (base is not None) != (template is Template.CHECKPOINT):
        raise UserError("--template checkpoint and --base go together: the checkpoint whose template it is")
    settings = {"template": template.value, **asdict(rendering)}
    if template is Template.LIBRARY:
        render, version = library_renderer(rendering)
        return render, settings | {"openai_harmony": version}
    if base is None:
        return lambda chat: harmony_text(chat, rendering), settings
    if rendering.preamble != "full" or not rendering.keep_analysis:
        raise UserError("--preamble and --analysis are for Harmony: the template of a checkpoint decides for itself")
    render, text = template_renderer(base, rendering)
    return render, settings | {"template_sha256": hashlib.sha256(text.encode()).hexdigest()}


@COMMANDS.command("check")
def packs_check(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of *.parquet packs.")],
    base: Annotated[
        str | None, typer.Option(help="Checkpoint directory or hub id: its tokenizer says what a gate would rest on.")
    ] = None,
    regime: Annotated[str, typer.Option(help="Regime of the gates file.")] = "bigblocks",
    seq_lens: Annotated[str, typer.Option(help="Lengths instead of the regime's, like 1024,2048.")] = "",
    num_blocks: Annotated[int | None, typer.Option(min=1, help="Blocks a pack and length, not the regime's.")] = None,
    policy: Annotated[str | None, typer.Option(help="Policy of the gates file; default: its default.")] = None,
    gates: Annotated[Path | None, typer.Option(help="Gates file; default: the shipped one.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Order of rows; default: file order.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Count what is in packs; with a base, say whether a gate run on them could decide, and what is missing.

    No model is run. Exits with 1 when a rule that must decide cannot, whatever the candidate.
    """
    from eaftgate.gate.enough import is_enough
    from eaftgate.gate.enough_shown import cells_table, classes_table, enough_lines, packs_table, shared_lines
    from eaftgate.gate.planning import make_plan
    from eaftgate.gate.request import GateOptions
    from eaftgate.judge.policy import DEFAULT_GATES, load_gates
    from eaftgate.packs.counted import count_packs

    lengths = whole_numbers("--seq-lens", seq_lens) if seq_lens else []
    plan, known = None, load_gates(gates or DEFAULT_GATES)
    known.policy(policy)
    known.regime(regime)  # a name that is none is said without a base, too
    if base is not None:
        asked = GateOptions(
            results=directory, base=base, packs=directory, gates=gates or DEFAULT_GATES, policy=policy, regime=regime,
            seq_lens=tuple(lengths), num_blocks=num_blocks, seed=seed,
        )  # fmt: skip
        plan = make_plan(asked, fixture_packs=directory)
    packs, shared = count_packs(directory)
    enough = None if plan is None or base is None else is_enough(plan, base)
    if as_json:
        told = {"packs": [asdict(pack) for pack in packs], "shared": [asdict(found) for found in shared]}
        result(True, told | ({} if enough is None else {"enough": not enough.problems, **asdict(enough)}))
    else:
        show_whole(packs_table(packs))
        say(*shared_lines(packs, shared))
        if enough is None:
            say("", "whether a gate run on these could decide: give --base")
        else:
            for table in (cells_table(enough.cells), classes_table(enough.cells)):
                say("")
                show_whole(table)
            say("", *enough_lines(enough))
    if enough is not None and enough.problems:
        raise typer.Exit(1)


@COMMANDS.command("split")
def packs_split(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of *.parquet packs.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Directory to make; gets calibration/ and gate/.")],
    calib_frac: Annotated[float, typer.Option(help="Share of each pack's rows that goes to calibration/.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Decides which rows.")] = 3407,
    as_json: JsonOption = False,
) -> None:
    """Split packs into rows to calibrate on and rows to gate on, disjoint by the sha256 of a row's text."""
    from eaftgate.outputs import check_directory
    from eaftgate.packs.pack import read_packs
    from eaftgate.packs.split import split_packs

    was_there = check_directory(out_dir, [directory])
    # A split keeps them, and every other command leaves them out.
    left_out = [pack.left_out for pack in read_packs(directory) if pack.left_out]
    splits = split_packs(directory, out_dir, calib_frac=calib_frac, seed=seed)
    lines = [f"{s.pack}: {s.calibration_rows} rows to calibrate on, {s.gate_rows} to gate on" for s in splits]
    lines += left_out
    summary = {"out": str(out_dir), "packs": [s.__dict__ for s in splits], "left_out": left_out}
    made(as_json, summary, *lines, f"written to {out_dir}", out=out_dir, was_there=was_there)
