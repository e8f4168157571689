"""Whether the rows of a run are enough to decide on, asked before anything is profiled: what `packs check` says, with
the options of the recipe's gate."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from eaftgate.checkpoint.checkpoint import TOKENIZER_FILES
from eaftgate.checkpoint.source import resolve
from eaftgate.files import sha256_file
from eaftgate.gate.enough import is_enough
from eaftgate.gate.enough_shown import enough_lines
from eaftgate.gate.options import gate_options
from eaftgate.gate.planning import make_plan
from eaftgate.gate.recipe import gate_settings
from eaftgate.gate.request import GateOptions
from eaftgate.recipes.recipe import Section
from eaftgate.stages.record import EnoughRecord, RunRecord, gate_inputs
from eaftgate.stages.stage import GATE, Layout, base_of

_ASKED = ("gates", "policy", "regime", "seq_lens", "num_blocks", "seed", "strict_cells")
"""Options of the gate on which it depends."""


def gate_packs(sections: Mapping[str, Section], layout: Layout) -> Path:
    """What the gate of the recipe reads."""
    said = sections.get(GATE, {}).get("packs")
    return layout.split / "gate" if said is None else Path(str(said.value))


def enough_of(
    recipe: Path, sections: Mapping[str, Section], layout: Layout, record: RunRecord, say: Callable[[str], None]
) -> EnoughRecord:
    """What was found of the same rows before, or is found now. Raises UserError for packs that cannot be read."""
    base = base_of(recipe, sections)
    settings = gate_settings(recipe, gate_options) if GATE in sections else {}
    options = GateOptions(
        results=layout.results,
        base=base,
        packs=gate_packs(sections, layout),
        **{name: settings[name] for name in _ASKED if name in settings},
    )
    assert options.packs is not None
    asked = {name: settings[name] for name in _ASKED if name in settings and name != "gates"}
    of = {
        **gate_inputs([], options.packs, options.gates),
        "asked": json.dumps(asked),
        "tokenizer": sha256_file(resolve(base, weights=False) / TOKENIZER_FILES[0]),
    }
    if record.enough is not None and record.enough.of == of:
        return record.enough
    say(f"== is {options.packs} enough to decide on? (eaftgate packs check)")
    found = is_enough(make_plan(options, fixture_packs=options.packs), base)
    taken = None if "num_blocks" in asked or found.remedy is None or found.remedy.more_rows else found.remedy.num_blocks
    so = () if taken is None else (f"so the gate takes {taken:,} blocks, which the packs hold",)
    return EnoughRecord(
        of=of,
        enough=not found.problems,
        problems=found.problems,
        lines=(*enough_lines(found, recipe=True), *so),
        remedy=found.remedy,
        num_blocks=taken,
    )
