"""What the documents take from the code: commands, options, policies, regimes, and the embedded checkpoint's run.

`tables.py` puts each of BLOCKS between the markers of its name.
"""

import json
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import typer.main
from markdown_table import markdown_table

from eaftgate.commands.app import app
from eaftgate.gate.options import gate_options
from eaftgate.judge.behaviours import BEHAVIOURS
from eaftgate.judge.metrics import METRICS
from eaftgate.judge.policy import IntervalPolicy, load_gates

ROOT = Path(__file__).parent.parent
_VALUES: dict[object, str] = {int: "N", float: "X", Path: "PATH", str: "TEXT"}


def commands() -> dict[str, Any]:
    """Every (click) command of `eaftgate` by its full name."""

    def within(group: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from within(command, (*path, name))
            else:
                yield " ".join((*path, name)), command

    return dict(within(typer.main.get_command(app), ()))


def options_of(command: str) -> set[str]:
    """The options of a command of `eaftgate`, or of the gate."""
    found: set[str] = set()
    if command == "gate":
        gate_options(lambda name, **_: found.add(name))
    if command in commands():
        found |= {option for parameter in commands()[command].params for option in parameter.opts}
    return found


def _command_sections() -> str:
    sections = []
    for name, command in commands().items():
        if name == "gate":  # its options are pytest's, and have a section of their own
            continue
        hints = get_type_hints(command.callback)
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        usage = " ".join(["eaftgate", name, *(p.metavar or p.name.upper() for p in arguments), "[OPTIONS]"])
        rows = [(f"`{p.metavar or p.name.upper()}`", "", p.help or "") for p in arguments]
        rows += [_option_row(p, hints.get(p.name)) for p in options]
        said = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
        sections.append(
            f"### {name}\n\n    {usage}\n\n{said}\n\n" + markdown_table(("option", "default", "meaning"), rows)
        )
    return "\n\n".join(sections)


def _option_row(parameter: Any, hint: Any) -> tuple[str, str, str]:
    types = (
        [one for one in get_args(hint) if one is not type(None)] if get_origin(hint) in (Union, UnionType) else [hint]
    )
    taken, meaning = types[0], parameter.help or ""
    repeated = get_origin(taken) is list
    taken = get_args(taken)[0] if repeated else taken
    if isinstance(taken, type) and issubclass(taken, Enum):
        meaning += f" One of {', '.join(f'`{member.value}`' for member in taken)}."
        value = "NAME"
    else:
        value = parameter.metavar or _VALUES.get(taken, "")
    default = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
    shown = "required" if parameter.required else "" if default in (None, False, "") else f"`{default}`"
    name = max(parameter.opts, key=len)
    return f"`{name} {value}`" if value else f"`{name}`", shown, meaning


def _gate_options() -> str:
    rows = []

    def option(name: str, *, help: str, action: str = "store", **settings: Any) -> None:
        value = settings.get("metavar", "NAME" if "choices" in settings else "")
        meaning = help
        if "choices" in settings:
            meaning += f"; one of {', '.join(f'`{choice}`' for choice in settings['choices'])}"
        rows.append((f"`{name}={value}`" if action != "store_true" else f"`{name}`", meaning))

    gate_options(option)
    return markdown_table(("option", "meaning"), rows)


def _policy() -> str:
    policy = load_gates().policy(None)[1]
    assert isinstance(policy, IntervalPolicy)
    rows = []
    for name, rule in policy.rules.items():
        metric, margin = METRICS[name], rule.margin
        shown = (
            "-"
            if margin is None
            else f"{metric.text(margin.value)}, {'a loss' if rule.side == 'worse' else 'any change'}"
        )
        why = "" if margin is None else f"{margin.rationale} ({margin.origin})"
        rows.append((f"`{name}`", metric.meaning, shown, "yes" if rule.role == "decides" else "no", why))
    return markdown_table(("metric", "is", "margin, of", "decides", "why (and where from)"), rows)


def _behaviour() -> str:
    policy = load_gates().policy(None)[1]
    assert isinstance(policy, IntervalPolicy)
    assert policy.behaviour is not None
    rows = []
    for name in policy.behaviour.metrics:
        metric, rule = BEHAVIOURS[name], policy.behaviour.rules[name]
        assert rule.margin is not None
        margin = f"{metric.text(rule.margin.value)}, {'a loss' if rule.side == 'worse' else 'any change'}"
        rows.append((f"`{name}`", metric.meaning, margin, rule.margin.rationale))
    return markdown_table(("metric", "is", "margin, of", "why"), rows)


def _regimes() -> str:
    rows = []
    for name, regime in load_gates().regimes.items():
        blocks = [regime.blocks_for(length) for length in regime.seq_lens]
        rows.append(
            (
                f"`{name}`",
                ", ".join(f"{length:,}" for length in regime.seq_lens),
                ", ".join(str(count) for count in dict.fromkeys(blocks)),
                f"{', '.join(regime.primary.packs)} at {', '.join(f'{n:,}' for n in regime.primary.seq_lens)}",
                regime.description,
            )
        )
    return markdown_table(("regime", "seq_lens", "blocks a pack", "decides on", "for"), rows)


def _training() -> dict[str, Any]:
    run: dict[str, Any] = json.loads((ROOT / "fixtures" / "checkpoint" / "training.json").read_text(encoding="utf-8"))
    return run


def _fixture_run() -> str:
    run = _training()
    spread = run["spread"]
    p, entropy = (dict(zip(spread["quantiles"], spread[key], strict=True)) for key in ("p", "H"))
    rows = [
        ("device, seconds, tokens", f"{run['device']}, {run['seconds']:.0f} s, {run['tokens'] / 1e6:.1f} M"),
        (
            "validation cross-entropy before and after MXFP4, nats a token",
            f"{run['validation_cross_entropy']:.4f}, {run['validation_cross_entropy_mxfp4']:.4f}",
        ),
        (
            "effective experts in each layer (exp of the usage entropy), of 32",
            ", ".join(f"{n:.1f}" for n in run["evaluation"]["effective_experts"]),
        ),
        (
            "share of the selections that go to the 8 least used experts, by layer",
            ", ".join(f"{share:.2%}" for share in run["evaluation"]["least_used_8_share"]),
        ),
        ("p, quantiles 0.05 / 0.15 / 0.5; mean", f"{p[0.05]} / {p[0.15]} / {p[0.5]}; {spread['mean_p'][0]:.3f}"),
        ("normalised entropy, quantiles 0.5 / 0.85 / 0.95", f"{entropy[0.5]} / {entropy[0.85]} / {entropy[0.95]}"),
        ("CC rate at the 0.15 quantiles", f"{spread['confident_conflict_rate'][0]:g}"),
    ]
    return markdown_table(("figure", "value"), rows)


def _fixture_perplexity() -> str:
    rows = [
        (pack, f"{found['perplexity']:.2f}", f"{found['unigram_perplexity']:.0f}")
        for pack, found in _training()["evaluation"]["packs"].items()
    ]
    return markdown_table(("pack (validation prompts, completion tokens)", "perplexity", "unigram perplexity"), rows)


def _fixture_removed() -> str:
    kinds = {"lowest_mass": "of least REAP mass", "random": "at random"}
    rows = [
        (f"{case.rsplit('_', 1)[1]} {kinds[case.rsplit('_', 1)[0]]}", ", ".join(f"{x:+,.1f} %" for x in found["UNION"]))
        for case, found in _training()["evaluation"]["perplexity_change_percent"].items()
    ]
    return markdown_table(("removed in every layer, by masking router logits", "change of UNION perplexity"), rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "commands": _command_sections,
    "gate-options": _gate_options,
    "policy": _policy,
    "behaviour": _behaviour,
    "regimes": _regimes,
    "fixture-run": _fixture_run,
    "fixture-perplexity": _fixture_perplexity,
    "fixture-removed": _fixture_removed,
}
