"""YAML from untrusted files: mappings, lists and plain values, without aliases, anchors, tags and duplicate keys, of
limited size and depth.

Nothing is made of what a file says, so nothing in it can be executed, or grow.
"""

import math
import re
from pathlib import Path
from typing import Any

import yaml

from eaftgate.errors import UserError
from eaftgate.files import read_regular

MAX_YAML_BYTES = 1 << 16
"""The reader takes a second for it."""
MAX_DEPTH = 20
_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FRACTION = re.compile(r"[-+]?[0-9]{0,40}\.?[0-9]{0,40}([eE][-+]?[0-9]{1,4})?")


class _Refused(Exception):
    def __init__(self, said: str, at: Any) -> None:
        super().__init__(said)
        self.line = at.start_mark.line + 1


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _Refused("an anchor or an alias is not read here", event)
        if getattr(event, "tag", None) is not None:
            raise _Refused(f"the tag {event.tag[:50]!r} is not read here", event)
        if self._depth == MAX_DEPTH:
            raise _Refused(f"it is nested too deeply, more than {MAX_DEPTH} levels", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode):
            _check_text(node)
        elif isinstance(node, yaml.MappingNode):
            _check_keys(node)
        return node


def read_yaml(path: Path, *, what: str) -> Any:
    """The root node of the only document of a regular file; None for an empty one. `what` names the file in sentences.

    Raises UserError with file and line.
    """
    return parse_yaml(read_regular(path, what=what, limit=MAX_YAML_BYTES), path=path, what=what)


def parse_yaml(data: bytes, *, path: Path, what: str) -> Any:
    """The same of a part of a file that is YAML. Raises UserError with file and line, counted from the part's begin."""
    if len(data) > MAX_YAML_BYTES:
        raise UserError(f"{what} {path} is larger than {MAX_YAML_BYTES} bytes: it is none")
    try:
        return yaml.compose(data.decode("utf-8"), Loader=_Loader)
    except _Refused as error:
        raise UserError(f"{path}:{error.line}: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f":{mark.line + 1}"
        raise UserError(f"{path}{line} is not valid YAML: {error.problem or error.context}") from None
    except (ValueError, OverflowError, yaml.YAMLError) as error:  # of what is no text, and of \U in a quoted one
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeError) else str(error).splitlines()[0]
        raise UserError(f"{what} {path} cannot be read: {reason}") from None


def yaml_value(node: Any, *, where: Path) -> Any:
    """What a node says, as of a JSON file: mappings by text, lists, texts, finite numbers, true, false, null.

    Raises UserError for what YAML takes for something else, like a date.
    """
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): yaml_value(value, where=where) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [yaml_value(item, where=where) for item in node.value]
    if node is None or node.tag == f"{_TAG}null":
        return None
    text, kind = str(node.value), node.tag.removeprefix(_TAG)
    if kind == "str":
        return text
    if kind == "bool" and text in ("true", "false"):
        return text == "true"
    if kind == "int" and _INTEGER.fullmatch(text):
        return int(text)
    if kind == "float" and _FRACTION.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    raise UserError(f"{where}:{node.start_mark.line + 1}: {text[:50]!r} is no text, number, true, false or null")


def _check_text(node: Any) -> None:
    try:
        node.value.encode("utf-8")
    except UnicodeEncodeError:
        raise _Refused("it holds a lone surrogate", node) from None
    if "\0" in node.value:
        raise _Refused("it holds a NUL character", node)


def _check_keys(node: Any) -> None:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _Refused("it has a key that is no name", key)
        if key.value in seen:
            raise _Refused(f"{key.value[:100]!r} is there twice", key)
        seen.add(key.value)
