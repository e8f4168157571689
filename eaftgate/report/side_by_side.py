"""The report's table of several candidates: how large they are, and what that cost."""

from eaftgate.gate.conclusion import of_checkpoint
from eaftgate.gate.results import Parity, ParityCell
from eaftgate.judge.wording import bounds_shown, shown
from eaftgate.packs.pack import UNION
from eaftgate.report.banner import identity_in, names_of, size_shown
from eaftgate.report.margins import Place, Scale, nearest, place_of, scale_of, track
from eaftgate.report.rows import html_text
from eaftgate.visible import visible

METRIC = "ppl"
_WHAT = (
    "From the largest to the smallest. The bar is the size of all tensors, its frame the base. Losses are in margins, "
    "to one scale: the thick line is the margin. The last is the deciding bound that comes nearest to its margin, or "
    "lies farthest beyond it."
)


def side_by_side(parity: Parity) -> str:
    """HTML; nothing for a single candidate."""
    names = [name for name in names_of(parity) if _cells(parity, name)]
    if len(names) < 2:
        return ""
    base = identity_in(parity, "base")
    sizes = {name: found.bytes for name in names if (found := identity_in(parity, name)) is not None}
    names.sort(key=lambda name: -sizes.get(name, 0))
    losses = {name: _loss(parity, name) for name in names}
    nearest_of = {name: nearest(_cells(parity, name)) for name in names}
    scale = scale_of([place for _, _, place in losses.values() if place is not None], both=False)
    far = scale_of([Place(found[2], None, None) for found in nearest_of.values() if found is not None], both=False)
    rows = ""
    for name in names:
        cell, said, place = losses[name]
        size = sizes.get(name)
        alone = of_checkpoint(parity, name)
        verdict = alone.verdict
        drawn = "" if size is None or base is None else _bar(size / base.bytes)
        shown_size = "-" if size is None else size_shown(size)
        share = f", {1 - size / base.bytes:.1%} saved" if size is not None and base is not None else ""
        rows += (
            f'<tr><th scope="row" class="name">{html_text(visible(name))}</th>'
            f'<td class="verdict {html_text(verdict)}">{html_text(alone.verdict_shown)}</td>'
            f'<td class="drawn">{drawn}<small>{html_text(shown_size + share)}</small></td>'
            f'<td class="drawn">{_drawn(cell, place, scale)}<small>{html_text(said)}</small></td>'
            f"{_nearest(nearest_of[name], far)}</tr>"
        )
    where = f"{_cells(parity, names[0])[0].pack} {_cells(parity, names[0])[0].seq_len}"
    head = (
        '<tr><th class="name">candidate</th><th>verdict</th><th>size</th>'
        f"<th>{METRIC} on {html_text(visible(where))}</th><th>worst rule</th></tr>"
    )
    return (
        '<h2 id="candidates">Candidates side by side</h2><div class="scroll" tabindex="0" role="group" '
        f'aria-label="candidates side by side"><table>{head}{rows}</table></div><p class="note">{_WHAT}</p>'
    )


def _cells(parity: Parity, name: str) -> list[ParityCell]:
    """Those that decide, UNION before all."""
    cells = [cell for cell in parity.cells if cell.name == name and cell.decides_something]
    return sorted(cells, key=lambda cell: (cell.severity != "primary", cell.pack != UNION))


def _loss(parity: Parity, name: str) -> tuple[ParityCell, str, Place | None]:
    cell = _cells(parity, name)[0]
    verdict = cell.metrics.get(METRIC)
    if verdict is None or verdict.estimate is None:
        return cell, "-", None
    said = shown(METRIC, verdict.estimate, interval=cell.has_intervals)
    if cell.has_intervals:
        said += f" {bounds_shown(METRIC, verdict)}"
    return cell, said, place_of(METRIC, verdict, interval=cell.has_intervals)


def _drawn(cell: ParityCell, place: Place | None, scale: Scale) -> str:
    return track(place, scale, cell.metrics.get(METRIC), both=False, decides=cell.decides(METRIC))


def _nearest(found: tuple[ParityCell, str, float] | None, scale: Scale) -> str:
    if found is None:
        return "<td>-</td>"
    cell, metric, place = found
    drawn = track(Place(place, None, None), scale, cell.metrics[metric], both=False, decides=True)
    said = f"{metric}, {cell.pack} {cell.seq_len}: {place:.0%} of its margin"
    return f'<td class="drawn">{drawn}<small>{html_text(visible(said))}</small></td>'


def _bar(share: float) -> str:
    width = min(max(share, 0), 1.5) * 100
    return (
        f'<svg viewBox="0 0 160 20" aria-hidden="true"><rect class="size" x="2" y="4" width="{width:.1f}" height="12"/>'
        '<rect class="size-base" x="2" y="4" width="100" height="12"/></svg>'
    )
