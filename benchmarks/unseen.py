"""The default with packs against the best ranking, on rows that nothing was chosen on.

    PYTHONPATH=. python benchmarks/unseen.py MODEL PACKS --seeds 3407 4242 5309 --keep-n 24 20 28 --rows 1500 \\
      --work DIR --out results.json --device cuda --dtype bfloat16

For every seed the rows are split by identity, as `eaftgate packs split` does it, or --calibration and --gate give the
two parts. Calibration rows are profiled; every ranking, by plain and by balanced weights of the classes, is measured on
them by masking, and the best at a keep_n is the one whose log-loss rises least there. What `--method auto` would run
with packs (its search) chooses on them, too. All that is told is measured on gate rows, of UNION alone: a pack is told
by UNION's tokens of its rows, so by fewer than a gate, which gives every pack blocks of its own; --pack-cells measures
these, too.

The ratio is the default's mean rise over the best ranking's, with the interval of a paired bootstrap over documents,
and so is the difference in exact calls lost, net. --sweep measures EAFT's weights over a grid besides
(`weights_sweep.py`), on some of either rows, against reap-mass. Results are written as they come; the same command goes
on where it was. Several processes need a --work and an --out each.
"""

import argparse
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.classes import first_blocks, line
from benchmarks.masked_blocks import Judged, Scored, compared, outcome
from benchmarks.paired_bootstrap import with_interval
from benchmarks.weights_sweep import sweep, sweep_line
from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.families.model import MoeModel
from eaftgate.files import write_json
from eaftgate.model.load import ModelSettings, default_settings, load_model
from eaftgate.packs.pack import UNION, Pack, named_packs
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
class Shape:
    """Of what is measured on gate rows."""

    seq_len: int
    blocks: int
    verdict_blocks: int | None


@dataclass(frozen=True)
class Seed:
    """One split: what methods see, and what is told of them."""

    number: int
    base: Checkpoint
    settings: ModelSettings
    profile: Profile
    seen: Scored
    gate: Mapping[str, Pack]
    shape: Shape
    work: Path

    def judged(self, pack: str) -> Judged:
        """The first gate blocks of a pack, or of UNION."""
        shape, model, at = self.shape, self.seen.model, {"batch_size": self.seen.batch_size}
        blocks = first_blocks(self.gate[pack], load_tokenizer(self.base.path), shape.seq_len, shape.blocks)
        if set(blocks.identities) & set(self.profile.description.rows):
            raise SystemExit("rows to gate on were calibrated on")
        judged = min(shape.verdict_blocks or blocks.num_blocks, blocks.num_blocks)
        return Judged(Scored(model, blocks, **at), collected(model, blocks, **at), judged)

    @cached_property
    def union(self) -> Judged:
        return self.judged(UNION)

    @cached_property
    def packs(self) -> dict[str, Judged]:
        return {pack: self.judged(pack) for pack in self.gate if pack != UNION}

    @cached_property
    def pack_R(self) -> NDArray[np.str_]:
        """The pack of every row of UNION's blocks."""
        return np.array(self.gate[UNION].sources[: len(self.union.scored.blocks.identities)])

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
    shape = Shape(given.seq_len, given.blocks, given.verdict_blocks)
    return Seed(seed, base, settings, profile, seen, named_packs(gate, seed=seed), shape, work)


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
    found["best"] = min(rises, key=lambda name: rises[name])
    if "search" not in found:
        found["search"] = at.searched(keep_n)
        results.write(at.number)
    chosen = chosen_of(found, rankings)
    of_keep = {str(keep): outcome(at.union, keep, at.pack_R) for keep in different(chosen)}
    outcomes = {name: of_keep[str(keep)] for name, keep in chosen.items()}
    found["gate"] = {name: one.told for name, one in outcomes.items()}
    found["compared"] = {
        name: compared(outcomes[DEFAULT], one, at.number) for name, one in outcomes.items() if name != DEFAULT
    }
    results.write(at.number)


def chosen_of(found: dict[str, Any], rankings: Mapping[str, KeepSets]) -> dict[str, KeepSets]:
    return {
        DEFAULT: found["search"]["keep"],
        BEST: rankings[found["best"]],
        **{name: rankings[name] for name in BESIDES},
    }


def different(chosen: Mapping[str, KeepSets]) -> list[KeepSets]:
    return list({str(keep): keep for keep in chosen.values()}.values())


def pack_cells(at: Seed, chosen: Mapping[str, KeepSets]) -> dict[str, Any]:
    """Of every selection the cells that a gate would have for every pack: their figures and verdicts."""
    of_keep = {
        str(keep): {pack: judged.cell(judged.tokens(keep)) for pack, judged in at.packs.items()}
        for keep in different(chosen)
    }
    return {name: of_keep[str(keep)] for name, keep in chosen.items()}


def lines(seed: int, keep_n: int, found: dict[str, Any]) -> Iterable[str]:
    yield f"seed {seed} keep {keep_n}:" + (
        f" best ranking {found['best']}, search {found['search']['seconds']:.1f} s" if "compared" in found else ""
    )
    for name, cell in found.get("gate", {}).items():
        calls, worst, v3 = cell["calls"], cell["worst_over_union"], cell["v3"]
        packs = " ".join(f"{pack} {loss:+.2%}" for pack, loss in cell["packs"].items())
        said = (
            f"  {name:13} UNION {cell['dppl']:+.2%} worst / UNION {'-' if worst is None else format(worst, '.2f')} "
            f"({packs}) calls {calls['lost']} lost {calls['gained']} gained of {calls['exact']} "
            f"{v3['verdict']} {' '.join(v3['not_passed'])}"
        )
        if over := found["compared"].get(name):
            said += f" | default / it {with_interval(over['rise'], 'ratio', '.3f')}, "
            said += f"calls {with_interval(over['net_calls'], 'difference', '+.2%')}"
        yield said
    for name, cells in found.get("cells", {}).items():
        yield f"  {name}, packs by themselves:"
        yield from (line(pack, cell) for pack, cell in cells.items())
    if "sweep" in found:
        yield sweep_line(found["sweep"])


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
    parser.add_argument("--pack-cells", action="store_true", help="the cells of every pack, too, as a gate has them")
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
    if given.sweep == "only" and given.pack_cells:
        parser.error("--pack-cells are of the selections that --sweep only leaves out")
    settings = default_settings(device=given.device, dtype=given.dtype, dequantize=True)
    arguments = {
        name: value for name, value in json.loads(json.dumps(vars(given), default=str)).items()
        if name not in ("out", "work", "seeds", "keep_n", "pack_cells", "sweep", "sweep_blocks")
    }  # fmt: skip
    results = Results(given.out, arguments, settings.describe())
    base = open_checkpoint(str(given.model))
    model = load_model(base.path, settings)
    wanted = [*([] if given.sweep == "only" else ["compared"]), *(["cells"] if given.pack_cells else [])]
    wanted += ["sweep"] if given.sweep else []
    for seed in given.seeds:
        keeps = results.of(seed)["keep_n"]
        if all(name in keeps.get(str(keep_n), {}) for keep_n in given.keep_n for name in wanted):
            print(f"seed {seed}: done before", flush=True)
            continue
        at = prepared(given, base, model, settings, seed)
        results.of(seed).update(about(at))
        results.write(seed)
        print(f"seed {seed}: {about(at)}; {results.of(seed)['seconds']:.0f} s", flush=True)
        for keep_n in given.keep_n:
            found = keeps.setdefault(str(keep_n), {})
            for part in (name for name in wanted if name not in found):
                if part == "compared":
                    measured(at, keep_n, found, results)
                elif part == "cells":
                    found[part] = pack_cells(at, chosen_of(found, at.rankings(keep_n)))
                else:
                    rows = (scored.first(given.sweep_blocks) for scored in (at.seen, at.union.scored))
                    found[part] = sweep(at.profile, keep_n, *rows, seed=seed)
                results.write(seed)
            print(*lines(seed, keep_n, found), sep="\n", flush=True)
        print(f"seed {seed}: {results.of(seed)['seconds']:.0f} s", flush=True)


def about(at: Seed) -> dict[str, Any]:
    gate = at.union.scored
    return {
        "calibration": {"blocks": at.seen.blocks.num_blocks, "tokens": at.seen.blocks.num_counted},
        "unseen": {
            "blocks": gate.blocks.num_blocks,
            "tokens": gate.blocks.num_counted,
            "documents": gate.num_documents,
            "verdict_blocks": at.union.verdict_blocks,
        },
    }


if __name__ == "__main__":
    main()
