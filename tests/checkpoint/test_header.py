"""Every rule of the safetensors header has an attack that must be refused with one sentence."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_checkpoint import Size, build_tensors, shard_bytes

from eaftgate.checkpoint.header import TensorEntry, read_header
from eaftgate.errors import UserError

GOOD = {"a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}
TWO = GOOD | {"b": {"dtype": "U8", "shape": [4], "data_offsets": [12, 16]}}


def file_bytes(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": GOOD["a"] | changes}


def test_entries_have_absolute_offsets(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes(TWO | {"__metadata__": {"format": "pt"}}, bytes(range(16))))
    entries = read_header(path)
    begin = path.stat().st_size - 16
    assert list(entries.values()) == [
        TensorEntry("a", "BF16", (2, 3), "model.safetensors", begin, begin + 12),
        TensorEntry("b", "U8", (4,), "model.safetensors", begin + 12, begin + 16),
    ]
    assert entries["b"].nbytes == 4


def test_agrees_with_the_safetensors_library(tmp_path: Path) -> None:
    data = shard_bytes(build_tensors(Size(layers=1), mxfp4=True, vocab_size=300))
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    theirs = {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in safetensors.deserialize(data)}
    ours = {name: (e.dtype, e.shape, data[e.begin : e.end]) for name, e in read_header(path).items()}
    assert ours == theirs


@pytest.mark.parametrize(
    "good",
    [
        pytest.param(file_bytes({}, b""), id="no_tensors"),
        pytest.param(file_bytes(entry(shape=[], dtype="F32", data_offsets=[0, 4]), bytes(4)), id="scalar"),
        pytest.param(file_bytes(entry(shape=[0, 3], data_offsets=[0, 0]), b""), id="empty_tensor"),
        pytest.param(file_bytes(entry(shape=[2], dtype="F4", data_offsets=[0, 1]), b"x"), id="sub_byte"),
        pytest.param(file_bytes(json.dumps(GOOD).encode() + b"    ", bytes(12)), id="padded"),
    ],
)
def test_accepted(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(good)
    read_header(path)
    safetensors.deserialize(good)


ATTACKS = {
    "empty_file": (b"", "too few"),
    "seven_bytes": (b"1234567", "too few"),
    "length_over_limit": (struct.pack("<Q", 100_000_001) + b"{}", "more than 100000000"),
    "length_u64_max": (b"\xff" * 8 + b"{}", "more than"),
    "length_past_the_end": (struct.pack("<Q", 100) + b"{}", "has only 10"),
    "leading_space": (file_bytes(b" {}", b""), "does not start with"),
    "leading_bom": (file_bytes(b"\xef\xbb\xbf{}", b""), "does not start with"),
    "array": (file_bytes([], b""), "does not start with"),
    "zero_length_header": (struct.pack("<Q", 0), "does not start with"),
    "not_utf8": (file_bytes(b'{"\xff": 1}', b""), "not UTF-8"),
    "not_json": (file_bytes(b"{nonsense}", b""), "not valid JSON"),
    "truncated_json": (file_bytes(json.dumps(GOOD).encode()[:-3], bytes(12)), "not valid JSON"),
    "lone_surrogate": (file_bytes(b'{"\\ud800": {}}', b""), "not UTF-8"),
    "too_deep": (file_bytes(b'{"a":' * 100_000, b""), "nested too deeply"),
    "huge_integer": (file_bytes(b'{"a":' + b"1" * 5000 + b"}", b""), "not valid JSON"),
    "nan": (file_bytes(b'{"a": NaN}', b""), "not valid JSON"),
    "duplicate_tensor": (file_bytes(b'{"a":{},"a":{}}', b""), "duplicate key 'a'"),
    "duplicate_field": (file_bytes(b'{"a":{"dtype":"U8","dtype":"U8"}}', b""), "duplicate key 'dtype'"),
    "metadata_not_object": (file_bytes({"__metadata__": 3}, b""), "__metadata__"),
    "metadata_not_strings": (file_bytes({"__metadata__": {"a": 1}}, b""), "__metadata__"),
    "entry_not_object": (file_bytes({"a": []}, b""), "must hold dtype, shape and data_offsets"),
    "missing_field": (file_bytes({"a": {"dtype": "U8", "shape": [1]}}, b"x"), "must hold"),
    "unknown_dtype": (file_bytes(entry(dtype="U7"), bytes(12)), "'U7' is not a safetensors dtype"),
    "dtype_not_string": (file_bytes(entry(dtype=["U8"]), bytes(12)), "not a safetensors dtype"),
    "negative_dim": (file_bytes(entry(shape=[-2, -3]), bytes(12)), "shape"),
    "float_dim": (file_bytes(entry(shape=[2.0, 3]), bytes(12)), "shape"),
    "bool_dim": (file_bytes(entry(shape=[True, 6]), bytes(12)), "shape"),
    "shape_not_list": (file_bytes(entry(shape=6), bytes(12)), "shape"),
    "shape_overflow": (file_bytes(entry(shape=[1 << 40, 1 << 40, 0]), bytes(12)), "overflows"),
    "shape_wraps_to_the_right_size": (file_bytes(entry(shape=[(1 << 63) + 6]), bytes(12)), "overflows"),
    "offsets_not_pair": (file_bytes(entry(data_offsets=[0, 6, 12]), bytes(12)), "data_offsets"),
    "offsets_negative": (file_bytes(entry(data_offsets=[-12, 0]), bytes(12)), "data_offsets"),
    "offsets_reversed": (file_bytes(entry(data_offsets=[12, 0]), bytes(12)), "data_offsets say -12"),
    "size_mismatch": (file_bytes(entry(data_offsets=[0, 11]), bytes(11)), "need 12 bytes"),
    "half_a_byte": (file_bytes(entry(dtype="F4", shape=[3], data_offsets=[0, 1]), b"x"), "need 1.5 bytes"),
    "hole_at_start": (file_bytes(entry(data_offsets=[4, 16]), bytes(16)), "a hole"),
    "hole": (file_bytes(TWO | {"b": TWO["b"] | {"data_offsets": [13, 17]}}, bytes(17)), "a hole"),
    "overlap": (file_bytes(TWO | {"b": TWO["b"] | {"data_offsets": [8, 12]}}, bytes(12)), "an overlap"),
    "truncated_data": (file_bytes(GOOD, bytes(11)), "its header describes"),
    "trailing_data": (file_bytes(GOOD, bytes(13)), "its header describes"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_is_refused(tmp_path: Path, attack: str) -> None:
    data, expected = ATTACKS[attack]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_header(path)
    message = str(caught.value)
    assert expected in message
    assert str(path) in message
    assert "\n" not in message


def test_missing_file_and_directory(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(UserError, match="not a regular file"):
            read_header(path)


BASE = file_bytes(TWO, bytes(16))


@given(st.binary(max_size=200))
@example(BASE)
def test_fuzz_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    refused_or_valid(tmp_path_factory.getbasetemp() / "fuzz.safetensors", data)


@given(st.lists(st.tuples(st.integers(0, len(BASE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_fuzz_flipped_bytes(tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]) -> None:
    data = bytearray(BASE)
    for position, value in flips:
        data[position] = value
    refused_or_valid(tmp_path_factory.getbasetemp() / "fuzz.safetensors", bytes(data))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
fields = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["U8", "F4", "BF16"]) | json_values},
    optional={
        "shape": st.lists(st.integers(-1, 1 << 64), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 20), max_size=3) | json_values,
    },
)


@given(st.dictionaries(st.text(max_size=3), fields | json_values, max_size=3), st.binary(max_size=20))
def test_fuzz_header_values(tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], data: bytes) -> None:
    refused_or_valid(tmp_path_factory.getbasetemp() / "fuzz.safetensors", file_bytes(header, data))


def refused_or_valid(path: Path, data: bytes) -> None:
    """Either a one-line UserError, or the library accepts the file as well."""
    path.write_bytes(data)
    message = None
    try:
        read_header(path)
    except UserError as error:
        message = str(error)
    if message is None:
        safetensors.deserialize(data)
    else:
        assert "\n" not in message
