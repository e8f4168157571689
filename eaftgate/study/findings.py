"""A diagnosis as JSON values and as tables: losses in nats there, as relative changes of perplexity here."""

import math
from typing import Any

from rich.table import Table

from eaftgate.judge.wording import shown
from eaftgate.parity.clusters import Estimate
from eaftgate.study.diagnose import Diagnosis
from eaftgate.study.lever import interval
from eaftgate.tables import terminal_table

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
                "loss": loss.ppl.estimate,
                "lower": loss.ppl.lower,
                "upper": loss.ppl.upper,
                "verdict": loss.cell.verdict,
                "missed": loss.missed,
            }
            for loss in found.cells
        ],
        "together": _with_bounds("loss", found.together),
        "layers": [{"layer": layer.layer, **_with_bounds("loss", layer.loss)} for layer in found.layers],
        "experts": [
            {"layer": expert.layer, "expert": expert.expert, **_with_bounds("gain", expert.gain)}
            for expert in found.experts
        ],
    }


def _with_bounds(name: str, estimate: Estimate) -> dict[str, float | None]:
    lower, upper = _known_bounds(estimate)
    return {name: estimate.value, "lower": lower, "upper": upper}


def _known_bounds(estimate: Estimate) -> tuple[float | None, float | None]:
    lower, upper = (bound if math.isfinite(bound) else None for bound in interval(estimate))
    return lower, upper


def tables(found: Diagnosis) -> dict[str, Table]:
    """By title: packs, layers and, where they were looked at, experts; what loses most comes first."""
    where = f"{found.cells[0].pack} at {found.cells[0].seq_len}"
    packs = [
        (
            loss.pack,
            str(loss.seq_len),
            *_changes(loss.ppl.estimate, loss.ppl.lower, loss.ppl.upper),
            loss.cell.verdict,
            ", ".join(loss.missed),
        )
        for loss in sorted(found.cells, key=lambda loss: -loss.loss)
    ]
    layers = [
        (str(layer.layer), *_estimated(layer.loss))
        for layer in sorted(found.layers, key=lambda layer: -layer.loss.value)
    ]
    experts = [
        (str(expert.layer), str(expert.expert), *_estimated(expert.gain))
        for expert in sorted(found.experts, key=lambda expert: -expert.gain.value)
    ]
    bounds = ("at least", "at most")
    titled = {
        "all layers pruned": terminal_table(
            ("pack", "seq_len", "dPPL", *bounds, "verdict", "misses"),
            packs,
            folded={"pack": 1, "verdict": 1, "misses": 1},
        ),
        f"one layer pruned, on {where}": terminal_table(
            ("layer", "dPPL", *bounds), [*layers, ("all", *_estimated(found.together))]
        ),
    }
    if experts:
        title = f"one expert put back, on {where}: the best {min(MOST_EXPERTS, len(experts))} of {len(experts)}"
        titled[title] = terminal_table(("layer", "expert", "PPL won", *bounds), experts[:MOST_EXPERTS])
    return titled


def _estimated(estimate: Estimate) -> tuple[str, ...]:
    return _changes(estimate.value, *_known_bounds(estimate))


def _changes(*losses: float | None) -> tuple[str, ...]:
    return tuple(shown("ppl", loss, interval=True) for loss in losses)
