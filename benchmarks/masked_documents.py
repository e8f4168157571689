"""What candidates do to every token of real documents, by masking: the files that `resampling.py` draws from.

NAME-base.npz has, of every scored token, `row`, `offset` (its place within the row), what it is to the messages
(`kind`, `content`, `recipient`, `whole`: the number of its message, -1 where that is not whole), whether the reference
is the base's first choice, and its probability `p`; of every row `lens`, its tokens, and `pack`. NAME-CANDIDATE.npz has
`d`, the change of the log-loss in nats, and `first` of the candidate.
"""

import argparse
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.families.gpt_oss_model import GptOssModel, expert_modules
from eaftgate.families.model import MoeModel
from eaftgate.model.load import default_settings, load_model
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.pack import UNION, named_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.parity.paired import PairedTokens, pair
from eaftgate.profile.profiler import ProfileRequest, profile_checkpoint
from eaftgate.search.evaluate import collected, masked_tokens
from eaftgate.select.class_weights import BALANCED, parse_class_weights
from eaftgate.select.keep import KeepSets, random_keep_sets, select_keep_sets

SEED = 3407
GROUP = 32
"""Weights along the input that share a scale when experts are rounded."""


@contextmanager
def rounded_experts(model: MoeModel, bits: int) -> Iterator[None]:
    """Experts' matrices rounded to nearest in groups, as a plain quantisation does."""
    assert isinstance(model, GptOssModel)
    matrices = [m for module in expert_modules(model.module) for m in (module.gate_up_proj, module.down_proj)]
    before = [matrix.detach().clone() for matrix in matrices]
    most = 2 ** (bits - 1) - 1
    try:
        with torch.no_grad():
            for matrix in matrices:
                grouped = matrix.float().reshape(len(matrix), -1, GROUP, matrix.shape[2])
                scale = (grouped.abs().amax(2, keepdim=True) / most).clamp_min(1e-12)
                matrix.copy_(((grouped / scale).round().clamp(-most - 1, most) * scale).flatten(1, 2))
        yield
    finally:
        with torch.no_grad():
            for matrix, kept in zip(matrices, before, strict=True):
                matrix.copy_(kept)


def candidates(given: argparse.Namespace, model: MoeModel, work: Path) -> dict[str, KeepSets | int]:
    """Keep sets, or the bits that experts are rounded to, by name."""
    base = open_checkpoint(str(given.model))
    settings = default_settings(device=given.device, dtype=given.dtype, dequantize=True)
    request = ProfileRequest(
        given.calibration, num_rows=given.rows, seq_len=given.seq_len, seed=SEED, batch_size=given.batch_size
    )
    trace = profile_checkpoint(base, "benchmark", request, work, settings).trace
    found: dict[str, KeepSets | int] = {}
    for keep_n in given.keep:
        for method in given.methods:
            for suffix, weights in (("", None), (f"-{BALANCED}", parse_class_weights(BALANCED))):
                keep = select_keep_sets(trace, method=method, keep_n=keep_n, alignment="predicting", classes=weights)
                found[f"{method}-{keep_n}{suffix}"] = keep
        found[f"random-{keep_n}"] = random_keep_sets(len(model.moe_layers), model.num_experts, keep_n, 1)
    return found | {f"rounded-{bits}": bits for bits in given.bits}


def collect(given: argparse.Namespace) -> None:
    given.out.mkdir(parents=True, exist_ok=True)
    settings = default_settings(device=given.device, dtype=given.dtype, dequantize=True)
    tokenizer = load_tokenizer(given.model)
    union = named_packs(given.packs, seed=SEED)[UNION]
    shape = {"seq_len": given.seq_len, "num_blocks": given.num_blocks}
    blocks = build_blocks(union, tokenizer.backend, eos_id=tokenizer.eos_id, **shape)
    model = load_model(given.model, settings)
    base = collected(model, blocks, batch_size=given.batch_size)
    _write_base(given.out / f"{given.name}-base.npz", blocks, pair(base, base), union.sources)
    for name, change in candidates(given, model, given.out / "profile").items():
        context: AbstractContextManager[None] = nullcontext()
        if isinstance(change, int):
            context = rounded_experts(model, change)
        with context:
            if isinstance(change, int):
                tokens = pair(base, collected(model, blocks, batch_size=given.batch_size))
            else:
                tokens = masked_tokens(model, blocks, base, change, batch_size=given.batch_size)
        delta_T = tokens.nll_delta_T
        path = given.out / f"{given.name}-{name}.npz"
        np.savez_compressed(path, d=delta_T.astype(np.float16), first=tokens.first_T)
        print(f"{name}: {np.expm1(delta_T[tokens.roles.content].mean()):+.2%}", flush=True)


def _write_base(path: Path, blocks: Blocks, tokens: PairedTokens, sources: tuple[str, ...]) -> None:
    length_R = np.bincount(blocks.row_BS.ravel())
    start_R = np.cumsum(length_R) - length_R
    packs = sorted(set(sources))
    np.savez_compressed(
        path,
        row=tokens.row_T,
        offset=np.flatnonzero(blocks.scored_BS) - start_R[tokens.row_T],
        kind=tokens.roles.kind,
        content=tokens.roles.content,
        recipient=tokens.roles.recipient,
        whole=tokens.roles.message,
        lens=length_R,
        pack=np.array([packs.index(source) for source in sources[: len(length_R)]], np.uint8),
        packs=np.array(packs),
        seq_len=blocks.seq_len,
        first=tokens.first_base_T,
        p=tokens.p_base_T.astype(np.float16),
    )
