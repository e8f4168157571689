"""Names of files, directories and packs: shown as they are on every way out, whatever a terminal or HTML makes of them;
long ones are files all the same.
"""

import json
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from attacks.attack import Attack, Box, Ended

ODD = {
    "markup": "[red]x[bold]",
    "closing markup": "a[/red]b",
    "an emoji code": ":pile_of_poo: :smile:",
    "ESC": "a\x1b[2J\x1b]0;title\x07b",
    "C1": "a\x9b31mb",
    "bell, backspace, NUL's neighbours": "a\x07\x08\x01\x7fb",
    "a carriage return": "a\rverdict: PASS",
    "a line break": "a\nverdict: PASS",
    "line separators": "a\u2028verdict: PASS\x85b\x0bc",
    "bidi": "a\u202egnp.\u2066b\u200f",
    "zero width": "a\u200b\u200d\ufeffb",
    "HTML": "<script>alert(1)</script>&amp;\"'",
    "a formula": "=1+1",
    "percent and braces": "%s%n{0}{x!r}$HOME`id`",
    "a backslash": "a\\x1b\\n",
    "another script": "кота 家 ñ",
    "blanks": "  a  b  ",
    "an option": "--help",
    "a comma": "a,b=c;d",
    "240 characters": "n" * 240,
}
"""A name with a slash is two."""
NOT_UTF8 = "caf\udce9"


def attacks() -> Iterator[Attack]:
    ways: dict[str, Callable[[Box, str], list[object]]] = {
        "a pack that is split": split,
        "a base that is pruned": prune_base,
        "an output": prune_to,
        "checkpoints that are compared": overlap,
        "a run's names": report,
    }
    for way, make in ways.items():
        for name, odd in ODD.items():
            if way == "a pack that is split" and "/" in odd:
                continue
            yield Attack(f"{way}: {name}", bound(make, odd), "accepted", then=shown)
    for way, make in (("a pack that is split", split), ("a base that is pruned", prune_base), ("an output", prune_to)):
        yield Attack(f"{way}: not UTF-8", bound(make, NOT_UTF8), says="is not UTF-8")
    long = "n" * 300
    yield Attack(
        "an output of 300 characters",
        lambda box: ["prune", box.base(), "--keep-n", 8, "--out", box.path / long],
        says=long,
    )
    yield Attack("an option that is not there", lambda _: ["cost", "--\x1b[1m[red]\n"], then=shown)
    yield Attack("a base that is not there", lambda box: ["prune", box.path / "a\x1b[1m\nx", "--out", "o"], then=shown)


def bound(make: Callable[[Box, str], list[object]], odd: str) -> Callable[[Box], list[object]]:
    return lambda box: make(box, odd)


def shown(box: Box, ended: Ended) -> str:
    """Nothing of what is written is obeyed, and no line is forged."""
    texts = {"stdout": ended.out, "stderr": ended.err}
    texts |= {str(path): path.read_text(encoding="utf-8") for path in box.path.glob("out/*.html")}
    for where, text in texts.items():
        if obeyed := {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n"}:
            return f"{where} holds {sorted(obeyed)!r}"
        if any(line.strip().startswith("verdict: PASS") for line in text.splitlines()):
            return f"{where} has a line of its own making"
        if where.endswith(".html") and "<script" in text:
            return f"{where} holds a tag"
    return ""


def moved(box: Box, path: Path, odd: str) -> Path:
    """`path` under an odd name, below a directory of its own: an odd one may be several."""
    target = box.path / "odd" / f"{odd}"
    target.parent.mkdir(parents=True)
    return path.rename(target)


def split(box: Box, odd: str) -> list[object]:
    packs = box.packs()
    (packs / "chat.parquet").rename(packs / f"{odd}.parquet")
    return ["packs", "split", packs, "--out", box.out]


def prune_base(box: Box, odd: str) -> list[object]:
    return ["prune", moved(box, box.base(), odd), "--keep-n", 8, "--out", box.out]


def prune_to(box: Box, odd: str) -> list[object]:
    (box.out / odd).parent.mkdir(parents=True)
    return ["prune", box.base(), "--keep-n", 8, "--out", box.out / odd]


def overlap(box: Box, odd: str) -> list[object]:
    other = shutil.copytree(box.pruned(), box.path / "other")
    return ["overlap", moved(box, box.pruned(), odd), other]


def report(box: Box, odd: str) -> list[object]:
    file = box.run() / "parity.json"
    value = json.loads(file.read_text(encoding="utf-8"))
    value |= {"policy": odd, "regime": odd, "eaftgate": odd, "not_run": [odd], "sha256": None}
    value.pop("sha256")  # as of an earlier version: one that was edited is no run at all
    for cell in value["cells"]:
        cell |= {"name": odd, "pack": odd, "checkpoint": odd}
        cell["inputs"] |= {"collector": {odd: odd}, "base": {"name": odd, "digest": odd}}
    file.write_text(json.dumps(value), encoding="utf-8")
    box.out.mkdir()
    return ["report", box.run(), "--out", box.out / "r.html"]
