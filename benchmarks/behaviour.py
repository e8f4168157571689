"""How candidates behave when they write by themselves, as a gate judges it, without a gate: a table for the documents.

    PYTHONPATH=. python benchmarks/behaviour.py BASE CANDIDATE... --packs DIR --work DIR [--turns 400]
        [--max-tokens 256] [--data docs/data/FILE.json]

What was written is kept in --work, as a run keeps it; given again, it goes on. --data fills the rows of a table.
"""

import argparse
import json
from pathlib import Path

import torch

from eaftgate.behaviour.paired import pair_turns
from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.collect.transformers import LoadedModel, TransformersWriter
from eaftgate.generate.generations import Generations
from eaftgate.generate.store import GenerationStore, Request
from eaftgate.judge.behaviour import JudgedTurns, judge_turns
from eaftgate.judge.behaviours import BEHAVIOURS
from eaftgate.judge.policy import IntervalPolicy, load_gates
from eaftgate.judge.verdict import MetricVerdict
from eaftgate.judge.wording import figures_shown, shown
from eaftgate.model.load import default_settings
from eaftgate.packs.pack import UNION, read_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.packs.turns import Ending, choose_turns

SEED = 3407


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("candidates", type=Path, nargs="+")
    parser.add_argument("--packs", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=400, help="of every pack")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    policy = load_gates().policy(None)[1]
    assert isinstance(policy, IntervalPolicy)
    assert policy.behaviour is not None
    deciding = policy.behaviour.deciding_in(union=True, strict=False)
    base = written(given, given.base)
    rows = []
    for path in given.candidates:
        turns = pair_turns(base, written(given, path))
        for pack, of in [(UNION, turns), *((g.pack, turns.of_pack(g.pack)) for g in base)]:
            judged = judge_turns(policy, policy.behaviour, of, deciding=deciding)
            show(path.name, pack, judged)
            figures = {name: _figure(name, judged.verdicts[name]) for name in BEHAVIOURS}
            if pack == UNION:
                rows.append({"candidate": path.name, **figures})
    if given.data is not None:
        told = json.loads(given.data.read_text(encoding="utf-8"))
        given.data.write_text(json.dumps({**told, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def written(given: argparse.Namespace, path: Path) -> list[Generations]:
    """Every pack's, by the base's tokenizer."""
    tokenizer, checkpoint = load_tokenizer(given.base), open_checkpoint(path)
    digest = checkpoint_digest(checkpoint)
    writer = TransformersWriter(LoadedModel(), path, digest, default_settings(dtype=given.dtype, dequantize=True))
    store, found = GenerationStore(given.work / "generations"), []
    for pack in read_packs(given.packs):
        chosen = choose_turns(pack, tokenizer, count=given.turns, seed=SEED, max_tokens=given.max_tokens, context=None)
        request = Request(digest, chosen, writer, Ending(tokenizer), given.max_tokens, checkpoint.vocab_size)
        found.append(store.get(request))
        print(f"{path.name} {pack.name}: {len(found[-1])} turns in {found[-1].seconds:.0f} s", flush=True)
    return found


def show(name: str, pack: str, judged: JudgedTurns) -> None:
    print(f"{name} {pack}, {judged.turns} turns")
    for metric, verdict in judged.verdicts.items():
        figures = figures_shown(metric, verdict, interval=True)
        said = f"lost {verdict.lost}, gained {verdict.gained}" if verdict.lost is not None else ""
        print(f"    {metric:<14} {verdict.verdict} {figures} {said} {verdict.lacks}")


def _figure(name: str, verdict: MetricVerdict) -> str:
    """The estimate and its upper bound; in brackets where it is underpowered."""
    if verdict.estimate is None:
        return "-"
    said = f"{shown(name, verdict.estimate, interval=True)}, {shown(name, verdict.upper, interval=True)}"
    if verdict.underpowered:
        return f"({said})"
    return f"{said} {(verdict.verdict or '').upper()}".strip()


if __name__ == "__main__":
    main()
