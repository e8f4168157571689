"""`eaftgate publish`: a pruned checkpoint on the Hub."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from eaftgate.commands.options import JsonOption
from eaftgate.commands.output import result

COMMANDS = typer.Typer()


@COMMANDS.command()
def publish(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Checkpoint that eaftgate prune made.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the Hub; made where there is none.")],
    lock: Annotated[
        Path | None, typer.Option(help="What says that it passed (eaftgate lock); default: DIR.lock.json.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="For everybody to see; without it, private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; default: main.")] = None,
    unverified: Annotated[bool, typer.Option("--unverified", help="Without a lock: the card says so.")] = False,
    license_name: Annotated[
        str | None, typer.Option("--license", help="The Hub's name of the licence, where the base says none.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="The base's name on the Hub, where it was pruned from a directory.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put a checkpoint that has passed on the Hub, private unless told, with the verdict in its model card.

    The lock is verified first, and must be of just this checkpoint. The login is that of `hf auth login`.
    """
    from eaftgate.report.publish import publish as put

    done = put(
        directory,
        repo,
        lock=lock,
        public=public,
        revision=revision,
        unverified=unverified,
        licence=license_name,
        base_model=base_model,
    )
    seen = "private" if done.private else "public"
    result(as_json, asdict(done), f"published {directory} ({done.verdict or 'unverified'}), {seen}: {done.url}")
