"""The tokenizer of a checkpoint, as packing needs it: no added specials, no truncation, and the EOS id."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from eaftgate.errors import UserError
from eaftgate.lfs import check_file_no_pointer
from eaftgate.strict_json import MAX_JSON_BYTES, is_count, read_object


@dataclass(frozen=True)
class PackTokenizer:
    backend: Tokenizer
    eos_id: int


def load_tokenizer(checkpoint: Path) -> PackTokenizer:
    """Read tokenizer.json and the EOS that tokenizer_config.json (or else config.json) names.

    Raises UserError when a file is missing or malformed, or no EOS is named.
    """
    path = checkpoint / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{checkpoint} has no tokenizer.json: copy the tokenizer of the base model there")
    check_file_no_pointer(path)
    if path.stat().st_size > MAX_JSON_BYTES:
        raise UserError(f"{path} is larger than {MAX_JSON_BYTES} bytes: it is no tokenizer")
    with tokenizer_failures(f"{path} is not a tokenizer"), _silent():
        backend = Tokenizer.from_file(str(path))
    backend.no_truncation()
    backend.no_padding()
    # A post-processor adds specials, or trims white space off a token's offsets, which would then not count.
    backend.post_processor = None
    return PackTokenizer(backend, _eos_id(checkpoint, backend))


@contextmanager
def _silent() -> Iterator[None]:
    """Without what a panic writes to the process's standard error."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def tokenizer_failures(said: str) -> Iterator[None]:
    """Turns what the tokenizers library raises into a UserError that begins with `said`."""
    try:
        yield
    except BaseException as error:  # its errors are bare Exceptions, and its panics are none
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{said} ({reason})") from None


def _eos_id(checkpoint: Path, backend: Tokenizer) -> int:
    token = _named(checkpoint / "tokenizer_config.json", "eos_token", what="the tokenizer's configuration")
    token = token.get("content") if isinstance(token, dict) else token
    eos_id = backend.token_to_id(token) if isinstance(token, str) else None
    if eos_id is None:
        configured = _named(checkpoint / "config.json", "eos_token_id", what="the model configuration")
        eos_id = configured[0] if isinstance(configured, list) and configured else configured
    if not (is_count(eos_id) and eos_id < 1 << 31) or backend.id_to_token(eos_id) is None:
        raise UserError(f"{checkpoint} names no end-of-sequence token: set eos_token in tokenizer_config.json")
    return eos_id


def _named(path: Path, key: str, *, what: str) -> Any:
    if not path.is_file():
        return None
    return read_object(path, what=what).get(key)
