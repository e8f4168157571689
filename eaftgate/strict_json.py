"""JSON from untrusted files: objects only, no duplicate keys, no NaN, no lone surrogates, limits of size and depth.

`json.loads` alone lets all of these through, and raises four different exceptions for the rest.
"""

import codecs
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from eaftgate.errors import UserError
from eaftgate.files import read_regular
from eaftgate.lfs import check_no_pointer

MAX_JSON_BYTES = 100_000_000
FRESH_COPY = "take a fresh copy of the file"
LARGEST = 10**100
"""Of whole numbers: real files have 10**30 (a tokenizer's model_max_length of "any")."""
LARGEST_64 = (1 << 63) - 1
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_LONG_NUMBER = re.compile(rb"[0-9]{19}")


def parse_json(data: bytes, *, what: str, remedy: str = FRESH_COPY, largest: int = LARGEST) -> Any:
    """Parse a UTF-8 JSON value of whole numbers up to `largest`. `what` names the thing in the sentence, `remedy` says
    what to do. Raises UserError."""
    if data.startswith(codecs.BOM_UTF8):
        raise UserError(f"{what} begins with a byte order mark: save it as UTF-8 without one")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_up_to(largest) if _LONG_NUMBER.search(data) else None,
        )
        if _SURROGATE_ESCAPE.search(data):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise UserError(f"{what} is nested too deeply to be read; {remedy}") from None
    except ValueError as error:  # JSONDecodeError, UnicodeError and over-long integers are all ValueErrors
        raise UserError(f"{what} is not valid JSON ({_one_line(error)}); {remedy}") from None
    return value


def parse_object(data: bytes, *, what: str, remedy: str = FRESH_COPY, largest: int = LARGEST) -> dict[str, Any]:
    """The same, for what must be an object."""
    value = parse_json(data, what=what, remedy=remedy, largest=largest)
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise UserError(f"{what} must be a JSON object, not a {kind}; {remedy}")
    return value


def read_object(path: Path, *, what: str) -> dict[str, Any]:
    """Read a JSON object from a regular file of at most `MAX_JSON_BYTES`. Raises UserError."""
    data = read_limited(path, what=what, remedy="take a complete copy of the checkpoint")
    return parse_object(data, what=f"{what} {path}")


def read_limited(path: Path, *, what: str, remedy: str = FRESH_COPY) -> bytes:
    """The bytes of a regular file that has at most `MAX_JSON_BYTES`. Raises UserError."""
    data = read_regular(path, what=what, limit=MAX_JSON_BYTES, remedy=remedy)
    check_no_pointer(data, path)
    return data


def without_mark(data: bytes) -> bytes:
    """What stands behind a byte order mark: some editors put one before what people write with them."""
    return data.removeprefix(codecs.BOM_UTF8)


def is_count(value: object) -> TypeGuard[int]:
    """Whether `value` is an integer >= 0 (JSON true and false are not)."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def shown(value: object) -> str:
    """An untrusted JSON value for an error sentence: short, on one line, printable."""
    if isinstance(value, dict | list):
        return f"a JSON {'object' if isinstance(value, dict) else 'array'} of {len(value)}"
    if isinstance(value, str) and len(value) > 200:
        return f"{value[:200]!r}..."
    return repr(value)[:300]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"duplicate key {shown(key)}")
            seen.add(key)
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _up_to(largest: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        if len(text) > 2 * len(str(largest)) or abs(int(text)) > largest:
            raise ValueError(f"{text[:40]} is too large a number")
        return int(text)

    return whole_number


def _one_line(error: ValueError) -> str:
    if isinstance(error, UnicodeError):
        return "not UTF-8 text"
    return " ".join(str(error).split())
