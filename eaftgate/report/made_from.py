"""The report's section on what a run was: when, by which command, where, on what, of what."""

from collections.abc import Sequence

from eaftgate.gate.results import Parity, ParityCell
from eaftgate.report.banner import size_shown
from eaftgate.report.rows import Cell, html_text, row, table


def made_from(parity: Parity) -> str:
    return f'<h2 id="made-from">Made from</h2>{_run(parity)}{_models(parity)}{_packs(parity)}{_of_blocks(parity.cells)}'


def _run(parity: Parity) -> str:
    asked, run = parity.asked, parity.run
    seeds = {cell.seed for cell in parity.cells} | set(asked.seeds)
    told = {
        "policy, regime": f"{parity.policy}, {parity.regime}",
        "seeds": ", ".join("file order" if seed is None else str(seed) for seed in sorted(seeds, key=str)),
        "judged": ", ".join(
            said
            for said, holds in (
                ("all blocks" if not asked.sequential else "in looks (--sequential)", True),
                (f"as the best of {asked.best_of}", asked.best_of > 1),
                ("all cells decide (--strict-cells)", asked.strict_cells),
                ("calibration rows allowed (--allow-overlap)", asked.allow_overlap),
            )
            if holds
        ),
        "gates file": f"sha256 {parity.gates_sha256}" if parity.gates_sha256 else "",
        "eaftgate": parity.eaftgate,
    }
    if run is not None:
        versions = [f"{name} {version}" for name, version in run.libraries.items()]
        told |= {
            "from, to": f"{run.started}, {run.ended}",
            "command": run.command,
            "in": run.directory,
            "results": run.results,
            "host": f"{run.host}, {run.system}, {run.processors} processors",
            "versions": ", ".join([f"python {run.python}", *versions]),
        }
    settings = parity.cells[0].inputs.collector if parity.cells else {}
    told |= {"scored with": ", ".join(f"{key} {value}" for key, value in settings.items())}
    entries = "".join(f"<dt>{name}</dt><dd>{_value(name, said)}</dd>" for name, said in told.items() if said)
    return f"<dl>{entries}</dl>"


def _value(name: str, said: str) -> str:
    return f"<code>{html_text(said)}</code>" if name in ("command", "in", "results") else html_text(said)


def _models(parity: Parity) -> str:
    known = {model.name: model for model in (parity.run.checkpoints if parity.run else ())}
    digests: dict[str, tuple[str, str]] = {}
    for cell in parity.cells:
        digests["base"] = (cell.inputs.base.name, cell.inputs.base.digest)
        digests[cell.name] = (cell.checkpoint, cell.inputs.checkpoint_digest)
    digests |= {name: (model.given, "") for name, model in known.items() if name not in digests}
    base, rows = known.get("base"), []
    for name, (given, digest) in digests.items():
        model = known.get(name)
        figures = ["", "", "", ""]
        if model is not None:
            saved = f"{1 - model.bytes / base.bytes:.1%}" if base is not None and name != "base" else ""
            how = model.method or (f"stored as {model.storage}" if model.storage else "")
            figures = [str(model.experts), how, size_shown(model.bytes), saved]
        rows.append(row("td", (name, given, *figures, Cell(digest, "name"))))
    head = ("model", "named", "experts a layer", "method", "tensors", "saved", Cell("digest", "name"))
    return table(head, rows, label="models") if rows else ""


def _packs(parity: Parity) -> str:
    packs = parity.run.packs if parity.run else ()
    if not packs:
        return ""
    rows = [row("td", (pack.name, Cell(f"{pack.rows:,}"), Cell(pack.left_out or "none", "name"))) for pack in packs]
    return table(("pack", Cell("rows"), Cell("left out", "name")), rows, label="packs")


def _of_blocks(cells: Sequence[ParityCell]) -> str:
    shapes = {(cell.pack, cell.seq_len): cell for cell in cells}
    rows = [
        row("td", (cell.pack, Cell(str(cell.seq_len)), str(cell.num_blocks), Cell(cell.inputs.blocks_digest, "name")))
        for cell in shapes.values()
    ]
    head = ("pack", Cell("seq_len"), "blocks", Cell("digest of the blocks", "name"))
    said = f"<details><summary>Blocks, by content</summary>{table(head, rows, label='blocks')}</details>"
    return said if rows else ""
