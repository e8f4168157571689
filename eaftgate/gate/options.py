"""The options of the gate, for whoever adds them: pytest's command line, a recipe, the help of `eaftgate gate`.

Nothing that is slow is imported here: the plugin, which every pytest run of an environment loads, needs the names.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from eaftgate.choices import listed
from eaftgate.collect.collectors import collector_kinds
from eaftgate.model.device import DTYPE_NAMES

CandidateKind = Literal["pruned", "other", "served"]
PRUNED, OTHER = CANDIDATE_KINDS = ("pruned", "other")
"""What a candidate is: experts of the base, bit for bit; or any weights for the base's tokenizer and vocabulary."""
SERVED: Literal["served"] = "served"
"""A candidate, like its base, that nobody has but a server: weights nobody has seen. Not asked for by name."""


def _integer(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} must be a whole number") from None
    if abs(value) >= 1 << 63:
        raise argparse.ArgumentTypeError(f"{text[:40]} is too large a number")
    return value


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(_integer(part) for part in text.split(","))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} must be whole numbers with commas between") from None


def _name(text: str) -> str:
    """An empty one would be a default."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: give a value, or leave it out")
    return text


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text[:100]!r} must be names with commas between")
    return tuple(dict.fromkeys(names))


def _one_of(*names: str) -> dict[str, Any]:
    """Settings of an option; what argparse says of `choices` alone does not say which was meant."""

    def chosen(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text[:100]!r} must be one of {listed(names, meant=text)}")
        return text

    return {"type": chosen, "choices": list(names)}


def _path(text: str) -> Path:
    """An empty one would be the working directory."""
    return Path(_name(text))


def gate_options(option: Callable[..., object]) -> None:
    """Every option of the gate, by calls like those of ArgumentParser.add_argument; none has a default of its own."""
    option(
        "--recipe",
        type=_path,
        metavar="FILE",
        help="YAML file, or the name of a shipped one, with options that are not given here",
    )
    option("--base", type=_name, metavar="BASE", help="base checkpoint: directory or hub id (default: the manifest's)")
    option("--checkpoint", action="append", type=_name, metavar="CKPT", help="candidate to gate; may be repeated")
    option(
        "--candidate-kind",
        **_one_of(*CANDIDATE_KINDS),
        help="pruned (default): the base's tensors, bit for bit, or less of its experts; other: any weights, rounded, "
        "merged or fine-tuned, with the base's tokenizer and vocabulary",
    )
    option("--packs", type=_path, metavar="DIR", help="directory of gate packs (*.parquet)")
    option("--gates", type=_path, metavar="FILE", help="policies and regimes")
    option("--policy", type=_name, metavar="NAME", help="policy of the gates file (default: its default)")
    option("--regime", type=_name, metavar="NAME", help="regime of the gates file (default: bigblocks)")
    option("--seq-lens", type=_integers, metavar="N,N", help="seq_lens instead of the regime's")
    option("--num-blocks", type=_integer, metavar="N", help="blocks per pack and seq_len instead of the regime's")
    option("--batch-size", type=_integer, metavar="N", help="blocks scored at a time")
    option("--seed", type=_integer, metavar="N", help="shuffle every pack's rows (default: file order)")
    option("--seeds", type=_integers, metavar="A,B", help="also hold the verdict over these seeds")
    option("--collector", **_one_of(*collector_kinds()), help="what scores the blocks")
    _options_of_collectors(option)
    option("--device", type=_name, metavar="DEV", help="cpu, cuda or cuda:N (default: cuda when there is one)")
    option("--dtype", **_one_of(*DTYPE_NAMES), help="default: float32 on a CPU, bfloat16 on a GPU")
    option(
        "--results",
        type=_path,
        metavar="RUN_DIR",
        help="default: ./results; resumed when it exists",
    )
    option(
        "--sequential",
        action="store_true",
        help="stop scoring a candidate's cell as soon as it is decided, at the same error rate",
    )
    option(
        "--best-of",
        type=_integer,
        metavar="K",
        help="candidates of which the best is to be chosen, those of other runs too: a PASS needs bounds at alpha / K",
    )
    option(
        "--whole-text",
        action="store_true",
        help="score prompts, too, and show what all tokens lose (ppl_all); changes no other figure",
    )
    option(
        "--generate",
        type=_integer,
        metavar="N",
        help="have base and candidates write N assistant turns of every pack by themselves, greedily, and judge how "
        "they behave (default: the regime's; 0: none)",
    )
    option(
        "--generate-tokens", type=_integer, metavar="N", help="tokens that such a turn may have (default: the regime's)"
    )
    option(
        "--tasks",
        type=_names,
        metavar="NAME,NAME",
        help="have base and candidates do these tasks of lm-evaluation-harness (pip install 'eaftgate[tasks]'), and "
        "judge every metric's difference, by document",
    )
    option("--tasks-path", type=_path, metavar="DIR", help="folder of task files of your own, before the harness' own")
    option(
        "--tasks-chat-template",
        action="store_true",
        help="render the prompts of tasks by the tokenizer's chat template, as lm_eval --apply_chat_template does",
    )
    option("--strict-cells", action="store_true", help="advisory cells and underpowered metrics decide too")
    option(
        "--allow-overlap",
        action="store_true",
        help="report calibration rows in the gate packs, and do not fail on them",
    )


def _options_of_collectors(option: Callable[..., object]) -> None:
    """Their own. One that two of them have is the same option, and the first says what it is."""
    seen: set[str] = set()

    def once(name: str, **settings: Any) -> None:
        if name not in seen:
            seen.add(name)
            if settings.get("type") is int:  # whose message would be argparse's
                settings["type"] = _integer
            option(name, **settings)

    for kind in collector_kinds().values():
        kind.add_options(once)


def option_names() -> list[str]:
    """Every option as it is given, like `--base`."""
    names: list[str] = []
    gate_options(lambda name, **_: names.append(name))
    return names
