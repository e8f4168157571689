"""What a gate run is asked for, as given."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eaftgate.collect.collectors import DEFAULT
from eaftgate.gate.options import CandidateKind
from eaftgate.judge.policy import DEFAULT_GATES


@dataclass(frozen=True)
class GateOptions:
    """The command line of a gate run, as given."""

    results: Path
    base: str | None = None
    checkpoints: tuple[str, ...] = ()
    candidate_kind: CandidateKind = "pruned"
    packs: Path | None = None
    gates: Path = DEFAULT_GATES
    policy: str | None = None
    regime: str | None = None
    seq_lens: tuple[int, ...] = ()
    num_blocks: int | None = None
    batch_size: int | None = None
    seed: int | None = None
    seeds: tuple[int, ...] = ()
    strict_cells: bool = False
    sequential: bool = False
    allow_overlap: bool = False
    best_of: int | None = None
    whole_text: bool = False
    generate: int | None = None
    generate_tokens: int | None = None
    tasks: tuple[str, ...] = ()
    tasks_path: Path | None = None
    tasks_chat_template: bool = False
    collector: str = DEFAULT
    of_collector: Mapping[str, Any] = field(default_factory=dict)
    """Its own options, by name: those that were given."""
    device: str | None = None
    dtype: str | None = None

    @property
    def given_to_collector(self) -> dict[str, Any]:
        return {"device": self.device, "dtype": self.dtype, **self.of_collector}

    @property
    def embedded(self) -> bool:
        """Whether the run is of the embedded fixture: nothing was named to gate."""
        return self.base is None and not self.checkpoints and self.packs is None
