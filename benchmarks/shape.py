"""The whole job at a published shape, by the public commands, with generated weights: seconds and memory of each stage.

    python benchmarks/shape.py --packs DIR --work DIR --out DIR                   # the 20B shape, one GPU
    python benchmarks/shape.py --packs DIR --work DIR --out DIR --limit 560       # the same again goes on
    python benchmarks/shape.py --packs DIR --work DIR --out DIR --shape 120b --gpus 4

Stages: generate the checkpoint; profile; prune by a search; integrity, as a gate asks it; stream, the profile once more
by one layer at a time on a card of --card-gb, and whether its trace is the same bit for bit. Where --limit ends it,
what runs is interrupted, and the same command goes on with it. Needs no network.

Everything that is known lies in OUT/shape.json at any time, and what the commands wrote, with its second, in
OUT/STAGE.log; WORK holds both over several calls.
"""

import argparse
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.generate_checkpoint import INDEX_FILE, LAYERS
from benchmarks.watched import Watched, gpus, run_watched, smaller_card

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("generate", "profile", "prune", "integrity", "stream")
SEED = 3407
_LEFT = re.compile(r"(?P<title>[^:]+): .*\((?P<share>\d+)%\).*, (?P<left>[\d hmins]+) left$")
_UNITS = {"h": 3600, "min": 60, "s": 1}


def main() -> None:
    options = _options()
    job = Job(options)
    for stage in options.stages:
        if not job.run(stage):
            break
    job.tell()
    print(json.dumps({"stages": job.known["stages"], "to_do": job.to_do()}, indent=2))
    sys.exit(1 if job.to_do() else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--packs", type=Path, required=True)
    add("--work", type=Path, required=True, help="for what is made; 30 GB for the 20B shape, 120 for the 120B")
    add("--out", type=Path, required=True, help="for figures and logs")
    add("--limit", type=float, default=float("inf"), help="seconds, of this call")
    add("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    add("--shape", choices=LAYERS, default="20b")
    add("--layers", type=int, help="another number of layers than the shape's")
    add("--model", type=Path, metavar="DIR", help="this checkpoint instead of a generated one")
    add("--tokenizer", type=Path, metavar="DIR", help="a checkpoint's, for the generated one; default: bytes")
    add("--blocks", type=int, default=112, help="112 of 2048 are 229,376 tokens")
    add("--seq-len", type=int, default=2048)
    add("--batch-size", type=int, default=8)
    add("--keep-n", type=int, default=20)
    add("--method", default="refined")
    add("--device", default="cuda")
    add("--dtype", default="bfloat16")
    add("--gpus", type=int, default=1, help="a profile's share is each one's; a search has layers on all of them")
    add("--card-gb", type=float, default=24.0, help="of the card that the profile is streamed on; 0: all there is")
    return parser.parse_args()


@dataclass
class Job:
    options: argparse.Namespace
    known: dict[str, Any] = field(init=False)
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        given = self.options
        given.work.mkdir(parents=True, exist_ok=True)
        given.out.mkdir(parents=True, exist_ok=True)
        self._file = given.work / "shape.json"
        arguments = {name: str(value) for name, value in vars(given).items() if name not in ("limit", "stages", "out")}
        self.known = {"arguments": arguments, "machine": _machine(), "stages": {}, "runs": []}
        if self._file.exists():
            held = json.loads(self._file.read_text(encoding="utf-8"))
            if held["arguments"] != arguments:
                sys.exit(f"{given.work} was begun with other arguments: {held['arguments']}")
            self.known = held
        number = given.layers or LAYERS[given.shape]
        self.base = given.model or given.work / f"checkpoint-{given.shape}-{number}"

    def to_do(self) -> list[str]:
        return [stage for stage in self.options.stages if not self.known["stages"].get(stage, {}).get("finished")]

    def run(self, stage: str) -> bool:
        """Whether it is finished, now or before."""
        if stage not in self.to_do():
            return True
        left = self.options.limit - (time.perf_counter() - self.started)
        if left < 10:
            return False
        print(f"--- {stage}", flush=True)
        given, work = self.options, self.options.work
        integrity = [sys.executable, str(Path(__file__)), "--integrity-of"]
        ways: dict[str, Callable[[], list[str]]] = {
            "generate": self._generate,
            "profile": lambda: self._eaftgate("profile", *self._profile(work / "profile")),
            "prune": lambda: self._eaftgate("prune", *self._prune()),
            "integrity": lambda: [*integrity, str(work / "pruned"), str(self.base)],
            "stream": lambda: self._eaftgate("profile", *self._profile(work / "streamed"), "--stream"),
        }
        if stage == "generate" and (given.model or (self.base / INDEX_FILE).exists()):
            self.known["stages"][stage] = {"finished": True, "seconds": 0.0}
            return True
        if stage == "generate":
            shutil.rmtree(self.base, ignore_errors=True)  # of a call that was killed meanwhile
        return self._watch(stage, ways[stage](), left)

    def _watch(self, stage: str, command: Sequence[str], left: float) -> bool:
        number = len(self.known["runs"])
        self.known["runs"].append({})
        before = [run for run in self.known["runs"][:number] if run["stage"] == stage]
        earlier = sum(run["seconds"] for run in before)
        log = self.options.work / f"{stage}.log"
        written = log.read_text(encoding="utf-8") if log.exists() else ""

        def beat(found: Watched) -> None:
            self.known["runs"][number] = {
                "stage": stage,
                "command": " ".join(command),
                "seconds": round(found.seconds, 1),
                "code": found.code,
                "interrupted_at_the_limit": found.stopped,
                "host_peak_GB": _gb(found.host_peak),
                "gpu_peak_GiB": round(found.gpu_peak / 2**30, 2),
                "torch_peak_GiB": {name: round(peak / 2**30, 2) for name, peak in found.torch_peak.items()},
            }
            runs = [*before, self.known["runs"][number]]
            lines = "".join(f"[{second + earlier:7.1f}] {line}\n" for second, line in found.lines)
            log.write_text(written + lines, encoding="utf-8")
            self.known["stages"][stage] = {
                "finished": found.code == 0,
                "seconds": round(earlier + found.seconds, 1),
                "calls": len(runs),
                "host_peak_GB": max(run["host_peak_GB"] for run in runs),
                "gpu_peak_GiB": max(run["gpu_peak_GiB"] for run in runs),
                "torch_peak_GiB": max((run["torch_peak_GiB"] for run in runs), key=lambda p: p.get("reserved", 0)),
                "time_left_said": time_left(written + lines),
            }
            self.tell()

        card = self.options.card_gb * 1e9 if stage == "stream" and self.options.device.startswith("cuda") else 0
        with smaller_card(int(card) or None):
            found = run_watched(command, limit=left, torch_file=self._torch_file(stage), beat=beat)
        beat(found)
        if found.code == 0 and stage == "stream":
            self.known["traces"] = differences(self.options.work / "profile", self.options.work / "streamed")
            print(json.dumps(self.known["traces"]), flush=True)
            self.known["stages"][stage]["finished"] = self.known["traces"]["equal"]
        return bool(self.known["stages"][stage]["finished"])

    def tell(self) -> None:
        done = [self.known["stages"].get(stage) for stage in STAGES[:4]]
        self.known["seconds_of_profile_prune_integrity"] = sum(stage["seconds"] for stage in done[1:] if stage)
        text = json.dumps(self.known, indent=2) + "\n"
        self._file.write_text(text, encoding="utf-8")
        (self.options.out / "shape.json").write_text(text, encoding="utf-8")
        for log in self.options.work.glob("*.log"):
            shutil.copyfile(log, self.options.out / log.name)

    def _torch_file(self, stage: str) -> Path:
        work: Path = self.options.work
        return work / f"torch-{stage}.json"

    def _generate(self) -> list[str]:
        given = self.options
        command = [sys.executable, str(ROOT / "benchmarks" / "generate_checkpoint.py"), "--shape", given.shape]
        command += ["--out", str(self.base), "--layers", str(given.layers or LAYERS[given.shape])]
        return command + (["--tokenizer", str(given.tokenizer)] if given.tokenizer else [])

    def _eaftgate(self, name: str, *arguments: str) -> list[str]:
        """With what torch takes written beside; `profile` on several GPUs by torchrun."""
        stage = "stream" if "--stream" in arguments else name
        file = self._torch_file(stage)
        for old in file.parent.glob(f"{file.name}*"):
            old.unlink()
        several = ["-m", "torch.distributed.run", f"--nproc-per-node={self.options.gpus}"]
        script = [str(ROOT / "benchmarks" / "watched.py"), str(file), name]
        return [sys.executable, *(several if name == "profile" and self.options.gpus > 1 else []), *script, *arguments]

    def _profile(self, out: Path) -> list[str]:
        given = self.options
        if "rows" not in self.known:
            self.known["rows"] = rows_of(self.base, given.packs, given.seq_len, given.blocks)
        rows, tokens = str(self.known["rows"]["rows"]), str(given.seq_len)
        asked = [str(self.base), "--packs", str(given.packs), "--num-rows", rows, "--seq-len", tokens]
        return [*asked, "--seed", str(SEED), *self._runs(), "--out", str(out)]

    def _prune(self) -> list[str]:
        given, work = self.options, self.options.work
        asked = [str(self.base), "--profile", str(work / "profile"), "--packs", str(given.packs)]
        asked += ["--method", given.method, "--keep-n", str(given.keep_n)]
        return [*asked, *self._runs(), "--out", str(work / "pruned")]

    def _runs(self) -> list[str]:
        given = self.options
        return ["--batch-size", str(given.batch_size), "--device", given.device, "--dtype", given.dtype]


def rows_of(base: Path, packs: Path, seq_len: int, blocks: int) -> dict[str, int]:
    """How many rows of UNION fill so many blocks, and what they hold."""
    from eaftgate.checkpoint.checkpoint import open_checkpoint
    from eaftgate.packs.blocks import build_blocks
    from eaftgate.packs.pack import UNION, named_packs
    from eaftgate.packs.tokenizer import load_tokenizer

    union, tokenizer = named_packs(packs, seed=SEED)[UNION], load_tokenizer(base)
    asked: dict[str, Any] = {"eos_id": tokenizer.eos_id, "seq_len": seq_len}
    asked["vocab_size"] = open_checkpoint(base).vocab_size
    some = union.head(40 * blocks * seq_len // 2048 + 100)  # more than enough of conversations that are not tiny
    made = build_blocks(some, tokenizer.backend, num_blocks=blocks, **asked)
    rows = len(made.identities)
    made = build_blocks(union.head(rows), tokenizer.backend, num_blocks=None, **asked)
    tokens = made.num_blocks * seq_len
    return {"rows": rows, "blocks": made.num_blocks, "tokens": tokens, "scored_tokens": made.num_scored}


def integrity(pruned: Path, base: Path) -> None:
    """What the gate's case of that name asks of a checkpoint; exits with 1 where it finds something."""
    from eaftgate.checkpoint.checkpoint import open_checkpoint
    from eaftgate.checkpoint.digest import checkpoint_digest
    from eaftgate.checkpoint.finite import check_finite
    from eaftgate.rewrite.integrity import check_artifact, compare_tensors
    from eaftgate.rewrite.manifest import read_manifest

    candidate, whole = open_checkpoint(pruned), open_checkpoint(base)
    check_finite(candidate)
    manifest = read_manifest(pruned)
    digest = checkpoint_digest(whole)
    problems = check_artifact(candidate, whole, manifest, base_digest=digest)
    problems = problems or compare_tensors(candidate, whole, manifest.keep)
    print("\n".join(problems) or f"{pruned} is its manifest's, and its tensors are the base's, bit for bit")
    sys.exit(1 if problems else 0)


def differences(profile: Path, streamed: Path) -> dict[str, Any]:
    """Columns of the traces that are not the same bit for bit, with how many values differ."""
    import numpy as np

    from eaftgate.profile.profile import open_profile
    from eaftgate.profile.trace import FORMS, TraceShard

    def column(shards: Sequence[TraceShard], name: str) -> Any:
        """Over all shards, which lie differently by each run: positions count from the first."""
        parts = [np.asarray(getattr(shard, name)) for shard in shards]
        if name in ("predicting_T", "own_T"):
            begins = np.cumsum([0, *(len(shard.expert_XLK) for shard in shards)])
            parts = [part + begin for part, begin in zip(parts, begins, strict=False)]
        return np.concatenate(parts)

    both = [open_profile(path).trace.shards for path in (profile, streamed)]
    apart: dict[str, Any] = {}
    for name in FORMS:
        one, other = (column(shards, name) for shards in both)
        if one.shape != other.shape or one.tobytes() != other.tobytes():
            apart[name] = int((one != other).sum()) if one.shape == other.shape else [one.shape, other.shape]
    return {"equal": not apart, "differ": apart}


def time_left(log: str) -> dict[str, Any]:
    """By what is worked on: what was said to be left over what was, the least and the most of it after a tenth of the
    work. A line ends what it names where it says so, or where another is named."""
    said: dict[str, list[tuple[float, int, float]]] = {}
    ends: dict[str, float] = {}
    for line in log.splitlines():
        second, text = float(line[1:8]), line[10:]
        if text.count(": done in "):
            ends[text.split(": ")[0]] = second
        elif found := _LEFT.match(text):
            left = sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+) (h|min|s)", found["left"]))
            said.setdefault(found["title"], []).append((second, int(found["share"]), left))
    told = {}
    for title, lines in said.items():
        if title in ends:
            ratios = [left / (ends[title] - at) for at, share, left in lines if share >= 10 and ends[title] - at > 5]
            told[title] = {"least": round(min(ratios), 2), "most": round(max(ratios), 2)} if ratios else None
    return told


def _gb(size: int) -> float:
    return round(size / 1e9, 2)


def _machine() -> dict[str, Any]:
    """Asked so that this process takes nothing of a GPU."""
    return {
        "gpus": gpus(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers")},
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--integrity-of"]:
        integrity(*map(Path, sys.argv[2:]))
    main()
