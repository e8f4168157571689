"""What a run is going to need, as far as that is known before: from the base's headers, the regime and a rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.checkpoint.remote import describe_checkpoint
from eaftgate.errors import UserError
from eaftgate.gate.planning import DEFAULT_REGIME
from eaftgate.judge.policy import DEFAULT_GATES, Regime, load_gates
from eaftgate.profile.profile import PROFILE_FILE, ProfileDescription
from eaftgate.progress import duration
from eaftgate.recipes.recipe import Section
from eaftgate.records import read_model
from eaftgate.report.cost import FLOOR_RUNS, MODELS_GATED, Cost, estimate_cost
from eaftgate.rewrite.keep_n import resolve_keep_n
from eaftgate.stages.stage import GATE, PRUNE, Layout, base_of, values_of


@dataclass(frozen=True)
class Forecast:
    """Bytes and tokens. `disk_bytes` are those of the checkpoints that are made and of the no-op copy, which lies there
    while the gate runs; `rate` is in tokens a second, None where nobody has measured it."""

    keep_ns: tuple[int, ...]
    costs: tuple[Cost, ...]
    profile_memory_bytes: int
    disk_bytes: int
    gate_tokens: int
    rate: float | None
    rate_from: str

    @property
    def gate_seconds(self) -> float | None:
        return None if self.rate is None else self.gate_tokens / self.rate


def local_base(recipe: Path, sections: Mapping[str, Section]) -> Checkpoint | None:
    """None for one that has to be downloaded first."""
    base = base_of(recipe, sections)
    return open_checkpoint(base) if Path(base).is_dir() else None


def known_base(recipe: Path, sections: Mapping[str, Section]) -> Checkpoint:
    """For its sizes alone; of one on the Hub no weights are downloaded. Raises UserError where they are not known."""
    return local_base(recipe, sections) or describe_checkpoint(base_of(recipe, sections))


def kept_of(base: Checkpoint, sections: Mapping[str, Section]) -> list[int]:
    """How many experts the candidates keep; nothing where keep sets say it. Raises UserError for a number that the base
    does not allow: prune would only say so when the profile is there."""
    prune = sections.get(PRUNE, {})
    given = prune.get("allow_any_keep_n")
    allow_any = given is not None and str(given.value).lower() == "true"
    size = (base.num_experts, base.top_k)
    kept = [resolve_keep_n(*size, int(text), allow_any=allow_any) for text in values_of(prune, "keep_n")]
    return kept or [resolve_keep_n(*size, None, float(text)) for text in values_of(prune, "keep_frac")]


def forecast_of(
    base: Checkpoint, sections: Mapping[str, Section], layout: Layout, rate: float | None
) -> "Forecast | None":
    """None where it is not known how many experts are kept."""
    kept, gate = kept_of(base, sections), sections.get(GATE, {})
    if not kept:
        return None
    gates = load_gates(next(map(Path, values_of(gate, "gates")), DEFAULT_GATES))
    regime = gates.regime(next(iter(values_of(gate, "regime")), DEFAULT_REGIME))
    if given := next(iter(values_of(gate, "num_blocks")), None):
        regime = regime.model_copy(update={"num_blocks": int(given)})
    packs = next(map(Path, values_of(gate, "packs")), layout.split / "gate")
    return forecast(base, kept, regime, packs if packs.is_dir() else None, rate=rate, profile=layout.out / "profile")


def forecast(
    base: Checkpoint, keep_ns: Sequence[int], regime: Regime, packs: Path | None, *, rate: float | None, profile: Path
) -> Forecast:
    """`packs` are the gate's, where they are there already; `profile` is that of the run, whose speed is taken where no
    `rate` is given."""
    source = "--rate"
    if rate is None:
        rate, source = _profiled(profile), f"{profile}: the profile's"
    costs = tuple(estimate_cost(base, keep_n, regime, packs, rate or 1.0) for keep_n in keep_ns)
    floor = _floor_tokens(regime)
    one_model = (costs[0].gate_tokens - floor) // MODELS_GATED
    return Forecast(
        keep_ns=tuple(keep_ns),
        costs=costs,
        profile_memory_bytes=costs[0].profile_memory_bytes,
        disk_bytes=base.nbytes + sum(cost.pruned_bytes for cost in costs),
        gate_tokens=one_model * (1 + len(keep_ns)) + floor,
        rate=rate,
        rate_from=source,
    )


def forecast_lines(found: Forecast) -> list[str]:
    sizes = ", ".join(
        f"{decimal(cost.pruned_bytes)} with {keep_n}" for keep_n, cost in zip(found.keep_ns, found.costs, strict=True)
    )
    time = (
        "how long that takes is not known: no speed has been measured, --rate TOKENS_A_SECOND says it"
        if found.gate_seconds is None
        else f"about {duration(found.gate_seconds)} at {found.rate:,.0f} tokens/s ({found.rate_from})"
    )
    return [
        f"base {decimal(found.costs[0].base_bytes)}; {sizes} experts a layer",
        f"disk: {decimal(found.disk_bytes)} of checkpoints, a copy of the base while the gate runs among them; "
        "profile and collections come on top",
        f"memory: weights of {decimal(found.profile_memory_bytes)} for profiling (bfloat16, on one device), or "
        f"{decimal(found.costs[0].streamed_memory_bytes)} layer by layer where that is too much; of as much for a "
        "search, whose layers may be on several GPUs; of "
        f"{decimal(found.costs[0].base_bytes)} for scoring as they are",
        f"gate: {found.gate_tokens / 1e6:.1f} M tokens; {time}",
    ]


def _floor_tokens(regime: Regime) -> int:
    lengths = sum(length * regime.blocks_for(length) for length in regime.primary.seq_lens)
    return FLOOR_RUNS * lengths * len(regime.primary.packs)


def _profiled(profile: Path) -> float | None:
    """Tokens a second of the profile that is there, which ran on this machine or one like it."""
    if not (profile / PROFILE_FILE).is_file():
        return None
    try:
        told = read_model(profile / PROFILE_FILE, ProfileDescription, what="profile", remedy="profile again")
    except UserError:
        return None
    if told.speed is not None:
        return None if told.speed.streamed else told.speed.tokens_per_second
    return None if not told.seconds else told.num_blocks * told.seq_len / told.seconds
