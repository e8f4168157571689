"""Which functions a prompt offers, and whether the arguments of a call suit one: read from what Harmony says of them.

The other way of `typescript`: a system or developer message has TypeScript, not the JSON schemas that it was made of.
What is optional, an enum, an array or null is known from it; what TypeScript does not say (the least number, a
pattern) is not asked. An argument that the signature does not name does not suit. What cannot be read takes anything.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FUNCTIONS = "functions"
"""The namespace of functions that stand in none."""

_LINE = re.compile(
    r"^[ \t]*(?:namespace[ \t]+(?P<namespace>\S+)[ \t]*\{|(?P<end>\}[ \t]*//[ \t]*namespace.*)"
    r"|type[ \t]+(?P<name>[^\s=]+)[ \t]*=[ \t]*(?=\()|#(?P<heading>#?)[ \t]+(?P<title>\S+)[ \t]*$)",
    re.MULTILINE,
)
_TOKEN = re.compile(r'//[^\n]*|\s+|("(?:[^"\\\n]|\\.)*")|(=>|[{}()\[\]<>|:;,?=])|([^\s{}()\[\]<>|:;,?="]+)')

Suits = Callable[[Any], bool]


def _anything(_: Any) -> bool:
    return True


@dataclass(frozen=True)
class Function:
    """`takes_json`: its arguments are an object; a tool without a signature takes text, like code to run."""

    suits: Suits
    takes_json: bool = True


def offered_functions(tools: str) -> dict[str, Function]:
    """By the name that a call is addressed to, like `functions.get_weather`. `tools` is as packs.harmony.tools_of
    finds it."""
    found: dict[str, Function] = {}
    namespace, heading = "", ""
    for match in _LINE.finditer(tools):
        if match["namespace"]:
            namespace, heading = match["namespace"], ""
        elif match["end"]:
            namespace = ""
        elif match["title"]:
            if heading:
                found[heading] = Function(_anything, takes_json=False)
            heading = match["title"] if match["heading"] else ""
        else:
            heading = ""
            found[f"{namespace or FUNCTIONS}.{match['name']}"] = Function(_parameters(tools[match.end() :]))
    if heading:
        found[heading] = Function(_anything, takes_json=False)
    return found


def _parameters(text: str) -> Suits:
    """Of `(_: TYPE) => any;`, `(TYPE) => any;` or `() => any;`."""
    tokens = _Tokens(text)
    try:
        tokens.take("(")
        if tokens.next == ")":
            return lambda given: given in ({}, None)
        if tokens.next not in ("{", '"') and tokens.after == ":":
            tokens.advance()
            tokens.advance()
        suits = _type(tokens)
        tokens.take(")")
    except _Unreadable:
        return _anything
    return suits


class _Unreadable(ValueError):
    """It is no TypeScript that is known here."""


class _Tokens:
    def __init__(self, text: str) -> None:
        self._found = self._read(text)
        self.next, self.after = next(self._found, ""), next(self._found, "")

    @staticmethod
    def _read(text: str) -> Iterator[str]:
        place = 0
        while match := _TOKEN.match(text, place):
            place = match.end()
            if token := match[1] or match[2] or match[3]:
                yield token

    def advance(self) -> str:
        token, self.next, self.after = self.next, self.after, next(self._found, "")
        if not token:
            raise _Unreadable
        return token

    def take(self, token: str) -> None:
        if self.advance() != token:
            raise _Unreadable


_DEEPEST = 50


def _type(tokens: _Tokens, depth: int = 0) -> Suits:
    if depth > _DEEPEST:
        raise _Unreadable
    if tokens.next == "|":  # variants on lines of their own
        tokens.advance()
    variants = [_variant(tokens, depth)]
    while tokens.next == "|":
        tokens.advance()
        variants.append(_variant(tokens, depth))
    read = [_arrays(of, nested) for of, nested in variants]
    *before, (_, last) = variants
    if before and last and not any(nested for _, nested in before):
        # Harmony writes an array of an enum as "a" | "b"[], which TypeScript reads otherwise: either will do.
        read.append(_arrays(_any_of([of for of, _ in variants]), last))
    return _any_of(read)


def _variant(tokens: _Tokens, depth: int) -> tuple[Suits, int]:
    """A type, and how often it is an array of it."""
    suits, nested = _plain(tokens, depth), 0
    while tokens.next == "[" and tokens.after == "]":
        tokens.advance()
        tokens.advance()
        nested += 1
    return suits, nested


def _arrays(of: Suits, nested: int) -> Suits:
    return of if nested == 0 else _array(_arrays(of, nested - 1))


def _any_of(variants: Sequence[Suits]) -> Suits:
    return variants[0] if len(variants) == 1 else lambda given: any(suits(given) for suits in variants)


def _array(of: Suits) -> Suits:
    return lambda given: isinstance(given, list) and all(map(of, given))


_NAMED: Mapping[str, Suits] = {
    "string": lambda given: isinstance(given, str),
    "number": lambda given: isinstance(given, int | float) and not isinstance(given, bool),
    "boolean": lambda given: isinstance(given, bool),
    "null": lambda given: given is None,
    "object": lambda given: isinstance(given, dict),
}


def _plain(tokens: _Tokens, depth: int) -> Suits:
    token = tokens.advance()
    if token == "{":
        return _object(tokens, depth)
    if token == "(":
        suits = _type(tokens, depth + 1)
        tokens.take(")")
        return suits
    if token.startswith('"'):
        return lambda given: given == token[1:-1]
    if token == "Array" and tokens.next == "<":
        tokens.advance()
        suits = _type(tokens, depth + 1)
        tokens.take(">")
        return _array(suits)
    if not token[0].isalnum() and token[0] != "_":
        raise _Unreadable
    return _NAMED.get(token, _anything)


def _object(tokens: _Tokens, depth: int) -> Suits:
    fields: dict[str, Suits] = {}
    needed = set()
    while tokens.next != "}":
        name = tokens.advance().strip('"')
        if tokens.next == "?":
            tokens.advance()
        else:
            needed.add(name)
        tokens.take(":")
        fields[name] = _type(tokens, depth + 1)
        if tokens.next in (",", ";"):
            tokens.advance()
    tokens.take("}")
    return lambda given: (
        isinstance(given, dict)
        and needed <= given.keys() <= fields.keys()
        and all(fields[name](value) for name, value in given.items())
    )
