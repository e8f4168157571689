"""What came from outside (a file, a name, a server), made safe to be written where people read: terminal, log, report.

A character that is not printable is written as in a Python literal: an escape that a terminal would obey, a line break
that would begin a line of its own, a character that turns the direction of writing, half of a surrogate pair (a file
name that is not UTF-8), which no stream takes. Everything else stays as it is.
"""

import hashlib
import re

from eaftgate.errors import UserError


def visible(text: str) -> str:
    """`text` on one line. The backslash is escaped, too, so that no two texts look the same: for names and contents."""
    return plain(text.replace("\\", "\\\\"))


def plain(text: str) -> str:
    """`text` on one line, with its backslashes: for sentences, in which names may have been quoted already."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def sentence(text: str) -> str:
    """The same, with white space of any kind as single blanks."""
    return plain(" ".join(text.split()))


def check_encoded(name: str, *, what: str) -> None:
    """Raises UserError for the name of a file that is not UTF-8: what is written of it could not be read again."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{what} {name!r} is not UTF-8: rename it") from None


MAX_STEM_BYTES = 200


def file_stem(text: str) -> str:
    """`text` as the begin of a file's name; where it is too long for one, or may not be one, its own begin and a digest
    of all of it."""
    usable = text and text.isprintable() and "/" not in text and not text.startswith(".")
    if usable and len(text.encode()) <= MAX_STEM_BYTES:
        return text
    begin = re.sub(r"[^A-Za-z0-9_-]", "_", text)[:100]
    return f"{begin}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}"
