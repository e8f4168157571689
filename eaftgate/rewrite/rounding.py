"""Rounding weights to the nearest of a few levels, in groups: what a plain quantiser without any calibration does.

Shapes: E experts, O outputs, G groups along the input dimension, I = GROUP weights of a group, N groups (of several
experts), T weights beside each other that no group joins.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eaftgate.errors import UserError

GROUP = 32
"""Weights along the input dimension that share a scale."""
BITS = range(2, 9)

Float32 = NDArray[np.float32]

BFLOAT16_MAX = np.float32(3.3895313892515355e38)
_E8M0_BIAS = 127


def round_groups(weight_NIT: Float32, bits: int) -> None:
    """Round each group (axis 1), in place, to integer multiples, of absolute value up to 2^(bits-1) - 1, of a scale of
    its own, by which its largest absolute weight stays what it is. Ties go to the even multiple; zeros stay zeros.

    Raises ValueError where a weight is no number, or larger than a bfloat16.
    """
    levels = np.float32((1 << (bits - 1)) - 1)
    largest_N1T = np.maximum(weight_NIT.max(axis=1, keepdims=True), -weight_NIT.min(axis=1, keepdims=True))
    if not (largest_N1T <= BFLOAT16_MAX).all():
        raise ValueError("a weight is NaN, infinite or too large")
    scale_N1T = largest_N1T / levels
    scale_N1T[scale_N1T == 0] = 1
    weight_NIT /= scale_N1T
    np.rint(weight_NIT, out=weight_NIT)
    weight_NIT *= scale_N1T


def mxfp4_groups(blocks_OGB: NDArray[np.uint8], scales_OG: NDArray[np.uint8], out_GIO: Float32) -> None:
    """One expert's MXFP4 weights (B = GROUP / 2 bytes a group), put where the plain layout has them.

    A byte holds two numbers, the first in its low half. A scale that is none (255) gives NaN and infinity.
    """
    outputs, groups, half = blocks_OGB.shape
    packed_GBO = np.ascontiguousarray(blocks_OGB.reshape(outputs, -1).T).reshape(groups, half, outputs)
    out_GIO[:, 0::2] = _fp4_doubled(packed_GBO & np.uint8(0xF))
    out_GIO[:, 1::2] = _fp4_doubled(packed_GBO >> np.uint8(4))
    exponent_GO = scales_OG.T.astype(np.int32) - (_E8M0_BIAS + 1)  # one less: the numbers are doubled
    exponent_GO[scales_OG.T == 255] = 1000
    with np.errstate(over="ignore", invalid="ignore"):
        out_GIO *= np.ldexp(np.float32(1), exponent_GO)[:, None]


def _fp4_doubled(code: NDArray[Any]) -> NDArray[np.int8]:
    """Twice the number that four bits are as E2M1 (OCP Microscaling Formats v1.0, section 5.3.3): sign, then 0, 1/2, 1,
    3/2, 2, 3, 4, 6. By comparisons, which are fast in many lanes where a table is not."""
    magnitude = code & 7
    doubled = magnitude + (magnitude > 4) + (magnitude > 5) + np.uint8(3) * (magnitude > 6)
    sign = -(code >> 3).view(np.int8)
    signed: NDArray[np.int8] = (doubled.view(np.int8) ^ sign) - sign
    return signed


def float32_of(stored: NDArray[np.uint8], dtype: str) -> Float32:
    """Bytes of the safetensors dtype BF16, F16 or F32 as numbers. Raises UserError for another."""
    if dtype == "BF16":
        return (stored.view("<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype in ("F16", "F32"):
        return stored.view({"F16": "<f2", "F32": "<f4"}[dtype]).astype(np.float32)
    raise UserError(f"experts stored as {dtype} cannot be rounded: BF16, F16, F32 and MXFP4 can")


def bfloat16_bits(value: Float32) -> NDArray[np.uint16]:
    """The nearest bfloat16 of each finite number, ties to even, by its bits. `value` is contiguous."""
    bits = value.view(np.uint32)
    nearest = bits >> 16
    nearest &= 1
    nearest += 0x7FFF
    nearest += bits
    nearest >>= 16
    return nearest.astype("<u2")
