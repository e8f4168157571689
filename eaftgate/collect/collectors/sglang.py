"""--collector=sglang: an engine of our own, or servers that somebody runs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eaftgate.collect.collector import Needs, Scorer
from eaftgate.collect.servers.options import needs_of_servers, server_options
from eaftgate.errors import UserError


class Sglang:
    name = "sglang"

    def add_options(self, option: Callable[..., object]) -> None:
        server_options(option)
        option("--tp", type=int, metavar="N", help="sglang: GPUs that share one model")
        option("--dp", type=int, metavar="N", help="sglang: copies of the model")

    def needs(self, given: Mapping[str, Any]) -> Needs:
        for name in ("tp", "dp"):
            if given.get(name, 1) < 1:
                raise UserError(f"--{name} is {given[name]}: it must be at least 1")
        if (servers := needs_of_servers(given)) is not None:
            return servers
        gpus = given.get("tp", 1) * given.get("dp", 1)
        return Needs(gpus=gpus, lowered_by=("--tp", "--dp"), starts_engines=True, writes=True)

    def open(self, given: Mapping[str, Any], *, batch_size: int, logs: Path) -> Scorer:  # noqa: ARG002
        if needs_of_servers(given) is not None:
            from eaftgate.collect.servers.endpoint import Servers

            return Servers(given.get("endpoint") or [])
        from eaftgate.collect.sglang.collector import EngineOptions, Engines

        return Engines(EngineOptions(tp=given.get("tp", 1), dp=given.get("dp", 1)), logs)


COLLECTOR = Sglang()
