"""A diagnosis as JSON values, and those as tables: losses in nats there, as relative changes of perplexity here."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from eaftgate.parity.clusters import Estimate
from eaftgate.study.diagnose import Diagnosis
from eaftgate.study.lever import interval

MOST_EXPERTS = 10
"""Rows of the table of experts."""


def described(found: Diagnosis) -> dict[str, Any]:
    """`cells` in the order given, `together` and `layers` of the first of them, `experts` of its worst layers. Bounds
    are None when not known; `missed` names the deciding metrics that do not pass."""
    return {
        "cells": [
            {
                "pack": loss.pack,
                "seq_len": loss.seq_len,
                "num_blocks": loss.cell.num_blocks,
                "tokens": loss.cell.metrics.tokens,
                "loss": ppl.estimate,
                "lower": ppl.lower,
                "upper": ppl.upper,
                "verdict": loss.cell.verdict,
                "missed": [
                    name
                    for name, verdict in loss.cell.verdicts.items()
                    if verdict.decides and verdict.verdict not in (None, "pass")
                ],
            }
            for loss in found.cells
            for ppl in [loss.cell.verdicts["ppl"]]
        ],
        "together": _with_bounds("loss", found.together),
        "layers": [{"layer": layer.layer, **_with_bounds("loss", layer.loss)} for layer in found.layers],
        "experts": [
            {"layer": expert.layer, "expert": expert.expert, **_with_bounds("gain", expert.gain)}
            for expert in found.experts
        ],
    }


def _with_bounds(name: str, estimate: Estimate) -> dict[str, float | None]:
    lower, upper = (bound if math.isfinite(bound) else None for bound in interval(estimate))
    return {name: estimate.value, "lower": lower, "upper": upper}


def tables(found: Mapping[str, Any]) -> dict[str, Table]:
    """Of what `described` gives, by title: packs, layers and, where they were looked at, experts; what loses most comes
    first."""
    first = found["cells"][0]
    where = f"{first['pack']} at {first['seq_len']}"
    packs = [
        (cell["pack"], str(cell["seq_len"]), *_changes(cell, "loss"), cell["verdict"], ", ".join(cell["missed"]))
        for cell in _descending(found["cells"], "loss")
    ]
    layers = [(str(layer["layer"]), *_changes(layer, "loss")) for layer in _descending(found["layers"], "loss")]
    experts = [
        (str(expert["layer"]), str(expert["expert"]), *_changes(expert, "gain"))
        for expert in _descending(found["experts"], "gain")
    ]
    bounds = ("at least", "at most")
    shown = {
        "all layers pruned": _table(("pack", "seq_len", "dPPL", *bounds, "verdict", "misses"), packs),
        f"one layer pruned, on {where}": _table(
            ("layer", "dPPL", *bounds), [*layers, ("all", *_changes(found["together"], "loss"))]
        ),
    }
    if experts:
        title = f"one expert put back, on {where}: the best {min(MOST_EXPERTS, len(experts))} of {len(experts)}"
        shown[title] = _table(("layer", "expert", "PPL won", *bounds), experts[:MOST_EXPERTS])
    return shown


def _descending(rows: Sequence[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
    return sorted(rows, key=lambda row: -row[key])


def _changes(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    return tuple("?" if row[name] is None else f"{math.expm1(row[name]):+.2%}" for name in (key, "lower", "upper"))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in columns:
        text = name in ("pack", "verdict", "misses")
        table.add_column(name, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
