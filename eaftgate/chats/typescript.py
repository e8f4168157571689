"""Functions' JSON schemas as Harmony has them: TypeScript, in a namespace of the developer message.

The text is openai-harmony's, to the character (json_schema_to_typescript and template_tools_section of its
src/encoding.rs, 0.0.8); tests/chats hold the two against each other.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from eaftgate.chats.chat import Tool


def tools_section(tools: Sequence[Tool]) -> str:
    lines = ["## functions\n", "namespace functions {\n"]
    for tool in tools:
        lines += [f"// {line}" for line in _lines(tool.description)]
        of = "()" if tool.parameters is None else f"(_: {typescript(tool.parameters)})"
        lines.append(f"type {tool.name} = {of} => any;\n")
    return "# Tools\n\n" + "\n".join([*lines, "} // namespace functions"])


def typescript(schema: Any, indent: str = "") -> str:
    if not isinstance(schema, Mapping):
        return "any"
    if isinstance(variants := schema.get("oneOf"), list):
        return _one_of(variants, indent)
    kind = schema.get("type")
    if isinstance(kind, list) and (names := [name for name in kind if isinstance(name, str)]):
        return " | ".join("number" if name == "integer" else name for name in names)
    match kind:
        case "object":
            return _object(schema, indent)
        case "string":
            values = schema.get("enum")
            texts = [f'"{value}"' for value in values if isinstance(value, str)] if isinstance(values, list) else []
            return " | ".join(texts) or "string"
        case "number" | "integer":
            return "number"
        case "boolean":
            return "boolean"
        case "array":
            return f"{typescript(schema['items'], indent)}[]" if "items" in schema else "Array<any>"
    return "any"


def _one_of(variants: list[Any], indent: str) -> str:
    lines = []
    for variant in variants:
        comments = [
            text for text in (_string(variant, "description"), _default(variant, bare_enum=False)) if text is not None
        ]
        lines.append(f"\n{indent} | {_or_null(variant, f'{indent}   ')}{_trailing(comments)}")
    return "".join(lines)


def _object(schema: Mapping[str, Any], indent: str) -> str:
    said = _string(schema, "description")
    head = "{\n" if said is None else f"{indent}// {said}\n{{\n"
    properties, required = schema.get("properties"), schema.get("required")
    needed = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    fields = [
        _property(name, field, indent, optional="" if name in needed else "?")
        for name, field in (properties.items() if isinstance(properties, Mapping) else ())
    ]
    return f"{head}{''.join(fields)}{indent}}}"


def _property(name: str, field: Any, indent: str, *, optional: str) -> str:
    title, said = _string(field, "title"), _string(field, "description")
    examples = field.get("examples") if isinstance(field, Mapping) else None
    has_variants = isinstance(field, Mapping) and "oneOf" in field
    text = "" if title is None else f"{indent}// {title}\n{indent}//\n"
    if said is not None and not has_variants:
        text += f"{indent}// {said}\n"
    if isinstance(examples, list) and examples:
        text += f"{indent}// Examples:\n"
        text += "".join(f'{indent}// - "{example}"\n' for example in examples if isinstance(example, str))
    if has_variants and isinstance(variants := field["oneOf"], list):
        return text + _variants(name, field, variants, indent, optional)
    comment = None if has_variants else _default(field)
    type_ = _or_null(field, f"{indent}    ")
    return f"{text}{indent}{name}{optional}: {type_},{_trailing([] if comment is None else [comment])}\n"


def _variants(name: str, field: Mapping[str, Any], variants: list[Any], indent: str, optional: str) -> str:
    """A field of several types, each on a line of its own; what is said of the field is not said again of the first."""
    said = _string(field, "description")
    above = said is not None and not (variants and _string(variants[0], "description") == said)
    text = f"{indent}// {said}\n" if above else ""
    if (default := _default(field)) is not None:
        text += f"{indent}// {default}\n"
    text += f"{indent}{name}{optional}:\n"
    for number, variant in enumerate(variants):
        of_variant = _string(variant, "description")
        comments = [] if (number == 0 and above) or of_variant in (None, said) else [of_variant]
        comments += [default] if (default := _default(variant)) is not None else []
        text += f"{indent} | {_or_null(variant, f'{indent}   ')}{_trailing(comments)}\n"
    return f"{text}{indent},\n"


def _or_null(schema: Any, indent: str) -> str:
    text = typescript(schema, indent)
    nullable = isinstance(schema, Mapping) and schema.get("nullable") is True
    return f"{text} | null" if nullable and "null" not in text else text


def _default(schema: Any, *, bare_enum: bool = True) -> str | None:
    """A text stands in quotes, but for one of an enum's."""
    if not isinstance(schema, Mapping) or "default" not in schema:
        return None
    value, values = schema["default"], schema.get("enum")
    if isinstance(value, str) and not (isinstance(values, list) and values):
        return f'default: "{value}"'
    written = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"default: {value if isinstance(value, str) and bare_enum else written}"


def _string(schema: Any, key: str) -> str | None:
    value = schema.get(key) if isinstance(schema, Mapping) else None
    return value if isinstance(value, str) else None


def _trailing(comments: Sequence[str | None]) -> str:
    return f" // {' '.join(str(comment) for comment in comments)}" if comments else ""


def _lines(text: str) -> list[str]:
    """As Rust has them: only line feeds end a line, and none follows the last."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
