"""A stand-in for SGLang with its real interfaces towards eaftgate: an Engine that batches and chunks requests as it
likes, and calls the model class that the external package registers, on a CPU. It loads the model for the first
request: a test that only boots it does not wait for that.

What it shows: that blocks come back whole, in order and with the right numbers, however they were cut up. What it
cannot show: that SGLang still has these interfaces; that takes a GPU (benchmarks/h200_sglang.py).
"""

import asyncio
import importlib
import json
import os
import pkgutil
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FORWARD_TOKENS = 100
"""Of a forward pass: blocks of more are chunked, smaller ones share a pass."""


def external_classes(package: str) -> dict[str, Any]:
    """What the package's modules hand out, by name, as sglang.srt.models.registry collects it."""
    classes: dict[str, Any] = {}
    for _, name, is_package in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        assert not is_package
        entry = getattr(importlib.import_module(name), "EntryClass", [])
        for found in entry if isinstance(entry, list) else [entry]:
            assert found.__name__ not in classes, f"Duplicated model implementation for {found.__name__}"
            classes[found.__name__] = found
    return classes


class Engine:
    def __init__(self, model_path: str, **arguments: Any) -> None:
        if arguments.get("log_level") != "warning":
            raise RuntimeError("RuntimeError: unexpected arguments")
        config = json.loads((Path(model_path) / "config.json").read_text(encoding="utf-8"))
        config |= json.loads(arguments.get("json_model_override_args", "{}"))
        if "swiglu_limit" not in config:
            raise AttributeError("AttributeError: 'GptOssConfig' object has no attribute 'swiglu_limit'")
        self.server_args = SimpleNamespace(
            moe_runner_backend=arguments["moe_runner_backend"], attention_backend=arguments["attention_backend"]
        )
        self._context_length = arguments["context_length"]
        if not any(Path(model_path).glob("*.safetensors")):
            raise RuntimeError(f"RuntimeError: Cannot find any model weights with `{model_path}`")
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self._model_path, self._architecture = model_path, config["architectures"][0]

    @cached_property
    def _model(self) -> Any:
        classes = external_classes(os.environ["SGLANG_EXTERNAL_MODEL_PACKAGE"])
        return classes[self._architecture](self._model_path)

    async def async_generate(
        self, *, input_ids: list[list[int]], sampling_params: Any, rid: list[str] | None = None
    ) -> list[Any]:
        await asyncio.sleep(0)
        if rid is None:
            return [self._written(ids, sampling_params) for ids in input_ids]
        assert sampling_params["max_new_tokens"] == 0
        if longest := [len(ids) for ids in input_ids if len(ids) >= self._context_length]:
            raise ValueError(f"The input ({longest[0]} tokens) is longer than the model's context length.")
        passes: list[list[tuple[str, int, list[int], list[int]]]] = [[]]
        room = FORWARD_TOKENS
        for name, ids in zip(rid, input_ids, strict=True):
            start = 0
            while start < len(ids):
                taken = ids[start : start + room]
                passes[-1].append((name, start, taken, ids[: start + len(taken)]))
                start, room = start + len(taken), room - len(taken)
                if not room:
                    passes.append([])
                    room = FORWARD_TOKENS
        import torch

        for requests in filter(None, passes):
            batch = SimpleNamespace(
                rids=[name for name, *_ in requests],
                extend_prefix_lens_cpu=[start for _, start, *_ in requests],
                extend_seq_lens_cpu=[len(taken) for *_, taken, _ in requests],
                forward_mode=SimpleNamespace(is_extend=lambda: True),
                whole=[whole for *_, whole in requests],
            )
            ids_N = torch.tensor([token for *_, taken, _ in requests for token in taken])
            self._model.forward(ids_N, ids_N, batch)
        return [{} for _ in rid]

    def _written(self, ids: list[int], sampling: Any) -> dict[str, Any]:
        """Greedy, and it stops at every token that it was told to."""
        import numpy as np

        from eaftgate.collect.token_stats import linear_logits
        from eaftgate.model.greedy import write_greedily

        assert sampling["temperature"] == 0
        whole, stops = self._model._whole, sampling["stop_token_ids"]
        [(_, found)] = write_greedily(
            whole,
            [np.array(ids, np.int32)],
            ends=lambda text: text[-1] in stops,
            max_tokens=sampling["max_new_tokens"],
            places=1,
            logits=linear_logits(whole.head_VD),
        )
        finish = {"type": "stop", "matched": found[-1]} if found[-1] in stops else {"type": "length"}
        return {"output_ids": found, "meta_info": {"finish_reason": finish, "id": "x"}}

    def shutdown(self) -> None:
        self.loop.stop()
