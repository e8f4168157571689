"""An example of every command, under its --help; lines that fit into 60 columns."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence

import typer

EXAMPLES: Mapping[str, Sequence[str]] = {
    "run": ("eaftgate run gpt-oss-20b --dry-run", "eaftgate run my.yaml", "eaftgate run my.yaml --to prune"),
    "packs build": ("eaftgate packs build chats.jsonl --out packs",),
    "packs check": ("eaftgate packs check packs --base BASE",),
    "packs split": ("eaftgate packs split packs --seed 3407 --out split",),
    "profile": (
        "eaftgate profile BASE --packs split/calibration \\",
        "    --out profile",
    ),
    "prune": (
        "eaftgate prune BASE --profile profile --keep-n 24 \\",
        "    --out keep24",
        "eaftgate prune BASE --profile profile --keep-n 20 \\",
        "    --method refined --packs split/calibration \\",
        "    --out keep20",
    ),
    "yardstick": ("eaftgate yardstick BASE --bits 4 --out rounded",),
    "gate": (
        "eaftgate gate --checkpoint=keep24 \\",
        "    --packs=split/gate --junitxml=junit.xml",
        "eaftgate gate -n 2 --recipe=eval-bigblocks \\",
        "    --base=BASE --checkpoint=keep24",
    ),
    "report": ("eaftgate report results --out report.html",),
    "memo": ("eaftgate memo results24 results20 --out memo.md",),
    "budgets": ("eaftgate budgets results --blocks 32,128,512",),
    "lock": ("eaftgate lock results --out keep24.lock.json",),
    "verify": ("eaftgate verify keep24.lock.json",),
    "publish": ("eaftgate publish keep24 OWNER/NAME",),
    "cost": ("eaftgate cost BASE --keep-n 24 --packs split/gate",),
    "sweep": (
        "eaftgate sweep BASE --profile profile \\",
        "    --packs split/calibration --keep-n 24,20 \\",
        "    --out sweep.jsonl",
    ),
    "diagnose": ("eaftgate diagnose keep24 --packs split/calibration",),
    "overlap": ("eaftgate overlap keep24 keep20",),
}


WIDTH = 56
"""Of a terminal of 60 columns, within the margins that the help has."""


def add_help(app: typer.Typer, before: Mapping[str, tuple[str, Sequence[str]]], group: str = "") -> None:
    """Put its examples under the help of every command of `app`, after the heading and the lines that `before` has for
    it, let its paragraphs be as wide as the terminal is, and say its first one whole where commands are listed."""
    for command in app.registered_commands:
        name = " ".join(filter(None, (group, command.name or getattr(command.callback, "__name__", ""))))
        command.help = _paragraphs(getattr(command.callback, "__doc__", "") or "")
        command.short_help = command.help.split("\n\n")[0]
        if name in EXAMPLES:
            more = [as_it_is(before[name][0], before[name][1])] if name in before else []
            command.epilog = "\n\n".join([*more, as_it_is("Examples:", EXAMPLES[name])])
    for inner in app.registered_groups:
        if inner.typer_instance is not None:
            inner.short_help = str(inner.typer_instance.info.help)
            add_help(inner.typer_instance, before, inner.name if isinstance(inner.name, str) else group)


def as_it_is(heading: str, lines: Iterable[str]) -> str:
    """A paragraph that is not filled anew; what is too long goes on below, indented."""
    fitted = [
        part
        for line in lines
        for part in (textwrap.wrap(line, WIDTH, subsequent_indent="    ") if len(line) > WIDTH else [line])
    ]
    return "\n".join(["\b", heading, *(f"  {line}" for line in fitted)])


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
