"""A target for each parser: sound files to start from, and what reads one."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from attacks.kinds import keep_sets, manifest, recipe_yaml
from attacks.sound import conversation
from results import parity_cell, parity_of
from tiny_checkpoint import Size, build_tensors, build_tokenizer, shard_bytes, write_tiny_checkpoint

from eaftgate.arrays import DamagedArray, open_array, read_archive
from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.header import read_header
from eaftgate.errors import UserError
from eaftgate.gate.results import Parity
from eaftgate.judge.policy import DEFAULT_GATES, Gates
from eaftgate.packs.harmony import MalformedRow, assistant_messages
from eaftgate.packs.pack import read_pack
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.profile.profile import ProfileDescription
from eaftgate.prune.keep_sets import read_keep_sets
from eaftgate.recipes.recipe import read_section
from eaftgate.records import read_model, write_model
from eaftgate.report.lock import Lock
from eaftgate.rewrite.manifest import Manifest
from eaftgate.select.class_weights import parse_class_weights
from eaftgate.strict_json import parse_json
from eaftgate.strict_yaml import read_yaml, yaml_value

REFUSALS = (UserError, DamagedArray, MalformedRow)
"""How a parser says no."""


@dataclass(frozen=True)
class Target:
    """`read` takes the path of a file with the bytes; `words` are spliced into them."""

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], object]
    words: tuple[bytes, ...] = ()


JSON_WORDS = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"null",
    b"true",
    b"1e999",
    b"-1",
    b"0.5",
    b"\\ud800",
    b"9" * 40,
    b"\\u0000",
)
YAML_WORDS = (
    b"- ",
    b": ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"&a ",
    b"*a",
    b"!!int ",
    b"\n",
    b"  ",
    b"'",
    b'"',
    b"|\n",
    b"---\n",
    b"? ",
    b"#",
    b"<<: ",
)


def all_targets(work: Path) -> dict[str, Target]:
    """Every target by name; `work` is an empty directory for what they need beside the file."""
    tensors = build_tensors(Size(layers=1), mxfp4=True, vocab_size=build_tokenizer().get_vocab_size())
    base = work / "base"
    write_tiny_checkpoint(base)
    checkpoint = open_checkpoint(base)
    parity_path = work / "parity.json"
    write_model(parity_path, parity_of(parity_cell()))

    def record(model: type[Any]) -> Callable[[Path], object]:
        return lambda path: read_model(path, model, what="file", remedy="correct it")

    def tokenizer(path: Path) -> object:
        path.replace(base / "tokenizer.json")
        return load_tokenizer(base).backend.encode(conversation(0), add_special_tokens=False).ids

    manifest_bytes = json.dumps(manifest.SOUND).encode()
    targets = [
        Target(
            "json",
            (manifest_bytes, b'[1, "a", {"b": null}]'),
            lambda p: parse_json(p.read_bytes(), what="x"),
            JSON_WORDS,
        ),
        Target("manifest", (manifest_bytes,), record(Manifest), JSON_WORDS),
        Target("gates", (DEFAULT_GATES.read_bytes(),), record(Gates), JSON_WORDS),
        Target("parity", (parity_path.read_bytes(),), record(Parity), JSON_WORDS),
        Target("lock", (parity_path.read_bytes(),), record(Lock), JSON_WORDS),
        Target("profile", (manifest_bytes,), record(ProfileDescription), JSON_WORDS),
        Target(
            "keep-sets",
            (json.dumps(keep_sets.SOUND).encode(), json.dumps(keep_sets.MAPPING).encode()),
            lambda path: read_keep_sets(path, checkpoint),
            JSON_WORDS,
        ),
        Target("safetensors", (shard_bytes(tensors)[:6000], shard_bytes(tensors)), read_header, JSON_WORDS),
        Target(
            "yaml",
            tuple(text.encode() for text in recipe_yaml.ACCEPTED.values()),
            lambda path: yaml_value(read_yaml(path, what="file"), where=path),
            YAML_WORDS,
        ),
        Target(
            "recipe",
            tuple(text.encode() for text in recipe_yaml.ACCEPTED.values()),
            lambda path: read_section(path, "packs split"),
            (*YAML_WORDS, b"extends: "),
        ),
        Target(
            "npy",
            (_npy(np.ones((3, 4), np.float16)), _npy(np.zeros(0, np.int32))),
            lambda p: open_array(p).sum(),
            _NPY_WORDS,
        ),
        Target(
            "npz",
            (_npz(np.savez), _npz(np.savez_compressed)),
            lambda path: read_archive(path.read_bytes(), {"a": "<f", "rows": "|S"}),
            (*_NPY_WORDS, b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"),
        ),
        Target("parquet", (_parquet(compression="none"), _parquet(compression="zstd")), read_pack, (b"PAR1", b"text")),
        Target("tokenizer", ((base / "tokenizer.json").read_bytes(),), tokenizer, JSON_WORDS),
        Target(
            "harmony",
            (conversation(1).encode(),),
            lambda path: assistant_messages(path.read_text(encoding="utf-8", errors="replace")),
            (
                b"<|start|>",
                b"<|end|>",
                b"<|message|>",
                b"<|channel|>",
                b"<|call|>",
                b"<|return|>",
                b"assistant",
                b" to=f",
            ),
        ),
        Target(
            "class-weights",
            (b"call=8,header=4", b"balanced,close=1"),
            lambda path: parse_class_weights(path.read_text(encoding="utf-8", errors="replace")),
            (b"=", b",", b"nan", b"inf", b"call", b"-1", b"1e400"),
        ),
    ]
    return {target.name: target for target in targets}


_NPY_WORDS = (b"\x93NUMPY\x01\x00", b"'descr': ", b"'|O'", b"'<f8'", b"(", b")", b"True", b"9" * 18, b"{", b"}")


def _npy(array: Any) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


def _npz(save: Callable[..., None]) -> bytes:
    sink = io.BytesIO()
    save(sink, a=np.ones((2, 3)), rows=np.array([b"a" * 8]))
    return sink.getvalue()


def _parquet(**options: str) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": [conversation(number) for number in range(8)]}), sink, **options)
    found: bytes = sink.getvalue().to_pybytes()
    return found
