"""--scores FILE: reap-scores.yaml and the reap-scores.npz beside it."""

import hashlib
import io
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from attacks.attack import Attack, Box
from attacks.kinds import recipe_yaml
from attacks.malformed import OTHER_TYPES, with_contents, without_a_file

FILE, DATA = "reap-scores.yaml", "reap-scores.npz"


def told(box: Box) -> Path:
    return box.pruned() / FILE


def data(box: Box) -> Path:
    return box.pruned() / DATA


def prune(box: Box) -> list[object]:
    return ["prune", box.base(), "--scores", told(box), "--keep-n", 4, "--out", box.out]


def attacks() -> Iterator[Attack]:
    yield Attack("as it was", prune, "accepted")
    yield Attack("compressed", _arrays(lambda arrays: arrays.update(), save=np.savez_compressed), "accepted")
    texts = {name: text.encode() for name, text in recipe_yaml.REFUSED.items() if not name.startswith("extends")}
    yield from with_contents(told, prune, texts.items(), says=FILE)
    yield from without_a_file(told, prune, says=FILE)
    yield from without_a_file(data, prune, says=DATA, prefix="npz: ")
    for key in (
        "schema",
        "data_sha256",
        "alignment",
        "low_quantile",
        "classes",
        "classes.type_powers",
        "classes.tokens",
        "classes.tokens.header",
        "profile",
        "profile.base",
        "profile.dimensions",
    ):
        for what, value in {"missing": ..., **OTHER_TYPES}.items():
            yield Attack(f"{key} is {what}", _told(key, value), says="reap-scores")
    yield Attack("of before sums of classes", _of_before(prune), "accepted")
    yield Attack(
        "of before sums of classes, weighed", _of_before(lambda box: [*prune(box), "--class-weight", "balanced"]),
        says="--scores hold sums of one weighting",
    )  # fmt: skip
    yield Attack("weighed", lambda box: [*prune(box), "--class-weight", "balanced"], "accepted")
    yield Attack("another power", lambda box: [*prune(box), "--class-weight", "type_power=2"], says="type_power 0")
    for what, tokens in {"an unknown class": {"prose": 1}, "a class less": {"call": 1}, "none": {}}.items():
        yield Attack(f"classes.tokens: {what}", _told("classes.tokens", tokens), says="reap-scores")
    for what, powers in {"twice": [0.0, 0.0], "one more": [0.0, 0.75, 1.0], "negative": [0.0, -1.0]}.items():
        yield Attack(f"classes.type_powers: {what}", _told("classes.type_powers", powers), says="reap-scores")
    for what, value in {"a date": "!date", "octal": "017_", "base 60": "1:20"}.items():
        yield Attack(f"low_quantile is {what}", _raw(f"low_quantile: {value}"), says=FILE)
    for name, make in _archives().items():
        yield Attack(f"npz: {name}", make, says=DATA)


def _raw(line: str) -> Callable[[Box], list[object]]:
    def make(box: Box) -> list[object]:
        text = told(box).read_text(encoding="utf-8")
        lines = [line if old.startswith(line.split(":")[0]) else old for old in text.splitlines()]
        told(box).write_text("\n".join(old for old in lines if not old.startswith("sha256")), encoding="utf-8")
        return prune(box)

    return make


def _told(key: str, value: object) -> Callable[[Box], list[object]]:
    def make(box: Box) -> list[object]:
        found = yaml.safe_load(told(box).read_text(encoding="utf-8"))
        found.pop("sha256", None)
        *way, last = key.split(".")
        at = found
        for part in way:
            at = at[part]
        if value is ...:
            del at[last]
        else:
            at[last] = value
        told(box).write_text(yaml.safe_dump(found, sort_keys=False), encoding="utf-8")
        return prune(box)

    return make


def _of_before(command: Callable[[Box], list[object]]) -> Callable[[Box], list[object]]:
    """Without the sums of classes, as earlier versions wrote it."""

    def make(box: Box) -> list[object]:
        _arrays(lambda arrays: [arrays.pop(name) for name in list(arrays) if "_ZC" in name])(box)
        _told("classes", ...)(box)
        return command(box)

    return make


def _signed(content: Callable[[Box], bytes]) -> Callable[[Box], list[object]]:
    """The archive is `content`, and what is told of it says so."""

    def make(box: Box) -> list[object]:
        made = content(box)
        data(box).write_bytes(made)
        _told("data_sha256", hashlib.sha256(made).hexdigest())(box)
        return prune(box)

    return make


def _arrays(
    change: Callable[[dict[str, Any]], object], save: Callable[..., None] = np.savez
) -> Callable[[Box], list[object]]:
    def content(box: Box) -> bytes:
        with np.load(data(box)) as arrays:
            held = dict(arrays)
        change(held)
        sink = io.BytesIO()
        save(sink, **held)
        return sink.getvalue()

    return _signed(content)


def _members(change: Callable[[dict[str, bytes]], object], **options: Any) -> Callable[[Box], list[object]]:
    """The members of the archive changed, and stored again with `options` of zipfile."""

    def content(box: Box) -> bytes:
        with zipfile.ZipFile(data(box)) as archive:
            held = {name: archive.read(name) for name in archive.namelist()}
        change(held)
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", **options) as archive:
            for name, member in held.items():
                archive.writestr(name, member)
        return sink.getvalue()

    return _signed(content)


def _npy(header: bytes, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + content


def _header(descr: str = "'<f8'", order: str = "False", shape: str = "(2, 3, 8)", more: str = "") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, {more}}}\n".encode()


def _archives() -> dict[str, Callable[[Box], list[object]]]:
    size = 2 * 3 * 8 * 8
    headers = {
        "an object array": _header("'|O'"),
        "a giant shape": _header(shape="(1000000000000,)"),
        "a shape of 2**62": _header(shape=f"({1 << 62}, {1 << 62})"),
        "a negative shape": _header(shape="(-1,)"),
        "a shape of 5000 digits": _header(shape="(" + "1" * 5000 + ",)"),
        "a shape that is text": _header(shape="'a'"),
        "64 dimensions": _header(shape="(" + "1, " * 64 + ")"),
        "a structured type": _header("[('a', '<f8')]"),
        "a type that is none": _header("'<f3'"),
        "a wide type": _header("'|S999999'"),
        "a void": _header("'|V8'"),
        "code": _header(shape="__import__('os').mkdir('made')"),
        "deep brackets": _header(shape="(" * 4000 + ")" * 4000),
        "an endless list": _header(shape="[" * 9000),
        "another key": _header(more="'a': 1, "),
        "a key twice": _header(more="'shape': (), "),
        "not closed": _header()[:-3] + b"\n",
        "no header": b"",
        "NaN": _header(shape="(nan,)"),
        "L": _header(shape="(2L, 3L, 8L)"),
        "big endian": _header("'>f8'"),
        "an integer type": _header("'<i8'"),
        "fewer bytes": _header(shape="(2, 3, 9)"),
        "no dimension": _header(shape="()"),
    }
    found = {
        name: _members(lambda held, header=header: held.update({"hits_PLE.npy": _npy(header, b"\0" * size)}))  # type: ignore[misc]
        for name, header in headers.items()
    }
    for version in (b"\x02\x00", b"\x03\x00", b"\x00\x00", b"\xff\xff"):
        found[f"version {version[0]}"] = _members(
            lambda held, version=version: held.update({"hits_PLE.npy": _npy(_header(), b"\0" * size, version)})  # type: ignore[misc]
        )
    return found | {
        "no zip": _signed(lambda _: b"text"),
        "empty": _signed(lambda _: b""),
        "a zip of nothing": _members(lambda held: held.clear()),
        "cut": _signed(lambda box: data(box).read_bytes()[:-30]),
        "begun late": _signed(lambda box: data(box).read_bytes()[30:]),
        "a .npy": _signed(lambda _: _npy(_header(), b"\0" * size)),
        "lzma": _members(lambda held: held.update(), compression=zipfile.ZIP_LZMA),
        "bzip2": _members(lambda held: held.update(), compression=zipfile.ZIP_BZIP2),
        "an odd compression": _signed(_with_method(99)),
        "a shrunk member": _signed(_with_method(1)),
        "encrypted": _signed(_with_flag),
        "a wrong checksum": _signed(_flipped),
        "a member more": _members(lambda held: held.update({"../evil.npy": b""})),
        "a member that is a pickle": _members(lambda held: held.update({"rows.npy": b"\x80\x04."})),
        "no sums of classes": _arrays(lambda arrays: arrays.pop("norm_ZCPLE")),
        "sums of one class less": _arrays(lambda arrays: arrays.update(hits_ZCPLE=arrays["hits_ZCPLE"][:, 1:])),
        "sums of one power more": _arrays(lambda arrays: arrays.update(mass_ZCPRLE=arrays["mass_ZCPRLE"][[0, 0, 1]])),
        "infinite sums of classes": _arrays(lambda arrays: arrays.update(norm_ZCPLE=arrays["norm_ZCPLE"] + np.inf)),
        "negative sums of classes": _arrays(lambda arrays: arrays.update(mass_ZCPRLE=-1 - arrays["mass_ZCPRLE"])),
        "no rows": _arrays(lambda arrays: arrays.pop("rows")),
        "rows of numbers": _arrays(lambda arrays: arrays.update(rows=np.ones(3))),
        "rows of objects": _arrays(lambda arrays: arrays.update(rows=np.array([{}]))),
        "rows that are not ASCII": _arrays(lambda arrays: arrays.update(rows=np.array([b"\xff"]))),
        "NaN sums": _arrays(lambda arrays: arrays.update(norm_PLE=arrays["norm_PLE"] * np.nan)),
        "negative sums": _arrays(lambda arrays: arrays.update(hits_PLE=-1 - arrays["hits_PLE"])),
        "too few packs": _arrays(lambda arrays: arrays.update(hits_PLE=arrays["hits_PLE"][:0])),
        "a bomb": _members(
            lambda held: held.update({"hits_PLE.npy": _npy(_header(shape=f"({10**9},)"), bytes(10**8))}),
            compression=zipfile.ZIP_DEFLATED,
        ),
        "a member twice": _signed(_twice),
    }


def _with_method(method: int) -> Callable[[Box], bytes]:
    def content(box: Box) -> bytes:
        found = bytearray(data(box).read_bytes())
        for magic, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
            place = found.find(magic) + offset
            found[place : place + 2] = struct.pack("<H", method)
        return bytes(found)

    return content


def _with_flag(box: Box) -> bytes:
    found = bytearray(data(box).read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        found[found.find(magic) + offset] |= 1
    return bytes(found)


def _flipped(box: Box) -> bytes:
    found = bytearray(data(box).read_bytes())
    found[found.find(b"hits_PLE") + 250] ^= 1
    return bytes(found)


def _twice(box: Box) -> bytes:
    with zipfile.ZipFile(data(box)) as archive:
        held = [(name, archive.read(name)) for name in archive.namelist()]
    sink = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(sink, "w") as archive:
        warnings.simplefilter("ignore")
        for name, member in (*held, held[0]):
            archive.writestr(name, member)
    return sink.getvalue()
