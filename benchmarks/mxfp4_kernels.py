"""MXFP4 in transformers without a download: SGLang's copy of the triton kernels in place of the hub's.

transformers fetches `triton_kernels` through the `kernels` package. SGLang's sglang-kernel carries a newer version of
them, without the `routing` module and with other arguments of FnSpecs and FusedActivation. This stands in between, in
this process only, for machines that are offline; its numbers are compared with those of dequantised experts.
"""

from types import SimpleNamespace
from typing import Any


def use_sglang_kernels() -> None:
    """Let transformers, and eaftgate's check for kernels, find them."""
    from transformers.integrations import hub_kernels
    from transformers.quantizers import quantizer_mxfp4

    from eaftgate.model import load

    kernels = _kernels()
    hub: Any = hub_kernels
    hub.get_kernel = lambda *_, **__: kernels
    for module in (quantizer_mxfp4, load):
        vars(module)["is_kernels_available"] = lambda: True


def _kernels() -> SimpleNamespace:
    import triton_kernels.matmul_ogs_details.opt_flags
    import triton_kernels.numerics_details.mxfp
    import triton_kernels.tensor_details.layout
    from triton_kernels import matmul_ogs, numerics, numerics_details, swiglu, tensor, tensor_details, topk

    triton_kernels.matmul_ogs_details.opt_flags.update_opt_flags_constraints({"split_k": 1})

    def routing(logits_TE: Any, top_k: int) -> tuple[Any, Any, Any]:
        selected = topk.topk(logits_TE, top_k, apply_softmax=True)
        mask = selected.mask_metadata
        row, column = mask.row_sorted_indx, mask.col_sorted_indx
        ragged = tensor.make_ragged_tensor_metadata(mask.col_sum, row.shape[0])
        data = matmul_ogs.RoutingData(
            selected.vals.flatten()[column], ragged.slice_sizes, logits_TE.shape[-1], top_k, ragged
        )
        return data, matmul_ogs.GatherIndx(column, row), matmul_ogs.ScatterIndx(row, column)

    def fused_activation(specs: Any, arguments: Any, reduction_n: int) -> Any:
        named = matmul_ogs.FnSpecs(specs.name, specs.fn, specs.fn_arg_names, reduction_n=reduction_n)
        return matmul_ogs.FusedActivation(named, arguments)

    module = SimpleNamespace(**{name: getattr(matmul_ogs, name) for name in dir(matmul_ogs) if name[:2] != "__"})
    module.FusedActivation, module.InFlexData = fused_activation, numerics.InFlexData
    routed = SimpleNamespace(
        routing=routing, GatherIndx=matmul_ogs.GatherIndx, RoutingData=matmul_ogs.RoutingData,
        ScatterIndx=matmul_ogs.ScatterIndx,
    )  # fmt: skip
    return SimpleNamespace(
        matmul_ogs=module, swiglu=swiglu, tensor=tensor, tensor_details=tensor_details,
        numerics_details=numerics_details, routing=routed,
    )  # fmt: skip
