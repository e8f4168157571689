"""Messages that count as exact are those that greedy decoding writes, by transformers' own model, token by token."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gate_command import BASE, GATE_PACKS
from prepared import once, pruned
from transformers import GptOssForCausalLM
from transformers.utils.quantization_config import Mxfp4Config

from eaftgate.collect.collection import make_collection
from eaftgate.collect.transformers import score
from eaftgate.model.load import default_settings, load_model
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.harmony import TokenClass
from eaftgate.packs.pack import named_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.parity.messages import PairedMessages, paired_messages
from eaftgate.parity.paired import pair
from eaftgate.prune.checkpoint import PruneRequest

KINDS = (TokenClass.CALL, TokenClass.FINAL, TokenClass.ANALYSIS)
TOKENIZER = load_tokenizer(BASE)
CLOSING = {TOKENIZER.backend.token_to_id(token) for token in ("<|end|>", "<|call|>", "<|return|>")}


def cut(num_blocks: int) -> Blocks:
    pack = named_packs(GATE_PACKS, seed=5)["tool_agentic"]
    return build_blocks(pack, TOKENIZER.backend, eos_id=TOKENIZER.eos_id, seq_len=256, num_blocks=num_blocks)


def counted(path: Path, blocks: Blocks) -> list[PairedMessages]:
    """What counts as exact under the model, by scoring."""
    model = load_model(path, default_settings(device="cpu"))
    collection = make_collection(score(model, blocks.token_ids_BS, blocks.scored_BS), blocks, {})
    return [paired_messages(pair(collection, collection), kind) for kind in KINDS]


@torch.inference_mode()
def writes(model: GptOssForCausalLM, prompt: list[int], reference: list[int]) -> bool:
    """Whether the model, choosing the most probable token again and again until one closes the message, writes the
    reference; it is asked for no more once it has written something else."""

    def differs(ids_BS: torch.Tensor, _: object) -> torch.Tensor:
        written = ids_BS[0, len(prompt) :].tolist()
        return torch.tensor([written != reference[: len(written)]])

    prompt_BS = torch.tensor([prompt])
    ids_BS = model.generate(
        prompt_BS, attention_mask=torch.ones_like(prompt_BS), do_sample=False, max_new_tokens=len(reference),
        eos_token_id=list(CLOSING), pad_token_id=TOKENIZER.eos_id, stopping_criteria=[differs],
    )  # fmt: skip
    return bool(ids_BS[0, len(prompt) :].tolist() == reference)


@pytest.mark.slow
@pytest.mark.parametrize("keep_n", [None, 28])
def test_greedy_decoding_writes_exactly_the_messages_that_count_as_exact(keep_n: int | None, made: Path) -> None:
    """From the tokens of the message's own block, up to and with its role word."""
    path = BASE
    if keep_n is not None:
        request = PruneRequest(keep_n=keep_n, method="random")
        path = once(made / f"random{keep_n}-decoded", lambda path: pruned(path, request))
    blocks = cut(24)
    model: GptOssForCausalLM = GptOssForCausalLM.from_pretrained(
        path, dtype=torch.float32, quantization_config=Mxfp4Config(dequantize=True), attn_implementation="eager"
    )
    model.requires_grad_(False)
    exact = compared = close = 0
    for messages in counted(path, blocks):
        for place in range(len(messages)):
            block, number = int(messages.block_M[place]), int(messages.number_M[place])
            (at_S,) = np.nonzero(blocks.roles.message[block] == number)
            ids = blocks.token_ids_BS[block].tolist()
            prompt, reference = ids[: at_S[0]], ids[at_S[0] : at_S[-1] + 1]
            assert TOKENIZER.backend.decode(prompt, skip_special_tokens=False).endswith("assistant")
            assert reference[-1] in CLOSING
            if messages.close_M[place]:
                close += 1  # rounding may decide: told apart, not compared
                continue
            compared += 1
            exact += int(messages.exact_M[place])
            assert writes(model, prompt, reference) == messages.exact_M[place], (keep_n, block, number)
    assert compared > 50
    assert close < compared / 10
    assert exact > (15 if keep_n is None else 5)
    assert compared - exact > 20
