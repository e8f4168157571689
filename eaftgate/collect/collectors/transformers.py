"""--collector=transformers: the model in this process, on a CPU or one GPU."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eaftgate.collect.collector import Needs, Scorer


class Transformers:
    name = "transformers"

    def add_options(self, option: Callable[..., object]) -> None:
        option(
            "--dequantize",
            action="store_true",
            help="transformers, on a GPU: turn MXFP4 experts into bfloat16 instead of using them as they are",
        )

    def needs(self, _: Mapping[str, Any]) -> Needs:
        return Needs(writes=True, lends=True, loads_foreign=True)

    def open(self, given: Mapping[str, Any], *, batch_size: int, logs: Path) -> Scorer:  # noqa: ARG002
        from eaftgate.collect.transformers import ModelScorer
        from eaftgate.model.load import default_settings

        settings = default_settings(
            device=given["device"], dtype=given["dtype"], dequantize=given.get("dequantize", False)
        )
        return ModelScorer(settings, batch_size=batch_size)


COLLECTOR = Transformers()
