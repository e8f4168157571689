"""The ranks of o200k, which openai-harmony needs, out of the npm package js-tiktoken."""

import json
import re
import subprocess
import tarfile
from hashlib import sha256
from pathlib import Path

PACKAGE = "js-tiktoken@1.0.21"
SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
"""Of o200k_base.tiktoken, as openai-harmony checks it."""


def write_ranks(directory: Path) -> Path:
    """`directory` with o200k_base.tiktoken in it, for TIKTOKEN_ENCODINGS_BASE."""
    packing = ["npm", "pack", "--silent", "--pack-destination", str(directory), PACKAGE]
    subprocess.run(packing, check=True, capture_output=True, timeout=300)
    (archive,) = directory.glob("*.tgz")
    with tarfile.open(archive) as files:
        member = files.extractfile("package/dist/ranks/o200k_base.js")
        assert member is not None
        source = member.read().decode()
    # Lines of a prefix, the first rank, and tokens in base64 from there on.
    written = json.loads(re.search(r'"bpe_ranks":("(?:[^"\\]|\\.)*")', source)[1])  # type: ignore[index]
    ranked = [
        (int(first) + number, token)
        for _, first, *tokens in (line.split(" ") for line in written.split("\n") if line)
        for number, token in enumerate(tokens)
    ]
    data = "".join(f"{token} {rank}\n" for rank, token in sorted(ranked)).encode()
    assert sha256(data).hexdigest() == SHA256
    (directory / "o200k_base.tiktoken").write_bytes(data)
    return directory
