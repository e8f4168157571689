"""--recipe FILE, and what it extends."""

import os
from collections.abc import Iterator
from pathlib import Path

from attacks.attack import Attack, Box, Expected
from attacks.malformed import with_contents, without_a_file
from attacks.sound import conversation

FILE = "recipe.yaml"
SOUND = "packs split: {calib_frac: 0.5, seed: 3407}"


def recipe(box: Box) -> Path:
    return box.path / FILE


def split(box: Box) -> list[object]:
    return ["packs", "split", box.packs(), "--recipe", FILE, "--out", box.out]


ACCEPTED = {
    "as it is": SOUND,
    "a byte order mark": f"\ufeff{SOUND}",
    "CRLF": "packs split:\r\n  seed: 1\r\n",
    "quoted": "packs split: {\"seed\": '7'}",
    "comments": f"# {conversation(1)}\n{SOUND} # \u202e",
    "null takes back": "packs split: {seed: null}",
    "a block": "packs split:\n  seed: |-\n    7\n",
    "extends itself not": f"extends: []\n{SOUND}",
    "the same file twice": f"extends: [eval-bigblocks, eval-bigblocks]\n{SOUND}",
}
REFUSED = {
    "nothing": "",
    "only a comment": "# nothing",
    "text": "packs split",
    "a list": "- packs split",
    "a number": "17",
    "two documents": f"{SOUND}\n---\n{SOUND}",
    "a tab": "packs split:\n\tseed: 1",
    "open": "packs split: {seed: 1",
    "a command that is none": "split: {seed: 1}",
    "an option that is none": "packs split: {seeds: 1}",
    "a section twice": f"{SOUND}\n{SOUND}",
    "an option twice": "packs split: {seed: 1, seed: 2}",
    "an option twice, spelled twice": "packs split: {calib_frac: 0.5, calib-frac: 0.5}",
    "an option with a mapping": "packs split: {seed: {a: 1}}",
    "an option with lists": "packs split: {seed: [[1]]}",
    "an option's value that is none": "packs split: {seed: many}",
    "negative": "packs split: {seed: -1}",
    "5000 digits": "packs split: {seed: -" + "1" * 5000 + "}",
    "NaN": "packs split: {calib_frac: .nan}",
    "nan": "packs split: {calib_frac: nan}",
    "infinity": "packs split: {calib_frac: inf}",
    "a key that is a list": "packs split: {[seed]: 1}",
    "a key that is a mapping": "{a: b}: {seed: 1}",
    "an anchor": "packs split: &a {seed: 1}",
    "an alias": "a: &a 1\npacks split: {seed: *a}",
    "an alias of nothing": "a: *b",
    "a merge": "packs split: {<<: {seed: 1}}",
    "a recursive alias": "packs split: &a {seed: [*a]}",
    "a billion laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{new}: &{new} [*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "!!int abc": "packs split: {seed: !!int abc}",
    "!!binary": "packs split: {seed: !!binary 'AAAA'}",
    "!!python/object": "packs split: {seed: !!python/object/apply:os.mkdir ['made']}",
    "!!python/name": "packs split: {seed: !!python/name:os.system }",
    "!local": "packs split: !local {seed: 1}",
    "!!timestamp": "packs split: {seed: !!timestamp 2001-99-99}",
    "!!set": "packs split: !!set {seed}",
    "a directive": "%YAML 9.9\n---\n" + SOUND,
    "a tag directive": "%TAG ! tag:a,2000:\n---\n!b {a: 1}",
    "deep lists": "packs split: " + "[" * 5000,
    "deep mappings": "{a: " * 5000,
    "deep and closed": "[" * 999 + "]" * 999,
    "deep sequences": "- " * 5000,
    "deep keys": "? " * 5000,
    "too long": f"{SOUND}\n#" + "x" * 400_000,
    "30,000 items": "packs split: {seed: [" + "1," * 30_000 + "]}",
    "a NUL": "packs split: {seed: \x00}",
    "an escaped NUL": 'packs split: {seed: "a\\0b"}',
    "ESC": "packs split: {\x1b[31m: 1}",
    "a lone surrogate": 'packs split: {seed: "\\ud800"}',
    "beyond Unicode": 'packs split: {seed: "\\U00110000"}',
    "a huge code point": 'packs split: {seed: "\\UFFFFFFFF"}',
    "a bad escape": 'packs split: {seed: "\\q"}',
    "extends nothing": "extends: ''",
    "extends a NUL": 'extends: "a\\0b"',
    "extends a mapping": "extends: {a: b}",
    "extends lists": "extends: [[a]]",
    "extends a directory": "extends: packs",
    "extends itself": f"extends: {FILE}",
    "extends itself, otherwise said": f"extends: packs/../{FILE}",
    "extends what is missing": "extends: none.yaml",
    "extends a name of 5000": "extends: " + "a" * 5000,
    "extends a device": "extends: /dev/zero",
    "extends a password file": "extends: /etc/passwd",
    "extends a surrogate": 'extends: "\\udc80"',
    "extends 4,000 files": "extends: [" + "eval-bigblocks," * 4_000 + "]",
    "extends a number of times": "extends: 3",
}


def attacks() -> Iterator[Attack]:
    yield from with_contents(recipe, split, _encoded(ACCEPTED), expected="accepted")
    yield from with_contents(recipe, split, _encoded(REFUSED))
    bad = {
        "not UTF-8": b"a: \xff",
        "UTF-16": SOUND.encode("utf-16"),
        "zeros": b"\0" * 4000,
        "gzip": b"\x1f\x8b\x08\0\xff",
    }
    yield from with_contents(recipe, split, bad.items(), says=FILE)
    yield from without_a_file(recipe, split, says=FILE)
    yield Attack("a FIFO is extended", _extends_fifo, says="fifo")
    for name, count, expected in (("a chain of 40", 40, "accepted"), ("a chain of 500", 500, "refused")):
        yield _chain(name, count, 1, expected)  # type: ignore[arg-type]
    yield _chain("doubled 26 times", 26, 2, "accepted")
    yield _chain("40 at once, 40 times", 40, 40, "accepted")
    yield Attack("a circle of three", _circle, says="circle")


def _encoded(texts: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    return ((name, text.encode()) for name, text in texts.items())


def _extends_fifo(box: Box) -> list[object]:
    os.mkfifo(box.path / "fifo")
    recipe(box).write_text(f"extends: fifo\n{SOUND}", encoding="utf-8")
    return split(box)


def _chain(name: str, length: int, width: int, expected: Expected) -> Attack:
    def make(box: Box) -> list[object]:
        for number in range(length):
            extended = ", ".join([f"r{number + 1}.yaml"] * width)
            box.file(f"r{number}.yaml", f"extends: [{extended}]\n{SOUND}")
        box.file(f"r{length}.yaml", SOUND)
        return ["packs", "split", box.packs(), "--recipe", "r0.yaml", "--out", box.out]

    return Attack(name, make, expected)


def _circle(box: Box) -> list[object]:
    for this, other in (("a", "b"), ("b", "c"), ("c", "a")):
        box.file(f"{this}.yaml", f"extends: {other}.yaml\n{SOUND}")
    return ["packs", "split", box.packs(), "--recipe", "a.yaml", "--out", box.out]
