"""RUN_DIR/parity.json: the run's verdict and its cells, for scripts (SPEC section 8)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eaftgate import __version__
from eaftgate.errors import UserError
from eaftgate.files import read_json, write_json
from eaftgate.gate.plan import Cell, Plan
from eaftgate.gate.run import CELLS_DIR
from eaftgate.judge.verdict import worst

PARITY_FILE = "parity.json"
SCHEMA_VERSION = 3
_OVERLAPPING = re.compile(r"::test_disjoint\[(?P<checkpoint>.+)\]$")

RunVerdict = Literal["pass", "fail", "inconclusive", "incomplete"]


@dataclass(frozen=True)
class CaseOutcome:
    """How one executed test case ended. `reason` is the first line of its failure."""

    id: str
    passed: bool
    reason: str
    properties: Mapping[str, Any]


def run_verdict(
    outcomes: Sequence[CaseOutcome], missing: Sequence[str], cells: Sequence[Mapping[str, Any]], *, complete: bool
) -> RunVerdict:
    """pass only when the session ended by itself, every planned deciding case ran and every executed case passed."""
    failed = [outcome for outcome in outcomes if not outcome.passed]
    said = [outcome.properties.get("verdict") for outcome in failed]
    if "fail" in said:
        return "fail"
    if missing or not complete or any(verdict != "inconclusive" for verdict in said):
        return "incomplete"
    return worst(["pass", *(cell["verdict"] for cell in cells if cell["severity"] == "primary"), *said])  # type: ignore[list-item]


def read_records(cells: Iterable[Cell], results: Path, session: str) -> dict[Cell, dict[str, Any]]:
    """What RUN_DIR/cells has of `cells`, judged in this session."""
    records = {}
    for cell in cells:
        path = results / CELLS_DIR / f"{cell.id}-{cell.seed}.json"
        if path.is_file():
            record = read_json(path, what="cell result")
            if record["session"] == session:
                records[cell] = record
    return records


def read_cells(plan: Plan, results: Path, session: str) -> list[dict[str, Any]]:
    """The cells of this session in the plan's order, as parity.json shows them."""
    return [_row(plan, cell, record) for cell, record in read_records(plan.cells, results, session).items()]


def _row(plan: Plan, cell: Cell, record: Mapping[str, Any]) -> dict[str, Any]:
    m = record["metrics"]
    return {
        "checkpoint": plan.checkpoints.get(cell.checkpoint, cell.checkpoint),
        "name": cell.checkpoint,
        "pack": cell.pack,
        "seq_len": cell.seq_len,
        "num_blocks": record["num_blocks"],
        "budget_blocks": cell.num_blocks,
        "seed": cell.seed,
        "tokens": m["tokens"],
        "ppl_base": m["ppl_base"],
        "ppl": m["ppl"],
        "delta_ppl": m["ppl"] - m["ppl_base"],
        "cc_base": m["cc_base"],
        "cc": m["cc"],
        "delta_cc": m["cc"] - m["cc_base"],
        "mean_p_base": m["mean_p_base"],
        "mean_p": m["mean_p"],
        "delta_mean_p": m["mean_p"] - m["mean_p_base"],
        "js2d": m["js2d"],
        "js2d_correction": record["js2d"],
        "cc_events_base": record["cc_events_base"],
        "p_thr": m["thresholds"]["p"],
        "h_thr": m["thresholds"]["h"],
        "severity": "primary" if plan.cell_decides(cell) else "advisory",
        "verdict": record["verdict"],
        "v1_verdict": record["v1_verdict"],
        "flags": _flags(plan, record["verdicts"]),
        "metrics": record["verdicts"],
        "inputs": record["inputs"],
    }


def _flags(plan: Plan, verdicts: Mapping[str, Any]) -> list[str]:
    underpowered = any(verdict["underpowered"] for verdict in verdicts.values())
    return [
        *(["underpowered"] if underpowered else []),
        *(["sequential"] if plan.options.sequential else []),
    ]


def write_parity(
    plan: Plan,
    results: Path,
    *,
    cells: Sequence[Mapping[str, Any]],
    stability: Mapping[str, Any],
    outcomes: Sequence[CaseOutcome],
    missing: Sequence[str],
    complete: bool,
) -> dict[str, Any]:
    """Write parity.json and return it; cells of packs that the checkpoint was calibrated on are flagged.

    `missing` are the deciding cases that were planned and did not run.
    """
    verdict = run_verdict(outcomes, missing, cells, complete=complete)
    v1 = [cell["v1_verdict"] for cell in cells if cell["severity"] == "primary"]
    seen = {case: outcome for outcome in outcomes if (case := _OVERLAPPING.search(outcome.id))}
    overlap = {case["checkpoint"]: _overlap(outcome) for case, outcome in seen.items()}
    parity = {
        "schema_version": SCHEMA_VERSION,
        "eaftgate": __version__,
        "policy": plan.policy_name,
        "regime": plan.regime_name,
        "verdict": verdict,
        "v1_verdict": worst(v1) if v1 and all(v1) and not missing else "incomplete",
        "cells": [_flagged(cell, overlap.get(cell["name"], {})) for cell in cells],
        "stability": dict(stability),
        "failed": [
            {"case": o.id, "reason": o.reason, "verdict": o.properties.get("verdict")} for o in outcomes if not o.passed
        ],
        "not_run": list(missing),
        "complete": complete,
        "asked": {
            "seeds": list(plan.options.seeds),
            "strict_cells": plan.options.strict_cells,
            "sequential": plan.options.sequential,
            "allow_overlap": plan.options.allow_overlap,
        },
    }
    write_json(results / PARITY_FILE, parity)
    return parity


def _overlap(outcome: CaseOutcome) -> dict[str, int]:
    """Rows of every gate pack that were calibrated on, as the case says."""
    prefix = "overlap_"
    return {name.removeprefix(prefix): rows for name, rows in outcome.properties.items() if name.startswith(prefix)}


def _flagged(cell: Mapping[str, Any], overlap: Mapping[str, int]) -> dict[str, Any]:
    rows = overlap.get(cell["pack"], 0)
    return {**cell, "flags": [*cell["flags"], *(["overlap"] if rows else [])], "calibrated_rows": rows}


def verdict_of(parity: Mapping[str, Any], name: str) -> RunVerdict:
    """The verdict of one of a run's checkpoints, by its short name: the run's but for what concerns others alone."""
    names = {cell["name"] for cell in parity["cells"]}

    def concerns(case: str) -> bool:
        inside = case.partition("[")[2].rstrip("]")
        owners = [other for other in names if inside == other or inside.startswith((f"{other}-", f"{other}+"))]
        owner = max(owners, key=len, default=name)
        return owner == name or inside.startswith(f"{owner}+")  # several, compared with each other

    outcomes = [
        CaseOutcome(case["case"], False, case["reason"], {"verdict": case["verdict"]})
        for case in parity["failed"]
        if concerns(case["case"])
    ]
    missing = [case for case in parity["not_run"] if concerns(case)]
    cells = [cell for cell in parity["cells"] if cell["name"] == name]
    return run_verdict(outcomes, missing, cells, complete=parity["complete"])


def read_parity(results: Path) -> dict[str, Any]:
    parity = read_json(results / PARITY_FILE, what="gate result")
    if not isinstance(parity, dict) or parity.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{results / PARITY_FILE} is not of schema version {SCHEMA_VERSION}: run the gate again")
    return parity
