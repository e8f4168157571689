"""Stability as its user sees it: checkpoints of several profiling seeds, gated together."""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gate_command import BASE, GATE_PACKS, Run, gate
from prepared import once, pruned, run_once

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.errors import UserError
from eaftgate.files import sha256_json
from eaftgate.profile.profile import Profile
from eaftgate.prune.checkpoint import PruneRequest
from eaftgate.report.html import write_report
from eaftgate.report.lock import make_lock, verify_lock, write_lock
from eaftgate.rewrite.manifest import read_manifest
from eaftgate.rewrite.rewrite import rewrite_checkpoint

OPTIONS = (f"--base={BASE}", f"--packs={GATE_PACKS}", "--regime=fixture", "--seq-lens=128", "--num-blocks=64")


@pytest.fixture(scope="session")
def same24(made: Path, profile: Profile) -> Path:
    """What another profiling seed gives that chooses the same experts."""
    other = replace(profile, description=profile.description.model_copy(update={"seed": 1}))
    return once(made / "same24", lambda path: pruned(path, PruneRequest(keep_n=24, method="eaft-reap"), other))


@pytest.fixture(scope="session")
def unlucky24(made: Path, keep24: Path, profile: Profile) -> Path:
    """What a profiling seed gives that drops the eight most used experts of every layer."""
    base = open_checkpoint(BASE)
    expert_XLK = profile.trace.column("expert_XLK")
    hits_LE = [np.bincount(expert_XLK[:, layer].ravel(), minlength=32) for layer in range(base.num_layers)]
    keep = [sorted(np.argsort(hits_E)[:24].tolist()) for hits_E in hits_LE]
    provenance = read_manifest(keep24).provenance
    seeded = {**provenance, "profile": {**provenance["profile"], "seed": 2}}
    digest = checkpoint_digest(base)
    return once(
        made / "unlucky24",
        lambda path: rewrite_checkpoint(base, keep, path, provenance=seeded, base_digest=digest),
    )


@pytest.fixture(scope="session")
def stable_run(made: Path, keep24: Path, same24: Path) -> Run:
    """In two workers, which must plan the same cases."""
    given = (f"--checkpoint={keep24}", f"--checkpoint={same24}", "--seeds=1", "-n", "2")
    return run_once(
        made / "stable-run", *OPTIONS, *given, "-k", "UNION and (near_lossless or stability) or keep_overlap"
    )


def test_equal_verdicts_are_stable_and_the_overlap_is_recorded(stable_run: Run) -> None:
    group = "same24+keep24"
    case = stable_run.junit[f"test_stability::test_profiling_seeds[{group}-UNION-128]"]
    assert (case.outcome, case.properties["stable"], case.properties["verdicts"]) == ("passed", "True", "pass, pass")
    assert case.properties["seeds"] == "1, 3407"
    assert case.properties["ppl_min"] == case.properties["ppl_max"] != "0.0"
    overlap = stable_run.junit[f"test_stability::test_keep_overlap[{group}]"].properties
    assert overlap["rows_jaccard"] == "1.0"
    assert {value for name, value in overlap.items() if name.startswith("layer")} == {"1.0"}
    (said,) = stable_run.parity["stability"]["profiling_groups"]
    assert (said["name"], said["seeds"], [cell["verdict"] for cell in said["cells"]]) == (group, [1, 3407], ["pass"])
    missing = stable_run.parity["not_run"]
    assert missing
    assert not [name for name in missing if "test_stability" in name], "planned, and not run"


def test_the_spread_over_evaluation_seeds_is_recorded(stable_run: Run) -> None:
    spread = {row["name"]: row for row in stable_run.parity["stability"]["spread"]}
    assert spread.keys() == {"keep24", "same24"}
    assert spread["keep24"]["seeds"] == [None, 1]
    ppl = spread["keep24"]["metrics"]["ppl"]
    main = stable_run.cells("keep24")["UNION-128"]["metrics"]["ppl"]["estimate"]
    further = stable_run.junit["test_stability::test_stability[keep24-UNION-128-seed1-ppl]"].properties["estimate"]
    assert [ppl["min"], ppl["max"]] == sorted([main, float(further)])
    assert ppl["min"] < ppl["max"], "another row order gives the same estimate"
    case = stable_run.junit["test_stability::test_spread[keep24-UNION-128]"].properties
    assert (float(case["ppl_min"]), float(case["ppl_max"]), case["ppl_count"]) == (ppl["min"], ppl["max"], "2")
    assert case["seeds"] == "file order, 1"
    assert "keep24 UNION 128: " in stable_run.output


def test_what_was_judged_over_seeds_is_judged_again_for_a_lock(stable_run: Run, keep24: Path, tmp_path: Path) -> None:
    results = Path(shutil.copytree(stable_run.results, tmp_path / "run"))
    lock = make_lock(results, str(keep24))
    assert lock.verdict == stable_run.parity["verdict"] == "incomplete"  # the floor was left out
    assert lock.stability is not None
    assert lock.stability.model_dump(mode="json") == stable_run.parity["stability"]
    write_lock(results, str(keep24), tmp_path / "lock.json")
    sound = verify_lock(tmp_path / "lock.json", results=results)
    locked = json.loads((tmp_path / "lock.json").read_text())
    locked["stability"]["spread"][0]["verdicts"][1] = "fail"
    locked["sha256"] = sha256_json({key: value for key, value in locked.items() if key != "sha256"})
    (tmp_path / "lock.json").write_text(json.dumps(locked))
    (problem,) = set(verify_lock(tmp_path / "lock.json", results=results)) - set(sound)
    assert problem.startswith("the lock's stability.spread[")
    told = stable_run.parity
    told["stability"]["spread"][0]["verdicts"][1] = "fail"
    told["sha256"] = sha256_json({key: value for key, value in told.items() if key != "sha256"})
    (results / "parity.json").write_text(json.dumps(told))
    with pytest.raises(
        UserError, match=r"stability.spread\[.+\].verdicts\[1\] is 'fail', and the collections give 'pass'"
    ):
        make_lock(results, str(keep24))


def test_a_group_of_which_one_fails_turns_red(stable_run: Run, keep24: Path, unlucky24: Path, tmp_path: Path) -> None:
    given = (f"--checkpoint={keep24}", f"--checkpoint={unlucky24}")
    shutil.copytree(stable_run.results / "collections", tmp_path / "run" / "collections")
    run = gate(tmp_path / "run", *OPTIONS, *given, "-k", "profiling_seeds or keep_overlap")
    assert run.code == 1
    assert run.parity["verdict"] == "fail"
    case = run.junit["test_stability::test_profiling_seeds[unlucky24+keep24-UNION-128]"]
    assert (case.outcome, case.properties["verdict"], case.properties["stable"]) == ("failure", "fail", "False")
    assert case.reason.strip() == (
        "the verdict depends on the profiling seed: seed 2 (unlucky24) fail, seed 3407 (keep24) pass"
    )
    assert case.reason.strip() in [problem["reason"] for problem in run.parity["failed"]]
    assert run.junit["test_stability::test_keep_overlap[unlucky24+keep24]"].outcome == "passed"
    (group,) = run.parity["stability"]["profiling_groups"]
    assert max(layer["mean"] for layer in group["keep_jaccard"]) < 1
    page = tmp_path / "report.html"
    write_report(run.results, page)
    assert '<td class="verdict fail">not the same</td>' in page.read_text(encoding="utf-8")


def test_a_run_without_seeds_says_so(copy_run: Run, tmp_path: Path) -> None:
    said = copy_run.parity["stability"]
    assert (said["planned"], said["evaluation_seeds"], said["profiling_groups"]) == (False, [None], [])
    assert said["note"].startswith("stability was not planned: ")
    assert copy_run.output.count(said["note"]) == 1
    assert not any("test_stability" in name for name in copy_run.junit)
    suite = ElementTree.parse(copy_run.results.with_suffix(".xml")).find(".//testsuite/properties")
    assert suite is not None
    assert {p.attrib["name"]: p.attrib["value"] for p in suite}["stability"] == said["note"]
    page = tmp_path / "report.html"
    write_report(copy_run.results, page)
    assert f"<p>S{said['note'][1:]}.</p>" in page.read_text(encoding="utf-8")


def test_a_broken_manifest_fails_its_own_case_only(keep24: Path, same24: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken24"
    shutil.copytree(same24, broken)
    manifest = json.loads((broken / "manifest.json").read_text(encoding="utf-8"))
    (broken / "manifest.json").write_text(json.dumps({**manifest, "keep_n": "24"}), encoding="utf-8")
    given = (f"--checkpoint={keep24}", f"--checkpoint={broken}")
    run = gate(tmp_path / "run", *OPTIONS, *given, "-k", "test_integrity or test_engine")
    outcomes = {name.split("::")[1]: case.outcome for name, case in run.junit.items() if "test_run" not in name}
    assert outcomes == {
        "test_integrity[keep24]": "passed",
        "test_integrity[broken24]": "failure",
        "test_engine[keep24]": "passed",
        "test_engine[broken24]": "passed",
    }
    reason = run.junit["test_artifact::test_integrity[broken24]"].reason.strip()
    assert "manifest.json: 'keep_n' is not valid" in reason
    assert "\n" not in reason
    assert run.parity["stability"]["planned"] is False
