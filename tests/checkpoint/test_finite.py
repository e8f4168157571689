"""NaN and infinity are found wherever they lie; everything else passes."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import Size, Tensor, write_shard, write_tiny_checkpoint

from eaftgate.checkpoint import finite
from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.finite import check_finite
from eaftgate.checkpoint.header import read_header
from eaftgate.errors import UserError

SCALES = "model.layers.1.mlp.experts.down_proj_scales"
NORM = "model.norm.weight"


@pytest.mark.parametrize("mxfp4", [True, False])
def test_finite_checkpoint_passes(tmp_path: Path, mxfp4: bool) -> None:
    write_tiny_checkpoint(tmp_path, size=Size(layers=2), mxfp4=mxfp4)
    check_finite(open_checkpoint(tmp_path))


PLANTED = {
    "bf16_nan": ("BF16", np.uint16, 0x7FC0),
    "bf16_negative_nan": ("BF16", np.uint16, 0xFF81),
    "bf16_infinity": ("BF16", np.uint16, 0xFF80),
    "f16_infinity": ("F16", np.uint16, 0x7C00),
    "f32_nan": ("F32", np.uint32, 0x7FC0_0000),
    "f64_infinity": ("F64", np.uint64, 0xFFF0_0000_0000_0000),
}


@pytest.mark.parametrize("value", PLANTED)
@pytest.mark.parametrize("index", [0, 37, 63])
def test_planted_value_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, index: int) -> None:
    monkeypatch.setattr(finite, "CHUNK_BYTES", 64)
    dtype, integer, bits = PLANTED[value]
    tensors = write_tiny_checkpoint(tmp_path, size=Size(layers=2))
    array = np.zeros(64, integer)
    array[index] = bits
    write_shard(tmp_path / "model.safetensors", tensors | {NORM: Tensor(dtype, array)})
    with pytest.raises(UserError, match=rf"'{NORM}' holds NaN or infinity at element {index};"):
        check_finite(open_checkpoint(tmp_path))


@pytest.mark.parametrize(
    ("dtype", "not_finite", "largest"),
    [
        ("F8_E4M3", (0x7F, 0xFF), 0x7E),
        ("F8_E5M2", (0x7C, 0x7E, 0xFC), 0x7B),
        ("F8_E4M3FNUZ", (0x80,), 0xFF),
        ("F8_E5M2FNUZ", (0x80,), 0x7F),
        ("F8_E8M0", (0xFF,), 0xFE),
    ],
)
def test_eight_bits_too(tmp_path: Path, dtype: str, not_finite: tuple[int, ...], largest: int) -> None:
    """No model that is opened has them; another family's may."""
    write_tiny_checkpoint(tmp_path, size=Size(layers=1))
    opened = open_checkpoint(tmp_path)
    for value in (*not_finite, largest):
        write_shard(tmp_path / "model.safetensors", {NORM: Tensor(dtype, np.array([0, 1, value], np.uint8))})
        changed = replace(opened, tensors=read_header(tmp_path / "model.safetensors"))
        with nullcontext() if value == largest else pytest.raises(UserError, match="infinity at element 2"):
            check_finite(changed)


@pytest.mark.parametrize(
    ("dtype", "integer", "bits"),
    [
        ("BF16", np.uint16, 0x7F7F),
        ("F16", np.uint16, 0xFBFF),
        ("F32", np.uint32, 0x7F7F_FFFF),
    ],
)
def test_largest_finite_value_passes(tmp_path: Path, dtype: str, integer: type, bits: int) -> None:
    tensors = write_tiny_checkpoint(tmp_path, size=Size(layers=2))
    write_shard(tmp_path / "model.safetensors", tensors | {NORM: Tensor(dtype, np.full(64, bits, integer))})
    check_finite(open_checkpoint(tmp_path))


def test_scale_255_is_nan(tmp_path: Path) -> None:
    tensors = write_tiny_checkpoint(tmp_path, size=Size(layers=2))
    tensors[SCALES].array[7, 3, 0] = 255
    write_shard(tmp_path / "model.safetensors", tensors)
    with pytest.raises(UserError, match=SCALES):
        check_finite(open_checkpoint(tmp_path))


def test_file_cut_after_opening(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as stream:
        stream.truncate(checkpoint.tensors[NORM].begin + 10)
    with pytest.raises(UserError, match="ends inside"):
        check_finite(checkpoint)
