"""How many experts a layer keeps, and whether a choice of experts is a valid one."""

import math
from collections.abc import Sequence
from fractions import Fraction
from operator import index

from eaftgate.errors import UserError

KEEP_MULTIPLE = 4
"""Fused MXFP4 MoE kernels tile the expert axis by this."""
ALLOW_ANY = "--allow-any-keep-n"
"""What prune calls `allow_any`."""


def resolve_keep_n(
    num_experts: int,
    top_k: int,
    keep_n: int | None = None,
    keep_frac: float | None = None,
    *,
    allow_any: bool = False,
    option: str = "",
) -> int:
    """Experts to keep per layer, from exactly one of a number and a fraction of `num_experts`.

    A fraction is rounded **up** to the next multiple of `KEEP_MULTIPLE` (0.60 of 32 -> 20). `allow_any` lets
    a number pass that is no such multiple; `option` is what the command calls it, if it has it. Raises UserError,
    also for keep_n < top_k and > num_experts.
    """
    if keep_frac is not None and keep_n is None:
        if not 0 < keep_frac <= 1:  # also catches NaN
            raise UserError(f"--keep-frac {keep_frac} is not in (0, 1]; give the share of experts to keep, e.g. 0.75")
        # Fraction(str()) is the decimal the user typed: 0.7 * 40 must be 28, not 28.000000000000004.
        keep_n = math.ceil(Fraction(str(float(keep_frac))) * num_experts / KEEP_MULTIPLE) * KEEP_MULTIPLE
    elif keep_n is None or keep_frac is not None:
        raise UserError("the number of experts to keep needs exactly one of --keep-n and --keep-frac")
    if keep_n < top_k:
        raise UserError(f"keeping {keep_n} experts is fewer than the {top_k} each token uses; keep at least {top_k}")
    if keep_n > num_experts:
        raise UserError(f"keeping {keep_n} experts is more than the {num_experts} a layer has; keep fewer")
    if keep_n % KEEP_MULTIPLE and not allow_any:
        raise UserError(
            f"keeping {keep_n} experts is not a multiple of {KEEP_MULTIPLE}, which fused MXFP4 kernels may need "
            "(SGLang's moe_runner_backend triton_kernel does not); choose a multiple"
            f"{option and f' or give {option}'}"
        )
    return keep_n


def check_keep_sets(
    keep: Sequence[Sequence[int]],
    *,
    num_layers: int,
    num_experts: int,
    top_k: int,
    allow_any: bool = False,
    option: str = "",
) -> list[list[int]]:
    """The keep sets (per layer, ascending expert ids) as plain lists. Raises UserError when not valid."""
    if len(keep) != num_layers or len(keep) == 0:
        raise UserError(f"the keep sets cover {len(keep)} layers, the checkpoint has {num_layers}; select again for it")
    rows = [[index(expert) for expert in row] for row in keep]
    for layer, row in enumerate(rows):
        if sorted(set(row)) != row or not all(0 <= expert < num_experts for expert in row):
            raise UserError(
                f"the keep set of layer {layer} must be ascending expert ids below {num_experts}, each once; "
                "select again for this checkpoint"
            )
        if len(row) != len(rows[0]):
            raise UserError(
                f"layer {layer} keeps {len(row)} experts and layer 0 keeps {len(rows[0])}; "
                "every layer must keep the same number"
            )
    resolve_keep_n(num_experts, top_k, keep_n=len(rows[0]), allow_any=allow_any, option=option)
    return rows
