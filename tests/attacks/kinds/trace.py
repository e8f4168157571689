"""The arrays of a profile's trace: changed since, or what no model can have done."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from attacks.attack import Attack, Box
from attacks.kinds.profile_json import FILE, prune
from eaftgate.profile.trace import FORMS

Change = Callable[[dict[str, np.ndarray]], object]
AT = (2, 1, 0)
BAD_FILES = {
    "empty": b"",
    "text": b"not an array",
    "a pickle": b"\x80\x04N.",
    "cut header": b"\x93NUMPY\x01\x00v\x00{'des",
}


def attacks() -> Iterator[Attack]:
    yield Attack("of an earlier version", _without_digests(lambda _: None), "accepted")
    for name in FORMS:
        for place in (0.1, 0.5, 0.999):
            what = f"{name}: a bit at {place:.0%} flipped"
            yield Attack(what, _flipped(name, place), says="changed since it was made", slow=place != 0.5)
        yield Attack(f"{name} is missing", _file(name, None), says="profile again")
        for what, content in BAD_FILES.items():
            make, rare = _file(name, content, digests=False), what != "cut header"
            yield Attack(f"{name} is {what}", _file(name, content), says="profile again", slow=True)
            yield Attack(f"{name} is {what}, no digests", make, says="profile again", slow=rare)
        for dtype in ("f8", ">i4", "c8", "U2", "i8"):
            if np.dtype(dtype) != np.dtype(FORMS[name]):
                make = _without_digests(_retyped(name, dtype))
                yield Attack(f"{name} of {dtype}", make, says=name, slow=dtype != "f8")
        yield Attack(f"{name} of more dimensions", _without_digests(_reshaped(name)), says="shape")
        yield Attack(f"{name} is shorter", _without_digests(_shorter(name)), says="shape")
    values: dict[str, tuple[Any, ...]] = {
        "expert_XLK": (8, 255), "gate_XLK": (np.nan, np.inf, -0.5, 1.5, -0.0), "norm_XLK": (np.nan, np.inf, -1),
    }  # fmt: skip
    for name, bad in values.items():
        for value in bad:
            yield Attack(f"{name} holds {value}", _without_digests(_put(name, AT, value)), says=name)
    of_tokens: dict[str, tuple[Any, ...]] = {
        "p_T": (np.nan, -1, 2), "entropy_T": (np.nan, -1, 2), "predicting_T": (-1, 1 << 30), "own_T": (-1, 1 << 30),
        "row_T": (-1, 1 << 30), "pack_T": (2, 255), "kind_T": (8, 255),
    }  # fmt: skip
    for name, bad in of_tokens.items():
        for value in bad:
            yield Attack(f"{name} holds {value}", _without_digests(_put(name, 0, value)), says=name)
    yield Attack("an expert twice", _without_digests(_twice), says="twice")
    yield Attack("gates of zero", _without_digests(_put("gate_XLK", (2, 1), 0)), says="sum to 1")
    for digests in (True, False):
        with_or_without = "with" if digests else "without"
        for what, change in _directories().items():
            yield Attack(f"{what}, {with_or_without} digests", _trace(change, digests=digests), says="profile")


def _shard(box: Box) -> Path:
    return next((box.profile() / "trace").iterdir())


def _forget(box: Box) -> None:
    """As an earlier version has left it."""
    told = json.loads((box.profile() / FILE).read_text())
    del told["trace"]
    (box.profile() / FILE).write_text(json.dumps(told))


def _without_digests(change: Change) -> Callable[[Box], list[object]]:
    def make(box: Box) -> list[object]:
        shard = _shard(box)
        arrays = {name: np.load(shard / f"{name}.npy") for name in FORMS}
        change(arrays)
        for name, array in arrays.items():
            np.save(shard / f"{name}.npy", array)
        _forget(box)
        return prune(box)

    return make


def _flipped(name: str, place: float) -> Callable[[Box], list[object]]:
    def make(box: Box) -> list[object]:
        file = _shard(box) / f"{name}.npy"
        data = bytearray(file.read_bytes())
        data[int(place * len(data))] ^= 1
        file.write_bytes(data)
        return prune(box)

    return make


def _file(name: str, content: bytes | None, *, digests: bool = True) -> Callable[[Box], list[object]]:
    def make(box: Box) -> list[object]:
        file = _shard(box) / f"{name}.npy"
        file.unlink() if content is None else file.write_bytes(content)
        if not digests:
            _forget(box)
        return prune(box)

    return make


def _trace(change: Callable[[Path], object], *, digests: bool) -> Callable[[Box], list[object]]:
    def make(box: Box) -> list[object]:
        change(_shard(box))
        if not digests:
            _forget(box)
        return prune(box)

    return make


def _directories() -> dict[str, Callable[[Path], object]]:
    """Of the one shard."""
    return {
        "no shard": shutil.rmtree,
        "a shard twice": lambda shard: shutil.copytree(shard, shard.with_name("blocks-00000000-00000001")),
        "a shard after a gap": lambda shard: shutil.copytree(shard, shard.with_name("blocks-00009000-00009001")),
        "a shard that begins late": lambda shard: shard.rename(shard.with_name("blocks-00000001-00000009")),
        "a shard of no blocks": lambda shard: shard.rename(shard.with_name("blocks-00000000-00000000")),
        "a shard of another name": lambda shard: shard.rename(shard.with_name("blocks-a-b")),
        "no trace": lambda shard: shutil.rmtree(shard.parent),
    }


def _put(name: str, place: Any, value: Any) -> Change:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[name][place] = value

    return change


def _twice(arrays: dict[str, np.ndarray]) -> None:
    arrays["expert_XLK"][2, 1, 1] = arrays["expert_XLK"][2, 1, 0]


def _retyped(name: str, dtype: str) -> Change:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[name] = arrays[name].astype(dtype)

    return change


def _reshaped(name: str) -> Change:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[name] = arrays[name][None]

    return change


def _shorter(name: str) -> Change:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[name] = arrays[name][:-1]

    return change
