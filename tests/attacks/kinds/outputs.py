"""Where a command is told to write: over, into and through what no command has made, and again where one has."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from io import StringIO

from attacks.attack import Attack, Box

Place = Callable[[Box], str]
Words = Callable[[Box], list[object]]
PRECIOUS = "precious"


def split(box: Box) -> list[object]:
    return ["packs", "split", box.packs()]


def profile(box: Box) -> list[object]:
    return ["profile", box.base(), "--packs", box.packs(), "--seq-len", 64]


def prune(box: Box) -> list[object]:
    return ["prune", box.base(), "--profile", box.profile(), "--keep-n", 4, "--method", "reap-mass"]


def yardstick(box: Box) -> list[object]:
    return ["yardstick", box.base()]


def report(box: Box) -> list[object]:
    return ["report", box.run()]


def lock(box: Box) -> list[object]:
    return ["lock", box.run()]


def sweep(box: Box) -> list[object]:
    return ["sweep", box.base(), "--profile", box.profile(), "--packs", box.packs(), "--keep-n", 4, "--methods", "ean"]


DIRECTORIES: dict[str, Words] = {"split": split, "profile": profile, "prune": prune, "yardstick": yardstick}
FILES: dict[str, Words] = {"report": report, "lock": lock, "sweep": sweep}


def elsewhere(box: Box) -> str:
    """A directory of the user's own."""
    box.file(f"mine/{PRECIOUS}", PRECIOUS)
    return "mine"


def linked(name: str, to: str) -> Place:
    def place(box: Box) -> str:
        elsewhere(box)
        (box.path / name).symlink_to(to)
        return "out"

    return place


def a_fifo(box: Box) -> str:
    os.mkfifo(box.out)
    return "out"


def below_a_file(box: Box) -> str:
    box.file("file", PRECIOUS)
    return "file/out"


def below_a_fifo(box: Box) -> str:
    os.mkfifo(box.path / "fifo")
    return "fifo/out"


def below_a_loop(box: Box) -> str:
    (box.path / "loop").symlink_to("loop")
    return "loop/out"


def in_the_base(box: Box) -> str:
    return f"{box.base().name}/out"


def in_the_base_by_a_link(box: Box) -> str:
    (box.path / "alias").symlink_to(box.base().name)
    return "alias/out"


def in_the_base_by_dots(box: Box) -> str:
    return f"{box.packs().name}/../{box.base().name}/out"


def in_the_packs(box: Box) -> str:
    return f"{box.packs().name}/out"


def foreign_partial(box: Box) -> str:
    box.file(f".out.partial/{PRECIOUS}", PRECIOUS)
    return "out"


def foreign_lock(box: Box) -> str:
    box.file(".out.lock", PRECIOUS)
    return "out"


EVERYWHERE: dict[str, Place] = {
    "a FIFO": a_fifo,
    "a link to a directory": linked("out", "mine"),
    "a dangling link": linked("out", "nowhere"),
    "a directory of the user's own": elsewhere,
    "a parent that is a file": below_a_file,
    "a parent that is a FIFO": below_a_fifo,
    "a parent that is a loop": below_a_loop,
    "a parent that is not there": lambda _: "typo/deep/out",
    "in the base": in_the_base,
    "in the base by a link": in_the_base_by_a_link,
    "in the base by dots": in_the_base_by_dots,
    "too long a name": lambda _: "x" * 300,
    "the root": lambda _: "/",
    "itself": lambda _: ".",
}
OF_DIRECTORIES: dict[str, Place] = {
    "a partial directory of the user's own": foreign_partial,
    "a partial directory that is a link": linked(".out.partial", "mine"),
}


def attacks() -> Iterator[Attack]:
    for name, words in {**DIRECTORIES, **FILES}.items():
        places = EVERYWHERE | (OF_DIRECTORIES if name in DIRECTORIES else {})
        for what, place in places.items():
            yield Attack(f"{name}: {what}", to(words, place), says="too long" if what == "too long a name" else "--out")
    for name in ("split", "profile", "sweep"):
        yield Attack(f"{name}: in the packs", to({**DIRECTORIES, **FILES}[name], in_the_packs), says="packs/out")
    for name in ("prune", "report", "sweep"):
        yield Attack(f"{name}: a lock of the user's own", to({**DIRECTORIES, **FILES}[name], foreign_lock), says="lock")
    yield Attack("prune: in the profile", to(prune, lambda box: f"{box.profile().name}/out"), says="profile")
    for name in ("report", "lock"):
        yield Attack(f"{name}: over what it is of", to(FILES[name], lambda _: "run/parity.json"), says="parity.json")
    for name in ("split", "prune", "yardstick"):
        yield Attack(f"{name}: given again", again(DIRECTORIES[name]), "accepted")
        more = {"split": ("--seed", 1), "prune": ("--class-weight", "call=2"), "yardstick": ("--bits", 3)}[name]
        yield Attack(f"{name}: with other inputs", again(DIRECTORIES[name], *more), says="other inputs")


def to(words: Words, place: Place) -> Callable[[Box], Sequence[object]]:
    return lambda box: [*words(box), "--out", place(box)]


def again(words: Words, *more: object) -> Callable[[Box], Sequence[object]]:
    """What has been made already, by the same command without `more`."""

    def make(box: Box) -> Sequence[object]:
        from eaftgate.commands.app import main

        given, argv = [*words(box), "--out", "out"], sys.argv
        try:
            sys.argv = ["eaftgate", *map(str, given)]
            with redirect_stdout(StringIO()), suppress(SystemExit):
                main()
        finally:
            sys.argv = argv
        return [*given, *more]

    return make
