"""Scores snapshots of no particular profile, for the tests of what is cut from them."""

import hashlib
from pathlib import Path

from eaftgate.profile.profile import ProfileDescription
from eaftgate.select.scores import SCORES_FILE


def described(layers: int, experts: int, *, packs: int) -> ProfileDescription:
    return ProfileDescription.model_validate({
        "schema": "profile-1", "base": {"name": "base", "digest": "d" * 64},
        "dimensions": {"num_layers": layers, "num_experts": experts, "top_k": 4},
        "packs": {f"pack{n}": 1 for n in range(packs)}, "packs_dir": "packs", "packs_digest": None, "num_rows": None,
        "seq_len": 64, "seed": 1, "alignment": "token", "batch_size": 1, "num_blocks": 2, "counted_tokens": 100,
        "blocks_digest": "e" * 64, "model": {"device": "cpu", "dtype": "float32"},
        "rows": [hashlib.sha256(b"%d" % n).hexdigest() for n in range(3)],
    })  # fmt: skip


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory / SCORES_FILE
