"""Candidates that go wrong in one thing only, which a mean over all content hardly sees, written to disk for the
command that users run; and what the gate's run of them says at smaller budgets.

Shapes: L layers, E experts, T tokens.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.collect.collection import load_collection
from eaftgate.gate.results import COLLECTIONS_DIR, ParityCell, read_parity
from eaftgate.judge.cell import JudgedCell, judge_cell
from eaftgate.judge.metrics import METRICS
from eaftgate.judge.policy import IntervalPolicy
from eaftgate.judge.verdict import Verdict, worst
from eaftgate.packs.blocks import Blocks
from eaftgate.packs.harmony import TokenClass
from eaftgate.packs.pack import UNION
from eaftgate.parity.paired import PairedTokens, pair
from eaftgate.profile.trace import Trace

HEAD = "lm_head.weight"
OF_ITS_OWN = 0.9
"""Share of a token's occurrences that are of a kind, from which on it counts as that kind's own."""


def call_specific_keep_sets(trace: Trace, *, drop: int, of: int, layers: int | None = None) -> list[list[int]]:
    """All but `of` experts of every layer. Dropped are the `drop` with the largest share of their mass on calls, in as
    many `layers` as have the largest such shares (None: in all), and else those with the least mass."""
    mass_LE = np.zeros((2, trace.num_layers, trace.num_experts))
    call_T = trace.column("kind_T") == TokenClass.CALL
    begin = 0
    for expert_TLK, gate_TLK, norm_TLK in trace.selections("predicting"):
        of_call_T = call_T[begin : begin + len(expert_TLK)]
        begin += len(expert_TLK)
        for place, chosen_T in enumerate((of_call_T, np.ones_like(of_call_T))):
            for layer in range(trace.num_layers):
                weight = (gate_TLK * norm_TLK)[chosen_T, layer].ravel()
                mass_LE[place, layer] += np.bincount(
                    expert_TLK[chosen_T, layer].ravel(), weights=weight, minlength=trace.num_experts
                )
    call_LE, total_LE = mass_LE
    share_LE = np.divide(call_LE, total_LE, out=np.zeros_like(call_LE), where=total_LE > 0)
    keep, specific_L = [], np.argsort(-share_LE.max(axis=1), kind="stable")[:layers]
    for layer, (share_E, total_E) in enumerate(zip(share_LE, total_LE, strict=True)):
        dropped = np.argsort(-share_E, kind="stable")[: drop if layer in specific_L else 0].tolist()
        others = [e for e in np.argsort(total_E, kind="stable").tolist() if e not in dropped]
        dropped += others[: of - len(dropped)]
        keep.append(sorted({*range(trace.num_experts)} - {*dropped}))
    return keep


def own_tokens(blocks: Blocks, chosen_BS: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The tokens that hardly occur but where `chosen_BS`, among all scored ones; the most frequent first."""
    scored_T = blocks.token_ids_BS[blocks.scored_BS]
    among_T = blocks.token_ids_BS[blocks.scored_BS & chosen_BS]
    count_V = np.bincount(scored_T)
    chosen_V = np.bincount(among_T, minlength=len(count_V))
    own = np.flatnonzero((chosen_V > 0) & (chosen_V >= OF_ITS_OWN * count_V))
    return own[np.argsort(-chosen_V[own], kind="stable")]


def names_misrouted(blocks: Blocks) -> dict[int, int]:
    """Tokens that name functions and little else, each to be written in place of another; the one that all names begin
    with stays."""
    recipient_BS = blocks.roles.recipient
    tokens = own_tokens(blocks, recipient_BS)
    count_V = np.bincount(blocks.token_ids_BS[blocks.scored_BS & recipient_BS])
    names = [int(t) for t in tokens if count_V[t] < 0.5 * count_V.max()] or [int(t) for t in tokens]
    return dict(zip(names, [*names[1:], names[0]], strict=True))


def closing(blocks: Blocks) -> list[int]:
    closes_BS = blocks.scored_BS & (blocks.roles.kind == TokenClass.CLOSE)
    return [int(token) for token in np.unique(blocks.token_ids_BS[closes_BS])]


def only_in_finals(blocks: Blocks, *, share: float) -> list[int]:
    """Tokens that final answers alone hold, of about that share of their tokens; none of them by itself of much."""
    final_BS = blocks.scored_BS & (blocks.roles.kind == TokenClass.FINAL)
    count_V = np.bincount(blocks.token_ids_BS[final_BS])
    wanted, chosen = share * final_BS.sum(), []
    for token in own_tokens(blocks, final_BS).tolist():
        if count_V[token] <= wanted:
            chosen.append(token)
            wanted -= count_V[token]
    return chosen


def copy_of(base: Path, out: Path) -> Path:
    return shutil.copytree(base, out)


def with_rows(base: Path, out: Path, *, zeroed: Sequence[int] = (), instead: dict[int, int] | None = None) -> Path:
    """A copy of the base whose output matrix has rows of zeros, and rows in the place of others (token: whose row)."""
    copy_of(base, out)
    entry = open_checkpoint(out).tensors[HEAD]
    size = entry.nbytes // entry.shape[0]
    path = out / entry.shard
    path.chmod(0o644)
    with path.open("r+b") as stream:

        def row(token: int) -> bytes:
            stream.seek(entry.begin + token * size)
            return stream.read(size)

        changed = {token: row(other) for token, other in (instead or {}).items()} | {t: bytes(size) for t in zeroed}
        for token, data in changed.items():
            stream.seek(entry.begin + token * size)
            stream.write(data)
    return out


def write_rungs(base: Path, blocks: Blocks, keep: Sequence[Sequence[int]], out: Path) -> dict[str, Path]:
    """By name; `blocks` are of UNION, `keep` loses calls."""
    out.mkdir(parents=True, exist_ok=True)
    keep_sets = out / "keep-sets.json"
    keep_sets.write_text(json.dumps(keep), encoding="utf-8")
    eaftgate("prune", base, "--keep-sets", keep_sets, "--out", out / "calls")
    eaftgate("yardstick", base, "--bits", 4, "--out", out / "rounded4")
    return {
        "copy": copy_of(base, out / "copy"),
        "rounded4": out / "rounded4",
        "calls": out / "calls",
        "names": with_rows(base, out / "names", instead=names_misrouted(blocks)),
        "open": with_rows(base, out / "open", zeroed=closing(blocks)),
        "finals": with_rows(base, out / "finals", zeroed=only_in_finals(blocks, share=0.01)),
    }


RUNGS = {
    "copy": "a copy of the base",
    "rounded4": "experts rounded to 4 bits",
    "calls": "keep set that loses calls",
    "names": "function names misrouted",
    "open": "never closes a message",
    "finals": "wrong in final answers alone",
}


def eaftgate(*words: object) -> None:
    """The command line. Raises CalledProcessError when it fails."""
    subprocess.run([sys.executable, "-m", "eaftgate", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


# What a run of them says at smaller budgets, whose blocks are its first

Pairs = Mapping[tuple[str, int], PairedTokens]
"""Of one candidate, by pack and seq_len."""


@dataclass(frozen=True)
class Said:
    """Of a candidate at some budget: `share` is its largest effect that decides, in units of its margin, and `by` whose
    that is; `silent` are rules that must decide and do in no cell."""

    verdict: Verdict
    share: float
    by: str
    silent: tuple[str, ...]
    cells: Mapping[tuple[str, int], JudgedCell]


def pairs_of(results: Path, name: str) -> Pairs:
    def paired(cell: ParityCell) -> PairedTokens:
        files = (results / COLLECTIONS_DIR / cell.inputs.collections[role] for role in ("base", "checkpoint"))
        return pair(*map(load_collection, files))

    return {(cell.pack, cell.seq_len): paired(cell) for cell in read_parity(results).cells if cell.name == name}


def said_at(
    policy: IntervalPolicy, must_decide: Sequence[str], pairs: Pairs, budget: int, *, primary: str = UNION
) -> Said:
    """What the gate would say of a candidate with `budget` blocks a cell."""
    seen = {at: tokens.select(tokens.block_T < budget) for at, tokens in pairs.items()}
    cells = {
        at: judge_cell(policy, None, tokens, budget, strict=False, primary_pack=at[0] == primary)
        for at, tokens in seen.items()
        if len(tokens.content())
    }
    verdicts = [(name, verdict) for cell in cells.values() for name, verdict in cell.verdicts.items()]
    found = {name for name, verdict in verdicts if verdict.verdict is not None}
    decided = {name for name, verdict in verdicts if verdict.decides}
    silent = tuple(name for name in must_decide if name in found - decided)
    shares = dict(_shares(policy, cells))
    by = max(shares, key=shares.__getitem__, default="")
    said = [verdict.verdict for _, verdict in verdicts if verdict.decides and verdict.verdict is not None]
    inconclusive: list[Verdict] = ["inconclusive"] if silent else []
    return Said(worst(["pass", *said, *inconclusive]), shares.get(by, 0.0), by, silent, cells)


def _shares(policy: IntervalPolicy, cells: Mapping[tuple[str, int], JudgedCell]) -> Iterator[tuple[str, float]]:
    for (pack, _), cell in cells.items():
        for name, verdict in cell.verdicts.items():
            if verdict.decides and verdict.estimate is not None and verdict.margin is not None:
                metric = METRICS[name]
                share = metric.estimated(verdict.estimate) / metric.limit(verdict.margin)
                yield f"{name} {pack}", abs(share) if policy.rules[name].side == "both" else share


def breach(path: Mapping[int, Said], *, canonical: int) -> str:
    """What a ladder must not do, in words: pass what all blocks show to be outside, or fail what lies well inside."""
    whole = path[max(path)]
    verdicts = {budget: said.verdict for budget, said in path.items()}
    if whole.share > 1 and "pass" in verdicts.values():
        return f"{whole.by} is {whole.share:.2f} times its margin, and some budget passes: {verdicts}"
    if whole.share < 0.5 and any(v == "fail" for budget, v in verdicts.items() if budget >= canonical):
        return f"{whole.by} is {whole.share:.2f} times its margin, and a budget fails: {verdicts}"
    if any(said.silent and said.verdict == "pass" for said in path.values()):
        return f"a pass is silent: {verdicts}"
    return ""
