"""The scores snapshot: written and read again it is the same, and what is damaged or made up is refused."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from snapshots import described, write

from eaftgate.errors import UserError
from eaftgate.packs.harmony import TokenClass
from eaftgate.select.class_sums import ClassSums
from eaftgate.select.class_weights import BALANCED_WEIGHTS, ClassWeights
from eaftgate.select.keep import scored_keep_sets
from eaftgate.select.saliency import EaftWeights, RegionSums
from eaftgate.select.scorers import SCORERS
from eaftgate.select.scores import DATA_FILE, SCORES_FILE, Scores, open_scores, scores_files

LAYERS, EXPERTS, PACKS = 2, 8, 3
DESCRIPTION = described(LAYERS, EXPERTS, packs=PACKS)


def scores(values: Any) -> Scores:
    """hits, norms and the masses of three regions, stacked in `values`; of two classes, either with all of them."""
    sums = RegionSums(values[0], values[1], np.stack(values[2:], axis=1))
    of_classes = (np.broadcast_to(each, (2, 2, *each.shape)) for each in asdict(sums).values())
    by_class = ClassSums((0.0, 0.75), (TokenClass.HEADER, TokenClass.CALL), np.array([7, 3]), *of_classes)
    return Scores(DESCRIPTION, "predicting", 0.15, sums, by_class=by_class)


def of_before(directory: Path, weights: dict[str, float] | None = None) -> None:
    """As versions before class sums wrote it, cut by `weights`."""
    resigned(directory, lambda held: [held.pop(name) for name in list(held) if "_ZC" in name])
    edit(directory, lambda told: (told.pop("classes"), told.update(class_weights=weights) if weights else None))


VALUES = arrays.arrays(
    np.float64, (5, PACKS, LAYERS, EXPERTS), elements=st.floats(0, 1e300, allow_nan=False, allow_infinity=False)
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scores")


@settings(max_examples=30)
@given(VALUES)
def test_what_is_written_is_read_bit_for_bit(place: Path, values: Any) -> None:
    made = scores(values)
    files = scores_files(made)
    assert files == scores_files(made)
    found = open_scores(write(place, files))
    assert (found.description, found.alignment, found.low_quantile) == (DESCRIPTION, "predicting", 0.15)
    assert made.by_class is not None
    assert found.by_class is not None
    for name, array in asdict(made.sums).items():
        np.testing.assert_array_equal(getattr(found.sums, name), array)
    for name, value in vars(made.by_class).items():
        np.testing.assert_array_equal(getattr(found.by_class, name), value)
    assert scores_files(found) == files


def test_every_scorer_cuts_the_same(place: Path) -> None:
    made = scores(np.random.default_rng(0).random((5, PACKS, LAYERS, EXPERTS)))
    found = open_scores(write(place, scores_files(made)))
    for method in SCORERS:
        kept = [
            scored_keep_sets(each.sums, method=method, keep_n=5, weights=EaftWeights(conflict=-1.3))
            for each in (made, found)
        ]
        assert kept[0] == kept[1]


def resigned(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the arrays, and make the sha256 right again."""
    with np.load(directory / DATA_FILE) as data:
        held = {name: data[name] for name in data.files}
    change(held)
    np.savez(directory / DATA_FILE, **held)
    edit(
        directory,
        lambda told: told.update(data_sha256=hashlib.sha256((directory / DATA_FILE).read_bytes()).hexdigest()),
    )


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what it says, as in a file of an earlier version, which has no sha256 of that."""
    told = yaml.safe_load((directory / SCORES_FILE).read_text())
    told.pop("sha256", None)
    change(told)
    (directory / SCORES_FILE).write_text(yaml.safe_dump(told))


def flipped(directory: Path) -> None:
    data = bytearray((directory / DATA_FILE).read_bytes())
    data[200] ^= 1
    (directory / DATA_FILE).write_bytes(data)


def replaced_by_text(directory: Path) -> None:
    (directory / DATA_FILE).write_bytes(b"text")
    edit(directory, lambda told: told.update(data_sha256=hashlib.sha256(b"text").hexdigest()))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: (d / SCORES_FILE).unlink(), "scores file is missing"),
        (lambda d: (d / DATA_FILE).unlink(), "scores file is missing"),
        (lambda d: (d / SCORES_FILE).write_text("- a"), "is not a reap-scores.yaml"),
        (lambda d: (d / SCORES_FILE).write_text("a: ["), "is not valid YAML"),
        (lambda d: edit(d, lambda told: told.update(schema="scores-2")), "is not a reap-scores.yaml"),
        (lambda d: edit(d, lambda told: told.pop("alignment")), "is not a reap-scores.yaml"),
        (lambda d: edit(d, lambda told: told["profile"].pop("base")), "'base' is not valid"),
        (lambda d: edit(d, lambda told: told.update(class_weights={"prose": 1.0})), "'prose' is no class"),
        (lambda d: edit(d, lambda told: told["profile"].update(packs={})), "sums of more packs than"),
        (lambda d: resigned(d, lambda held: held.update(hits_PLE=-held["hits_PLE"])), "hits_PLE must be finite"),
        (lambda d: edit(d, lambda told: told.pop("classes")), "cannot be read"),
        (lambda d: edit(d, lambda told: told["classes"].pop("tokens")), "'classes.tokens' is not valid"),
        (lambda d: edit(d, lambda told: told["classes"].update(tokens={"prose": 1, "call": 2})), "'prose', which"),
        (lambda d: edit(d, lambda told: told["classes"].update(tokens={"call": 2})), "hits_ZCPLE must be finite"),
        (lambda d: edit(d, lambda told: told["classes"].update(tokens={"call": 2, "close": 0})), "tokens.close"),
        (lambda d: edit(d, lambda told: told["classes"].update(type_powers=[0.0])), "hits_ZCPLE must be finite"),
        (lambda d: edit(d, lambda told: told["classes"].update(type_powers=[])), "'classes.type_powers'"),
        (lambda d: edit(d, lambda told: told["classes"].update(type_powers=[0.75, 0.75])), "twice"),
        (lambda d: edit(d, lambda told: told["classes"].update(type_powers=[0.0, float("inf")])), ".inf"),
        (lambda d: resigned(d, lambda held: held.update(mass_ZCPRLE=-held["mass_ZCPRLE"])), "mass_ZCPRLE must be"),
        (lambda d: resigned(d, lambda held: held.pop("norm_ZCPLE")), "cannot be read"),
        (flipped, "its sha256 differs"),
        (replaced_by_text, "cannot be read"),
        (lambda d: resigned(d, lambda held: held.pop("norm_PLE")), "cannot be read"),
        (lambda d: resigned(d, lambda held: held.update(rows=np.array([{}]))), "cannot be read"),
        (lambda d: resigned(d, lambda held: held.update(hits_PLE=held["hits_PLE"][:, :1])), "hits_PLE must be finite"),
        (lambda d: resigned(d, lambda held: held.update(hits_PLE=np.float64(1))), "hits_PLE must be finite"),
        (lambda d: resigned(d, lambda held: held.update(norm_PLE=held["norm_PLE"] * np.nan)), "norm_PLE must be"),
        (lambda d: resigned(d, lambda held: held.update(mass_PRLE=held["mass_PRLE"][:, :2])), "mass_PRLE must be"),
        (lambda d: resigned(d, lambda held: held.update(mass_PRLE=held["mass_PRLE"].astype("f4"))), "mass_PRLE must"),
    ],
)  # fmt: skip
def test_damage_is_one_sentence(tmp_path: Path, damage: Callable[[Path], object], said: str) -> None:
    path = write(tmp_path, scores_files(scores(np.ones((5, PACKS, LAYERS, EXPERTS)))))
    open_scores(path)
    damage(tmp_path)
    with pytest.raises(UserError) as refusal:
        open_scores(path)
    assert said in str(refusal.value)
    assert str(tmp_path) in str(refusal.value)


def test_no_byte_of_what_it_says_can_change(tmp_path: Path) -> None:
    """But for the comment above it."""
    path = write(tmp_path, scores_files(scores(np.ones((5, PACKS, LAYERS, EXPERTS)))))
    whole = path.read_bytes()
    found = open_scores(path)
    told, rng = whole.index(b"schema:"), np.random.default_rng(17)
    believed = 0
    for place in rng.integers(told, len(whole), 200).tolist():
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(7))
        path.write_bytes(changed)
        try:
            again = open_scores(path)
        except UserError:
            continue
        assert (again.description, again.alignment, again.low_quantile, again.classes) == (
            found.description, found.alignment, found.low_quantile, found.classes,
        )  # fmt: skip
        believed += 1
    assert believed <= 3  # white space, say, that is no part of what it says


def test_a_snapshot_of_before_it_had_a_sha256_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, scores_files(scores(np.ones((5, PACKS, LAYERS, EXPERTS)))))
    found = open_scores(path)
    edit(tmp_path, lambda _: None)
    assert b"\nsha256:" not in path.read_bytes()
    assert open_scores(path).description == found.description


@pytest.mark.parametrize("weights", [{}, BALANCED_WEIGHTS.as_dict()])
def test_a_snapshot_of_before_class_sums_is_cut_by_its_own_weights(tmp_path: Path, weights: dict[str, float]) -> None:
    path = write(tmp_path, scores_files(scores(np.ones((5, PACKS, LAYERS, EXPERTS)))))
    of_before(tmp_path, weights)
    found = open_scores(path)
    assert found.weighed(ClassWeights.named(weights)).hits_PLE.tolist() == np.ones((PACKS, LAYERS, EXPERTS)).tolist()
    other = ClassWeights() if weights else BALANCED_WEIGHTS
    with pytest.raises(UserError, match="give the same, or --profile of a profile that says") as refusal:
        found.weighed(other)
    assert ("with --class-weight header=1" if weights else "without --class-weight") in str(refusal.value)
