"""A copy that is off by one bfloat16 ulp in the norms of every layer, and nowhere else."""

from pathlib import Path

import numpy as np
import pytest
from gate_command import BASE
from safetensors import safe_open
from tiny_checkpoint import Size, Tensor, write_shard, write_tiny_checkpoint

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.errors import UserError
from eaftgate.rewrite.perturb import make_perturbed, perturb_in_place

NORM = "model.layers.0.input_layernorm.weight"


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


EDGES = np.array([0.0, -0.0, 1e-41, -1e-41, 2.0**-133, -(2.0**-133), 1.0, -1.0, 2.0, -3e38], np.float32)
"""Nothing, less than one bfloat16 ulp, exactly one, and more."""


def with_norms(directory: Path, dtype: str, values: np.ndarray) -> Path:
    """A checkpoint whose first norm holds `values`, repeated."""
    tensors = write_tiny_checkpoint(directory, size=Size(hidden=320))
    tensors[NORM] = Tensor(dtype, np.tile(values, 32))
    write_shard(directory / "model.safetensors", tensors)
    return directory


def test_a_norm_in_float32_moves_by_one_bfloat16_ulp_and_what_is_smaller_stays(tmp_path: Path) -> None:
    base = with_norms(tmp_path / "base", "F32", EDGES)
    make_perturbed(base, tmp_path / "ulp", seed=1)
    before, after = (tensors(path)[NORM].reshape(32, 10).astype(np.int64) for path in (base, tmp_path / "ulp"))
    step = (after - before) // 2**16
    assert (after - before == step * 2**16).all()
    assert [sorted(set(column)) for column in step.T.tolist()] == [[0]] * 4 + [[-1, 1]] * 6


def test_a_norm_in_another_dtype_is_refused_by_name(tmp_path: Path) -> None:
    base = with_norms(tmp_path / "base", "F16", np.ones(10, np.float16))
    with pytest.raises(UserError) as caught:
        perturb_in_place(base, seed=0)
    assert str(caught.value) == f"{NORM} of {base} is F16: the noise floor needs norms in BF16 or F32"
    with pytest.raises(UserError, match="needs norms in BF16 or F32"):
        make_perturbed(base, tmp_path / "ulp", seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_the_seed_decides(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_perturbed(BASE, tmp_path / name, seed=seed)
    a, b, c = (tensors(tmp_path / name) for name in "abc")
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert any(not np.array_equal(a[name], c[name]) for name in a)
