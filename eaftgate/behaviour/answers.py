"""What a final answer says, so that two that say the same are equal. The rule, in its order:

1. An answer that is marked is what stands behind the last mark: in `\\boxed{...}`, behind `####`, or behind "answer
   is" or "answer:". Without a mark it is the whole text.
2. Of what was marked, or is no longer than ten characters, a single letter from A to J with brackets, a dot or a colon
   behind it, alone, or after "option", is an option: `(B)`, `B.`, `option B: Paris`.
3. If it has numbers, it is the last of them, as a number: 1,234.50 is 1234.5, $5 is 5.
4. Else it is the text, without the case of letters, without white space, Markdown and punctuation at either end.
"""

import re
from decimal import Decimal, InvalidOperation

_MARKS = (
    re.compile(r"\\boxed\{([^{}]*)\}"),
    re.compile(r"^####[ \t]*(.+)$", re.MULTILINE),
    re.compile(r"\banswer(?:\s+is|\s*:)[\s*_]*([^\n]+)", re.IGNORECASE),
)
_OPTION = re.compile(r"(?:option\s+|choice\s+)?(?:\(([A-J])\)|([A-J])(?:[.):]|$))(?:\s.*)?", re.IGNORECASE | re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
EQUAL = (
    'what is marked as the answer (\\boxed{}, ####, "answer is", "answer:"), else all of it; of that an option by its '
    "letter, else its last number, else its text without case, white space and punctuation at its ends"
)
"""The rule in short, for those who read verdicts."""
_EDGES = " \t\r\n*_`\"'.,:;!?$"
_SHORT = 10


def answer_of(text: str) -> str:
    """The answer as a text that is equal for equal answers."""
    marked = next((found[-1] for mark in _MARKS if (found := mark.findall(text))), None)
    said = (text if marked is None else marked).strip(_EDGES)
    if marked is not None or len(said) <= _SHORT:
        option = _OPTION.fullmatch(said)
        if option is not None:
            return f"option {(option[1] or option[2]).upper()}"
    if numbers := [number for match in _NUMBER.findall(said) if (number := _number(match)) is not None]:
        return f"number {numbers[-1]}"
    return f"text {' '.join(said.casefold().split())}"


def _number(text: str) -> str | None:
    text = text.rstrip(",")
    text = text.replace(",", "") if _THOUSANDS.fullmatch(text) else text.split(",")[-1]
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return format(value.normalize() if value else Decimal(0), "f")
