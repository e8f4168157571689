"""profile.json."""

from collections.abc import Callable, Iterator
from pathlib import Path

from attacks.attack import Attack, Box, edited
from attacks.malformed import OTHER_TYPES, bad_objects, with_contents, without_a_file

FILE = "profile.json"
NEEDED = (
    "schema", "base", "dimensions", "packs", "seq_len", "seed", "alignment", "batch_size", "num_blocks",
    "counted_tokens", "blocks_digest", "model", "rows",
)  # fmt: skip


def profile(box: Box) -> Path:
    return box.profile() / FILE


def prune(box: Box) -> list[object]:
    return ["prune", box.base(), "--profile", box.profile(), "--keep-n", 4, "--method", "reap-mass", "--out", box.out]


def auto(box: Box) -> list[object]:
    return [word for word in prune(box) if word not in ("--method", "reap-mass")]


def attacks() -> Iterator[Attack]:
    yield Attack("as it was", prune, "accepted")
    for what, speed in {
        "null": None, "nothing": {}, "a number": 5, "0": {"tokens_per_second": 0, "on": "cpu"},
        "-1": {"tokens_per_second": -1, "on": "cpu"}, "text": {"tokens_per_second": "9", "on": "cpu"},
        "on nothing": {"tokens_per_second": 9.5, "on": None}, "10**400": {"tokens_per_second": 10**400, "on": "cpu"},
    }.items():  # fmt: skip
        expected = {"expected": "accepted"} if what == "null" else {"says": FILE}
        yield Attack(f"speed is {what}", _with("speed", speed), **expected)  # type: ignore[arg-type]
    for what, place in {
        "nowhere": "nowhere", "empty": "", "odd": "a\x1b[1m\nx", "long": "a" * 5000, "a device": "/dev/zero",
        "null": None, "a file": "base/config.json", "no packs": "base", "a null byte": "a\0b",
    }.items():  # fmt: skip
        yield Attack(f"packs_dir of auto is {what}", _with("packs_dir", place, auto), "accepted")
    yield from with_contents(profile, prune, bad_objects(), says=FILE)
    yield from without_a_file(profile, prune, says=FILE)
    for key in NEEDED:
        for what, value in {"missing": ..., **OTHER_TYPES}.items():
            if not _is_fine(key, value):
                yield Attack(f"{key} is {what}", _with(key, value), says=FILE)


def _is_fine(key: str, value: object) -> bool:
    if key in ("seed", "num_blocks", "seq_len", "batch_size", "counted_tokens"):
        return isinstance(value, int) and not isinstance(value, bool)
    return key in ("blocks_digest", "rows", "packs") and not isinstance(value, float | None)


def _with(key: str, value: object, command: Callable[[Box], list[object]] = prune) -> Callable[[Box], list[object]]:
    def change(found: dict[str, object]) -> None:
        if value is ...:
            del found[key]
        else:
            found[key] = value

    def make(box: Box) -> list[object]:
        edited(profile(box), change)
        return command(box)

    return make
