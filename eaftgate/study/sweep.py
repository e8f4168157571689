"""Many selections from one profile, scored by masking on calibration rows held out for that, one line of JSON each.

A line is written when its case is done, and a case that has a line is not run again: the same command resumes. How far
the refinement of a case has come lies beside the file.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eaftgate.collect.collection import Collection
from eaftgate.errors import UserError
from eaftgate.families.model import MoeModel
from eaftgate.files import sha256_json
from eaftgate.outputs import claimed
from eaftgate.packs.blocks import Blocks
from eaftgate.progress import progress_bar
from eaftgate.prune.methods import METHODS, Running, Settings, Sight
from eaftgate.prune.pre_gate import judged_by_masking
from eaftgate.search.evaluate import collected, within_memory
from eaftgate.search.journal import REVISION, Journal, journal_path
from eaftgate.select.keep import KeepSets
from eaftgate.study.cases import Case
from eaftgate.study.holdout import Calibration, HeldOut
from eaftgate.study.lines import Score, SweepLine, add_line, read_lines, score_of


def sweep(
    load: Callable[[], MoeModel],
    held_out: HeldOut,
    cases: Sequence[Case],
    out: Path,
    *,
    measured_by: Mapping[str, Any],
) -> list[SweepLine]:
    """Run the cases that `out` has no line for, on the model that `load` gives; gives the lines of all of them.
    `measured_by` describes that model: what another device or dtype measured is no line of this sweep. The batch size
    may change between runs.

    Raises UserError when `out` holds something else, a case has too few rows to choose on, or memory runs out.
    """
    key_of = {_key(held_out, case, measured_by): case for case in cases}
    if not key_of.keys() <= read_lines(out, key_of.keys()).keys():
        with claimed(out):
            return _run(load, held_out, key_of, out, measured_by)
    return _run(load, held_out, key_of, out, measured_by)


def _run(
    load: Callable[[], MoeModel],
    held_out: HeldOut,
    key_of: Mapping[str, Case],
    out: Path,
    measured_by: Mapping[str, Any],
) -> list[SweepLine]:
    done = read_lines(out, key_of.keys())
    missing = {key: case for key, case in key_of.items() if key not in done}
    for case in missing.values():
        enough = METHODS[case.method].suffices
        if enough is not None and not enough(held_out.calibration(case.rows).blocks):
            raise UserError(
                f"{case.rows} rows to choose on are too few for {case.method}: vary rows without it, or give more"
            )
    if missing:
        with progress_bar("sweep", None, unit="cases", out=out) as bar:
            model = load()
            bar.show(0, len(missing))
            bar.describe("base")
            with within_memory():
                base = collected(model, held_out.scored, batch_size=next(iter(missing.values())).search.batch_size)
            for number, (key, case) in enumerate(missing.items()):
                bar.describe(f"{case.keep_n} {case.name}")

                def searched(done: float, of: float, number: int = number) -> None:
                    bar.show(number + done / of / 2, len(missing))  # the other half: scoring

                calibration = held_out.calibration(case.rows)
                journal = Journal(journal_path(out), {"case": key})
                started = time.perf_counter()
                keep = _keep_sets(case, calibration, Running(model, calibration.blocks, measured_by, journal, searched))
                seconds = time.perf_counter() - started
                score = _known_score(done.values(), keep) or _score(model, held_out.scored, base, keep, case)
                done[key] = SweepLine(
                    key=key,
                    case=case,
                    chosen_on_tokens=calibration.blocks.num_counted,
                    seconds=seconds,
                    **vars(score),
                    keep=keep,
                )
                add_line(out, done[key])
                bar.show(number + 1, len(missing))
        journal_path(out).unlink(missing_ok=True)
    return [done[key] for key in key_of]


def _key(held_out: HeldOut, case: Case, measured_by: Mapping[str, Any]) -> str:
    made = held_out.profile.description
    described = asdict(case)
    del described["search"]["batch_size"]
    parts: dict[str, Any] = {
        "blocks": made.blocks_digest,
        "scored": held_out.scored.digest,
        "base": made.base.digest,
        "profiled_by": [made.model.model_dump(), made.batch_size],
    }
    if METHODS[case.method].needs == "model":
        parts["search"] = REVISION
    return sha256_json({"case": described, **parts, "measured_by": measured_by})


def _known_score(lines: Iterable[SweepLine], keep: KeepSets) -> Score | None:
    """That of a line with the very same keep sets, if there is one: it was scored on the same rows."""
    return next((line.score for line in lines if line.keep == keep), None)


def _score(model: MoeModel, scored: Blocks, base: Collection, keep: KeepSets, case: Case) -> Score:
    cell = judged_by_masking(model, scored, base, keep, batch_size=case.search.batch_size)
    metrics = {name: score_of(verdict) for name, verdict in cell.verdicts.items()}
    return Score(scored_on_tokens=cell.metrics.tokens, verdict=cell.verdict, metrics=metrics)


def _keep_sets(case: Case, calibration: Calibration, running: Running) -> KeepSets:
    trace = calibration.profile.trace
    sight = Sight(trace.num_layers, trace.num_experts, calibration.profile, running)
    settings = Settings(case.keep_n, case.weights, case.search, alignment=case.alignment)
    return METHODS[case.method].choose(sight, settings).keep
