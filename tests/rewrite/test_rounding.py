"""Rounding to nearest in groups, held to plain loops; decoding, to torch and to transformers."""

import math

import numpy as np
import pytest
import torch
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from eaftgate.errors import UserError
from eaftgate.rewrite.rounding import BITS, Float32, bfloat16_bits, float32_of, mxfp4_groups, round_groups


def slowly_rounded(group: list[float], bits: int) -> list[float]:
    """One group; Python's round() takes ties to the even number, too."""
    levels = 2 ** (bits - 1) - 1
    scale = np.float32(max(map(abs, group))) / np.float32(levels)
    return [float(np.float32(round(float(np.float32(x) / scale))) * scale) if scale else 0.0 for x in group]


@pytest.mark.parametrize("bits", BITS)
def test_each_group_is_rounded_by_a_scale_of_its_own(bits: int) -> None:
    rng = np.random.default_rng(bits)
    weight_NIT = (rng.standard_normal((3, 32, 5)) * np.exp(rng.normal(0, 4, (3, 1, 5)))).astype(np.float32)
    rounded_NIT = weight_NIT.copy()
    round_groups(rounded_NIT, bits)
    for n in range(3):
        for t in range(5):
            assert rounded_NIT[n, :, t].tolist() == slowly_rounded(weight_NIT[n, :, t].tolist(), bits)
            largest = np.abs(weight_NIT[n, :, t]).max()
            assert np.abs(rounded_NIT[n, :, t]).max() == pytest.approx(largest, rel=1e-6)
            assert len(np.unique(rounded_NIT[n, :, t])) <= 2**bits - 1


def test_four_bits_have_fifteen_levels_and_ties_go_to_the_even_one() -> None:
    weight_NIT = np.array([7, 0.5, 1.5, -0.5, -1.5, 2.4, -7, 0], np.float32).reshape(1, 8, 1)
    round_groups(weight_NIT, 4)
    assert weight_NIT.ravel().tolist() == [7, 0, 2, 0, -2, 2, -7, 0]


def test_zeros_stay_zeros() -> None:
    weight_NIT = np.zeros((2, 32, 3), np.float32)
    round_groups(weight_NIT, 4)
    assert not weight_NIT.any()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3.4e38])
def test_what_is_no_bfloat16_is_refused(value: float) -> None:
    weight_NIT = np.zeros((1, 32, 2), np.float32)
    weight_NIT[0, 3, 1] = value
    with pytest.raises(ValueError, match="NaN, infinite or too large"):
        round_groups(weight_NIT, 4)


def dequantised(blocks_OGB: np.ndarray, scales_OG: np.ndarray) -> Float32:
    outputs, groups, half = blocks_OGB.shape
    out_GIO = np.full((groups, 2 * half, outputs), np.nan, np.float32)
    mxfp4_groups(blocks_OGB, scales_OG, out_GIO)
    return out_GIO


def test_mxfp4_is_what_transformers_makes_of_it() -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (2, 48, 3, 16), dtype=np.uint8)
    blocks[0, 0].flat = range(48)  # some bytes for sure
    scales = rng.integers(90, 160, (2, 48, 3), dtype=np.uint8)
    plain_EIO = convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales)).float().numpy()
    for expert in range(2):
        assert (dequantised(blocks[expert], scales[expert]).reshape(96, 48) == plain_EIO[expert]).all()


def test_every_four_bits_are_the_number_that_the_standard_says() -> None:
    codes = np.arange(16, dtype=np.uint8)
    blocks = (codes | codes[::-1] << 4).reshape(1, 1, 16)
    numbers = dequantised(blocks, np.array([[127]], np.uint8)).ravel()
    standard = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
    assert numbers[0::2].tolist() == standard
    assert numbers[1::2].tolist() == standard[::-1]


def test_a_scale_that_is_none_gives_no_number() -> None:
    numbers = dequantised(np.full((1, 1, 16), 0x11, np.uint8), np.array([[255]], np.uint8))
    assert not np.isfinite(numbers).any()


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_stored_numbers_are_decoded(dtype: str) -> None:
    kinds = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    values = (torch.randn(64, generator=torch.Generator().manual_seed(0)) * 0.1).to(kinds[dtype])
    stored = np.frombuffer(values.view(torch.uint8).numpy().tobytes(), np.uint8)
    assert float32_of(stored, dtype).tolist() == values.float().tolist()


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(UserError, match="experts stored as F8_E4M3 cannot be rounded"):
        float32_of(np.zeros(4, np.uint8), "F8_E4M3")


def test_the_nearest_bfloat16_is_torchs() -> None:
    rng = np.random.default_rng(0)
    value = np.concatenate([
        rng.standard_normal(2000), rng.standard_normal(2000) * 1e-39, [0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, 3.389e38],
    ]).astype(np.float32)  # fmt: skip
    assert bfloat16_bits(value).tolist() == torch.from_numpy(value).bfloat16().view(torch.uint16).tolist()
