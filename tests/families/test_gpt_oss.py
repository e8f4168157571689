"""How gpt-oss's tensors are laid out in a rewritten checkpoint, by a list written out."""

from itertools import groupby

from eaftgate.families.gpt_oss import GptOss

LAYER = (
    ("mlp.experts.down_proj_bias", "mlp.experts.down_proj_blocks", "mlp.experts.down_proj_scales"),
    ("mlp.experts.gate_up_proj_bias", "mlp.experts.gate_up_proj_blocks", "mlp.experts.gate_up_proj_scales"),
    ("input_layernorm.weight",),
    ("mlp.router.bias",),
    ("mlp.router.weight",),
    ("self_attn.sinks",),
)
"""What shares a shard, in order. The experts come first: their key begins with `mlp`, every other with `model`."""


def test_from_the_embedding_to_the_head_and_a_projection_together() -> None:
    layers = [tuple(f"model.layers.{n}.{part}" for part in parts) for n in (0, 2, 10) for parts in LAYER]
    expected = [("model.embed_tokens.weight",), *layers, ("lm_head.weight",), ("model.norm.weight",)]
    group = GptOss().shard_group
    names = sorted((name for names in expected for name in names), key=lambda name: (*group(name), name))
    assert [tuple(together) for _, together in groupby(names, key=group)] == expected
