"""Which experts a candidate keeps, layer by layer, and how much the ones it dropped counted.

Shapes: L layers, E experts.
"""

from contextlib import suppress
from pathlib import Path

import numpy as np

from eaftgate.errors import UserError
from eaftgate.files import is_regular, sha256_file
from eaftgate.gate.identity import CheckpointIdentity
from eaftgate.gate.results import Parity
from eaftgate.report.banner import identity_in, names_of
from eaftgate.report.rows import html_text
from eaftgate.rewrite.manifest import MANIFEST_FILE, read_manifest
from eaftgate.select.class_weights import ClassWeights
from eaftgate.select.saliency import EaftWeights, ScoreArray
from eaftgate.select.scores import DATA_FILE, SCORES_FILE, open_scores
from eaftgate.visible import visible

SIDE, X0, Y0 = 9, 26, 14
STEPS = 4
"""Shades of either colour."""

_WHAT = "A row is a layer, a column an expert of the base. Blue is kept, red is dropped. "
_SHADED = (
    "The darker, the more of its layer's saliency an expert has (eaft-reap: router weight times the norm of its "
    "output, by EAFT's token weights), on the calibration rows; a dark red one is dropped in spite of its score."
)
_PLAIN = "The scores that it was chosen by are not there, or are of another checkpoint."


def keep_maps(parity: Parity) -> str:
    """HTML, of the candidates that say which experts they keep."""
    base = identity_in(parity, "base")
    found = [identity for name in names_of(parity) if (identity := identity_in(parity, name)) is not None]
    kept = [identity for identity in found if identity.keep]
    if base is None or not kept:
        return ""
    started_in = Path(parity.run.directory) if parity.run is not None else Path()
    maps = "".join(_map(identity, base.experts, started_in) for identity in kept)
    return f'<h2 id="experts">Experts, layer by layer</h2>{maps}'


def _map(found: CheckpointIdentity, experts: int, started_in: Path) -> str:
    keep_LE = np.zeros((len(found.keep), experts), bool)
    for layer, kept in enumerate(found.keep):
        keep_LE[layer, [expert for expert in kept if 0 <= expert < experts]] = True
    score_LE = _scores(found, started_in, keep_LE.shape)
    if score_LE is None:
        level_LE, said = np.full(keep_LE.shape, 3), _PLAIN
    else:
        share_LE = np.maximum(score_LE, 0) / np.maximum(score_LE.max(axis=1, keepdims=True), np.finfo(float).tiny)
        level_LE, said = np.clip(np.ceil(STEPS * np.sqrt(share_LE)), 1, STEPS).astype(int), _SHADED
        dropped = float(
            np.where(keep_LE, 0, np.maximum(score_LE, 0)).sum() / np.maximum(score_LE, 0).sum().clip(1e-300)
        )
        said += f" What was dropped has {dropped:.1%} of the saliency."
    name = html_text(visible(found.name))
    drawing = _drawing(keep_LE, level_LE, f"{visible(found.name)} keeps {found.experts} of {experts} experts a layer")
    return (
        f'<figure class="keep"><div class="scroll" tabindex="0" role="group" aria-label="experts of {name}">{drawing}'
        f"</div><figcaption><b>{name}</b>: {found.experts} of {experts} experts a layer. {_WHAT}{said}</figcaption>"
        "</figure>"
    )


def _scores(found: CheckpointIdentity, started_in: Path, shape: tuple[int, int]) -> ScoreArray | None:
    """Of the checkpoint's own snapshot, if that is the one that the run judged; it was named where that was started."""
    place = started_in / found.given
    with suppress(UserError, OSError):
        if not is_regular(place / MANIFEST_FILE) or sha256_file(place / MANIFEST_FILE) != found.manifest:
            return None
        manifest = read_manifest(place)
        files = manifest.files
        if any(
            name not in files or sha256_file(place / name) != files[name].sha256 for name in (SCORES_FILE, DATA_FILE)
        ):
            return None
        weights = ClassWeights.named(manifest.selection.class_weights)
        score_LE = open_scores(place / SCORES_FILE).weighed(weights).weighted(EaftWeights()).eaft_mass_LE
        return score_LE if score_LE.shape == shape else None
    return None


def _drawing(keep_LE: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]", level_LE: ScoreArray, label: str) -> str:
    layers, experts = keep_LE.shape
    drawn = ""
    for kept, name in ((True, "less"), (False, "more")):
        for level in range(1, STEPS + 1):
            places = np.argwhere((keep_LE == kept) & (level_LE == level)).tolist()
            steps = "".join(
                f"M{X0 + expert * SIDE} {Y0 + layer * SIDE}h{SIDE - 1}v{SIDE - 1}h-{SIDE - 1}z"
                for layer, expert in places
            )
            drawn += f'<path class="{name}{level}" d="{steps}"/>' if steps else ""
    rows = "".join(
        f'<text x="{X0 - 4}" y="{Y0 + layer * SIDE + 8}" text-anchor="end">{layer}</text>'
        for layer in range(0, layers, 4 if layers > 8 else 1)
    )
    columns = "".join(
        f'<text x="{X0 + expert * SIDE + 4}" y="{Y0 - 4}" text-anchor="middle">{expert}</text>'
        for expert in range(0, experts, 8)
    )
    width, height = X0 + experts * SIDE + 4, Y0 + layers * SIDE + 4
    place = f'viewBox="0 0 {width} {height}" style="width: {width}px"'
    return f'<svg {place} role="img" aria-label="{html_text(label)}">{drawn}{rows}{columns}</svg>'
