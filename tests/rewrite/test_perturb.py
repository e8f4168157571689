"""A copy that is off by one bfloat16 ulp in the norms of every layer, and nowhere else."""

from pathlib import Path

import numpy as np
from gate_command import BASE
from safetensors import safe_open

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.rewrite.perturb import make_perturbed


def tensors(path: Path) -> dict[str, np.ndarray]:
    found = {}
    for entry in open_checkpoint(path).tensors.values():
        data = (path / entry.shard).read_bytes()[entry.begin : entry.end]
        found[entry.name] = np.frombuffer(data, {"BF16": np.uint16, "F32": np.uint32}.get(entry.dtype, np.uint8))
    return found


def test_norms_move_by_one_ulp_both_ways_and_nothing_else_does(tmp_path: Path) -> None:
    make_perturbed(BASE, tmp_path / "ulp", seed=1)
    before, after = tensors(BASE), tensors(tmp_path / "ulp")
    assert before.keys() == after.keys()
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    layers = open_checkpoint(BASE).num_layers
    names = ("input_layernorm", "post_attention_layernorm")
    assert moved == {f"model.layers.{layer}.{name}.weight" for layer in range(layers) for name in names}
    for name in moved:
        step = after[name].astype(int) - before[name].astype(int)
        assert set(step.tolist()) == {-1, 1}
    with safe_open(tmp_path / "ulp" / "model-00001-of-00002.safetensors", framework="pt") as file:
        assert file.get_tensor("model.layers.0.input_layernorm.weight").isfinite().all()


def test_the_seed_decides(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_perturbed(BASE, tmp_path / name, seed=seed)
    a, b, c = (tensors(tmp_path / name) for name in "abc")
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert any(not np.array_equal(a[name], c[name]) for name in a)
