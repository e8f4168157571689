"""The tokenizer of a checkpoint, as packing needs it: no added specials, no truncation, and the EOS id."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from eaftgate.errors import UserError
from eaftgate.lfs import check_file_no_pointer
from eaftgate.strict_json import read_object


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
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises bare Exception for a malformed file
        raise UserError(f"{path} is not a tokenizer ({str(error).splitlines()[0]})") from None
    backend.no_truncation()
    backend.no_padding()
    # A post-processor adds specials, or trims white space off a token's offsets, which would then not count.
    backend.post_processor = None
    return PackTokenizer(backend, _eos_id(checkpoint, backend))


def _eos_id(checkpoint: Path, backend: Tokenizer) -> int:
    token = _named(checkpoint / "tokenizer_config.json", "eos_token", what="the tokenizer's configuration")
    token = token.get("content") if isinstance(token, dict) else token
    eos_id = backend.token_to_id(token) if isinstance(token, str) else None
    if eos_id is None:
        configured = _named(checkpoint / "config.json", "eos_token_id", what="the model configuration")
        eos_id = configured[0] if isinstance(configured, list) and configured else configured
    if not isinstance(eos_id, int) or backend.id_to_token(eos_id) is None:
        raise UserError(f"{checkpoint} names no end-of-sequence token: set eos_token in tokenizer_config.json")
    return eos_id


def _named(path: Path, key: str, *, what: str) -> Any:
    if not path.is_file():
        return None
    return read_object(path, what=what).get(key)
