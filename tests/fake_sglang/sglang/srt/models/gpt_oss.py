"""The base class that eaftgate's model class extends: here, transformers' model behind SGLang's attributes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from eaftgate.model.load import default_settings, load_model


class GptOssForCausalLM:
    def __init__(self, model_path: str) -> None:
        self._whole = load_model(Path(model_path), default_settings(device="cpu"))
        self.config = SimpleNamespace(vocab_size=len(self._whole.head_VD))
        self.lm_head = SimpleNamespace(weight=self._whole.head_VD)
        self.pp_group = SimpleNamespace(is_last_rank=True)

    def model(self, _ids: torch.Tensor, _positions: Any, forward_batch: Any, *_: Any, **__: Any) -> torch.Tensor:
        """Hidden states of the tokens of this pass, each after its own prefix."""
        pieces = []
        for whole, start in zip(forward_batch.whole, forward_batch.extend_prefix_lens_cpu, strict=True):
            pieces.append(self._whole.hidden_states(torch.tensor([whole]))[0, start:])
        return torch.cat(pieces)

    def logits_processor(self, *_: Any) -> None:
        return None
