"""A decision memo: what runs came to, for each number of experts, in Markdown.

Every sentence is there because a field of a run's parity.json says so; what is not known is what those leave open.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eaftgate.errors import UserError
from eaftgate.gate.candidates import kind_line, served_lines, served_remarks, unknown_rows
from eaftgate.gate.classes import EXACT, measured
from eaftgate.gate.conclusion import of_checkpoint
from eaftgate.gate.identity import CheckpointIdentity
from eaftgate.gate.luck import luck_line
from eaftgate.gate.more_blocks import more_blocks
from eaftgate.gate.options import PRUNED
from eaftgate.gate.plan import V2
from eaftgate.gate.results import PARITY_FILE, Parity, ParityCell, is_as_written, read_parity
from eaftgate.gate.table import remarks
from eaftgate.judge.metrics import METRICS
from eaftgate.markdown import code, escaped, table
from eaftgate.outputs import check_file, put_file
from eaftgate.report.banner import identity_in, names_of, size_shown, why

_MAX_REMARKS = 10


@dataclass(frozen=True)
class Tried:
    """A candidate of a run. `parity` is of it alone, `found` and `base` are None in runs of earlier versions."""

    results: Path
    name: str
    parity: Parity
    found: CheckpointIdentity | None
    base: CheckpointIdentity | None

    @property
    def passed(self) -> bool:
        return self.parity.verdict == "pass"

    @property
    def candidate(self) -> str:
        """What it is in every run: by its manifest, or else its name."""
        return (self.found.manifest if self.found is not None else None) or self.name

    def is_of(self, other: "Tried") -> bool:
        return self.candidate == other.candidate

    @property
    def kept(self) -> str:
        """Of how many experts, in words."""
        if self.found is None or self.base is None:
            return "experts not known"
        return f"{self.found.experts} of {self.base.experts} experts"


def write_memo(results: Sequence[Path], out: Path) -> bool:
    """Whether it was there already. Raises UserError for a run without a result, or `out` that is something else."""
    check_file(out, [directory / PARITY_FILE for directory in results])
    return put_file(out, memo(results))


def memo(results: Sequence[Path]) -> str:
    """The memo of one run or several. Raises UserError for one that has no result, or whose result was edited."""
    runs = []
    for directory in results:
        parity = read_parity(directory)
        if not is_as_written(directory):
            raise UserError(f"{PARITY_FILE} of {directory} has changed since the run wrote it: run the gate again")
        runs.append((directory, parity))
    return "\n".join(_memo(runs)).rstrip() + "\n"


def _memo(runs: Sequence[tuple[Path, Parity]]) -> Iterator[str]:
    tried = [
        Tried(directory, name, of_checkpoint(parity, name), identity_in(parity, name), identity_in(parity, "base"))
        for directory, parity in runs
        for name in names_of(parity)
    ]
    tried.sort(key=lambda one: -(one.found.experts if one.found else 0))
    yield from ("# Decision memo", "", "## Conclusion", "")
    yield from _conclusion(tried)
    yield from ("", "## What was tried", "")
    for directory, parity in runs:
        yield from _run(directory, parity)
    if lost := [one for one in tried if not one.passed]:
        yield from ("", "## What did not pass, and where", "")
        for one in lost:
            yield from _failure(one)
    yield from ("", "## Cost", "", *_cost(tried), "", "## What is not known", "")
    for one in tried:
        yield from (f"- {code(one.name)}: {said}" for said in _open_of(one))
    for directory, parity in runs:
        yield from (f"- {code(str(directory))}: {said}" for said in _open_of_run(parity))


def _conclusion(tried: Sequence[Tried]) -> Iterator[str]:
    """One line for each number of experts. A pass does not outweigh a fail of the same candidate."""
    for kept in dict.fromkeys(one.kept for one in tried):
        group = [one for one in tried if one.kept == kept]
        failed = {one.candidate for one in group if one.parity.verdict == "fail"}
        passed = [one for one in group if one.passed]
        word = "contradicted" if passed else "no PASS"
        if standing := [one for one in passed if one.candidate not in failed]:
            word = min((one.parity.verdict_shown for one in standing), key=len)
        several = {one.candidate for one in group if len({other.results for other in group if other.is_of(one)}) > 1}
        said = ", ".join(
            f"{code(one.name)} {one.parity.verdict_shown}"
            + (f" in {code(str(one.results))}" if one.candidate in several else "")
            for one in sorted(group, key=lambda one: not one.passed)
        )
        yield f"- **{kept}: {word}.** {said}."
    if not tried:
        yield "- No candidate was judged."


def _run(directory: Path, parity: Parity) -> Iterator[str]:
    lengths = ", ".join(f"{length:,}" for length in dict.fromkeys(cell.seq_len for cell in parity.cells))
    said = [f"policy {code(parity.policy)}", f"regime {code(parity.regime)}"]
    said += [f"lengths {lengths}"] if lengths else []
    said += [f"eaftgate {escaped(parity.eaftgate)}"]
    yield f"- {code(str(directory))}: **{parity.verdict_shown}**, {', '.join(said)}."
    if parity.run is not None:
        packs = ", ".join(f"{code(pack.name)} ({pack.rows:,} rows)" for pack in parity.run.packs)
        yield f"    - {escaped(parity.run.started)} to {escaped(parity.run.ended)} on {code(parity.run.host)}"
        yield f"    - {code(parity.run.command)}"
        if packs:
            yield f"    - packs: {packs}"
    yield from (f"    - {escaped(line)}" for line in served_lines(parity.served))
    for name in names_of(parity):
        found = identity_in(parity, name)
        method = f", chosen by {code(found.method)}" if found is not None and found.method else ""
        yield f"    - candidate {code(name)}{method}"


def _failure(one: Tried) -> Iterator[str]:
    yield f"### {code(one.name)}: {one.parity.verdict_shown}"
    yield ""
    yield escaped(why(one.parity))
    if (needed := more_blocks(one.parity)) is not None:
        yield ""
        yield f"{escaped(needed.said)} {code(needed.words) if needed.words else ''}".rstrip()
    yield ""
    said = remarks(one.parity.cells)
    yield from (f"- {escaped(line)}" for line in said[:_MAX_REMARKS])
    if len(said) > _MAX_REMARKS:
        yield f"- and {len(said) - _MAX_REMARKS} further ones"
    yield ""


def _cost(tried: Sequence[Tried]) -> list[str]:
    rows = []
    for one in tried:
        found, base = one.found, one.base
        size = saved = "not known"
        if found is not None and base is not None:
            size = size_shown(found.bytes)
            saved = f"{size_shown(base.bytes - found.bytes)}, {1 - found.bytes / base.bytes:.1%}"
        rows.append([code(one.name, cell=True), one.kept, size, saved, *_losses(one.parity.cells)])
    return table(("candidate", "keeps", "tensors", "saved", "dPPL at most", "calls lost", "gained"), rows, text=2)


def _losses(cells: Sequence[ParityCell]) -> tuple[str, str, str]:
    """The worst upper bound of ppl in the cells that decide; lost and gained calls where most are exact."""
    decided = [cell.metrics["ppl"].upper for cell in cells if cell.decides_something and "ppl" in cell.metrics]
    known = [upper for upper in decided if upper is not None]
    worst = METRICS["ppl"].text(max(known)) if known and all(cell.has_intervals for cell in cells) else "-"
    calls = [cell.metrics["exact_calls"] for cell in cells if measured(cell, "exact_calls")]
    if not calls:
        return worst, "-", "-"
    most = max(calls, key=lambda verdict: verdict.events or 0)
    return worst, f"{most.lost or 0:,} of {most.events or 0:,}", f"{most.gained or 0:,}"


def _open_of(one: Tried) -> Iterator[str]:
    """What the run leaves open of a candidate."""
    cells = one.parity.cells
    decided = {
        metric: cell.seq_len
        for cell in sorted(cells, key=lambda cell: cell.seq_len)
        for metric, said in cell.metrics.items()
        if cell.decides(metric) and said.decides
    }
    few: dict[str, list[str]] = {}
    for cell in cells:
        for metric, verdict in cell.metrics.items():
            if verdict.underpowered:
                few.setdefault(metric, []).append(f"{cell.pack} {cell.seq_len}")
    together: dict[str, list[str]] = {}
    for metric, places in few.items():
        where = "anywhere" if metric not in decided else f"in {', '.join(places)}"
        together.setdefault(where, []).append(code(metric))
    for where, metrics in together.items():
        yield f"{', '.join(metrics)} had too little to decide on {escaped(where)}."
    if decided:
        yield f"Nothing longer than {max(decided.values()):,} tokens decided."
    elif cells:
        yield "No rule decided anything of it."
    counts = [entry for cell in cells if cell.severity == "primary" for entry in cell.messages if entry.exact]
    if cut := sum(entry.exact for entry in counts if entry.prompt_cut):
        whole = sum(entry.exact for entry in counts)
        yield f"Of {whole:,} exact messages in the primary cells {cut:,} were judged without a part of their prompt."
    if close := sum(entry.close for entry in counts):
        yield f"In {close:,} messages of the primary cells two choices lie so near each other that rounding may decide."
    for metric, kind in EXACT.items():
        lossy = [c for c in cells if measured(c, metric) and c.metrics[metric].lost and c.decides(metric)]
        if lossy and one.passed:
            most = max(lossy, key=lambda cell: cell.metrics[metric].lost or 0)
            lost, of = most.metrics[metric].lost or 0, most.metrics[metric].events or 0
            where = f"{code(most.pack)} {most.seq_len}"
            yield f"It passes with {lost:,} of {of:,} exact messages of kind {code(kind)} lost, on {where}."
    engines = {code(_measured_by(cell)) for cell in cells}
    if engines:
        yield f"What was measured is what {', '.join(sorted(engines))} computes; another engine was not."
    if any("overlap" in cell.flags for cell in cells):
        yield "Some of the rows that judge it are rows that it was calibrated on."


def _measured_by(cell: ParityCell) -> str:
    told = cell.inputs.collector
    return ", ".join(str(told[key]) for key in ("collector", "device", "dtype") if key in told) or "the collector"


def _open_of_run(parity: Parity) -> Iterator[str]:
    judged = dict.fromkeys(cell.pack for cell in parity.cells)
    if judged:
        yield f"Nothing is said of what is not like {', '.join(code(pack) for pack in judged)}."
    if parity.run is not None:
        yield from (f"{escaped(pack.left_out)}." for pack in parity.run.packs if pack.left_out)
    yield from (f"{escaped(line)}." for line in unknown_rows(parity.candidates))
    yield from (f"{escaped(line)}." for line in served_remarks(parity.served))
    if parity.asked.candidate_kind != PRUNED:
        yield f"{escaped(kind_line(parity.asked.candidate_kind))}."
    if parity.stability is not None:
        yield f"{escaped(parity.stability.note.rstrip('.'))}."
    if (luck := luck_line(parity)) is not None:
        yield f"{escaped(luck)}."
    if parity.v2_verdict not in (None, parity.verdict) and parity.policy != V2:
        yield f"{code(V2)} would have said {parity.v2_verdict}."
    if parity.not_run:
        yield f"{len(parity.not_run):,} planned cases did not run."
    if parity.verdict == "pass":
        yield "What a pass does not say: docs/limits.md of eaftgate."
