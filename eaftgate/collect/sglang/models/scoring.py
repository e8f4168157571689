"""SGLang's models with token statistics computed where the logits are: in the engine, on its GPU.

Asked for the top 20 log-probabilities of every prompt token, the engine spends more time on Python lists than on the
model. Here fixed-size arrays of the scored tokens alone leave it, through files (`spool`), and a request asks for no
log-probabilities at all.

SGLang takes this package for its external models: it imports every module, and a class of EntryClass serves in the
place of its own of the same name.

Shapes: N tokens of a forward pass, T scored tokens they predict, D hidden size, V vocabulary.
"""

import importlib
from typing import Any

import numpy as np
import torch
from sglang.srt.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from sglang.srt.layers.logits_processor import LogitsMetadata

from eaftgate.collect.collection import TOP_K, TokenStats
from eaftgate.collect.sglang import spool
from eaftgate.collect.token_stats import Logits, linear_logits, stats_of_logits
from eaftgate.families.family import Family
from eaftgate.families.registry import FAMILIES


class Scoring:
    """The forward pass of a causal language model of SGLang's, whose other attributes are those of the class mixed in.

    Those are what SGLang's causal language models have in common: `model`, `lm_head`, `logits_processor`, `pp_group`
    and `config`.
    """

    config: Any
    lm_head: Any
    logits_processor: Any
    model: Any
    pp_group: Any

    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: Any,
        input_embeds: torch.Tensor | None = None,
        pp_proxy_tensors: Any = None,
    ) -> Any:
        hidden = self.model(input_ids, positions, forward_batch, input_embeds, pp_proxy_tensors=pp_proxy_tensors)
        if not self.pp_group.is_last_rank:
            return hidden
        if forward_batch.forward_mode.is_extend():
            self._write_statistics(hidden, forward_batch)
        return self.logits_processor(input_ids, hidden, self.lm_head, forward_batch)

    def _write_statistics(self, hidden_ND: torch.Tensor, forward_batch: Any) -> None:
        pieces, begin = [], 0
        spans = zip(
            forward_batch.rids or (),
            forward_batch.extend_prefix_lens_cpu or (),
            forward_batch.extend_seq_lens_cpu or (),
            strict=True,
        )
        for rid, start, length in spans:
            if spool.is_ours(str(rid)):
                position, target, prompt = spool.wanted(rid, start, start + length)
                pieces.append((rid, start, begin + position - start, target, prompt))
            begin += length
        if not pieces:
            return
        device = hidden_ND.device
        _, _, *columns = zip(*pieces, strict=True)
        place_T, target_T, prompt_T = (torch.from_numpy(np.concatenate(column)).to(device) for column in columns)
        if len(place_T):
            found = stats_of_logits(
                hidden_ND[place_T],
                target_T,
                self._logits(forward_batch),
                vocab_size=self.config.vocab_size,
                top_k=TOP_K,
                apart_T=prompt_T,
            )
            stats = TokenStats(*(column.cpu().numpy() for column in found))
        else:
            stats = TokenStats(*(np.zeros((0, *shape), kind) for shape, kind in _EMPTY))
        if get_tensor_model_parallel_rank() == 0:
            done = 0
            for rid, start, place, *_ in pieces:
                spool.write_part(rid, start, stats.select(np.s_[done : done + len(place)]))
                done += len(place)

    def _logits(self, forward_batch: Any) -> Logits:
        """Float32 logits of one GPU's own product; with tensor parallelism SGLang gathers them."""
        if get_tensor_model_parallel_world_size() == 1:
            return linear_logits(self.lm_head.weight[: self.config.vocab_size])
        metadata = LogitsMetadata.from_forward_batch(forward_batch)
        return lambda hidden_TD: self.logits_processor._get_logits(hidden_TD, self.lm_head, metadata).float()


_EMPTY = (((), np.float32), ((), np.float32), ((TOP_K,), np.int32), ((TOP_K,), np.float32))


def _scoring_class(family: Family) -> type:
    """SGLang's class of the family with our forward pass, under the name that SGLang looks it up by."""
    served = getattr(importlib.import_module(family.sglang_module), family.architecture)
    return type(family.architecture, (Scoring, served), {"__module__": __name__})


EntryClass = [_scoring_class(family) for family in FAMILIES.values()]
