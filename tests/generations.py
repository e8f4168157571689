"""Generations that nobody wrote: turns that call, turns that answer, and what a planted model makes of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from eaftgate.generate.generations import Asked, Generations, Written
from eaftgate.judge.policy import BehaviourPolicy, IntervalPolicy, load_gates

TOOLS = "# Tools\n\nnamespace functions {\n\ntype look_up = (_: {item: string, count?: number}) => any;\n\n}"
MAX_TOKENS = 200

Model = Callable[[int, str], str]
"""What it writes in a turn, given the turn's number and what the reference is."""


def call(number: int, name: str = "functions.look_up", arguments: str = "") -> str:
    arguments = arguments or f'{{"item":"thing {number}","count":{number}}}'
    return f"<|channel|>commentary to={name} <|constrain|>json<|message|>{arguments}<|call|>"


def think(number: int) -> str:
    return f"<|channel|>analysis<|message|>This is turn {number}.<|end|><|start|>assistant"


def final(number: int) -> str:
    return f"<|channel|>final<|message|>There are {number} of them.<|return|>"


def references(turns: int) -> list[str]:
    """Every other turn calls, the others answer."""
    return [think(number) + (call(number) if number % 2 else final(number)) for number in range(turns)]


def as_reference(_: int, reference: str) -> str:
    return reference


def tokens_of(text: str) -> tuple[int, ...]:
    """A token a word; what a real tokenizer would make of it is nobody's concern here."""
    words = text.replace("<|", " <|").replace("|>", "|> ").split()
    return tuple(sum(map(ord, word)) % 5000 for word in words)[:MAX_TOKENS]


def planted(
    model: Model = as_reference, *, turns: int = 400, rows: int | None = None, pack: str = "p", tools: str = TOOLS
) -> Generations:
    """`rows`: of how many documents the turns are, one each where it is None."""
    asked, written = [], []
    for number, reference in enumerate(references(turns)):
        row = str(number if rows is None else number % rows)
        asked.append(Asked(row, number, pack, "", 0, f"turn {number}?<|start|>assistant", 7, reference))
        text = model(number, reference)
        ended = text.endswith(("<|return|>", "<|call|>")) and len(tokens_of(text)) < MAX_TOKENS
        written.append(Written(tokens_of(text), text, ended))
    return Generations(
        schema="generations-1",
        checkpoint="c",
        turns=f"{pack}{turns}{rows}",
        settings={"writer": "planted"},
        max_tokens=MAX_TOKENS,
        replicate="",
        pack=pack,
        too_long=0,
        tools=(tools,),
        asked=tuple(asked),
        written=tuple(written),
        seconds=1.0,
        seconds_tokens=sum(len(turn.tokens) for turn in written),
    )


def some(share: int, otherwise: Model) -> Model:
    """A model that does as the reference, but every `share`-th turn `otherwise`."""
    return lambda number, reference: otherwise(number, reference) if number % share < 2 else reference


def loops(number: int, _: str) -> str:
    return f"<|channel|>analysis<|message|>Turn {number}: " + "let me see once more what there is to be done here " * 30


def never_closes(_: int, reference: str) -> str:
    return reference.removesuffix("<|return|>").removesuffix("<|call|>") + " and more " * 3


def calls_unknown(number: int, reference: str) -> str:
    return reference.replace("functions.look_up", "functions.search_web") if number % 2 else reference


PLANTED: Sequence[Model] = (loops, never_closes, calls_unknown)


def shipped() -> tuple[IntervalPolicy, BehaviourPolicy]:
    _, policy = load_gates(Path(__file__).parent.parent / "near_lossless_gates.json").policy("near-lossless-v3")
    assert isinstance(policy, IntervalPolicy)
    assert policy.behaviour is not None
    return policy, policy.behaviour
