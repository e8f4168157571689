"""Landscapes of probability and entropy: where the tokens of base and candidate lie, and which way they moved.

One drawing for the base and two for every candidate of a cell that decides: binned, one path for every shade, so that a
million tokens take some kilobytes. EAFT's regions are those of the base's own quantiles (arXiv 2601.02151). That of
entropy lies near 0, so sure is a model of most tokens: entropy is drawn by its fourth root.

Shapes: T tokens, P and H bins of probability and of the root of entropy.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eaftgate.collect.collection import Collection
from eaftgate.errors import UserError
from eaftgate.gate.results import Parity, ParityCell
from eaftgate.parity.js2d import Bins
from eaftgate.progress import NO_BAR, Bar
from eaftgate.report.rows import html_text
from eaftgate.visible import visible

BINS = Bins(48, 32)
SHADES, SIDES = 7, 4
X0, Y0, WIDTH, HEIGHT = 44, 8, 288, 192
"""Where the axes are in a drawing."""
ROOT = 4

IntArray = NDArray[np.int64]

_WHAT = (
    "Every content token by the probability of the reference token (to the right) and the entropy of the prediction "
    "(upwards, by its fourth root), on 48 x 32 bins; a step in shade is half a power of ten in the number of tokens. "
    "Dashed: the base's 15 % quantiles. Below the horizontal line the model is sure: left of the vertical one in "
    "confident conflict (sure and wrong), right of it good; what lies above is uncertain. Differences: blue has fewer "
    "tokens than under the base, red more, the stronger the more of them, by the root of their number."
)


def landscapes_section(results: Path | None, parity: Parity, bar: Bar = NO_BAR) -> str:
    """HTML; a sentence where the run's collections are not there any more. `bar` is told every cell."""
    cells = [cell for cell in parity.cells if cell.severity == "primary"]
    if results is None or not cells:
        return ""
    title = '<h2 id="landscapes">Landscapes of probability and entropy</h2>'
    try:
        drawn = "".join(
            _cell(results, [cell for cell in cells if (cell.pack, cell.seq_len) == shape], bar)
            for shape in dict.fromkeys((cell.pack, cell.seq_len) for cell in cells)
        )
    except UserError as error:
        return f'{title}<p class="note">Not drawn: {html_text(str(error))}.</p>'
    return f'{title}<p class="note">{_WHAT}</p>{drawn}'


def _cell(results: Path, cells: Sequence[ParityCell], bar: Bar) -> str:
    """The candidates of one pack and seq_len."""
    first = cells[0]
    base_PH = _histogram(first.inputs.saved(results, "base"))
    total = int(base_PH.sum())
    if not total:
        return ""
    figures = [_figure(_shades(base_PH), first, "base", f"{first.cc_base:.3%} in confident conflict")]
    for cell in cells:
        bar.advance(1)
        name = visible(cell.name)
        if "checkpoint" not in cell.inputs.collections:
            figures.append(
                f"<p class='note candidate'>{html_text(name)} stopped early, which leaves no whole collection.</p>"
            )
            continue
        found_PH = _histogram(cell.inputs.saved(results, "checkpoint"))
        moved = int(np.abs(found_PH - base_PH).sum()) // 2
        shown = f"{cell.cc:.3%} in confident conflict"
        figures.append(_figure(_shades(found_PH), cell, name, shown, kind=' class="candidate"'))
        said = f"{moved / total:.1%} of the tokens lie in another bin, net; JS2D {cell.js2d:.4f}"
        figures.append(_figure(_sides(found_PH - base_PH), cell, f"{name} less base", said))
    title = f"{first.pack} {first.seq_len}: {total:,} tokens, quantiles p {first.p_thr:.3g}, entropy {first.h_thr:.3g}"
    return f'<h3>{html_text(visible(title))}</h3><div class="maps">{"".join(figures)}</div>'


def _histogram(collection: Collection) -> IntArray:
    content = collection.content()
    p_T = np.minimum(np.exp(content.stats.logprob_T.astype(np.float64)), 1.0)
    bin_T = BINS.of(p_T, content.stats.entropy_T.astype(np.float64) ** (1 / ROOT))
    return np.bincount(bin_T, minlength=len(BINS)).reshape(BINS.p, BINS.h)


def _height(entropy: float) -> float:
    """Where an entropy is in a drawing."""
    return Y0 + HEIGHT * (1.0 - float(entropy ** (1 / ROOT)))


def _shades(count_PH: IntArray) -> str:
    """Half a power of ten a shade, from one token on."""
    level_PH = np.where(count_PH > 0, 1 + np.floor(2 * np.log10(np.maximum(count_PH, 1))), 0).astype(int)
    return _paths(np.minimum(level_PH, SHADES), lambda level: f"m{level}", range(1, SHADES + 1))


def _sides(delta_PH: IntArray) -> str:
    """By the root of the share of the largest difference."""
    largest = max(int(np.abs(delta_PH).max()), 1)
    level_PH = np.sign(delta_PH) * np.ceil(SIDES * np.sqrt(np.abs(delta_PH) / largest)).astype(int)
    levels = [level for level in range(-SIDES, SIDES + 1) if level]
    return _paths(level_PH, lambda level: f"{'more' if level > 0 else 'less'}{abs(level)}", levels)


def _paths(level_PH: NDArray[np.int_], name: Callable[[int], str], levels: Sequence[int]) -> str:
    """One path for every level; bins of the same level that lie above each other are one rectangle."""
    width, height = WIDTH // BINS.p, HEIGHT // BINS.h
    paths = ""
    for level in levels:
        steps = ""
        for p, on_H in enumerate(level_PH == level):
            edges = np.flatnonzero(np.diff(np.concatenate([[0], on_H.astype(int), [0]])))
            for begin, end in edges.reshape(-1, 2).tolist():
                steps += f"M{X0 + p * width} {Y0 + HEIGHT - end * height}h{width}v{(end - begin) * height}h-{width}z"
        if steps:
            paths += f'<path class="{name(level)}" d="{steps}"/>'
    return paths


def _figure(drawn: str, cell: ParityCell, name: str, said: str, *, kind: str = "") -> str:
    x, y = X0 + cell.p_thr * WIDTH, _height(cell.h_thr)
    label = html_text(f"{name} on {visible(cell.pack)} {cell.seq_len}: {said}")
    bottom = Y0 + HEIGHT
    ticks = "".join(
        f'<text x="{X0 - 4}" y="{_height(float(entropy)) + down:.1f}" text-anchor="end">{entropy}</text>'
        for entropy, down in (("1", 8), ("0.1", 4), ("0.01", 4), ("0.001", 4), ("0", 0))
    )
    return (
        f'<figure{kind}><svg viewBox="0 0 {X0 + WIDTH + 8} {bottom + 30}" role="img" aria-label="{label}">{drawn}'
        f'<rect class="frame" x="{X0}" y="{Y0}" width="{WIDTH}" height="{HEIGHT}"/>'
        f'<path class="region" d="M{X0} {y:.1f}h{WIDTH}M{x:.1f} {y:.1f}V{bottom}"/>'
        f'<text x="{X0}" y="{bottom + 12}" text-anchor="middle">0</text>'
        f'<text x="{X0 + WIDTH}" y="{bottom + 12}" text-anchor="middle">1</text>'
        f'<text x="{X0 + WIDTH / 2:g}" y="{bottom + 12}" text-anchor="middle">probability</text>'
        f'<text x="{max(x, X0):.1f}" y="{bottom + 25}" text-anchor="middle">conflict | good</text>'
        f'<text transform="translate(10 {Y0 + HEIGHT / 2:g}) rotate(-90)" text-anchor="middle">entropy</text>'
        f"{ticks}</svg>"
        f"<figcaption><b>{html_text(name)}</b>: {html_text(said)}</figcaption></figure>"
    )
