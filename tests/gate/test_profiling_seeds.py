"""Checkpoints that differ only in their profiling seed are found by their manifests, and no others."""

import json
from pathlib import Path
from typing import Any

import pytest

from eaftgate.gate.profiling_seeds import local_manifests, profiling_groups
from eaftgate.rewrite.manifest import Manifest

BASE = {"name": "base", "digest": "a" * 64, "num_experts": 8, "top_k": 2}
MODEL = {"device": "cpu", "dtype": "float32"}
PROFILE = {
    "packs": {"chat": 3, "tools": 2}, "packs_digest": "p", "num_rows": 5, "seq_len": 64, "seed": 1, "num_blocks": 7,
    "counted_tokens": 90, "blocks_digest": "b", "model": MODEL,
}  # fmt: skip
PROVENANCE = {
    "method": "eaft-reap", "profile": PROFILE, "calibration_rows": ["r1", "r2"], "alignment": "predicting",
    "weights": {"good": 1.0},
}  # fmt: skip
MANIFEST: dict[str, Any] = {
    "base": BASE,
    "keep_n": 4,
    "keep_frac": 0.5,
    "allow_any_keep_n": False,
    "keep": [[0, 1, 2, 3], [0, 1, 2, 3]],
    "provenance": PROVENANCE,
    "tool": {"name": "eaftgate", "version": "1"},
    "files": {},
}


def changed(value: dict[str, Any], path: str, to: Any) -> dict[str, Any]:
    """A copy of nested `value` with the key at `path` (a.b.c) set."""
    key, _, rest = path.partition(".")
    return {**value, key: changed(value[key], rest, to) if rest else to}


def manifest(**changes: Any) -> Manifest:
    value = MANIFEST
    for path, to in changes.items():
        value = changed(value, path.replace("__", "."), to)
    return Manifest.model_validate(value)


OTHER_SEED: dict[str, Any] = {
    "provenance__profile": {
        **PROFILE, "packs": {"chat": 4, "tools": 1}, "seed": 2, "num_blocks": 8, "counted_tokens": 80,
        "blocks_digest": "c",
    },
    "provenance__calibration_rows": ["r2", "r3"],
    "keep": [[0, 1, 2, 3], [2, 3, 4, 5]],
}  # fmt: skip


def test_what_follows_from_the_seed_may_differ() -> None:
    (group,) = profiling_groups({"late": manifest(**OTHER_SEED), "early": manifest()})
    assert (group.checkpoints, group.seeds, group.name) == (("early", "late"), (1, 2), "early+late")
    assert group.jaccard_PL == ((1.0, 2 / 6),)
    assert group.rows_jaccard == pytest.approx(1 / 3)


def test_overlap_is_taken_over_all_pairs() -> None:
    third = manifest(**{**OTHER_SEED, "provenance__profile__seed": 3, "keep": [[4, 5, 6, 7], [2, 3, 4, 5]]})
    (group,) = profiling_groups({"a": manifest(), "b": manifest(**OTHER_SEED), "c": third})
    assert group.mean_jaccard_L == pytest.approx([1 / 3, (1 / 3 + 1 / 3 + 1) / 3])
    assert group.min_jaccard_L == pytest.approx([0, 1 / 3])


@pytest.mark.parametrize(
    ("path", "to"),
    [
        ("base__digest", "d" * 64),
        ("keep_n", 3),
        ("tool__version", "2"),
        ("provenance__method", "reap"),
        ("provenance__alignment", "token"),
        ("provenance__weights", {"good": 2.0}),
        ("provenance__search", {"settings": {"follow": "whole"}, "positions": 9}),  # as an older version wrote it
        ("provenance__profile__num_rows", None),
        ("provenance__profile__seq_len", 128),
        ("provenance__profile__packs", {"chat": 5}),
        ("provenance__profile__packs_digest", "q"),
        ("provenance__profile__packs_digest", None),
        ("provenance__profile__model", {**MODEL, "dtype": "bfloat16"}),
        ("provenance__whatever", "comes next"),
    ],
)
def test_whatever_else_differs_makes_no_group(path: str, to: Any) -> None:
    changes = {**OTHER_SEED, path: to}
    if path == "keep_n":
        changes["keep"] = [[0, 1, 2], [0, 1, 2]]
    assert profiling_groups({"a": manifest(), "b": manifest(**changes)}) == ()


def test_a_search_is_compared_by_its_settings() -> None:
    first = manifest(provenance__search={"settings": {"seed": 0}, "positions": 9})
    swaps = [{"layer": 0, "add": 1, "drop": 2, "gain": 0.1}]
    found = {"positions": 8, "start": "reap-mass", "swaps": swaps}
    second = manifest(**OTHER_SEED, provenance__search={"settings": {"seed": 0}, **found})
    third = manifest(**OTHER_SEED, provenance__search={"settings": {"seed": 1}, "positions": 8})
    assert [group.checkpoints for group in profiling_groups({"a": first, "b": second, "c": third})] == [("a", "b")]


def test_manifests_of_an_earlier_version_are_compared_by_what_they_say() -> None:
    older = {key: value for key, value in PROFILE.items() if key != "packs_digest"}
    (group,) = profiling_groups({
        "a": manifest(provenance__profile=older),
        "b": manifest(provenance__profile={**older, "packs_digest": None, "seed": 2}),
    })  # fmt: skip
    assert group.seeds == (1, 2)


def test_one_seed_is_no_group_and_of_a_seed_the_first_counts() -> None:
    assert profiling_groups({"a": manifest(), "again": manifest()}) == ()
    (group,) = profiling_groups({"a": manifest(), "again": manifest(), "b": manifest(**OTHER_SEED)})
    assert group.checkpoints == ("a", "b")


@pytest.mark.parametrize(
    ("path", "to"),
    [
        ("provenance", {}),
        ("provenance__method", "random"),
        ("provenance__profile__seed", "2"),
        ("provenance__profile__packs", ["chat"]),
        ("provenance__calibration_rows", [["r"]]),
        ("provenance__search", ["positions"]),
        ("base__num_experts", 4),
        ("keep", []),
        ("keep", [[0, 1, 2, 3], [0, 0, 1, 2]]),
    ],
)
def test_what_no_profile_chose_or_says_nothing_usable_is_in_no_group(path: str, to: Any) -> None:
    both = {path: to}
    assert profiling_groups({"a": manifest(**both), "b": manifest(**{**OTHER_SEED, **both})}) == ()


def test_no_experts_at_all_is_in_no_group() -> None:
    none = {"keep_n": 0, "keep": [[], []]}
    assert profiling_groups({"a": manifest(**none), "b": manifest(**{**OTHER_SEED, **none})}) == ()


def test_groups_keep_apart() -> None:
    reap = {"provenance__method": "reap"}
    groups = profiling_groups({
        "a1": manifest(), "b1": manifest(**reap), "b2": manifest(**OTHER_SEED, **reap), "a2": manifest(**OTHER_SEED),
    })  # fmt: skip
    assert [group.name for group in groups] == ["a1+a2", "b1+b2"]


def test_only_readable_manifests_of_directories_are_read(tmp_path: Path) -> None:
    for name, text in (("good", json.dumps(MANIFEST)), ("cut", json.dumps(MANIFEST)[:-9]), ("none", None)):
        (tmp_path / name).mkdir()
        if text is not None:
            (tmp_path / name / "manifest.json").write_text(text, encoding="utf-8")
    given = {name: str(tmp_path / name) for name in ("good", "cut", "none", "absent")}
    assert local_manifests({**given, "hub": "org/name", "long": "x" * 300}) == {"good": manifest()}
