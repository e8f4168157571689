"""The transformers collector: teacher-forced scoring on a CPU or one CUDA GPU."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eaftgate.collect.collection import TOP_K, TokenStats
from eaftgate.collect.collector import ScoredModel
from eaftgate.collect.token_stats import linear_logits, token_stats
from eaftgate.errors import UserError
from eaftgate.families.model import LentModel, MoeModel, WritingModel
from eaftgate.model.foreign import loaders
from eaftgate.model.greedy import write_greedily
from eaftgate.model.load import ModelSettings, generation_config, load_model
from eaftgate.packs.blocks import Blocks
from eaftgate.packs.turns import Ending, IntArray

PLACES = 64
"""Turns that are written at a time."""
PLACE_TOKENS = 1 << 18
"""Of all of them together: 24 kB each at 20B, 6 GB."""


class LoadedModel:
    """The model of a process: one at a time, because two do not fit on a GPU."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[Path, str, ModelSettings], MoeModel] = {}

    def get(self, path: Path, digest: str, settings: ModelSettings) -> MoeModel:
        key = (path, digest, settings)
        if key not in self._loaded:
            self.unload()
            self._loaded[key] = load_model(path, settings)
        return self._loaded[key]

    def unload(self) -> None:
        """Give the memory back."""
        self._loaded.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class ModelScorer:
    """A Scorer that runs the models in this process."""

    def __init__(self, settings: ModelSettings, *, batch_size: int) -> None:
        self._settings, self._batch_size = settings, batch_size
        self._loaded = LoadedModel()

    def collector(self, model: ScoredModel, *, other_batches: bool = False) -> "TransformersCollector":
        size = max(2, self._batch_size // 2) if other_batches else self._batch_size
        return TransformersCollector(
            self._loaded, model.path, model.digest, self._settings, batch_size=size, foreign=model.foreign
        )

    def writer(self, model: ScoredModel) -> "TransformersWriter":
        return TransformersWriter(self._loaded, model.path, model.digest, self._settings, foreign=model.foreign)

    def lent_settings(self, model: ScoredModel) -> dict[str, Any]:
        described = {**self._settings.describe(), **loaders(model.foreign)}
        return {**described, "attention": "of transformers", "batch_size": self._batch_size}

    @contextmanager
    def lent(self, model: ScoredModel) -> Iterator[Any]:
        loaded = self._loaded.get(model.path, model.digest, self._settings)
        if not isinstance(loaded, LentModel):
            raise UserError(f"{model.path} is of a family whose models are scored only: leave out --tasks")
        try:
            with loaded.lent() as module, torch.inference_mode():
                module.generation_config = generation_config(model.path)
                yield module
        except torch.OutOfMemoryError:
            raise UserError(f"{self._settings.device} ran out of memory: lower --batch-size") from None

    def close(self) -> None:
        self._loaded.unload()


class TransformersCollector:
    """`loaded` is shared by the collectors of a process; `foreign` is the format of weights of which the family knows
    nothing."""

    def __init__(
        self,
        loaded: LoadedModel,
        path: Path,
        digest: str,
        settings: ModelSettings,
        *,
        batch_size: int,
        foreign: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"--batch-size is {batch_size}: it must be at least 1")
        self._loaded, self._path, self._digest = loaded, path, digest
        self._settings, self._batch_size, self._foreign = settings, batch_size, foreign

    def settings(self) -> dict[str, Any]:
        described = {**self._settings.describe(), **loaders(self._foreign)}
        return {"collector": "transformers", "batch_size": self._batch_size, **described}

    def batches(self, blocks: Blocks, first_block: int) -> Iterator[tuple[int, TokenStats]]:
        model = self._loaded.get(self._path, self._digest, self._settings)
        for start in range(first_block, blocks.num_blocks, self._batch_size):
            stop = min(start + self._batch_size, blocks.num_blocks)
            try:
                yield (
                    stop - start,
                    score(
                        model,
                        blocks.token_ids_BS[start:stop],
                        blocks.scored_BS[start:stop],
                        blocks.prompts_BS[start:stop],
                    ),
                )
            except torch.OutOfMemoryError:
                raise UserError(
                    f"{self._settings.device} ran out of memory scoring {stop - start} blocks of {blocks.seq_len} "
                    "tokens: lower --batch-size"
                ) from None


class TransformersWriter:
    """See `writer.Writer`. `places` conversations are written at a time, or as many as leave keys and values within a
    fixed share of memory: a longer text has fewer beside it, whatever the machine."""

    def __init__(
        self,
        loaded: LoadedModel,
        path: Path,
        digest: str,
        settings: ModelSettings,
        *,
        places: int = PLACES,
        foreign: str | None = None,
    ) -> None:
        self._loaded, self._path, self._digest = loaded, path, digest
        self._settings, self._places, self._foreign = settings, places, foreign

    def settings(self) -> dict[str, Any]:
        described = {**self._settings.describe(), **loaders(self._foreign)}
        return {"writer": "transformers", "places": self._places, **described}

    def write(self, prompts: Sequence[IntArray], *, ending: Ending, max_tokens: int) -> Iterator[tuple[int, list[int]]]:
        model = self._loaded.get(self._path, self._digest, self._settings)
        if not isinstance(model, WritingModel):
            raise UserError(f"{self._path} is of a family whose models are scored only: leave out --generate")
        longest = max(map(len, prompts), default=0) + max_tokens
        places = max(1, min(self._places, PLACE_TOKENS // longest))
        logits = linear_logits(model.head_VD)
        try:
            yield from write_greedily(
                model, prompts, ends=ending.ends, max_tokens=max_tokens, places=places, logits=logits
            )
        except torch.OutOfMemoryError:
            raise UserError(
                f"{self._settings.device} ran out of memory writing {places} turns of up to {longest} tokens: lower "
                "--generate-tokens, or take another collector"
            ) from None


@torch.inference_mode()
def score(
    model: MoeModel,
    token_ids_BS: np.ndarray[Any, Any],
    scored_BS: np.ndarray[Any, Any],
    prompts_BS: np.ndarray[Any, Any] | None = None,
) -> TokenStats:
    """Token statistics of the scored tokens of a batch, in block order; `prompts_BS`, those of them that are not the
    assistant's, change not a bit of the others'."""
    ids_BS = torch.from_numpy(token_ids_BS.astype(np.int64)).to(model.device)
    return scored_stats(model, model.hidden_states(ids_BS), token_ids_BS, scored_BS, prompts_BS)


@torch.inference_mode()
def scored_stats(
    model: MoeModel,
    hidden_BSD: torch.Tensor,
    token_ids_BS: np.ndarray[Any, Any],
    scored_BS: np.ndarray[Any, Any],
    prompts_BS: np.ndarray[Any, Any] | None = None,
) -> TokenStats:
    """The same from the last hidden states of a batch, normalised."""
    # Flat positions of the scored tokens; the state one position before predicts them.
    position_T = np.flatnonzero(scored_BS)
    target_T = torch.from_numpy(token_ids_BS.ravel()[position_T].astype(np.int64)).to(hidden_BSD.device)
    hidden_TD = hidden_BSD.flatten(0, 1)[torch.from_numpy(position_T - 1).to(hidden_BSD.device)]
    apart_T = None if prompts_BS is None else torch.from_numpy(prompts_BS.ravel()[position_T]).to(hidden_BSD.device)
    columns = token_stats(hidden_TD, target_T, model.head_VD, top_k=TOP_K, apart_T=apart_T)
    return TokenStats(*(column.cpu().numpy() for column in columns))
