"""The head of the report, a banner for every candidate: its verdict, why, and what to do next, as commands to copy."""

import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from eaftgate.errors import UserError
from eaftgate.gate.conclusion import of_checkpoint, reason_of
from eaftgate.gate.identity import CheckpointIdentity
from eaftgate.gate.more_blocks import more_blocks
from eaftgate.gate.options import PRUNED
from eaftgate.gate.results import Parity, ParityCell
from eaftgate.judge.wording import shown
from eaftgate.report.margins import nearest
from eaftgate.report.rows import command_html, html_text
from eaftgate.rewrite.keep_n import KEEP_MULTIPLE
from eaftgate.rewrite.manifest import read_manifest
from eaftgate.select.class_weights import ClassWeights
from eaftgate.select.scorers import SCORERS
from eaftgate.select.scores import SCORES_FILE
from eaftgate.visible import visible

RUN_DIR = "RUN_DIR"
"""In a command of a run that does not say where it lies, as in files of earlier versions."""

CANNOT_BE_LOCKED = (
    "Nobody has seen the weights: it cannot be locked. Gate the checkpoint itself (--base, --checkpoint) to release it."
)
Step = tuple[str, str]
"""What a command does, and the command, "" where there is none."""


def names_of(parity: Parity) -> list[str]:
    """The candidates, those without a judged cell too."""
    return list(dict.fromkeys((*(c.name for c in parity.candidates), *(cell.name for cell in parity.cells))))


def identity_in(parity: Parity, name: str) -> CheckpointIdentity | None:
    """What the run says of a checkpoint, or `base`."""
    return next((c for c in (parity.run.checkpoints if parity.run else ()) if c.name == name), None)


def banners(parity: Parity) -> str:
    """HTML; one for the whole run where it had no candidate."""
    names = names_of(parity)
    cards = [_card(of_checkpoint(parity, name), name) for name in names] or [_card(parity, "the base against itself")]
    return f'<div class="cards">{"".join(cards)}</div>'


def _card(parity: Parity, name: str) -> str:
    """`parity` is of this candidate alone."""
    steps = "".join(
        f"<p>{html_text(what)}</p>" + (f"<pre><code>{command_html(command)}</code></pre>" if command else "")
        for what, command in next_steps(parity, name)
    )
    verdict = html_text(parity.verdict)
    facts = ". ".join(_facts(parity, name))
    return (
        f'<article class="card {verdict}"><h2><span class="verdict {verdict}">{html_text(parity.verdict_shown)}</span>'
        f"{html_text(visible(name))}</h2><p>{html_text(why(parity))}</p>{steps}"
        + (f'<p class="facts">{html_text(facts)}.</p>' if facts else "")
        + "</article>"
    )


def why(parity: Parity) -> str:
    """The verdict of one candidate in one sentence."""
    if parity.verdict == "incomplete" and parity.not_run:
        first, more = parity.not_run[0], len(parity.not_run) - 1
        others = f", nor did {more:,} further planned case{'s' * (more > 1)}" if more else ""
        ended = "" if parity.complete else "The session did not end by itself: "
        return f"{ended}{first} did not run{others}."
    if parity.verdict != "pass":
        reason = reason_of(parity)
        case, _, said = reason.partition("]: ")
        if "::" in case and said:
            reason = f"in {case.partition('[')[2]}: {said}"
        return f"{reason[:1].upper()}{reason[1:].rstrip('.')}."
    deciding = [cell for cell in parity.cells if cell.decides_something]
    rules = {metric for cell in deciding for metric in cell.metrics if cell.decides(metric)}
    said = f"Every bound that decides lies inside its margin: {len(rules)} rules in {len(deciding)} cells"
    if written := {metric for turns in parity.behaviour for metric in turns.deciding}:
        said += f", and {len(written)} of what it writes by itself"
    if done := [task.task for task in parity.tasks if task.decides]:
        said += f", and {len(done)} task{'s' * (len(done) > 1)}"
    found = nearest(deciding)
    if found is None:
        return f"{said}."
    cell, metric, place = found
    return f"{said}; the nearest is {_bound(cell, metric)} on {cell.pack} {cell.seq_len}, at {place:.0%} of its margin."


def _bound(cell: ParityCell, metric: str) -> str:
    verdict, interval = cell.metrics[metric], cell.has_intervals
    if not interval:
        return f"{metric}, {shown(metric, verdict.estimate, interval=False)}"
    lower, upper = (shown(metric, bound, interval=True) for bound in (verdict.lower, verdict.upper))
    return f"{metric}, from {lower} to {upper}"


def next_steps(parity: Parity, name: str) -> Iterator[Step]:
    """What to do with a candidate of which `parity` speaks alone."""
    results = parity.run.results if parity.run else RUN_DIR
    given = next((cell.checkpoint for cell in parity.cells), name)
    command = parity.run.command if parity.run else ""
    if parity.verdict == "incomplete":
        yield "Put right what failed or was left out, then go on where the run was, with the same command:", command
    elif parity.verdict == "inconclusive":
        needed = more_blocks(parity)
        if needed is not None:
            yield needed.said, needed.words
    elif parity.verdict == "pass" and parity.is_unverified:
        yield CANNOT_BE_LOCKED, ""
    elif parity.verdict == "pass" and parity.cells:
        lock = ["eaftgate", "lock", results, "--checkpoint", given, "--out", f"{name}.lock.json"]
        yield "Pin what was judged, so that others can verify it:", shlex.join(lock)
    elif parity.verdict == "fail":
        yield from _after_a_fail(parity, name, given)


def _after_a_fail(parity: Parity, name: str, given: str) -> Iterator[Step]:
    if parity.asked.candidate_kind != PRUNED:
        yield "It loses more than the policy allows. What each class of tokens lost is below.", ""
        return
    look = ["eaftgate", "diagnose", given, "--packs", "CALIBRATION_PACKS"]
    yield "See which packs, layers and experts carry the loss, on the rows that it was chosen on:", shlex.join(look)
    found, base = identity_in(parity, name), identity_in(parity, "base")
    if found is None or base is None or found.method not in SCORERS or found.experts + KEEP_MULTIPLE >= base.experts:
        return
    more, place = found.experts + KEEP_MULTIPLE, Path(given)
    cut = ["eaftgate", "prune", base.given, "--scores", str(place / SCORES_FILE), "--keep-n", str(more)]
    cut += ["--method", found.method, *_class_weight(place)]
    yield (
        f"Or keep {more} of {base.experts} experts, cut from the same scores:",
        shlex.join([*cut, "--out", str(place.with_name(f"{place.name}-keep{more}"))]),
    )


def _class_weight(place: Path) -> list[str]:
    """The option of eaftgate prune that it was chosen with, if there was one; nothing where the checkpoint is not."""
    with suppress(UserError, OSError):
        if weights := read_manifest(place).selection.class_weights:
            return ["--class-weight", ClassWeights.named(weights).as_option()]
    return []


def _facts(parity: Parity, name: str) -> Iterator[str]:
    found, base = identity_in(parity, name), identity_in(parity, "base")
    if found is not None and base is not None:
        method = f" ({found.method})" if found.method else ""
        yield f"{found.experts} of {base.experts} experts a layer{method}"
        saved = base.bytes - found.bytes
        yield f"{size_shown(found.bytes)} of {size_shown(base.bytes)}, {saved / base.bytes:.1%} saved"
    lost = parity.lost_messages.get(name, ())
    if lost:
        yield f"The first {len(lost)} messages that it loses are listed below"


def size_shown(size: int) -> str:
    """Bytes in decimal units."""
    for unit, of in (("GB", 1e9), ("MB", 1e6)):
        if size >= of:
            return f"{size / of:.2f} {unit}"
    return f"{size:,} bytes"
