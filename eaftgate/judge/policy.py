"""near_lossless_gates.json: policies (what near-lossless means) and regimes (how much is evaluated)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from eaftgate.choices import listed
from eaftgate.errors import UserError
from eaftgate.judge.behaviours import BEHAVIOURS
from eaftgate.judge.metrics import METRICS, POINT_METRICS, Metric, Side
from eaftgate.packs.pack import UNION
from eaftgate.records import read_model

DEFAULT_GATES = Path(__file__).parent.parent / "near_lossless_gates.json"
DEFAULT_TOKENS = 1024
"""That a turn may have where the regime says nothing."""

SeqLen = Annotated[int, Field(ge=2)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Threshold(_Strict):
    """A limit, why it is there, and where it comes from."""

    value: float = Field(ge=0, allow_inf_nan=False)
    rationale: str = Field(min_length=1)
    origin: str = Field(min_length=1)


class PointThresholds(_Strict):
    """Inclusive limits on point estimates. For PPL the absolute and the relative limit must both hold."""

    max_abs_delta_ppl: Threshold
    max_rel_delta_ppl: Threshold
    max_abs_delta_cc_rate: Threshold
    max_abs_delta_mean_prob: Threshold
    max_js2d: Threshold


class PointPolicy(_Strict):
    rule: Literal["point"]
    description: str = ""
    thresholds: PointThresholds

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(POINT_METRICS)

    @property
    def deciding(self) -> frozenset[str]:
        return frozenset(POINT_METRICS)

    def deciding_in(self, *, primary_pack: bool, strict: bool) -> frozenset[str]:  # noqa: ARG002 (all, everywhere)
        """The metrics that make the verdict of a cell."""
        return self.deciding

    def must_decide(self, asked: Literal["all"] | Sequence[str]) -> tuple[str, ...]:  # noqa: ARG002 (none is silent)
        return ()

    @property
    def decides_in_every_pack(self) -> bool:
        return False


class IntervalRule(_Strict):
    """How one metric is judged. `side` worse: only a loss counts; both: a change in either direction.

    The margin is in the unit of the metric (eaftgate.judge.metrics): of ppl in nats a token (ln of the ratio of
    perplexities), of cc_ratio a ratio. A metric that counts events is underpowered below `min_base_events` of the base,
    and does not decide. `min_effective_documents` of a rule that needs more of them than the policy's evidence asks for
    all. `cells`: where a rule decides, in every pack's cells or in those of the regime's primary packs
    (under --strict-cells in all).
    """

    side: Side
    role: Literal["decides", "advisory"]
    margin: Threshold | None
    min_base_events: PositiveInt | None = None
    min_effective_documents: PositiveInt | None = None
    cells: Literal["primary", "every"] = "primary"

    @model_validator(mode="after")
    def _decides_by_a_margin(self) -> Self:
        if self.role == "decides" and self.margin is None:
            raise ValueError("a metric that decides needs a margin")
        return self


class Js2dSettings(_Strict):
    """Bins of js2d_corrected, frozen here because its value depends on them, and the number of swaps of its null."""

    p_bins: PositiveInt
    h_bins: PositiveInt
    swaps: Annotated[int, Field(ge=50)]


class SequentialSettings(_Strict):
    """Looks of --sequential as shares of the budget. js2d_corrected is judged at its own few, with alpha split."""

    looks: PositiveInt
    min_blocks: PositiveInt
    js2d_looks: list[Annotated[float, Field(gt=0, le=1)]] = Field(min_length=1)

    @model_validator(mode="after")
    def _ends_with_everything(self) -> Self:
        if self.js2d_looks != sorted(set(self.js2d_looks)) or self.js2d_looks[-1] != 1:
            raise ValueError("js2d_looks must ascend and end with 1")
        return self


class DocumentsSettings(_Strict):
    """What a rule's own turns (tokens, messages) must rest on before it may decide; below it is underpowered, and
    decides nothing. Documents' sizes are unequal: `min_effective_documents` is Kish's number, (sum n)^2 / sum n^2."""

    min_documents: PositiveInt
    max_document_share: float = Field(gt=0, le=1)
    min_effective_documents: PositiveInt


class EvidenceSettings(DocumentsSettings):
    """The same of tokens in blocks."""

    min_blocks: PositiveInt


class BehaviourPolicy(_Strict):
    """How what the models write by themselves is judged, where it was asked for: rules as those of tokens, by the same
    bounds and the same alpha. A rule decides over the turns of all packs together, under --strict-cells (or where its
    `cells` says every) over those of each pack, too."""

    evidence: DocumentsSettings
    rules: dict[str, IntervalRule]
    """By metric (eaftgate.judge.behaviours); one without a rule is not judged."""

    @field_validator("rules", mode="before")
    @classmethod
    def _of_known_metrics(cls, value: Any) -> Any:
        return _rules_of(BEHAVIOURS, value)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that are judged, in the order in which they are shown."""
        return tuple(name for name in BEHAVIOURS if name in self.rules)

    def must_decide(self, asked: Literal["all"] | Sequence[str]) -> tuple[str, ...]:
        """Those that may not be silent in a run, of a regime's."""
        deciding = self.deciding_in(union=True, strict=False)
        return tuple(name for name in self.metrics if name in deciding and (asked == "all" or name in asked))

    def deciding_in(self, *, union: bool, strict: bool) -> frozenset[str]:
        """The metrics that make the verdict over all packs' turns, or over one pack's."""
        return frozenset(
            name
            for name, rule in self.rules.items()
            if rule.role == "decides" and (union or strict or rule.cells == "every")
        )


class TasksPolicy(_Strict):
    """How tasks of lm-evaluation-harness are judged, where they were asked for: every metric of a task that is a mean
    over documents of figures from 0 to 1, by the margin of the task. Only a loss counts."""

    default: IntervalRule
    rules: dict[str, IntervalRule] = Field(default_factory=dict)
    """By task, or group, as it is asked for; one without a rule is judged by the default."""

    @model_validator(mode="before")
    @classmethod
    def _one_sided(cls, value: Any) -> Any:
        """A rule need not say its side. Raises ValueError for one of both."""
        if not isinstance(value, dict):
            return value
        rules = value.get("rules", {})
        told = {"default": value.get("default"), **(rules if isinstance(rules, dict) else {})}
        if two_sided := [
            name for name, of in told.items() if isinstance(of, dict) and of.get("side", "worse") != "worse"
        ]:
            raise ValueError(f"{two_sided[0]}: of a task only a loss counts, its side is worse")
        sided = {name: {"side": "worse", **of} if isinstance(of, dict) else of for name, of in told.items()}
        return {**value, "default": sided.pop("default"), **({"rules": sided} if isinstance(rules, dict) else {})}

    def rule_of(self, task: str) -> IntervalRule:
        return self.rules.get(task, self.default)


def _rules_of(metrics: Mapping[str, Metric], value: Any) -> Any:
    """Rules as a file has them; one that names no side has that of its metric. Raises ValueError for a name that is no
    metric's."""
    if not isinstance(value, dict):
        return value
    if unknown := [str(name) for name in value if name not in metrics]:
        raise ValueError(f"there is no metric {unknown[0]!r}: there are {listed(metrics, meant=unknown[0])}")
    return {
        name: {"side": metrics[name].side, **rule} if isinstance(rule, dict) else rule for name, rule in value.items()
    }


class IntervalPolicy(_Strict):
    """Non-inferiority: PASS when the one-sided bounds at level 1 - alpha lie inside the margin."""

    rule: Literal["interval"]
    description: str = ""
    alpha: float = Field(gt=0, lt=0.5)
    floor_factor: float = Field(ge=1)
    """A margin must be at least this many times what the noise floor does to its metric."""
    bounds: Literal["hall", "jackknife"] = "hall"
    """hall: of the clustered standard error, moved for skewness. jackknife: of a delete-one-cluster jackknife with
    effective degrees of freedom, the farther of those moved for skewness and the symmetric ones."""
    evidence: EvidenceSettings | None = None
    js2d: Js2dSettings
    sequential: SequentialSettings
    rules: dict[str, IntervalRule]
    """By metric; one without a rule is not judged."""
    behaviour: BehaviourPolicy | None = None
    tasks: TasksPolicy | None = None

    @field_validator("rules", mode="before")
    @classmethod
    def _of_known_metrics(cls, value: Any) -> Any:
        return _rules_of(METRICS, value)

    @model_validator(mode="after")
    def _can_decide(self) -> Self:
        if not self.deciding:
            raise ValueError("rules has no metric that decides")
        counting = [name for name, metric in METRICS.items() if metric.counts_events]
        if misplaced := [name for name, rule in self.rules.items() if rule.min_base_events and name not in counting]:
            raise ValueError(f"rules.{misplaced[0]}: min_base_events is for {', '.join(counting)} only")
        if self.evidence is None and (alone := [n for n, rule in self.rules.items() if rule.min_effective_documents]):
            raise ValueError(f"rules.{alone[0]}: min_effective_documents is for a policy that has evidence")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that are judged, in the order in which they are shown."""
        return tuple(name for name in METRICS if name in self.rules)

    @property
    def deciding(self) -> frozenset[str]:
        return frozenset(metric for metric, rule in self.rules.items() if rule.role == "decides")

    def must_decide(self, asked: Literal["all"] | Sequence[str]) -> tuple[str, ...]:
        """Those that may not be silent in a run, of a regime's; a policy that asks for no evidence is never silent."""
        silent = () if self.evidence is None else self.metrics
        return tuple(name for name in silent if name in self.deciding and (asked == "all" or name in asked))

    def deciding_in(self, *, primary_pack: bool, strict: bool) -> frozenset[str]:
        """The metrics that make the verdict of a cell, of a primary pack or of another."""
        everywhere = primary_pack or strict or not self.decides_in_every_pack
        return frozenset(name for name in self.deciding if everywhere or self.rules[name].cells == "every")

    @property
    def decides_in_every_pack(self) -> bool:
        """Whether some rules decide in the cells of all packs. Where none does, the verdict that such a cell shows is
        by all rules, and decides nothing."""
        return any(self.rules[name].cells == "every" for name in self.deciding)


Policy = Annotated[PointPolicy | IntervalPolicy, Field(discriminator="rule")]


class Primary(_Strict):
    packs: list[str] = Field(min_length=1)
    seq_lens: list[SeqLen] = Field(min_length=1)


class Regime(_Strict):
    """`num_blocks` is one number, or one per seq_len."""

    description: str = ""
    packs: Literal["all"] | list[str]
    primary: Primary
    seq_lens: list[SeqLen] = Field(min_length=1)
    num_blocks: PositiveInt | dict[SeqLen, PositiveInt]
    batch_size: PositiveInt
    must_decide: Literal["all"] | list[str] = []
    """Metrics of which every one must have decided in at least one cell, where the policy lets it decide and its class
    occurs; all of them, or those that are named."""
    generate: NonNegativeInt = 0
    """Turns of every pack that the models write by themselves; 0: none. For a policy with a block `behaviour`."""
    generate_tokens: PositiveInt = DEFAULT_TOKENS
    """Tokens that a turn may have."""
    keep_n: PositiveInt | None = None
    """Of the embedded checkpoint's regime: how many experts the run's own candidate keeps."""

    @field_validator("must_decide")
    @classmethod
    def _names_metrics(cls, value: Literal["all"] | list[str]) -> Literal["all"] | list[str]:
        known = METRICS | BEHAVIOURS
        if unknown := [name for name in value if value != "all" and name not in known]:
            raise ValueError(f"there is no metric {unknown[0]!r}: there are {listed(known, meant=unknown[0])}")
        return value

    @model_validator(mode="after")
    def _decides_on_what_it_evaluates(self) -> Self:
        if isinstance(self.num_blocks, dict) and (missing := set(self.seq_lens) - set(self.num_blocks)):
            raise ValueError(f"num_blocks has no entry for seq_len {sorted(missing)}")
        if missing := set(self.primary.seq_lens) - set(self.seq_lens):
            raise ValueError(f"primary seq_lens {sorted(missing)} are not among seq_lens")
        if self.packs != "all" and (absent := set(self.primary.packs) - set(self.packs)):
            raise ValueError(f"primary packs {sorted(absent)} are not among packs")
        return self

    def blocks_for(self, seq_len: int) -> int:
        """Blocks of a cell; for a seq_len the regime does not name, as many as keep its largest token budget."""
        if isinstance(self.num_blocks, int):
            return self.num_blocks
        if seq_len in self.num_blocks:
            return self.num_blocks[seq_len]
        return max(1, max(length * blocks for length, blocks in self.num_blocks.items()) // seq_len)


class Gates(_Strict):
    default: str
    policies: dict[str, Policy] = Field(min_length=1)
    regimes: dict[str, Regime] = Field(min_length=1)

    @model_validator(mode="after")
    def _default_exists(self) -> Self:
        if self.default not in self.policies:
            raise ValueError(f"default policy {self.default!r} is not among policies")
        return self

    def policy(self, name: str | None) -> tuple[str, PointPolicy | IntervalPolicy]:
        """The named policy, or the default one. Raises UserError for a name that is none."""
        name = self.default if name is None else name
        if name not in self.policies:
            raise UserError(f"--policy is {name!r}: the gates file has {listed(self.policies, meant=name)}")
        return name, self.policies[name]

    def regime(self, name: str) -> Regime:
        if name not in self.regimes:
            raise UserError(f"--regime is {name!r}: the gates file has {listed(self.regimes, meant=name)}")
        return self.regimes[name]


def load_gates(path: Path = DEFAULT_GATES) -> Gates:
    """Read and validate a gates file. Raises UserError naming the first thing that is wrong with it."""
    return read_model(path, Gates, what="gates file", remedy="correct it or give another with --gates")


def is_primary(regime: Regime, pack: str, seq_len: int, *, any_seq_len: bool) -> bool:
    """Whether a cell decides. `any_seq_len`: the user chose seq_lens of which the regime names none as primary."""
    return pack in regime.primary.packs and (any_seq_len or seq_len in regime.primary.seq_lens)


def pack_selection(regime: Regime, available: list[str]) -> list[str]:
    """The packs of a regime, UNION first. Raises UserError when one is not there."""
    wanted = [UNION, *available] if regime.packs == "all" else regime.packs
    if missing := [name for name in [*wanted, *regime.primary.packs] if name != UNION and name not in available]:
        raise UserError(f"the regime asks for pack {missing[0]}, which is not among {', '.join(available)}")
    return wanted
