"""What is looked at besides the verdict: `eaftgate sweep`, `eaftgate overlap` and `eaftgate diagnose`."""

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import typer

from eaftgate.commands.options import BaseArgument, BatchOption, DeviceOption, DtypeOption, JsonOption, whole_numbers
from eaftgate.commands.output import say, show, show_whole
from eaftgate.errors import UserError
from eaftgate.tables import terminal_table

COMMANDS = typer.Typer()


@COMMANDS.command()
def sweep(
    base: BaseArgument,
    profile_dir: Annotated[Path, typer.Option("--profile", help="Profile of BASE (eaftgate profile).")],
    packs: Annotated[Path, typer.Option(help="The packs of the profile; no others do.")],
    out_file: Annotated[Path, typer.Option("--out", help="File of JSON lines, one a case; resumed if there.")],
    methods: Annotated[str, typer.Option(help="Methods, separated by commas.")] = "eaft-reap,reap-mass,greedy",
    keep_n: Annotated[str, typer.Option(help="Numbers of experts to keep, separated by commas.")] = "24,20",
    vary: Annotated[
        list[str] | None,
        typer.Option(help="FACTOR=V1,V2: every case again with this one factor changed; repeatable."),
    ] = None,
    score_frac: Annotated[
        float, typer.Option(help="Share of every pack's calibration rows to score on; nothing is chosen on them.")
    ] = 0.5,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Figure to draw, .svg or .png; default: --out with the suffix .svg, if matplotlib is installed."
        ),
    ] = None,
    batch_size: BatchOption = 8,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score many selections by masking, on rows of the profile that they were not chosen on.

    Ends with a ranked table and a figure, if matplotlib is installed. Methods and keep_n are crossed, factors are
    varied one at a time: good, conflict, uncertain, low_quantile (weights); alignment; rows (so many to choose on,
    scored on the same others as everything else); max_positions (searches); seed.

    The overlap in the table is the mean Jaccard index of a keep set with that of the best line of the same keep_n.
    """
    from eaftgate.checkpoint.checkpoint import open_checkpoint
    from eaftgate.checkpoint.digest import checkpoint_digest
    from eaftgate.model.load import default_settings
    from eaftgate.model.spread import place
    from eaftgate.outputs import check_apart, check_outside_checkpoints, check_parent
    from eaftgate.profile.profile import open_profile
    from eaftgate.prune.checkpoint import check_profile
    from eaftgate.rewrite.keep_n import resolve_keep_n
    from eaftgate.search.calibration import calibration_blocks
    from eaftgate.search.settings import SearchSettings
    from eaftgate.study import sweep as sweeping
    from eaftgate.study.cases import planned
    from eaftgate.study.holdout import hold_out
    from eaftgate.study.ranking import DETAILS, ranked_table

    if out_file.is_dir():
        raise UserError(f"--out {out_file} is a directory: give a file of JSON lines")
    if out_file.is_symlink():
        raise UserError(f"--out {out_file} is a link: give the file itself")
    if out_file.exists() and not out_file.is_file():
        raise UserError(f"--out {out_file} is no regular file: give a file of JSON lines")
    check_parent(out_file)
    check_outside_checkpoints(out_file)
    check_apart(out_file, [profile_dir, packs])
    figure = _figure(plot, out_file, [profile_dir, packs])
    before = _size(out_file)
    checkpoint, profile = open_checkpoint(base), open_profile(profile_dir)
    check_profile(checkpoint, checkpoint_digest(checkpoint), profile)
    counts = whole_numbers("--keep-n", keep_n)
    for n in counts:
        resolve_keep_n(checkpoint.num_experts, checkpoint.top_k, n)
    held_out = hold_out(calibration_blocks(checkpoint, profile, packs), profile, score_frac)
    cases = planned(
        _parts(methods),
        counts,
        _factors(vary or []),
        rows=len(held_out.choosing_rows),
        alignment=profile.description.alignment,
        search=SearchSettings(batch_size=batch_size),
    )
    settings = default_settings(device=device, dtype=dtype, dequantize=True)
    lines = sweeping.sweep(
        lambda: place(checkpoint, settings).load(), held_out, cases, out_file, measured_by=settings.describe()
    )
    if figure is not None:
        from eaftgate.study.plot import write_plot

        write_plot(lines, figure)
    if as_json:
        typer.echo(json.dumps([line.model_dump(mode="json") for line in lines]))
        return
    tokens = max(line.chosen_on_tokens for line in lines)
    say(
        f"chosen on {len(held_out.choosing_rows)} rows ({tokens:,} tokens), "
        f"scored on {held_out.num_scored_rows} others ({held_out.scored.num_counted:,} tokens)"
    )
    show(lambda leave_out: ranked_table(lines, leave_out), DETAILS)
    if _size(out_file) == before:
        say(f"{out_file} is up to date")
    say(f"drawn in {figure}" if figure is not None else f"no figure was drawn: {_WANTS_MATPLOTLIB}")


@COMMANDS.command()
def overlap(
    checkpoints: Annotated[
        list[Path], typer.Argument(metavar="CKPT_DIR...", help="Checkpoints of one base (eaftgate prune).")
    ],
    as_json: JsonOption = False,
) -> None:
    """Show how much the experts that pruned checkpoints keep agree, pair by pair: do profiling seeds choose the same?

    The Jaccard index of a layer is the share of experts both keep among those either keeps; by chance: of random ones.
    """
    from eaftgate.rewrite.manifest import read_kept
    from eaftgate.select.overlap import jaccard_by_chance, jaccard_L

    if len(checkpoints) < 2:
        raise UserError(f"only {checkpoints[0]} was given: an overlap is of two checkpoints or more")
    manifests = [(path, read_kept(path)) for path in checkpoints]
    first, reference = manifests[0]
    for path, manifest in manifests:
        if manifest.base.digest != reference.base.digest:
            raise UserError(f"{path} and {first} were made from different bases: their experts cannot be compared")
        if len(manifest.keep) != len(reference.keep):
            raise UserError(f"{path} and {first} have keep sets of different numbers of layers: one has been edited")
    pairs: list[dict[str, Any]] = []
    rows: list[tuple[str, ...]] = []
    for (a, of_a), (b, of_b) in combinations(manifests, 2):
        index_L = jaccard_L(of_a.keep, of_b.keep)
        mean, least, least_layer = float(index_L.mean()), float(index_L.min()), int(index_L.argmin())
        by_chance = jaccard_by_chance(reference.base.num_experts, of_a.keep_n, of_b.keep_n)
        pairs.append(
            {
                "checkpoints": [str(a), str(b)],
                "keep_n": [of_a.keep_n, of_b.keep_n],
                "mean": mean,
                "least": least,
                "least_layer": least_layer,
                "by_chance": by_chance,
                "layers": index_L.tolist(),
            }
        )
        rows.append((str(a), str(b), f"{mean:.2f}", f"{least:.2f}", str(least_layer), f"{by_chance:.2f}"))
    if as_json:
        typer.echo(json.dumps(pairs))
        return
    columns = ("checkpoint", "and", "mean", "least", "in layer", "by chance")
    show_whole(terminal_table(columns, rows, folded={"checkpoint": 8, "and": 8}))


@COMMANDS.command()
def diagnose(
    checkpoint_dir: Annotated[Path, typer.Argument(metavar="CKPT_DIR", help="Checkpoint made by eaftgate prune.")],
    packs: Annotated[Path, typer.Option(help="Directory of packs.")],
    base: Annotated[str | None, typer.Option(help="Where its base is now; default: where it was.")] = None,
    seq_lens: Annotated[
        str, typer.Option(help="Tokens a block; layers and experts are looked at with the first.")
    ] = "1024",
    num_blocks: Annotated[int, typer.Option(min=1, help="Blocks of every pack and of UNION.")] = 64,
    layers: Annotated[int, typer.Option(min=0, help="Worst layers whose experts are looked at one by one.")] = 3,
    seed: Annotated[int | None, typer.Option(min=0, help="Shuffles every pack's rows; default: file order.")] = None,
    batch_size: BatchOption = 8,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where a pruned checkpoint loses, by masking in its base, and what to try next.

    First every pack and length, the worst on top; then, on UNION, every layer pruned alone; then the dropped experts of
    the worst layers: what putting each of them back, alone, into the pruned model wins.
    """
    from eaftgate.checkpoint.checkpoint import open_checkpoint
    from eaftgate.checkpoint.digest import checkpoint_digest
    from eaftgate.model.load import default_settings
    from eaftgate.model.spread import place
    from eaftgate.packs.blocks import build_blocks
    from eaftgate.packs.pack import named_packs
    from eaftgate.packs.tokenizer import load_tokenizer
    from eaftgate.rewrite.manifest import read_kept
    from eaftgate.study import diagnose as diagnosing
    from eaftgate.study.findings import described, tables
    from eaftgate.study.lever import next_lever

    manifest = read_kept(checkpoint_dir)
    lengths = whole_numbers("--seq-lens", seq_lens)
    whole = open_checkpoint(base or manifest.base.name)
    if checkpoint_digest(whole) != manifest.base.digest:
        raise UserError(f"{whole.name} is not the base that {checkpoint_dir} was made from: give it with --base")
    tokenizer = load_tokenizer(whole.path)
    cells = [
        build_blocks(
            pack,
            tokenizer.backend,
            eos_id=tokenizer.eos_id,
            seq_len=seq_len,
            num_blocks=num_blocks,
            vocab_size=whole.vocab_size,
        )
        for seq_len in lengths
        for pack in named_packs(packs, seed=seed).values()
    ]
    model = place(whole, default_settings(device=device, dtype=dtype, dequantize=True)).load()
    found = diagnosing.diagnose(model, cells, manifest.keep, worst_layers=layers, batch_size=batch_size)
    lever = next_lever(found, method=manifest.selection.method)
    if as_json:
        typer.echo(json.dumps({**described(found), "lever": lever}))
        return
    for title, table in tables(found).items():
        say(title)
        show_whole(table)
        say("")
    say(f"next: {lever}")


_SUFFIXES = (".svg", ".png")
_WANTS_MATPLOTLIB = "it takes matplotlib, pip install 'eaftgate[plot]'"


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _figure(plot: Path | None, out: Path, inputs: Sequence[Path]) -> Path | None:
    """Where the figure goes; None when it was not asked for and cannot be drawn. Raises UserError for a file name that
    says no format, for `out` itself, and when it was asked for and cannot be drawn."""
    from eaftgate.outputs import check_apart, check_outside_checkpoints, check_parent

    figure = plot or out.with_suffix(".svg")
    if figure == out:
        raise UserError(f"--plot and --out are both {out}: the figure needs a file of its own")
    if figure.suffix not in _SUFFIXES:
        raise UserError(f"--plot is {str(figure)!r}: its name must end in {' or '.join(_SUFFIXES)}")
    check_parent(figure, option="--plot")
    check_outside_checkpoints(figure, option="--plot")
    check_apart(figure, inputs, option="--plot")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        if plot is not None:
            raise UserError(f"--plot {plot} cannot be drawn: {_WANTS_MATPLOTLIB}, or leave --plot out") from None
        return None
    from eaftgate.study.plot import check_figure

    check_figure(figure)
    return figure


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _factors(given: list[str]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for text in given:
        name, found, listed = text.partition("=")
        if not found:
            raise UserError(f"--vary is {text!r}: it must be a factor and its values, like uncertain=0.25,1")
        if name in values:
            raise UserError(f"--vary {name} is given twice: give all of its values in one, like {text},...")
        values[name] = _parts(listed)
    return values
