"""The gate as its user runs it: pytest gates/ on the embedded checkpoint and on good, bad and broken candidates."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from gate_command import BASE, CALIBRATION_PACKS, ENVIRONMENT, GATE_PACKS, Case, Run, gate, pytest_command
from prepared import SMALL, TINY, copy_of_base
from sglang_server import serving

from eaftgate.collect.collection import load_collection
from eaftgate.errors import UserError
from eaftgate.gate.results import read_parity
from eaftgate.judge.luck import passes_by_luck
from eaftgate.judge.policy import DEFAULT_GATES, IntervalPolicy, load_gates
from eaftgate.parity.paired import pair
from eaftgate.report.budgets import budgets_of
from eaftgate.report.html import render
from eaftgate.report.lock import make_lock

METRICS = load_gates().policy("near-lossless-v2")[1].metrics
"""Of the policy that `gate` takes."""

ON_GATE_PACKS = (f"--base={BASE}", f"--packs={GATE_PACKS}")
CELL_KEYS = {
    "checkpoint", "pack", "seq_len", "num_blocks", "tokens", "ppl_base", "ppl", "delta_ppl", "cc_base", "cc",
    "delta_cc", "mean_p_base", "mean_p", "delta_mean_p", "js2d", "p_thr", "h_thr", "severity", "verdict", "flags",
    "metrics",
}  # fmt: skip
FIXTURE_PACKS = ("UNION", "chat", "reasoning", "tool_agentic")


def near_lossless(run: Run, case: str) -> Case:
    return run.junit[f"test_near_lossless::test_near_lossless[{case}]"]


def failures(run: Run) -> dict[str, str]:
    """Of cases, but for those that say it of the whole run."""
    bad = {name: case.reason for name, case in run.junit.items() if case.outcome != "passed"}
    assert ("test_run::test_verdict" in bad) == (run.parity["verdict"] != "pass")
    return {name: reason for name, reason in bad.items() if not name.startswith("test_run::")}


def collections_of(run: Run) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (run.results / "collections").glob("*.safetensors")}


# A copy of the base


def test_a_copy_of_the_base_passes_with_no_difference_at_all(copy_run: Run) -> None:
    assert copy_run.code == 0, copy_run.output
    assert copy_run.parity["verdict"] == copy_run.parity["v1_verdict"] == "pass"
    cells = copy_run.cells("copy")
    assert list(cells) == [f"{pack}-{length}" for pack in FIXTURE_PACKS for length in (64, 128)]
    for cell in cells.values():
        assert cell["delta_ppl"] == cell["delta_cc"] == cell["delta_mean_p"] == cell["js2d"] == 0
        assert cell["verdict"] == "pass"


def test_workers_give_the_same_cells_as_one_process(copy_run: Run, base_copy: Path, tmp_path: Path) -> None:
    workers = gate(tmp_path / "run", *ON_GATE_PACKS, f"--checkpoint={base_copy}", *SMALL, "-n", "2")
    assert workers.code == 0, workers.output
    assert "2 workers" in workers.output
    assert workers.parity["cells"] == copy_run.parity["cells"]
    assert workers.junit.keys() == copy_run.junit.keys()


def test_workers_name_what_failed_in_the_order_of_one_process(
    bad_run: Run, random8: Path, raised: Path, tmp_path: Path
) -> None:
    """A lock compares it: one of a run by workers, judged again by one process, said that every case was another."""
    results = Path(shutil.copytree(bad_run.results, tmp_path / "run"))
    options = (*ON_GATE_PACKS, f"--checkpoint={random8}", f"--checkpoint={raised}", *TINY)
    workers = gate(results, *options, "-n", "2", "-p", "late_plugin")
    assert [case["case"] for case in workers.parity["failed"]] == [case["case"] for case in bad_run.parity["failed"]]
    assert bad_run.parity["failed"][0]["case"].endswith("test_integrity[raised]")


def test_a_dead_worker_is_a_red_run_that_ends(tmp_path: Path) -> None:
    run = gate(tmp_path / "run", *ON_GATE_PACKS, *TINY, "-n", "2", "-p", "dying_plugin")
    assert run.code == 1
    assert run.parity["verdict"] == "incomplete"
    assert gate(run.results, *ON_GATE_PACKS, *TINY).code == 0


@pytest.mark.parametrize(
    ("before", "red"),
    [
        ("test_collection[copy-chat-64]", "test_collection::test_collection[copy-chat-64]"),
        ("test_tensors", "test_unchanged::test_unchanged[copy]"),
    ],
)
def test_a_checkpoint_that_is_replaced_while_the_run_goes_on_makes_it_red(
    before: str, red: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is scored, and when it was scored to the end; only weights that no figure shows are other."""
    path = copy_of_base(tmp_path / "copy")
    shard = path / "model-00002-of-00002.safetensors"
    monkeypatch.setitem(ENVIRONMENT, "REPLACED_BEFORE", before)
    monkeypatch.setitem(ENVIRONMENT, "REPLACED", str(shard))
    run = gate(tmp_path / "run", *ON_GATE_PACKS, f"--checkpoint={path}", *TINY, "-p", "replacing_plugin")
    assert run.code == 1
    assert f"{shard} was changed or replaced while it was in use" in run.junit[red].reason
    assert run.junit["test_unchanged::test_unchanged[base]"].outcome == "passed"


def test_parity_json_has_the_keys_that_scripts_read(copy_run: Run, base_copy: Path) -> None:
    parity = copy_run.parity
    assert {"schema_version", "policy", "verdict", "v1_verdict", "cells"} <= parity.keys()
    for cell in parity["cells"]:
        assert cell.keys() >= CELL_KEYS
        assert cell["checkpoint"] == str(base_copy)
        assert (cell["severity"] == "primary") == (cell["pack"] == "UNION")
        assert cell["metrics"].keys() == set(METRICS)
        for metric in cell["metrics"].values():
            assert metric.keys() >= {"estimate", "lower", "upper", "margin", "verdict"}


def test_ids_and_properties_in_junit(copy_run: Run) -> None:
    ids = {name.split("::")[1] for name in copy_run.junit if name.startswith("test_near_lossless::")}
    assert ids == {
        f"test_near_lossless[copy-{pack}-{length}-{metric}]"
        for pack in FIXTURE_PACKS for length in (64, 128) for metric in METRICS
    }  # fmt: skip
    case = near_lossless(copy_run, "copy-UNION-64-ppl")
    assert case.outcome == "passed"
    assert case.properties.keys() >= {"estimate", "lower", "upper", "margin", "verdict", "tokens", "num_blocks"}
    assert float(case.properties["estimate"]) == 0
    assert case.properties["verdict"] == "pass"
    assert (case.properties["unit"], case.properties["shown"]) == ("nats", "+0.00% [+0.00%, +0.00%] margin +5.00%")
    assert (case.properties["decides"], case.properties["severity"]) == ("True", "primary")
    advisory = near_lossless(copy_run, "copy-chat-64-ppl").properties
    assert (advisory["decides"], advisory["severity"]) == ("False", "advisory")


def test_the_noop_checkpoint_is_removed_afterwards(copy_run: Run) -> None:
    assert any(name.startswith("test_noop::") for name in copy_run.junit)
    assert not (copy_run.results / "work" / "noop").exists()


# The main job


def test_keep_24_of_a_profile_passes(keep24: Path, tmp_path: Path) -> None:
    """Under a name that pytest would escape in ids."""
    named = shutil.copytree(keep24, tmp_path / "größe-24")
    budget = ("--regime=fixture", "--seq-lens=128", "--num-blocks=64")
    run = gate(tmp_path / "run", *ON_GATE_PACKS, f"--checkpoint={named}", *budget)
    assert run.code == 0, run.output
    assert run.parity["verdict"] == "pass"
    assert re.search(r"^checkpoint +pack +seq", run.output, re.M)
    assert re.search(r"^größe-24 +UNION +128 .* PASS$", run.output, re.M)
    assert "verdict: PASS" in run.output
    assert run.cells("größe-24")["UNION-128"]["delta_ppl"] != 0
    assert run.junit["test_artifact::test_integrity[größe-24]"].properties["manifest"] == "True"


# Checkpoints that are worse


def test_a_random_keep_8_fails_by_a_wide_margin(bad_run: Run) -> None:
    assert bad_run.code == 1
    assert bad_run.parity["verdict"] == "fail"
    ppl = bad_run.cells("random8")["UNION-64"]["metrics"]["ppl"]
    assert ppl["lower"] > 10 * ppl["margin"]
    case = near_lossless(bad_run, "random8-UNION-64-ppl")
    assert case.outcome == "failure"
    assert re.fullmatch(r"ppl \+\S+ \[\+\S+, \+\S+\] is outside its margin \+5\.00% \(\d+ tokens\)", case.reason)


def test_one_expert_with_raised_scales_fails(bad_run: Run) -> None:
    assert bad_run.cells("raised")["UNION-64"]["verdict"] == "fail"
    assert near_lossless(bad_run, "raised-UNION-64-ppl").outcome == "failure"
    case = bad_run.junit["test_artifact::test_integrity[raised]"]
    assert case.outcome == "failure"
    assert "differs from the base" in case.reason


@pytest.fixture
def split_gates(tmp_path: Path, bad_run: Run) -> Path:
    """A gates file whose margin lies between two packs of random8: the better one decides, the worse is advisory."""
    rise = {name.removesuffix("-64"): cell["delta_ppl"] for name, cell in bad_run.cells("random8").items()}
    better, worse = min(rise, key=rise.__getitem__), max(rise, key=rise.__getitem__)
    gates: dict[str, Any] = json.loads(DEFAULT_GATES.read_text(encoding="utf-8"))
    gates["default"] = "near-lossless-v1"
    for threshold in gates["policies"]["near-lossless-v1"]["thresholds"].values():
        threshold["value"] = 1e6
    limit = gates["policies"]["near-lossless-v1"]["thresholds"]["max_abs_delta_ppl"]
    limit["value"] = (rise[better] + rise[worse]) / 2
    primary = {"packs": [better], "seq_lens": [64]}
    regime = {"packs": [better, worse], "primary": primary, "seq_lens": [64], "num_blocks": 6, "batch_size": 8}
    gates["regimes"] = {"split": regime, "worse": {**regime, "primary": {**primary, "packs": [worse]}}}
    path = tmp_path / "gates.json"
    path.write_text(json.dumps(gates), encoding="utf-8")
    return path


def test_an_advisory_failure_is_shown_and_decides_only_with_strict_cells(
    bad_run: Run, random8: Path, split_gates: Path, tmp_path: Path
) -> None:
    worse = json.loads(split_gates.read_text(encoding="utf-8"))["regimes"]["worse"]["primary"]["packs"][0]
    before = collections_of(bad_run)
    options = (*ON_GATE_PACKS, f"--checkpoint={random8}", f"--gates={split_gates}", "--regime=split")
    results = shutil.copytree(bad_run.results, tmp_path / "run")
    run = gate(results, *options)
    assert run.code == 0, run.output
    case = near_lossless(run, f"random8-{worse}-64-ppl")
    assert (case.outcome, case.properties["verdict"]) == ("passed", "fail")
    assert (case.properties["decides"], case.properties["severity"]) == ("False", "advisory")
    assert case.properties["unit"] in ("perplexity", "nats", "share", "probability")
    cell = run.cells("random8")[f"{worse}-64"]
    assert (cell["severity"], cell["verdict"], run.parity["verdict"]) == ("advisory", "fail", "pass")

    strict = gate(results, *options, "--strict-cells")
    assert strict.code == 1
    assert strict.parity["verdict"] == "fail"
    assert failures(strict).keys() == {f"test_near_lossless::test_near_lossless[random8-{worse}-64-ppl]"}

    assert before.items() <= collections_of(strict).items(), "a collection was measured again"


def luck_by_tokens(results: Path, names: tuple[str, ...], *, best_of: int) -> tuple[int, float, float]:
    """Documents, and the shares of passes of any and of one, by way of the tokens' own sums."""
    cells = [c for c in read_parity(results).cells if c.name in names and c.pack == "UNION"]
    paired = [
        pair(
            *(load_collection(results / "collections" / c.inputs.collections[role]) for role in ("base", "checkpoint"))
        )
        for c in sorted(cells, key=lambda c: names.index(c.name))
    ]
    rows, weight_C = np.unique(paired[0].content().row_T, return_counts=True)
    tokens = [found.content() for found in paired]
    delta_KC = np.array([[found.nll_delta_T[found.row_T == row].sum() for row in rows] for found in tokens])
    policy = load_gates().policy("near-lossless-v2")[1]
    assert isinstance(policy, IntervalPolicy)
    passes_KB = passes_by_luck(policy, delta_KC, weight_C, best_of=best_of, draws=2_000, seed=3407)
    return len(rows), float(passes_KB.any(axis=0).mean()), float(passes_KB.mean())


def test_the_best_of_several_passes_by_bounds_at_a_part_of_alpha(
    bad_run: Run, random8: Path, raised: Path, tmp_path: Path
) -> None:
    """Judged anew from what was collected: only the bounds towards a loss move, and a FAIL stays one."""
    before = collections_of(bad_run)
    results = shutil.copytree(bad_run.results, tmp_path / "run")
    options = (*ON_GATE_PACKS, *TINY, f"--checkpoint={random8}", f"--checkpoint={raised}")
    too_few = gate(results, *options, "--best-of=1")
    assert too_few.code == 4
    assert "--best-of is 1, and 2 checkpoints are given" in too_few.output
    run = gate(results, *options, "--best-of=5")
    assert (run.code, run.parity["asked"]["best_of"]) == (1, 5)
    assert run.output.count("alpha / 5") == 2  # above and below the cases
    assert "bounds that a pass needs are at alpha / 5" in render(read_parity(results))
    assert make_lock(results, str(random8)).asked == read_parity(results).asked
    for name in ("random8", "raised"):
        one, best = (found.cells(name)["UNION-64"] for found in (bad_run, run))
        assert (one["verdict"], best["verdict"]) == ("fail", "fail")
        assert best["metrics"]["ppl"]["upper"] > one["metrics"]["ppl"]["upper"]
        assert best["metrics"]["ppl"]["lower"] == one["metrics"]["ppl"]["lower"]
        (row,) = [
            row
            for row in budgets_of(results, load_gates().policy("near-lossless-v2")[1], [6])
            if (row.name, row.pack) == (name, "UNION")
        ]
        assert asdict(row.metrics["ppl"]) == best["metrics"]["ppl"]
    assert before.items() <= collections_of(run).items(), "a collection was measured again"
    assert run.parity["luck"] == []  # its few documents say nothing of how others would differ


def test_how_often_one_of_several_would_pass_by_luck(random8: Path, raised: Path, tmp_path: Path) -> None:
    options = (
        *ON_GATE_PACKS, f"--checkpoint={random8}", f"--checkpoint={raised}", "--regime=fixture", "--seq-lens=64",
        "--num-blocks=192", "-k", "near_lossless and UNION",
    )  # fmt: skip
    one = gate(tmp_path / "run", *options)
    (luck,) = one.parity["luck"]
    assert (luck["pack"], luck["seq_len"], luck["candidates"], luck["draws"]) == ("UNION", 64, 2, 2_000)
    assert "if all 2 candidates lay at the margin of ppl, one would pass by luck in" in one.output
    assert "to choose the best, give --best-of=2 or gate the winner on fresh rows" in one.output
    assert ">The best of 2 candidates</h2>" in render(read_parity(one.results))
    best = gate(one.results, *options, "--best-of=5")
    (stricter,) = best.parity["luck"]
    assert 0 < stricter["alone"] < stricter["passes"] < luck["passes"] < 0.3
    expected = luck_by_tokens(best.results, ("random8", "raised"), best_of=5)
    assert (stricter["documents"], stricter["passes"], stricter["alone"]) == pytest.approx(expected, abs=1 / 2_000)
    assert "documents drawn 2,000 times), judged as the best of 5\n" in best.output
    early = gate(tmp_path / "early", *options, "--sequential")
    assert early.parity["luck"] == []


def test_what_v2_would_have_said_is_a_line_where_it_differs(copy_run: Run, base_copy: Path, tmp_path: Path) -> None:
    """48 blocks of 64 tokens have too few calls for near-lossless-v3."""
    before = collections_of(copy_run)
    results = shutil.copytree(copy_run.results, tmp_path / "run")
    options = (*ON_GATE_PACKS, *SMALL, f"--checkpoint={base_copy}", "--generate=0")
    line = "near-lossless-v2 would have said: pass (--policy=near-lossless-v2"
    v2 = gate(results, *options, "--policy=near-lossless-v2")
    assert (v2.parity["verdict"], v2.parity["v2_verdict"]) == ("pass", "pass")
    assert "would have said" not in v2.output
    cells = v2.cells("copy")
    v3 = gate(results, *options, "--policy=near-lossless-v3")
    assert (v3.parity["verdict"], v3.parity["v2_verdict"]) == ("inconclusive", "pass")
    assert line in v3.output
    assert all(cell["v2_verdict"] == cells[name]["verdict"] == "pass" for name, cell in v3.cells("copy").items())
    assert 'near-lossless-v2 says <span class="verdict pass">pass</span>' in render(read_parity(results))
    assert before.items() <= collections_of(v3).items(), "a collection was measured again"
    gates = json.loads(DEFAULT_GATES.read_text(encoding="utf-8"))
    del gates["policies"]["near-lossless-v2"]
    gates["default"] = "near-lossless-v3"
    path = tmp_path / "gates.json"
    path.write_text(json.dumps(gates), encoding="utf-8")
    own = gate(results, *options, f"--gates={path}")
    assert (own.parity["verdict"], own.parity["v2_verdict"]) == ("inconclusive", None)
    assert "near-lossless-v2" not in own.output


# A run that is not whole


def test_a_deselected_primary_metric_turns_the_run_red(copy_run: Run, base_copy: Path, tmp_path: Path) -> None:
    before = collections_of(copy_run)
    results = shutil.copytree(copy_run.results, tmp_path / "run")
    given = (*ON_GATE_PACKS, f"--checkpoint={base_copy}", *SMALL)
    run = gate(results, *given, "-k", "not UNION-64-ppl and not noop")
    assert run.code == 1
    assert run.parity["verdict"] == run.parity["v1_verdict"] == "incomplete"
    assert "not run: test_near_lossless::test_near_lossless[copy-UNION-64-ppl]" in run.output
    assert before.items() <= collections_of(run).items(), "a collection was measured again"
    assert gate(results, *given).code == 0


def test_broken_checkpoints_fail_with_one_line_each(
    nan_head: Path, truncated: Path, other_tokenizer: Path, tmp_path: Path
) -> None:
    candidates = [f"--checkpoint={path}" for path in (nan_head, truncated, other_tokenizer)]
    run = gate(tmp_path / "run", *ON_GATE_PACKS, *candidates, *TINY)
    assert run.code == 1
    assert run.parity["verdict"] in ("incomplete", "fail")
    assert "Traceback" not in run.output
    assert "site-packages" not in run.output
    for name, said in (
        ("nan_head", "tensor 'lm_head.weight' holds NaN or infinity at element 0"),
        ("truncated", "model-00002-of-00002.safetensors has"),
        ("other_tokenizer", "has another tokenizer.json than its base"),
    ):
        reason = near_lossless(run, f"{name}-UNION-64-ppl").reason
        assert said in reason
        assert "\n" not in reason.strip()
        assert any(said in problem["reason"] for problem in run.parity["failed"] if name in problem["case"])
    ran = {name for name, case in run.junit.items() if name.startswith("test_noop") and case.outcome == "passed"}
    assert ran, "a broken candidate stops the cases of the base"


def test_too_few_blocks_says_how_many_there_are(base_copy: Path, tmp_path: Path) -> None:
    packs = tmp_path / "packs"
    packs.mkdir()
    pq.write_table(pq.read_table(GATE_PACKS / "chat.parquet").slice(0, 12), packs / "chat.parquet")
    run = gate(
        tmp_path / "run", f"--base={BASE}", f"--packs={packs}", f"--checkpoint={base_copy}", "--regime=fixture",
        "--seq-lens=64", "--num-blocks=9999",
    )  # fmt: skip
    assert run.code == 1
    reason = near_lossless(run, "copy-UNION-64-ppl").reason
    assert re.search(r"pack UNION has \d+ blocks of 64 tokens, fewer than the 9999", reason)
    assert run.parity["verdict"] == "incomplete"


# Rows that were calibrated on


def test_calibration_rows_in_the_gate_packs(keep24: Path, tmp_path: Path) -> None:
    options = (f"--base={BASE}", f"--packs={CALIBRATION_PACKS}", f"--checkpoint={keep24}", *TINY)
    only = ("-k", "not noise_floor and not noop")
    run = gate(tmp_path / "run", *options, *only)
    assert run.code == 1
    case = run.junit["test_artifact::test_disjoint[keep24]"]
    assert case.outcome == "failure"
    assert re.search(r"120 rows of UNION, 40 rows of chat", case.reason)
    assert "--allow-overlap" in case.reason

    allowed = gate(tmp_path / "run", *options, *only, "--allow-overlap")
    case = allowed.junit["test_artifact::test_disjoint[keep24]"]
    assert (case.outcome, case.properties["overlap_UNION"]) == ("passed", "120")
    assert all("overlap" in cell["flags"] for cell in allowed.parity["cells"])
    assert allowed.cells("keep24")["UNION-64"]["calibrated_rows"] == 120
    assert "120 of its rows were calibrated on" in allowed.output


# The base alone


def test_only_a_base_runs_its_noise_floor_and_the_noop_rewrite(tmp_path: Path) -> None:
    run = gate(tmp_path / "run", *ON_GATE_PACKS, *TINY)
    assert run.code == 0, run.output
    assert {name.split("::")[0] for name in run.junit} == {
        "test_collection",
        "test_noise_floor",
        "test_noop",
        "test_run",
        "test_unchanged",
    }
    assert run.parity["verdict"] == "pass"
    assert run.parity["cells"] == []
    assert not (run.results / "work" / "noop").exists()


def test_halves_without_a_token_are_no_pass(tmp_path: Path) -> None:
    run = gate(tmp_path / "run", *ON_GATE_PACKS, "--regime=fixture", "--seq-lens=64", "--num-blocks=1", "-k", "halves")
    assert run.code == 1
    assert "raise --num-blocks" in run.junit["test_noise_floor::test_halves[base-UNION-64]"].reason


# Stopping early, budgets, and a policy that the measurement cannot carry


def test_stopping_early_says_the_same_on_fewer_blocks(base_copy: Path, random8: Path, tmp_path: Path) -> None:
    """In workers, and in one process that takes up what they left."""
    budget = ("--regime=fixture", "--seq-lens=128", "--num-blocks=96", "--sequential")
    options = (*ON_GATE_PACKS, *budget, f"--checkpoint={base_copy}", f"--checkpoint={random8}")
    run = gate(tmp_path / "run", *options, "-n", "2")
    assert run.code == 1
    good, bad = (run.cells(name)["UNION-128"] for name in ("copy", "random8"))
    assert (good["verdict"], good["num_blocks"], good["budget_blocks"]) == ("pass", 30, 96)
    assert (bad["verdict"], bad["num_blocks"]) == ("fail", 18)
    assert "sequential" in good["flags"]
    assert bad["metrics"]["js2d_corrected"]["estimate"] is None  # its first look comes later
    assert "verdict: FAIL" in run.output
    case = near_lossless(run, "random8-UNION-128-ppl")
    assert (case.outcome, case.properties["num_blocks"]) == ("failure", "18")
    again = gate(run.results, *options)
    assert again.parity["cells"] == run.parity["cells"]
    # Judged again from what was seen of it alone.
    assert [make_lock(run.results, str(path)).verdict for path in (base_copy, random8)] == ["pass", "fail"]
    (run.results / "collections" / good["inputs"]["looks"][0]).unlink()
    with pytest.raises(UserError, match="is gone: run the gate again"):
        make_lock(run.results, str(base_copy))


def test_a_margin_below_three_times_the_floor_is_no_pass(base_copy: Path, copy_run: Run, tmp_path: Path) -> None:
    """A policy that asks for more than the measurement can tell is at fault, not the candidate."""
    gates = json.loads(DEFAULT_GATES.read_text(encoding="utf-8"))
    moved = [
        abs(float(case.properties["estimate"]))
        for name, case in copy_run.junit.items()
        if re.fullmatch(r"test_noise_floor::test_floor\[base-UNION-\d+-ulp-ppl\]", name)
    ]
    assert min(moved) > 0, "one ulp changes nothing: the floor measures nothing"
    gates["default"] = "near-lossless-v2"
    gates["policies"][gates["default"]]["rules"]["ppl"]["margin"]["value"] = 2 * min(moved)
    path = tmp_path / "gates.json"
    path.write_text(json.dumps(gates), encoding="utf-8")
    results = shutil.copytree(copy_run.results, tmp_path / "run")  # what was collected is not collected again
    run = gate(results, *ON_GATE_PACKS, f"--checkpoint={base_copy}", *SMALL, f"--gates={path}")
    assert run.code == 1
    assert run.parity["verdict"] == "incomplete"
    failed = failures(run)
    assert all("test_floor" in name and name.endswith("-ppl]") for name in failed)
    assert all("less than 3 times" in reason for reason in failed.values())


def test_budgets_show_what_fewer_blocks_would_have_said(copy_run: Run, base_copy: Path, tmp_path: Path) -> None:
    """The first rows of `eaftgate budgets` are the cells of a run with as many blocks."""
    _, policy = load_gates().policy("near-lossless-v2")
    rows = budgets_of(copy_run.results, policy, [8, 48])
    small = gate(
        tmp_path / "run", *ON_GATE_PACKS, f"--checkpoint={base_copy}", "--regime=fixture", "--seq-lens=64",
        "--num-blocks=8", "-k", "test_near_lossless",
    )  # fmt: skip
    cells = small.cells("copy")
    found = {row.pack: row for row in rows if (row.seq_len, row.num_blocks) == (64, 8)}
    assert found.keys() == set(FIXTURE_PACKS)
    for pack, row in found.items():
        cell = cells[f"{pack}-64"]
        assert (row.tokens, row.verdict) == (cell["tokens"], cell["verdict"])
        assert {name: asdict(verdict) for name, verdict in row.metrics.items()} == cell["metrics"]
        assert row.verdict == "inconclusive"
    assert all(row.verdict == "pass" for row in rows if row.num_blocks == 48)
    with pytest.raises(UserError, match="judged on 48 blocks"):
        budgets_of(copy_run.results, policy, [49])


# Scoring somewhere else


def test_without_sglang_every_case_says_what_to_install(base_copy: Path, tmp_path: Path) -> None:
    """Not evaluable is red, and no usage error."""
    options = (*ON_GATE_PACKS, f"--checkpoint={base_copy}", *TINY, "--collector=sglang")
    run = gate(tmp_path / "run", *options, "-k", "UNION and not noise_floor and not noop")
    assert run.code == 1
    assert run.parity["verdict"] == "incomplete"
    reason = near_lossless(run, "copy-UNION-64-ppl").reason
    assert "eaftgate[sglang]" in reason
    assert "\n" not in reason.strip()


def test_servers_score_a_base_and_its_copy(base_copy: Path, tmp_path: Path) -> None:
    options = (*ON_GATE_PACKS, f"--checkpoint={base_copy}", *TINY, "--policy=near-lossless-v1", "--collector=sglang")
    with serving(str(BASE), 2048) as base, serving(str(base_copy), 2048) as copy:
        run = gate(tmp_path / "run", *options, f"--endpoint={base.url}", f"--endpoint={copy.url}")
        assert base.asked > 0 < copy.asked  # a repetition and the rest: equal contents are scored once
        lonely = gate(tmp_path / "lonely", *options, f"--endpoint={base.url}")
    assert run.code == 0, run.output
    assert run.cells("copy")["UNION-64"]["inputs"]["collector"]["collector"] == "sglang-endpoint"
    assert not any(name.startswith("test_noop::test_metrics") for name in run.junit)
    assert lonely.code == 1
    assert "no --endpoint serves" in near_lossless(lonely, "copy-UNION-64-ppl").reason


def test_a_librarys_warning_is_no_verdict(tmp_path: Path) -> None:
    results = tmp_path / "run"
    run = pytest_command(
        "gates/test_noop.py::test_tensors", f"--base={BASE}", f"--packs={GATE_PACKS}", *TINY, "-p", "warning_plugin",
        f"--results={results}", f"--junitxml={results.with_suffix('.xml')}", results=results,
    )  # fmt: skip
    assert run.junit["test_noop::test_tensors"].outcome == "passed"
    assert "DeprecationWarning: this will go away" in run.output


# Usage


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((f"--base={BASE}",), "--checkpoint and --base need --packs"),
        ((f"--checkpoint={BASE}",), "--checkpoint and --base need --packs"),
        ((f"--packs={GATE_PACKS}",), "--packs needs --checkpoint or --base"),
        (("--generate=tools:3",), "--generate: 'tools:3' must be a whole number"),
        (("--generate=-1",), "--generate is -1: it must be at least 0"),
    ],
)
def test_missing_and_wrong_options_are_one_sentence(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    run = gate(tmp_path / "run", *options)
    assert run.code == 4
    (line,) = filter(None, run.output.splitlines())
    assert line.startswith(f"ERROR: {said}")


def test_the_plugin_is_inert_elsewhere(tmp_path: Path) -> None:
    run = pytest_command("tests/parity", "--collect-only", results=tmp_path / "run")
    assert run.code == 0, run.output
    assert "eaftgate 0" not in run.output
    assert "policy" not in run.output.split("collected")[0]


def test_verdicts_alone_are_no_pass_and_seeds_are_planned_cases(base_copy: Path, tmp_path: Path) -> None:
    """Nothing that was planned may be left out: not the artifact, not the noise floor, not another seed."""
    arguments = (*ON_GATE_PACKS, f"--checkpoint={base_copy}", "--seq-lens=64", "--num-blocks=6", "--seeds=1,2")
    run = gate(tmp_path / "run", *arguments, "-k", "test_near_lossless or (test_stability and seed1)")
    assert run.code == 1
    assert run.parity["verdict"] == "incomplete"
    missing = run.parity["not_run"]
    assert "test_artifact::test_disjoint[copy]" in missing
    assert "test_noop::test_tensors" in missing
    assert "test_stability::test_stability[copy-UNION-64-seed2-ppl]" in missing
    assert not [case for case in missing if "test_near_lossless" in case or "seed1" in case]
    assert run.junit["test_stability::test_stability[copy-UNION-64-seed1-ppl]"].properties["verdict"] == "pass"


def test_a_checkpoint_without_gates_on_the_command_line_is_a_usage_error(tmp_path: Path) -> None:
    """A CI step that forgot the path would otherwise run other tests and gate nothing."""
    run = pytest_command("-q", "--checkpoint=x", "tests/gate/test_table.py", results=tmp_path / "run")
    assert run.code == 4
    assert "pytest gates/" in run.output
