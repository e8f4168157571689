"""Results of a gate run as they could be in parity.json, for tests that change one thing about them."""

from typing import Any

from eaftgate.checkpoint.digest import ModelIdentity
from eaftgate.gate.messages import LostMessage
from eaftgate.gate.results import Asked, CellInputs, Parity, ParityCell
from eaftgate.judge.verdict import MetricVerdict

INPUTS = CellInputs(
    base=ModelIdentity(name="base", digest="b" * 64),
    checkpoint_digest="c" * 64,
    blocks_digest="d" * 64,
    collector={"collector": "transformers"},
    collections={},
)


def parity_cell(**changes: Any) -> ParityCell:
    """A cell of near-lossless-v1 that passed."""
    values: dict[str, Any] = {
        "checkpoint": "path/keep24",
        "name": "keep24",
        "pack": "UNION",
        "seq_len": 1024,
        "num_blocks": 512,
        "budget_blocks": 512,
        "seed": None,
        "tokens": 1000,
        "ppl_base": 5.0,
        "ppl": 5.1,
        "delta_ppl": 0.1,
        "cc_base": 0.001,
        "cc": 0.0012,
        "delta_cc": 0.0002,
        "mean_p_base": 0.5,
        "mean_p": 0.49,
        "delta_mean_p": -0.01,
        "js2d": 0.004,
        "js2d_correction": {},
        "cc_events_base": 1,
        "p_thr": 0.1,
        "h_thr": 0.1,
        "severity": "primary",
        "verdict": "pass",
        "v1_verdict": "pass",
        "flags": (),
        "metrics": {
            name: MetricVerdict(value, None, None, limit, "pass")
            for name, value, limit in (
                ("ppl", 0.1, 0.25), ("mean_p", -0.01, 0.02), ("cc_rate", 0.0002, 0.002), ("js2d", 0.004, 0.02)
            )
        },
        "inputs": INPUTS,
    }  # fmt: skip
    return ParityCell(**(values | changes))


def lost_message(**changes: Any) -> LostMessage:
    values: dict[str, Any] = {
        "kind": "final", "pack": "chat", "domain": "verse", "row": "a" * 64, "offset": 7, "seq_len": 256, "block": 3,
        "prompt_cut": False, "close": False, "tokens": 9, "right": 4, "reference": "<|channel|>final<|message|>so",
        "before": "say ", "expected": "yes", "written": "no",
    }  # fmt: skip
    return LostMessage(**(values | changes))


def parity_of(*cells: ParityCell, **changes: Any) -> Parity:
    """A whole run that passed."""
    values: dict[str, Any] = {
        "schema_version": 3,
        "eaftgate": "0",
        "policy": "p",
        "regime": "r",
        "verdict": "pass",
        "v1_verdict": "pass",
        "cells": cells,
        "failed": (),
        "not_run": (),
        "complete": True,
        "asked": Asked(seeds=(), strict_cells=False, sequential=False, allow_overlap=False),
    }
    return Parity(**(values | changes))
