"""The number of blocks to ask for where some estimate says how many would do."""

_SHARE = 10


def with_room(blocks: int, held: int | None) -> int:
    """A tenth on top, as far as the packs hold that many: what is estimated by number falls short half of the time, and
    then all of it has to be done once more."""
    asked = blocks - -blocks // _SHARE
    return asked if held is None else max(blocks, min(asked, held))


def in_recipe(number: int, key: str = "num_blocks") -> str:
    """What the section of the gate says."""
    return f"gate: {{{key}: {number}}}"
