"""What a kind of collector that asks servers is given on the command line, and what follows from it.

Imports nothing that is slow, as `collector` does not.
"""

from collections.abc import Callable, Mapping
from typing import Any

from eaftgate.collect.collector import Needs, Served
from eaftgate.errors import UserError

SERVERS = "--base-endpoint"


def server_options(option: Callable[..., object]) -> None:
    option(
        "--endpoint",
        action="append",
        metavar="URL",
        help="sglang, vllm: a running server of the base or of a candidate; may be repeated (default: an engine of "
        "sglang's own)",
    )
    option(
        SERVERS,
        metavar="URL",
        help="sglang, vllm: a running server of the base, of which nothing else is here; every --endpoint is then one "
        "of a candidate, instead of --base and --checkpoint, and the run is unverified: nobody has seen the weights",
    )
    option(
        "--tokenizer",
        metavar="DIR",
        help=f"sglang, vllm, with {SERVERS}: where the tokenizer of the models is, a directory or hub id",
    )


def needs_of_servers(given: Mapping[str, Any]) -> Needs | None:
    """None where no server is named. Raises UserError for options that contradict each other."""
    from eaftgate.collect.servers.exchange import place_of

    urls, base, tokenizer = given.get("endpoint") or [], given.get("base_endpoint"), given.get("tokenizer")
    if tokenizer and not base:
        raise UserError(f"--tokenizer is for {SERVERS}: a base that is here has its own")
    places = [place_of(url).url for url in (*urls, *([base] if base else []))]
    if not base:
        return Needs(scores_copies=False, writes=True) if places else None
    if not tokenizer:
        raise UserError(f"{SERVERS} needs --tokenizer: the directory or hub id of the models' tokenizer")
    *candidates, base = places
    if base in candidates:
        raise UserError(f"{SERVERS} and --endpoint are both {base}: a model would be compared with itself")
    served = Served(base, tuple(dict.fromkeys(candidates)), tokenizer)
    return Needs(scores_copies=False, writes=True, served=served)
