"""One question to a server and its answer, both JSON, over HTTP, with bounds on everything that comes back.

A server is somebody else's: it may drip, never end, answer at any length, or send us elsewhere. The time holds for all
of a question (connecting, headers, body, asking again), the size for the body, and a redirect is an error. No proxy is
used: what the environment says of one must not decide where a pack's tokens go.
"""

import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from threading import Event, Timer
from typing import Any
from urllib.parse import urlsplit

from eaftgate.errors import UserError
from eaftgate.strict_json import parse_json
from eaftgate.visible import sentence

_CONNECTIONS: dict[str, type[HTTPConnection]] = {"http": HTTPConnection, "https": HTTPSConnection}
_PIECE_BYTES = 1 << 20
_REASON_BYTES = 300
"""Of what a server says when it refuses."""
_MAY_BE_SECRET = set("@?#")
LOG = "see the server's log"


@dataclass(frozen=True)
class Bounds:
    """`idle` seconds between two pieces of an answer, `total` seconds of a question, `nbytes` of an answer."""

    idle: float
    total: float
    nbytes: int


@dataclass(frozen=True)
class Place:
    """Where a server is. `url` is what was given, without a slash at its end; no part of it is a secret."""

    url: str
    scheme: str
    host: str
    port: int | None
    path: str


class _Final(Exception):
    """An answer that asking again would not change."""


def place_of(url: str) -> Place:
    """Raises UserError for what is not the http:// or https:// URL of a server; what may hold a secret is not shown."""
    hides = bool(_MAY_BE_SECRET & set(url))
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError:  # also of the encoding
        parts, host, port = urlsplit(""), "", None
    written = url.isascii() and url.isprintable() and " " not in url
    if hides or parts.scheme not in _CONNECTIONS or not host or not written:
        shown = (
            "an --endpoint (not shown: a part of it may be secret)" if hides else f"--endpoint {sentence(url)[:200]}"
        )
        raise UserError(f"{shown} is not the URL of a server: give it as http://HOST:PORT or https://HOST:PORT alone")
    return Place(url.rstrip("/"), parts.scheme, host, port, parts.path.rstrip("/"))


def ask(
    place: Place, path: str, question: Any = None, *, bounds: Bounds, waits: Sequence[float] = (), remedy: str = LOG
) -> Any:
    """The answer to a GET of `path`, or to a POST of `question`, as JSON. After a dropped connection or an overloaded
    server it is asked again, after each of `waits` seconds, while there is time.

    Raises UserError with `remedy` when there is no answer within the bounds, or it is not JSON.
    """
    body = None if question is None else json.dumps(question).encode()
    answer = _asked(place, path, body, bounds, waits, remedy)
    return parse_json(answer, what=f"the answer of {place.url}{path}", remedy=remedy)


def ask_text(place: Place, path: str, *, bounds: Bounds, waits: Sequence[float] = (), remedy: str = LOG) -> str:
    """The same for a GET whose answer is any text."""
    return _asked(place, path, None, bounds, waits, remedy).decode(errors="replace")


def _asked(place: Place, path: str, body: bytes | None, bounds: Bounds, waits: Sequence[float], remedy: str) -> bytes:
    deadline = time.monotonic() + bounds.total
    for wait in (*waits, None):
        try:
            return _once(place, path, body, bounds, deadline)
        except _Final as error:
            raise _no_answer(place, error, remedy) from None
        except (OSError, HTTPException, ValueError) as error:
            if wait is None or time.monotonic() + wait >= deadline:
                raise _no_answer(place, error, remedy) from None
            time.sleep(wait)
    raise AssertionError("unreachable")


def _no_answer(place: Place, error: Exception, remedy: str) -> UserError:
    reason = sentence(str(error)) or type(error).__name__
    return UserError(f"--endpoint {place.url} does not answer ({reason}): {remedy}")


def _once(place: Place, path: str, body: bytes | None, bounds: Bounds, deadline: float) -> bytes:
    """Raises _Final, or OSError, HTTPException and ValueError for what asking again may change."""
    timeout = max(0.001, min(bounds.idle, deadline - time.monotonic()))
    with closing(_CONNECTIONS[place.scheme](place.host, place.port, timeout=timeout)) as connection:
        connection.connect()
        with _ended_at(deadline, connection.sock, bounds):
            headers = {"Connection": "close", "Accept": "application/json", "Content-Type": "application/json"}
            connection.request("GET" if body is None else "POST", place.path + path, body, headers)
            with closing(connection.getresponse()) as response:
                return _body(response, bounds)


@contextmanager
def _ended_at(deadline: float, sock: socket.socket, bounds: Bounds) -> Iterator[None]:
    """The socket ends at `deadline`, whatever is read from it then: a timeout of its own would begin anew with every
    byte. Raises _Final when that was it."""
    late = Event()

    def end() -> None:
        late.set()
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = Timer(max(0.0, deadline - time.monotonic()), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, HTTPException, ValueError):
        if not late.is_set():
            raise
    finally:
        timer.cancel()
    if late.is_set():
        raise _Final(f"no whole answer in {bounds.total:g} seconds")


def _body(response: HTTPResponse, bounds: Bounds) -> bytes:
    if 300 <= response.status < 400:
        raise _Final(f"HTTP status {response.status}, a redirect, which is not followed")
    if response.status != 200:
        reason = f"HTTP status {response.status} {response.read(_REASON_BYTES).decode(errors='replace')}"
        raise HTTPException(reason) if response.status >= 500 or response.status == 429 else _Final(reason)
    body = bytearray()
    while len(body) + (response.length or 0) <= bounds.nbytes and (piece := response.read(_PIECE_BYTES)):
        body += piece
    if len(body) + (response.length or 0) > bounds.nbytes:
        raise _Final(f"more than the {bounds.nbytes:,} bytes that an answer to this question can have")
    if response.length:
        raise IncompleteRead(bytes(body), response.length)
    return bytes(body)
