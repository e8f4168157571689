"""The base with rounded experts: every tensor by an oracle, what it says of itself, interruption, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from cli_command import Command, eaftgate, refused  # noqa: F401
from safetensors.torch import load_file
from tiny_checkpoint import Tensor, write_shard, write_tiny_checkpoint
from toy_family import ToyFamily, write_toy_checkpoint
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.errors import UserError
from eaftgate.families.registry import FAMILIES
from eaftgate.made_from import MADE_FROM_FILE
from eaftgate.model.load import ModelSettings, load_model
from eaftgate.rewrite import copy, rewrite, yardstick
from eaftgate.rewrite.plan import ShardPlan
from eaftgate.rewrite.yardstick import YARDSTICK_FILE, check_yardstick, own_yardstick, write_yardstick

DIGEST = "0" * 64
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


@pytest.fixture(params=[True, False], ids=["mxfp4", "plain"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoint:
    write_tiny_checkpoint(tmp_path / "base", mxfp4=request.param, num_shards=2)
    return open_checkpoint(tmp_path / "base")


def made(base: Checkpoint, out: Path, *, bits: int = 4, **options: Any) -> Checkpoint:
    write_yardstick(base, out, bits=bits, base_digest=DIGEST, **options)
    return open_checkpoint(out)


def tensors_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: tensor for shard in checkpoint.shards for name, tensor in load_file(shard).items()}


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def slowly_rounded(weight_EIO: torch.Tensor, bits: int) -> torch.Tensor:
    experts, inputs, outputs = weight_EIO.shape
    group_EGIO = weight_EIO.float().reshape(experts, inputs // 32, 32, outputs)
    scale_EG1O = group_EGIO.abs().amax(2, keepdim=True) / (2 ** (bits - 1) - 1)
    scale_EG1O[scale_EG1O == 0] = 1
    rounded: torch.Tensor = (group_EGIO / scale_EG1O).round() * scale_EG1O
    return rounded.reshape(experts, inputs, outputs).bfloat16()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_experts_are_rounded_and_everything_else_is_copied(base: Checkpoint, tmp_path: Path, bits: int) -> None:
    found, source = tensors_of(made(base, tmp_path / "out", bits=bits)), tensors_of(base)
    for name in [name for name in found if name.endswith(EXPERTS)]:
        stored = (source.pop(f"{name}_{part}") for part in ("blocks", "scales"))
        plain = convert_moe_packed_tensors(*stored) if base.is_mxfp4 else source.pop(name)
        assert torch.equal(found.pop(name), slowly_rounded(plain, bits)), name
    assert found.keys() == source.keys()
    for name, tensor in source.items():
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)), name


def test_what_it_holds_is_what_the_model_loads(base: Checkpoint, tmp_path: Path) -> None:
    checkpoint = made(base, tmp_path / "out")
    assert not checkpoint.is_mxfp4
    assert checkpoint.config == {key: value for key, value in base.config.items() if key != "quantization_config"}
    assert (checkpoint.path / "tokenizer.json").read_bytes() == (base.path / "tokenizer.json").read_bytes()
    load_model(checkpoint.path, ModelSettings("cpu", "float32", dequantize=True))


def test_chunks_and_shards_change_nothing(base: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tensors_of(made(base, tmp_path / "whole"))
    monkeypatch.setattr(yardstick, "CHUNK_WEIGHTS", 1)
    monkeypatch.setattr(yardstick, "_COPY_BYTES", 100)
    parts = made(base, tmp_path / "parts", max_shard_bytes=90_000)
    assert len(parts.shards) > 2
    assert all(shard.stat().st_size <= 90_000 for shard in parts.shards)
    found = tensors_of(parts)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())


def test_it_says_what_it_was_made_from_and_every_file(base: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made(base, out, bits=5)
    record = own_yardstick(out)
    assert record is not None
    assert (record.base.name, record.base.digest, record.bits, record.group) == (str(base.path), DIGEST, 5, 32)
    assert record.files.keys() == contents(out).keys() - {YARDSTICK_FILE, MADE_FROM_FILE}
    assert check_yardstick(open_checkpoint(out), record, base_digest=DIGEST) == []
    assert check_yardstick(open_checkpoint(out), record, base_digest="1" * 64) == [
        "it was not made from this base: yardstick.json names one with another digest"
    ]
    (out / "generation_config.json").write_text("{}")
    (out / "extra.safetensors").touch()
    assert check_yardstick(open_checkpoint(out), record, base_digest=DIGEST) == [
        "extra.safetensors is not in yardstick.json",
        f"generation_config.json has 2 bytes where yardstick.json says {record.files['generation_config.json'].size}",
    ]


def test_a_file_of_that_name_is_not_believed(tmp_path: Path) -> None:
    assert own_yardstick(tmp_path) is None
    (tmp_path / YARDSTICK_FILE).write_text('{"format": "of another tool"}')
    assert own_yardstick(tmp_path) is None
    (tmp_path / YARDSTICK_FILE).write_text('{"format": "eaftgate-yardstick", "bits": 4}')
    with pytest.raises(UserError, match="'base' is not valid"):
        own_yardstick(tmp_path)


def test_interrupted_then_resumed(base: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "_MAX_THREADS", 1)
    limits = {"max_shard_bytes": 90_000}
    made(base, tmp_path / "whole", **limits)
    out, left, real = tmp_path / "out", iter(range(30)), copy.write_all

    def write_all(file: BinaryIO, data: memoryview) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        real(file, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yardstick, "write_all", write_all)
        with pytest.raises(KeyboardInterrupt):
            made(base, out, **limits)
    assert not out.exists()
    finished = json.loads((tmp_path / ".out.partial" / "state.json").read_text())
    assert finished
    written: list[str] = []
    real_shard = yardstick._write_shard

    def noting(plan: ShardPlan, *rest: Any) -> str:
        written.append(plan.name)
        return real_shard(plan, *rest)

    monkeypatch.setattr(yardstick, "_write_shard", noting)
    made(base, out, **limits)
    assert written
    assert not set(written) & finished.keys()
    assert contents(out) == contents(tmp_path / "whole")


def with_nan(tensors: dict[str, Tensor]) -> str:
    name = "model.layers.1.mlp.experts.down_proj"
    if name in tensors:
        tensors[name].array[2, 3, 4] = 0x7FC0
        return name
    tensors[f"{name}_scales"].array[2, 3, 0] = 255
    return f"{name}_blocks"


def test_a_weight_that_is_no_number_is_named(tmp_path: Path) -> None:
    for mxfp4 in (True, False):
        path = tmp_path / f"broken-{mxfp4}"
        tensors = write_tiny_checkpoint(path, mxfp4=mxfp4)
        name = with_nan(tensors)
        write_shard(path / "model.safetensors", tensors)
        with pytest.raises(UserError, match=f"tensor '{name}': a weight is NaN, infinite or too large"):
            made(open_checkpoint(path), tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_experts_that_are_no_groups_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those whose inputs come last are rounded along them."""
    monkeypatch.setitem(FAMILIES, "toy", ToyFamily())
    arrays = write_toy_checkpoint(tmp_path / "toy")
    toy = open_checkpoint(tmp_path / "toy")
    with pytest.raises(UserError, match=r"tensor 'layers\.1\.experts\.0\.down' has 12 inputs, which are no groups"):
        made(toy, tmp_path / "out")
    monkeypatch.setattr(yardstick, "GROUP", 4)
    found = tensors_of(made(toy, tmp_path / "out"))
    for name, array in arrays.items():
        expected = torch.from_numpy(array)
        if ".experts." in name:
            group = array.reshape(len(array), -1, 4)
            scale = np.abs(group).max(axis=2, keepdims=True) / np.float32(7)
            expected = torch.from_numpy((np.rint(group / scale) * scale).reshape(array.shape)).bfloat16()
        assert torch.equal(found[name], expected), name


@pytest.mark.parametrize("bits", [1, 9])
def test_other_bits_are_refused(base: Checkpoint, tmp_path: Path, bits: int) -> None:
    with pytest.raises(UserError, match=f"--bits is {bits}: it must be 2 to 8"):
        made(base, tmp_path / "out", bits=bits)


def test_the_command(eaftgate: Command, tmp_path: Path) -> None:  # noqa: F811
    write_tiny_checkpoint(tmp_path / "base")
    given: Callable[..., Any] = lambda *more: eaftgate("yardstick", tmp_path / "base", "--out", tmp_path / "out", *more)  # noqa: E731
    refused(given("--bits", 9), "--bits")
    ended = given("--json")
    said = json.loads(ended.out)
    assert (ended.code, said["bits"]) == (0, 4)
    assert said["bytes"] == open_checkpoint(tmp_path / "out").nbytes > said["base_bytes"]
    record = own_yardstick(tmp_path / "out")
    assert record is not None
    assert record.base.digest == checkpoint_digest(open_checkpoint(tmp_path / "base"))
    again = given()
    assert (again.code, again.out) == (0, f"{tmp_path / 'out'} is up to date\n")
    refused(given("--bits", 3), "made from other inputs (bits is 4 there and 3 here)")
