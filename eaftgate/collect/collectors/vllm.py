"""--collector=vllm: servers that somebody runs, of models of which nothing is here but their tokenizer."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eaftgate.collect.collector import Needs, Scorer
from eaftgate.collect.servers.options import SERVERS, needs_of_servers, server_options
from eaftgate.errors import UserError


class Vllm:
    name = "vllm"

    def add_options(self, option: Callable[..., object]) -> None:
        server_options(option)

    def needs(self, given: Mapping[str, Any]) -> Needs:
        needs = needs_of_servers(given)
        if needs is None or needs.served is None:  # it does not tell the settings that decide its numbers
            raise UserError(f"--collector=vllm is for servers alone: give {SERVERS}, --endpoint and --tokenizer")
        return needs

    def open(self, given: Mapping[str, Any], *, batch_size: int, logs: Path) -> Scorer:  # noqa: ARG002
        from eaftgate.collect.servers.endpoint import Servers
        from eaftgate.collect.servers.vllm import VLLM

        return Servers(given.get("endpoint") or [], VLLM)


COLLECTOR = Vllm()
