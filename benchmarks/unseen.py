"""The default with packs against the best ranking, on rows that nothing was chosen on.

    PYTHONPATH=. python benchmarks/unseen.py MODEL PACKS --seeds 3407 4242 5309 --keep-n 24 20 28 --rows 1500 \\
      --work DIR --out results.json --device cuda --dtype bfloat16

For every seed the rows are split by identity, as `eaftgate packs split` does it, or --calibration and --gate give the
two parts. Calibration rows are profiled; every ranking, by plain and by balanced weights of the classes, is measured on
them by masking, and the best at a keep_n is the one whose log-loss rises least there. What `--method auto` would run
with packs (its search) chooses on them, too. All that is told is measured on gate rows, of UNION alone: a pack is told
by UNION's tokens of its rows, so by fewer than a gate, which gives every pack blocks of its own.

The ratio is the default's mean rise over the best ranking's, with the interval of a paired bootstrap over documents,
and so is the difference in exact calls lost, net. --sweep measures EAFT's weights over a grid besides
(`weights_sweep.py`), on some of either rows, against reap-mass. Results are written as they come; the same command goes
on where it was. Several processes need a --work and an --out each.
"""

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.masked_blocks import Judged, Outcome, Scored, compared, outcome
from benchmarks.paired_bootstrap import with_interval
from benchmarks.weights_sweep import sweep, sweep_line
from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.families.model import MoeModel
from eaftgate.files import write_json
from eaftgate.model.load import ModelSettings, default_settings, load_model
from eaftgate.packs.blocks import cut_blocks, tokenised
from eaftgate.packs.pack import UNION, named_packs
from eaftgate.packs.split import PARTS, split_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.profile.profile import Profile
from eaftgate.profile.profiler import ProfileRequest, profile_checkpoint
from eaftgate.prune.methods import SEARCH, Running, Settings, Sight, method_named
from eaftgate.search.calibration import calibration_blocks
from eaftgate.search.evaluate import collected
from eaftgate.search.journal import Journal
from eaftgate.search.settings import SearchSettings
from eaftgate.select.class_weights import PRESETS
from eaftgate.select.keep import KeepSets
from eaftgate.select.saliency import EaftWeights
from eaftgate.select.scorers import SCORERS
from eaftgate.select.scores import scores_of
from eaftgate.strict_json import read_object

DEFAULT, BEST = "default", "best ranking"
BESIDES = ("reap-mass", "eaft-reap")
"""Measured on gate rows whichever ranking is best, both by plain weights."""


@dataclass(frozen=True)
class Seed:
    """One split: what methods see, and what is told of them."""

    number: int
    base: Checkpoint
    settings: ModelSettings
    profile: Profile
    seen: Scored
    judged: Judged
    work: Path

    def rankings(self, keep_n: int) -> dict[str, KeepSets]:
        source = scores_of(self.profile, alignment="predicting", low_quantile=EaftWeights().low_quantile)
        sight = Sight(self.base.num_layers, self.base.num_experts, source)
        presets = PRESETS if self.profile.trace.knows_classes else {"plain": PRESETS["plain"]}
        return {
            scorer if preset == "plain" else f"{scorer}, {preset}": method_named(scorer)
            .choose(sight, Settings(keep_n, EaftWeights(), SearchSettings(), classes))
            .keep
            for preset, classes in presets.items()
            for scorer in SCORERS
        }

    def searched(self, keep_n: int) -> dict[str, Any]:
        settings = SearchSettings(seed=self.number, batch_size=self.seen.batch_size)
        described = self.settings.describe()
        path = self.work / f"{SEARCH}-{keep_n}.json"
        resumed = path.exists()
        running = Running(
            self.seen.model, self.seen.blocks, described,
            Journal(path, {"keep_n": keep_n, "profile": self.profile.description.blocks_digest, "model": described}),
            progress=lambda *_: None,
        )  # fmt: skip
        started = time.perf_counter()
        choice = method_named(SEARCH).choose(
            Sight(self.base.num_layers, self.base.num_experts, self.profile, running),
            Settings(keep_n, EaftWeights(), settings),
        )
        return {"seconds": time.perf_counter() - started, "resumed": resumed, "keep": choice.keep}


class Results:
    """The file of results; every writing adds the seconds since the last to those of its seed."""

    def __init__(self, path: Path, arguments: dict[str, Any], model: dict[str, Any]) -> None:
        self._path, self._since = path, time.perf_counter()
        held = read_object(path, what="results") if path.exists() else {"arguments": arguments, "seeds": {}}
        if held["arguments"] != arguments:
            raise SystemExit(f"{path} holds results of other arguments: {held['arguments']}")
        self._all = held | {"model": model}

    def of(self, seed: int) -> dict[str, Any]:
        found: dict[str, Any] = self._all["seeds"].setdefault(str(seed), {"seconds": 0.0, "keep_n": {}})
        return found

    def write(self, seed: int) -> None:
        now = time.perf_counter()
        self.of(seed)["seconds"] += now - self._since
        self._since = now
        write_json(self._path, self._all)


def parts_of(given: argparse.Namespace, seed: int, work: Path) -> tuple[Path, Path]:
    if given.packs is None:
        return given.calibration, given.gate
    split_packs(given.packs, work / "split", calib_frac=given.calib_frac, seed=seed)
    calibration, gate = (work / "split" / part for part in PARTS)
    return calibration, gate


def prepared(given: argparse.Namespace, base: Checkpoint, model: MoeModel, settings: ModelSettings, seed: int) -> Seed:
    work = given.work / str(seed)
    work.mkdir(parents=True, exist_ok=True)
    calibration, gate = parts_of(given, seed, work)
    request = ProfileRequest(calibration, given.rows, seq_len=given.seq_len, seed=seed, batch_size=given.batch_size)
    profile = profile_checkpoint(base, checkpoint_digest(base), request, work / "profile", settings)
    seen = Scored(model, calibration_blocks(base, profile, calibration), given.batch_size)
    tokenizer, union = load_tokenizer(base.path), named_packs(gate, seed=seed)[UNION]
    rows = tokenised(union, tokenizer.backend, eos_id=tokenizer.eos_id, wanted=given.blocks * given.seq_len)
    blocks = cut_blocks(rows, seq_len=given.seq_len, num_blocks=min(given.blocks, rows.num_tokens // given.seq_len))
    if set(blocks.identities) & set(profile.description.rows):
        raise SystemExit("rows to gate on were calibrated on")
    scored = Scored(model, blocks, given.batch_size)
    verdict_blocks = min(given.verdict_blocks or blocks.num_blocks, blocks.num_blocks)
    base_of = collected(model, blocks, batch_size=given.batch_size)
    judged = Judged(scored, base_of, np.array(union.sources[: len(blocks.identities)]), verdict_blocks)
    return Seed(seed, base, settings, profile, seen, judged, work)


def measured(at: Seed, keep_n: int, found: dict[str, Any], results: Results) -> None:
    """Everything at one keep_n into `found`, as far as it is not there."""
    rankings = at.rankings(keep_n)
    rises: dict[str, float] = found.setdefault("rankings", {})
    known: dict[str, float] = {str(rankings[name]): rise for name, rise in rises.items()}
    for name, keep in rankings.items():
        if name not in rises:
            if str(keep) not in known:
                known[str(keep)] = float(at.seen.rises_T(keep).mean())
            rises[name] = known[str(keep)]
            results.write(at.number)
    found["best"] = best = min(rises, key=lambda name: rises[name])
    if "search" not in found:
        found["search"] = at.searched(keep_n)
        results.write(at.number)
    chosen = {DEFAULT: found["search"]["keep"], BEST: rankings[best], **{name: rankings[name] for name in BESIDES}}
    outcomes: dict[str, Outcome] = {}
    for keep in chosen.values():
        if str(keep) not in outcomes:
            outcomes[str(keep)] = outcome(at.judged, keep)
    by_name = {name: outcomes[str(keep)] for name, keep in chosen.items()}
    found["gate"] = {name: of.told for name, of in by_name.items()}
    found["compared"] = {
        name: compared(by_name[DEFAULT], by_name[name], at.number) for name in chosen if name != DEFAULT
    }
    results.write(at.number)


def lines(seed: int, keep_n: int, found: dict[str, Any]) -> Iterable[str]:
    search = found["search"]
    yield f"seed {seed} keep {keep_n}: best ranking {found['best']}, search {search['seconds']:.1f} s"
    for name, cell in found["gate"].items():
        calls, worst, v3 = cell["calls"], cell["worst_over_union"], cell["v3"]
        packs = " ".join(f"{pack} {loss:+.2%}" for pack, loss in cell["packs"].items())
        said = (
            f"  {name:13} UNION {cell['dppl']:+.2%} worst / UNION {'-' if worst is None else format(worst, '.2f')} "
            f"({packs}) calls {calls['lost']} lost {calls['gained']} gained of {calls['exact']} "
            f"{v3['verdict']} {' '.join(v3['not_passed'])}"
        )
        if over := found["compared"].get(name):
            ratio, net = over["rise"], over["net_calls"]
            said += f" | default / it {with_interval(ratio, 'ratio', '.3f')}, "
            said += f"calls {with_interval(net, 'difference', '+.2%')}"
        yield said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("packs", type=Path, nargs="?", help="to be split; or --calibration and --gate")
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--gate", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3407, 4242, 5309], help="of split and order of rows")
    parser.add_argument("--keep-n", type=int, nargs="+", default=[24, 20, 28])
    parser.add_argument("--calib-frac", type=float, default=0.4)
    parser.add_argument("--rows", type=int, help="of UNION, to calibrate on; default: all")
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--blocks", type=int, default=512, help="of the gate's UNION, or as many as there are")
    parser.add_argument("--verdict-blocks", type=int, help="the first so many are judged; default: all of them")
    parser.add_argument("--sweep", nargs="?", const="too", choices=["too", "only"], help="only: and nothing else")
    parser.add_argument("--sweep-blocks", type=int, default=256, help="of calibration rows, and of gate rows")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    if (given.packs is None) == (given.calibration is None) or (given.calibration is None) != (given.gate is None):
        parser.error("PACKS, or both --calibration and --gate")
    settings = default_settings(device=given.device, dtype=given.dtype, dequantize=True)
    arguments = {
        name: value for name, value in json.loads(json.dumps(vars(given), default=str)).items()
        if name not in ("out", "work", "seeds", "keep_n", "sweep", "sweep_blocks")
    }  # fmt: skip
    results = Results(given.out, arguments, settings.describe())
    base = open_checkpoint(str(given.model))
    model = load_model(base.path, settings)
    for seed in given.seeds:
        keeps = results.of(seed)["keep_n"]
        wanted = {None: ("compared",), "too": ("compared", "sweep"), "only": ("sweep",)}[given.sweep]
        if all(name in keeps.get(str(keep_n), {}) for keep_n in given.keep_n for name in wanted):
            print(f"seed {seed}: done before", flush=True)
            continue
        at = prepared(given, base, model, settings, seed)
        about = {
            "calibration": {"blocks": at.seen.blocks.num_blocks, "tokens": at.seen.blocks.num_counted},
            "unseen": {
                "blocks": at.judged.scored.blocks.num_blocks,
                "tokens": at.judged.scored.blocks.num_counted,
                "documents": at.judged.scored.num_documents,
                "verdict_blocks": at.judged.verdict_blocks,
            },
        }
        results.of(seed).update(about)
        results.write(seed)
        print(f"seed {seed}: {about}; {results.of(seed)['seconds']:.0f} s", flush=True)
        for keep_n in given.keep_n:
            found = keeps.setdefault(str(keep_n), {})
            if "compared" in wanted:
                if "compared" not in found:
                    measured(at, keep_n, found, results)
                print(*lines(seed, keep_n, found), sep="\n", flush=True)
            if "sweep" in wanted and "sweep" not in found:
                found["sweep"] = sweep(
                    at.profile, keep_n, at.seen.first(given.sweep_blocks), at.judged.scored.first(given.sweep_blocks),
                    seed=seed,
                )  # fmt: skip
                results.write(seed)
                print(sweep_line(found["sweep"]), flush=True)
        print(f"seed {seed}: {results.of(seed)['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
