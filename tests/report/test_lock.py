"""A lock is what judging the collections again gives: no word of parity.json, of the lock or of a collection can be
another without being found, by its checksum and, where the checksum is made to fit, by what the collections show."""

import copy
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_command import BASE, GATE_PACKS, Run
from prepared import TINY, run_once

from eaftgate.errors import UserError
from eaftgate.files import sha256_file, sha256_json
from eaftgate.gate.again import NOT_JUDGED, judged_again
from eaftgate.gate.results import read_parity
from eaftgate.judge.policy import DEFAULT_GATES
from eaftgate.report.lock import make_lock, read_lock, verify_lock, versions_line, write_lock

Way = tuple[str | int, ...]

TOLD = {*NOT_JUDGED, "failed", "not_run", "complete", "reason", "messages", "calibrated_rows", "candidates", "asked"}
"""What parity.json says of more than its collections: of this its own sha256 speaks."""


@pytest.fixture
def results(copy_run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(copy_run.results, tmp_path / "results"))


@pytest.fixture(scope="module")
def small_run(made: Path, base_copy: Path) -> Run:
    """A copy of the base on a few blocks: it has all words that the larger has, and is judged again in no time."""
    return run_once(made / "small-run", f"--base={BASE}", f"--checkpoint={base_copy}", f"--packs={GATE_PACKS}", *TINY)


@pytest.fixture
def small(small_run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_run.results, tmp_path / "small"))


def leaves(value: Any, way: Way = ()) -> Iterator[tuple[Way, Any]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*way, key))
    else:
        yield way, value


def other(value: Any) -> Any:
    """Something of the same type."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value * 1.001 + 1e-3
        case None:
            return None
    known = (
        ("pass", "fail", "inconclusive"),
        ("primary", "advisory"),
        ("rerun", "batch"),
        ("pruned", "other"),
        ("worse", "both"),
    )
    for names in known:
        if value in names:
            return names[(names.index(value) + 1) % len(names)]
    return f"{value[:-1]}{'0' if value[-1:] != '0' else '1'}"


def changed(file: Path, way: Way, *, resealed: bool) -> None:
    told = json.loads(file.read_text())
    at = told
    for key in way[:-1]:
        at = at[key]
    at[way[-1]] = other(at[way[-1]])
    if resealed:
        told["sha256"] = sha256_json({key: value for key, value in told.items() if key != "sha256"})
    file.write_text(json.dumps(told))


SOME = range(6)
MORE = pytest.param(range(6, 60), marks=pytest.mark.slow)


def sample(file: Path, which: range, *, but: set[str] = frozenset()) -> list[Way]:  # type: ignore[assignment]
    """Of the leaves of a JSON file, one of each kind, by their keys without places; `which` of these in some order, in
    which every first key comes once before any comes again: most words are those of cells."""
    kinds: dict[tuple[str, ...], list[Way]] = {}
    for way, value in leaves(json.loads(file.read_text())):
        keys = tuple(key for key in way if isinstance(key, str))
        if value is not None and not but & set(keys):
            kinds.setdefault(keys, []).append(way)
    rng = np.random.default_rng(17)
    found = [ways[int(rng.integers(len(ways)))] for ways in kinds.values()]
    rng.shuffle(found)
    before: Counter[str | int] = Counter()
    places = []
    for way in found:
        places.append(before[way[0]])
        before[way[0]] += 1
    found = [way for _, way in sorted(zip(places, found, strict=True), key=lambda placed: placed[0])]
    return [found[place] for place in which if place < len(found)]


def test_no_word_of_parity_json_can_be_another(small: Path, small_run: Run) -> None:
    file = small / "parity.json"
    for way in sample(file, range(40)):
        changed(file, way, resealed=False)
        with pytest.raises(UserError):
            make_lock(small, None)
        file.write_text(json.dumps(small_run.parity))


@pytest.mark.parametrize("which", [SOME, MORE])
def test_a_verdict_or_figure_that_the_collections_do_not_give_is_named(
    small: Path, small_run: Run, which: range
) -> None:
    """Though the sha256 is made to fit."""
    file = small / "parity.json"
    for way in sample(file, which, but=TOLD):
        changed(file, way, resealed=True)
        with pytest.raises(UserError, match=r"run (the gate )?again|another gates file|the gates file has"):
            make_lock(small, None)
        file.write_text(json.dumps(small_run.parity))
    make_lock(small, None)


@pytest.mark.parametrize("kept", ["failed", "nothing"])
def test_a_run_that_failed_is_not_locked_as_a_pass(bad_run: Run, random8: Path, tmp_path: Path, kept: str) -> None:
    """With every verdict of parity.json a pass, and a sha256 that fits."""
    results = Path(shutil.copytree(bad_run.results, tmp_path / "results"))
    assert make_lock(results, str(random8)).verdict == "fail"
    told = copy.deepcopy(bad_run.parity)
    told["verdict"] = "pass"
    if kept == "nothing":
        told["failed"] = []
    for cell in told["cells"]:
        cell["verdict"] = "pass"
        for metric in cell["metrics"].values():
            metric["verdict"] = metric["verdict"] and "pass"
    told["sha256"] = sha256_json({key: value for key, value in told.items() if key != "sha256"})
    (results / "parity.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match="run the gate again"):
        make_lock(results, str(random8))


def test_a_candidate_beside_one_that_could_not_be_judged(
    bad_run: Run, random8: Path, raised: Path, tmp_path: Path
) -> None:
    """It has no cells, and its cases failed."""
    results = Path(shutil.copytree(bad_run.results, tmp_path / "results"))
    told = bad_run.parity
    told["cells"] = [cell for cell in told["cells"] if cell["checkpoint"] == str(random8)]
    told["luck"] = []
    told["lost_messages"]["raised"] = []
    told["sha256"] = sha256_json({key: value for key, value in told.items() if key != "sha256"})
    (results / "parity.json").write_text(json.dumps(told))
    assert make_lock(results, str(random8)).verdict == "fail"
    with pytest.raises(UserError, match=r"has judged .*random8: say which with --checkpoint"):
        make_lock(results, str(raised))


def test_a_case_that_fails_by_the_collections_has_to_be_told(bad_run: Run, random8: Path, tmp_path: Path) -> None:
    results = Path(shutil.copytree(bad_run.results, tmp_path / "results"))
    told = bad_run.parity
    told["failed"] = [case for case in told["failed"] if "random8-UNION-64-ppl]" not in case["case"]]
    assert len(told["failed"]) == len(bad_run.parity["failed"]) - 1
    told["sha256"] = sha256_json({key: value for key, value in told.items() if key != "sha256"})
    (results / "parity.json").write_text(json.dumps(told))
    said = r"test_near_lossless\[random8-UNION-64-ppl\] fails by the collections, and is not among what failed"
    with pytest.raises(UserError, match=said):
        make_lock(results, str(random8))


@pytest.mark.parametrize("tier", ["rerun", "batch", "ulp", "noop"])
def test_the_floor_is_told_whole(results: Path, copy_run: Run, tier: str) -> None:
    """What the base does to itself is judged again like any candidate: not told of, it cannot have passed."""
    told = copy_run.parity
    told["repeated"] = [entry for entry in told["repeated"] if entry["tier"] != tier]
    assert 0 < len(told["repeated"]) < len(copy_run.parity["repeated"])
    told["sha256"] = sha256_json({key: value for key, value in told.items() if key != "sha256"})
    (results / "parity.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match="cannot be judged from what it tells, and is not among what failed"):
        make_lock(results, None)


@pytest.mark.parametrize("tier", ["rerun", "batch", "ulp", "noop"])
def test_the_base_itself_is_no_repetition(results: Path, copy_run: Run, tier: str) -> None:
    """The base's own collection in the place of what it measured anew: a floor of nothing."""
    told = copy_run.parity
    for entry in told["repeated"]:
        if entry["tier"] == tier:
            entry["inputs"]["collections"]["checkpoint"] = entry["inputs"]["collections"]["base"]
    told["sha256"] = sha256_json({key: value for key, value in told.items() if key != "sha256"})
    (results / "parity.json").write_text(json.dumps(told))
    with pytest.raises(UserError):
        make_lock(results, None)


def test_a_floor_that_fails_is_not_locked_as_a_pass(results: Path, copy_run: Run, tmp_path: Path) -> None:
    """By a policy that what other batches, or one ulp, do is too much for."""
    gates = json.loads(DEFAULT_GATES.read_text())
    gates["policies"]["near-lossless-v2"]["floor_factor"] = 1e9
    path = tmp_path / "gates.json"
    path.write_text(json.dumps(gates))
    told = {**copy_run.parity, "gates_sha256": sha256_file(path)}
    told["sha256"] = sha256_json({key: value for key, value in told.items() if key != "sha256"})
    (results / "parity.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"by another gates file than .*: say with --gates which it was"):
        make_lock(results, None)
    with pytest.raises(UserError, match=r"test_floor\[base-UNION-64-(batch|ulp)-ppl\] fails by the collections"):
        make_lock(results, None, path)


def test_a_run_is_judged_again_by_the_gates_file_it_kept(results: Path) -> None:
    kept = results / "judged_by.json"
    assert kept.read_bytes() == DEFAULT_GATES.read_bytes()
    kept.write_text(kept.read_text() + " ")
    with pytest.raises(UserError, match="by another gates file than"):
        make_lock(results, None)
    kept.unlink()
    with pytest.raises(UserError, match=r"has lost its judged_by\.json: say with --gates"):
        make_lock(results, None)
    assert make_lock(results, None, DEFAULT_GATES).gates_sha256 == sha256_file(DEFAULT_GATES)


def test_a_damaged_collection_is_not_judged(results: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock.json"
    write_lock(results, None, lock)
    rng = np.random.default_rng(17)
    for path in rng.permutation(sorted(results.glob("collections/*.safetensors")))[:4]:
        whole = path.read_bytes()
        rotten = bytearray(whole)
        rotten[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(rotten)
        with pytest.raises(UserError, match="is damaged"):
            make_lock(results, None)
        (problem,) = verify_lock(lock, results=results)
        assert problem.startswith("the verdicts cannot be judged again: saved collection")
        path.unlink()
        (problem,) = verify_lock(lock, results=results)
        assert problem.startswith("the verdicts cannot be judged again:")
        assert "is gone" in problem
        path.write_bytes(whole)
    assert verify_lock(lock, results=results) == []


# verify


@pytest.mark.parametrize("which", [SOME, MORE])
def test_no_word_of_a_lock_can_be_another(
    results: Path, tmp_path: Path, which: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its sha256; and a verdict, a figure or a digest by what is there, whose field is named.
    What is there stays as it is, so it is judged again once."""
    again = judged_again(results, read_parity(results))
    monkeypatch.setattr("eaftgate.report.lock.judged_again", lambda *_: again)
    lock = tmp_path / "lock.json"
    write_lock(results, None, lock)
    whole = lock.read_text()
    names = {"name", "results", "libraries", "python", "eaftgate", "schema"}
    for way in sample(lock, which, but={"name", "results", "schema"}):
        changed(lock, way, resealed=False)
        problems = verify_lock(lock, results=results)
        assert "the lock has changed since it was made: its sha256 is not that of what it says" in problems
        changed_since = len(problems)
        lock.write_text(whole)
        changed(lock, way, resealed=True)
        problems = verify_lock(lock, results=results)
        if not names & {key for key in way if isinstance(key, str)} and way != ("sha256",):
            assert len(problems) == changed_since - 1 > 0, way
        lock.write_text(whole)
    assert verify_lock(lock, results=results) == []


def test_a_changed_verdict_is_named(results: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock.json"
    write_lock(results, None, lock)
    place = next(i for i, cell in enumerate(json.loads(lock.read_text())["cells"]) if cell["pack"] == "UNION")
    changed(lock, ("cells", place, "verdict"), resealed=True)
    (problem,) = verify_lock(lock, results=results)
    assert problem == "the lock's cells[UNION 64].verdict is 'fail', and the collections give 'pass'"


def test_a_checkpoint_that_is_another_by_now_is_not_locked(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eaftgate.report.lock.checkpoint_digest", lambda _: "0" * 64)
    with pytest.raises(UserError, match=r"has changed since .* judged it: run the gate again"):
        make_lock(results, None)


def test_what_a_manifest_says_is_what_was_locked(bad_run: Run, random8: Path, tmp_path: Path) -> None:
    """Which experts were kept, and every file: also what no digest of the weights sees."""
    lock, moved = tmp_path / "lock.json", shutil.copytree(random8, tmp_path / "moved")
    write_lock(bad_run.results, str(random8), lock)

    def problems() -> list[str]:
        return verify_lock(lock, checkpoint=str(moved), files_only=True)

    assert problems() == ["the locked verdict is fail"]
    changed(lock, ("keep", 0, 0), resealed=True)
    assert problems()[1:] == ["the lock's keep is not that of manifest.json"]
    with (moved / "generation_config.json").open("a") as file:
        file.write(" ")
    assert "generation_config.json" in problems()[2]


def test_without_the_collections_it_says_so(results: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock.json"
    write_lock(results, None, lock)
    assert verify_lock(lock) == []  # where they were
    results.rename(tmp_path / "elsewhere")
    (problem,) = verify_lock(lock)
    assert problem.startswith("the verdicts were not judged again: the collections are not in ")
    assert verify_lock(lock, files_only=True) == []
    assert verify_lock(lock, results=tmp_path / "elsewhere") == []


def test_another_run_is_not_the_one_that_was_locked(bad_run: Run, results: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock.json"
    write_lock(results, None, lock)
    (problem,) = verify_lock(lock, results=bad_run.results)
    assert problem == f"{bad_run.results} has not judged the checkpoint that was locked"


def test_versions_are_shown(results: Path, tmp_path: Path) -> None:
    write_lock(results, None, tmp_path / "lock.json")
    lock = read_lock(tmp_path / "lock.json")
    assert "(now" not in versions_line(lock)
    older = lock.model_copy(update={"libraries": {**lock.libraries, "torch": "1.0"}})
    assert "torch 1.0 (now " in versions_line(older)
    assert versions_line(older).startswith("made with eaftgate ")
