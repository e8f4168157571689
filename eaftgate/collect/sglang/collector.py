"""The SGLang collector: MXFP4 experts as they serve, statistics from inside the engine."""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eaftgate import __version__
from eaftgate.checkpoint.checkpoint import CONFIG_FILE
from eaftgate.checkpoint.config import read_config
from eaftgate.collect.collection import TokenStats, check_reference, concatenate
from eaftgate.collect.collector import ScoredModel
from eaftgate.collect.sglang import spool
from eaftgate.collect.sglang.engine import Engine
from eaftgate.errors import UserError
from eaftgate.families.registry import family_of
from eaftgate.packs.blocks import Blocks
from eaftgate.strict_json import read_object

if TYPE_CHECKING:
    from eaftgate.collect.sglang.writer import SglangWriter

CALL_TOKENS = 1 << 16
"""Tokens handed over at a time; two such lists are with the engine."""
OTHER_BATCHES = 8
"""The noise floor hands over that part of them."""
_AHEAD = 2
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class EngineOptions:
    """How the engine runs, besides what a collector of log-probabilities leaves no choice in."""

    tp: int = 1
    dp: int = 1
    moe_runner_backend: str = "triton_kernel"
    attention_backend: str = "triton"
    prefill_tokens: int = 1 << 14
    memory_fraction: float = 0.6

    def arguments(self) -> dict[str, Any]:
        """sglang.Engine's. Prefill only, nothing cached between blocks, nothing sampled."""
        return {
            "skip_tokenizer_init": True,
            "dtype": "bfloat16",
            "tp_size": self.tp,
            "dp_size": self.dp,
            "attention_backend": self.attention_backend,
            "moe_runner_backend": self.moe_runner_backend,
            "sampling_backend": "pytorch",
            "grammar_backend": "none",
            "disable_radix_cache": True,
            "disable_cuda_graph": True,
            "disable_custom_all_reduce": True,  # for small messages; with it, a sum would depend on the batch's size
            "chunked_prefill_size": self.prefill_tokens,
            "max_prefill_tokens": self.prefill_tokens,
            "mem_fraction_static": self.memory_fraction,
            "random_seed": 0,
            "log_level": "warning",
        }

    def writing_arguments(self, places: int) -> dict[str, Any]:
        """Of an engine that writes `places` conversations at a time: decoding by CUDA graphs, and what was written is
        kept for what follows it."""
        sizes = [size for size in _GRAPHS if size < places]
        return self.arguments() | {
            "disable_radix_cache": False,
            "disable_cuda_graph": False,
            "disable_prefill_cuda_graph": True,
            "cuda_graph_bs_decode": [*sizes, places],
            "cuda_graph_max_bs_decode": places,
            "max_running_requests": places,
        }


_GRAPHS = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56)
_RESERVED_TOKENS = 16


def model_arguments(path: Path) -> dict[str, Any]:
    """sglang.Engine's that depend on the checkpoint's config: what SGLang reads of it and this one leaves to a default,
    and room for blocks as long as the model's context, of which SGLang keeps a few tokens to itself."""
    file = path / "config.json"
    config = read_object(file, what="the model configuration")
    needed = family_of(config, where=file).sglang_defaults
    missing = {key: value for key, value in needed.items() if key not in config}
    arguments: dict[str, Any] = {}
    if missing:
        arguments["json_model_override_args"] = json.dumps(missing)
    if "max_position_embeddings" in config:
        arguments["context_length"] = config["max_position_embeddings"] + _RESERVED_TOKENS
    return arguments


def vocab_size_of(path: Path) -> int:
    """The model's, as its config has it."""
    file = path / CONFIG_FILE
    _, dimensions = read_config(read_object(file, what="the model configuration"), where=file)
    return dimensions.vocab_size


_Key = tuple[Path, str, int | None]


class Engines:
    """The engine of a process, a Scorer: one model's at a time, because two do not fit on a GPU. What an engine prints
    goes into a file in `logs`."""

    def __init__(self, options: EngineOptions, logs: Path) -> None:
        self.options, self._logs = options, logs
        self._running: dict[_Key, Engine] = {}
        self._refusals: dict[_Key, str] = {}

    def collector(self, model: ScoredModel, *, other_batches: bool = False) -> "SglangCollector":
        """An engine batches by itself; handed less at a time, it makes other batches."""
        return SglangCollector(self, model, call_tokens=CALL_TOKENS // (OTHER_BATCHES if other_batches else 1))

    def writer(self, model: ScoredModel) -> "SglangWriter":
        from eaftgate.collect.sglang.writer import SglangWriter

        return SglangWriter(self, model, vocab_size=vocab_size_of(model.path))

    def engine_of(self, model: ScoredModel, *, places: int | None = None) -> Engine:
        """Booted, if it is not running; one that scores, or with `places` one that writes. One that did not boot is not
        tried again: a gate asks in every case, and a boot takes a minute. Raises UserError when it does not boot."""
        key = (model.path, model.digest, places)
        if key in self._refusals:
            raise UserError(self._refusals[key])
        if key not in self._running:
            self.close()
            if importlib.util.find_spec("sglang") is None:
                raise UserError(
                    "--collector=sglang needs SGLang: pip install 'eaftgate[sglang]', or give --endpoint URL"
                )
            log = self._logs / f"engine-{model.name}-{os.getpid()}.log"  # the next boot must not overwrite it
            options = self.options
            arguments = options.arguments() if places is None else options.writing_arguments(places)
            arguments |= model_arguments(model.path)
            try:
                self._running[key] = Engine(model.path, arguments, log, is_mxfp4=model.is_mxfp4)
            except UserError as error:
                self._refusals[key] = str(error)
                raise
        return self._running[key]

    def forget(self) -> None:
        """The engine has ended by itself."""
        self._running.clear()

    def close(self) -> None:
        while self._running:
            self._running.popitem()[1].close()


def software() -> dict[str, Any]:
    """What runs an engine, for the settings of what it gives."""
    import torch

    try:
        version = importlib.metadata.version("sglang")
    except importlib.metadata.PackageNotFoundError:
        version = None
    return {
        "eaftgate": __version__,
        "sglang": version,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


class SglangCollector:
    """`call_tokens` is the batch: what the gate calls one does not matter."""

    def __init__(self, engines: Engines, model: ScoredModel, *, call_tokens: int = CALL_TOKENS) -> None:
        self._engines, self._model, self._call_tokens = engines, model, call_tokens

    def settings(self) -> dict[str, Any]:
        options = {"call_tokens": self._call_tokens, **self._engines.options.arguments()}
        return {"collector": "sglang", **software(), **options}

    def batches(self, blocks: Blocks, first_block: int) -> Iterator[tuple[int, TokenStats]]:
        engine = self._engines.engine_of(self._model)
        size = max(1, self._call_tokens // blocks.seq_len)
        starts = list(range(first_block, blocks.num_blocks, size))
        root = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        directory = Path(tempfile.mkdtemp(prefix=f"{spool.MARK}-", dir=root))
        submitted = answered = 0
        try:
            for place, start in enumerate(starts):
                while submitted < min(place + 1 + _AHEAD, len(starts)):
                    self._submit(engine, blocks, starts[submitted], size, directory)
                    submitted += 1
                count = engine.wait()
                answered += 1
                yield count, self._take(blocks, start, count, directory)
        finally:
            try:
                for _ in range(submitted - answered):  # an abandoned run leaves the engine usable
                    engine.wait()
            except UserError:  # it ended, and said so where it was waited for
                self._engines.forget()
            shutil.rmtree(directory, ignore_errors=True)

    @staticmethod
    def _submit(engine: Engine, blocks: Blocks, start: int, size: int, directory: Path) -> None:
        engine.submit(
            [
                spool.write_request(
                    directory / f"{block:09d}",
                    blocks.token_ids_BS[block],
                    blocks.scored_BS[block],
                    blocks.prompts_BS[block],
                )
                for block in range(start, min(start + size, blocks.num_blocks))
            ]
        )

    @staticmethod
    def _take(blocks: Blocks, start: int, count: int, directory: Path) -> TokenStats:
        found = []
        for block in range(start, start + count):
            token_T = blocks.token_ids_BS[block][blocks.scored_BS[block]]
            found.append(spool.take_answer(directory / f"{block:09d}", len(token_T)))
            check_reference(found[-1], token_T, where=f"pack {blocks.pack}, seq_len {blocks.seq_len}, block {block}")
        return concatenate(found)
