"""Many selections from one profile, scored by masking on calibration rows, one line of JSON each.

A line is written when its case is done, and a case that has a line is not run again: the same command resumes. Two
lines differ in one factor, or in what the grid crosses on purpose (method and keep_n), so that no effect is confounded.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.table import Table
from transformers import GptOssForCausalLM

from eaftgate.collect.collection import Collection
from eaftgate.errors import UserError
from eaftgate.files import sha256_json
from eaftgate.packs.blocks import Blocks
from eaftgate.profile.profile import Profile
from eaftgate.progress import progress_bar
from eaftgate.search.evaluate import collected, within_memory
from eaftgate.search.search import SearchSettings, judged_by_masking, search_keep_sets
from eaftgate.select.keep import METHODS, SEARCHES, KeepSets, random_keep_sets, select_keep_sets
from eaftgate.select.saliency import EaftWeights

FACTORS = {
    "good": "weights",
    "conflict": "weights",
    "uncertain": "weights",
    "low_quantile": "weights",
    "max_positions": "search",
    "seed": "search",
}
"""What can be varied, and the part of a case it belongs to."""
WEIGHTED = ("eaft-reap", "eaft-reap-pack-core")
"""The scorers that weigh tokens; others would only repeat themselves."""


@dataclass(frozen=True)
class Case:
    """One selection. `varied` says in what it departs from the standard ones, like `uncertain=1`."""

    method: str
    keep_n: int
    varied: str = ""
    weights: EaftWeights = field(default_factory=EaftWeights)
    search: SearchSettings = field(default_factory=SearchSettings)


def planned(
    methods: Sequence[str], keep_ns: Sequence[int], vary: Mapping[str, Sequence[float]], search: SearchSettings
) -> list[Case]:
    """Every method at every keep_n, and again with one factor of `vary` at a time set to one of its values, where that
    matters to the method.

    Raises UserError for an unknown method or factor.
    """
    for method in methods:
        if method not in METHODS:
            raise UserError(f"{method!r} is no method: choose among {', '.join(METHODS)}")
    for factor in vary:
        if factor not in FACTORS:
            raise UserError(f"{factor!r} cannot be varied: choose among {', '.join(FACTORS)}")
    standard = [Case(method, keep_n, search=search) for keep_n in keep_ns for method in methods]
    return [
        *standard,
        *(
            _varied(case, factor, value)
            for factor, values in vary.items()
            for value in values
            for case in standard
            if _matters(factor, case.method)
        ),
    ]


def _matters(factor: str, method: str) -> bool:
    if method in SEARCHES:
        return FACTORS[factor] == "search"
    return factor == "seed" if method == "random" else FACTORS[factor] == "weights" and method in WEIGHTED


def _varied(case: Case, factor: str, value: float) -> Case:
    part = getattr(case, FACTORS[factor])
    changed = replace(part, **{factor: type(getattr(part, factor))(value)})
    return replace(case, varied=f"{factor}={value:g}", **{FACTORS[factor]: changed})


def sweep(
    model: GptOssForCausalLM, blocks: Blocks, profile: Profile, cases: Sequence[Case], out: Path
) -> list[dict[str, Any]]:
    """Run the cases that `out` has no line for; gives the lines of all of them. `blocks` are the profile's.

    Raises UserError when memory runs out.
    """
    key_of = {_key(profile, case): case for case in cases}
    done = {line["key"]: line for line in read_lines(out) if line["key"] in key_of}
    missing = {key: case for key, case in key_of.items() if key not in done}
    if missing:
        with within_memory():
            base = collected(model, blocks, batch_size=cases[0].search.batch_size)
        out.parent.mkdir(parents=True, exist_ok=True)
        ended = not out.exists() or out.read_bytes()[-1:] in (b"", b"\n")
        with out.open("a", encoding="utf-8") as file, progress_bar("sweep", len(missing), unit="cases") as bar:
            file.write("" if ended else "\n")  # an interrupted line stays alone
            for key, case in missing.items():
                done[key] = {"key": key, **_run(model, blocks, profile, base, case)}
                file.write(json.dumps(done[key]) + "\n")
                file.flush()
                bar.advance(1)
    return [done[key] for key in key_of]


def _key(profile: Profile, case: Case) -> str:
    made = profile.description
    return sha256_json({"case": asdict(case), "blocks": made["blocks_digest"], "base": made["base"]["digest"]})


def read_lines(out: Path) -> Iterator[dict[str, Any]]:
    """Whole lines; one that an interruption cut off is none."""
    if out.exists():
        for text in out.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict) and "key" in line:
                yield line


def _run(model: GptOssForCausalLM, blocks: Blocks, profile: Profile, base: Collection, case: Case) -> dict[str, Any]:
    started = time.perf_counter()
    keep = _keep_sets(model, blocks, profile, case)
    seconds = time.perf_counter() - started
    cell = judged_by_masking(model, blocks, base, keep, batch_size=case.search.batch_size)
    metrics = {
        name: {"estimate": verdict.estimate, "lower": verdict.lower, "upper": verdict.upper, "verdict": verdict.verdict}
        for name, verdict in cell.verdicts.items()
    }
    return {"case": asdict(case), "seconds": seconds, "verdict": cell.verdict, "metrics": metrics, "keep": keep}


def _keep_sets(model: GptOssForCausalLM, blocks: Blocks, profile: Profile, case: Case) -> KeepSets:
    if case.method in SEARCHES:
        options: dict[str, Any] = {"keep_n": case.keep_n, "settings": case.search}
        return search_keep_sets(model, blocks, profile, **options)[0]
    if case.method == "random":
        shape = (profile.trace.num_layers, profile.trace.num_experts)
        return random_keep_sets(*shape, case.keep_n, case.search.seed)
    alignment = profile.description["alignment"]
    return select_keep_sets(
        profile.trace, method=case.method, keep_n=case.keep_n, alignment=alignment, weights=case.weights
    )


def ranked_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """The least loss first, keep_n by keep_n."""
    table = Table(box=None, pad_edge=False)
    for name in ("keep_n", "method", "varied", "dPPL", "at most", "d mean p", "JS2D", "verdict", "seconds"):
        table.add_column(name, justify="left" if name in ("method", "varied", "verdict") else "right", no_wrap=True)
    for line in sorted(lines, key=lambda line: (-line["case"]["keep_n"], _value(line, "ppl", "estimate"))):
        table.add_row(
            str(line["case"]["keep_n"]),
            line["case"]["method"],
            line["case"]["varied"],
            f"{math.expm1(_value(line, 'ppl', 'estimate')):+.2%}",
            f"{math.expm1(_value(line, 'ppl', 'upper')):+.2%}",
            f"{_value(line, 'mean_p', 'estimate'):+.4f}",
            f"{_value(line, 'js2d_corrected', 'estimate'):.5f}",
            line["verdict"],
            f"{line['seconds']:.1f}",
        )
    return table


def _value(line: Mapping[str, Any], metric: str, name: str) -> float:
    value = line["metrics"][metric][name]
    return math.nan if value is None else float(value)
