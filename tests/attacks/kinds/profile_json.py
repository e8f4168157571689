"""profile.json."""

from collections.abc import Iterator
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
    return ["prune", box.base(), "--profile", box.profile(), "--keep-n", 4, "--out", box.out]


def attacks() -> Iterator[Attack]:
    yield Attack("as it was", prune, "accepted")
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


def _with(key: str, value: object):  # type: ignore[no-untyped-def]
    def change(found: dict[str, object]) -> None:
        if value is ...:
            del found[key]
        else:
            found[key] = value

    def make(box: Box) -> list[object]:
        edited(profile(box), change)
        return prune(box)

    return make
