"""near_lossless_gates.json: policies (what near-lossless means) and regimes (how much is evaluated)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from eaftgate.errors import UserError
from eaftgate.files import read_json
from eaftgate.packs.pack import UNION

DEFAULT_GATES = Path(__file__).parent.parent / "near_lossless_gates.json"

SeqLen = Annotated[int, Field(ge=2)]
METRICS = ("ppl", "mean_p", "cc_rate", "js2d")


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


class Primary(_Strict):
    packs: list[str] = Field(min_length=1)
    seq_lens: list[SeqLen] = Field(min_length=1)


class Regime(_Strict):
    """`num_blocks` is one number, or one per seq_len. `advisory_metrics` are shown and do not decide."""

    description: str = ""
    packs: Literal["all"] | list[str]
    primary: Primary
    seq_lens: list[SeqLen] = Field(min_length=1)
    num_blocks: PositiveInt | dict[SeqLen, PositiveInt]
    batch_size: PositiveInt
    advisory_metrics: list[Literal["ppl", "mean_p", "cc_rate", "js2d"]] = []

    @model_validator(mode="after")
    def _decides_on_what_it_evaluates(self) -> "Regime":
        if isinstance(self.num_blocks, dict) and (missing := set(self.seq_lens) - set(self.num_blocks)):
            raise ValueError(f"num_blocks has no entry for seq_len {sorted(missing)}")
        if missing := set(self.primary.seq_lens) - set(self.seq_lens):
            raise ValueError(f"primary seq_lens {sorted(missing)} are not among seq_lens")
        if self.packs != "all" and (absent := set(self.primary.packs) - set(self.packs)):
            raise ValueError(f"primary packs {sorted(absent)} are not among packs")
        if set(self.advisory_metrics) >= set(METRICS):
            raise ValueError("advisory_metrics leaves no metric that decides")
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
    policies: dict[str, PointPolicy] = Field(min_length=1)
    regimes: dict[str, Regime] = Field(min_length=1)

    @model_validator(mode="after")
    def _default_exists(self) -> "Gates":
        if self.default not in self.policies:
            raise ValueError(f"default policy {self.default!r} is not among policies")
        return self

    def policy(self, name: str | None) -> tuple[str, PointPolicy]:
        """The named policy, or the default one. Raises UserError for a name that is none."""
        name = name or self.default
        if name not in self.policies:
            raise UserError(f"--policy is {name!r}: the gates file has {', '.join(self.policies)}")
        return name, self.policies[name]

    def regime(self, name: str) -> Regime:
        if name not in self.regimes:
            raise UserError(f"--regime is {name!r}: the gates file has {', '.join(self.regimes)}")
        return self.regimes[name]


def load_gates(path: Path = DEFAULT_GATES) -> Gates:
    """Read and validate a gates file. Raises UserError naming the first thing that is wrong with it."""
    try:
        return Gates.model_validate(read_json(path, what="gates file"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise UserError(f"gates file {path} is invalid at {where}: {first['msg']}") from None


def is_primary(regime: Regime, pack: str, seq_len: int, *, any_seq_len: bool) -> bool:
    """Whether a cell decides. `any_seq_len`: the user chose seq_lens of which the regime names none as primary."""
    return pack in regime.primary.packs and (any_seq_len or seq_len in regime.primary.seq_lens)


def pack_selection(regime: Regime, available: list[str]) -> list[str]:
    """The packs of a regime, UNION first. Raises UserError when one is not there."""
    wanted = [UNION, *available] if regime.packs == "all" else regime.packs
    if missing := [name for name in [*wanted, *regime.primary.packs] if name != UNION and name not in available]:
        raise UserError(f"the regime asks for pack {missing[0]}, which is not among {', '.join(available)}")
    return wanted
