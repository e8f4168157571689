"""What report.html says of a candidate, why, and what next; how margins are drawn; that every run leaves a page."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_command import BASE, GATE_PACKS, ROOT, Run, gate
from prepared import TINY
from results import parity_cell, parity_of

from eaftgate.files import sha256_file
from eaftgate.gate.identity import CheckpointIdentity, RunIdentity, command_line
from eaftgate.gate.results import Asked, FailedCase, Parity, read_parity
from eaftgate.judge.policy import load_gates
from eaftgate.judge.verdict import MetricVerdict
from eaftgate.progress import Bar
from eaftgate.records import read_model
from eaftgate.report import landscapes
from eaftgate.report.banner import next_steps, why
from eaftgate.report.budgets import as_judged, cell_budgets
from eaftgate.report.html import render, write_report
from eaftgate.report.keep_map import keep_maps
from eaftgate.report.margins import Place, nearest, place_of, scale_of, track
from eaftgate.report.rows import command_html
from eaftgate.rewrite.manifest import MANIFEST_FILE, read_kept

BASE_IDENTITY = CheckpointIdentity(name="base", given="models/base", bytes=1000, experts=32)
KEEP24 = CheckpointIdentity(
    name="keep24", given="out/keep24", bytes=800, experts=24, method="eaft-reap", keep=(tuple(range(24)),) * 2
)


def run_identity(*checkpoints: CheckpointIdentity) -> RunIdentity:
    return RunIdentity(
        started="2026-01-02T03:04:05+00:00", ended="2026-01-02T04:04:05+00:00", directory="/somewhere",
        command="eaftgate gate --base=models/base --checkpoint=out/keep24 --num-blocks 8 --seed=1", results="run",
        host="box", system="Linux", processors=2, python="3.11", libraries={"torch": "2"}, packs=(),
        checkpoints=checkpoints or (BASE_IDENTITY, KEEP24),
    )  # fmt: skip


def verdict_of(estimate: float, lower: float, upper: float, **more: Any) -> MetricVerdict:
    values: dict[str, Any] = {"margin": 0.05, "verdict": "pass", "side": "worse"} | more
    return MetricVerdict(estimate, lower, upper, **values)


def one(verdict: str, **metrics: MetricVerdict) -> Parity:
    """A run of one cell, with the metrics of a policy with intervals."""
    cell = parity_cell(checkpoint="out/keep24", verdict=verdict, metrics=metrics, deciding=tuple(metrics))
    return parity_of(cell, verdict=verdict, run=run_identity())


# Places


@pytest.mark.parametrize(
    ("metric", "verdict", "place"),
    [
        ("ppl", verdict_of(0.025, 0.0, 0.05), Place(0.5, 0.0, 1.0)),
        ("cc_ratio", verdict_of(1.0, 0.5, 1.5, margin=1.5), Place(0.0, np.log(0.5) / np.log(1.5), 1.0)),
        # Less is worse: a loss lies to the right like every other, and the bounds change places.
        ("mean_p", verdict_of(-0.01, -0.02, 0.01, margin=0.02, side="both"), Place(0.5, -0.5, 1.0)),
        ("same_top1", verdict_of(0.9, 0.8, 1.0, margin=0.8), Place(0.5, 0.0, 1.0)),
        ("ppl", MetricVerdict(0.025, None, 0.05, 0.05, "pass"), Place(0.5, None, 1.0)),
    ],
)
def test_a_place_is_in_margins(metric: str, verdict: MetricVerdict, place: Place) -> None:
    found = place_of(metric, verdict, interval=True)
    assert found is not None
    for one_of, other in zip(vars(found).values(), vars(place).values(), strict=True):
        assert one_of == (None if other is None else pytest.approx(other))


def test_what_has_no_margin_or_no_estimate_has_no_place() -> None:
    assert place_of("ppl", MetricVerdict(0.1, 0.0, 0.2, None, None), interval=True) is None
    assert place_of("ppl", MetricVerdict(None, None, None, 0.05, "inconclusive"), interval=True) is None


def test_a_drawing_is_to_scale_and_what_lies_beyond_is_an_arrow() -> None:
    scale = scale_of([Place(0.5, 0.25, 0.75)], both=False)
    assert scale.low < 0 < 1 < scale.high
    assert scale.x(0.5) == pytest.approx((scale.x(0) + scale.x(1)) / 2, abs=0.1)
    drawn = track(Place(0.5, 0.25, 0.75), scale, verdict_of(1, 1, 1), both=False, decides=True)
    assert f'cx="{scale.x(0.5)}"' in drawn
    assert f'class="limit" d="M{scale.x(1)} 0' in drawn
    assert 'class="pass"' in drawn
    assert "arrow" not in drawn
    far = scale_of([Place(100.0, 50.0, 150.0)], both=False)
    assert "arrow" in track(Place(100.0, 50.0, 150.0), far, verdict_of(1, 1, 1), both=False, decides=True)


def test_only_what_decides_has_the_colour_of_its_verdict() -> None:
    scale = scale_of([], both=False)
    place = Place(0.5, 0.25, 0.75)
    assert 'class="shown"' in track(place, scale, verdict_of(1, 1, 1), both=False, decides=False)
    assert 'class="weak"' in track(place, scale, verdict_of(1, 1, 1, underpowered=True), both=False, decides=True)


def test_the_nearest_bound_is_the_one_that_decides_and_comes_nearest() -> None:
    cell = parity_cell(
        metrics={"ppl": verdict_of(0.01, 0.0, 0.02), "mean_p": verdict_of(0.0, -0.015, 0.0, margin=0.02, side="both"),
                 "rms_dp": verdict_of(0.09, 0.08, 0.1)},
        deciding=("ppl", "mean_p"),
    )  # fmt: skip
    found = nearest([cell])
    assert found is not None
    assert found[1] == "mean_p"
    assert found[2] == pytest.approx(0.75)


# Why, and what next


def test_a_pass_says_what_comes_nearest_and_is_locked_next() -> None:
    parity = one("pass", ppl=verdict_of(0.01, 0.0, 0.02))
    assert why(parity).endswith("the nearest is ppl, from +0.00% to +2.02% on UNION 1024, at 40% of its margin.")
    ((_, command),) = next_steps(parity, "keep24")
    assert command == "eaftgate lock run --checkpoint out/keep24 --out keep24.lock.json"


def test_an_inconclusive_one_is_asked_again_on_the_blocks_that_would_decide() -> None:
    open_ = verdict_of(0.04, 0.0, 0.06, verdict="inconclusive", blocks_needed=700)
    parity = one("inconclusive", ppl=open_)
    ((said, command),) = next_steps(parity, "keep24")
    assert "700 blocks would" in said
    given = shlex.split(command)
    assert given == [
        "eaftgate", "gate", "--base=models/base", "--checkpoint=out/keep24", "--seed=1", "--num-blocks=700"
    ]  # fmt: skip
    hopeless = one("inconclusive", ppl=verdict_of(0.05, 0.0, 0.06, verdict="inconclusive"))
    ((said, command),) = next_steps(hopeless, "keep24")
    assert command == ""


def test_a_fail_names_what_failed_and_is_looked_into_or_cut_larger() -> None:
    failed = FailedCase(
        case="gates/test_near_lossless.py::test_near_lossless[keep24-UNION-1024-ppl]", reason="ppl is outside",
        verdict="fail",
    )  # fmt: skip
    parity = one("fail", ppl=verdict_of(0.1, 0.09, 0.11, verdict="fail")).model_copy(update={"failed": (failed,)})
    assert why(parity) == "In keep24-UNION-1024-ppl: ppl is outside."
    (_, look), (_, cut) = next_steps(parity, "keep24")
    assert look == "eaftgate diagnose out/keep24 --packs CALIBRATION_PACKS"
    assert cut == (
        "eaftgate prune models/base --scores out/keep24/reap-scores.yaml --keep-n 28 --method eaft-reap "
        "--out out/keep24-keep28"
    )
    asked = parity.asked.model_copy(update={"candidate_kind": "other"})
    assert [command for _, command in next_steps(parity.model_copy(update={"asked": asked}), "keep24")] == [""]


def test_an_incomplete_one_is_gone_on_with() -> None:
    parity = one("pass").model_copy(update={"verdict": "incomplete", "complete": False})
    assert why(parity) == "The session did not end by itself."
    failed = FailedCase(case="m.py::test_other[keep24-ppl]", reason="no", verdict="inconclusive")
    short = parity.model_copy(update={"not_run": ("m::test_a[keep24]", "m::test_b[keep24]"), "failed": (failed,)})
    assert why(short) == (
        "The session did not end by itself: m::test_a[keep24] did not run, nor did 1 further planned case."
    )
    ((_, command),) = next_steps(parity, "keep24")
    assert command == parity.run.command  # type: ignore[union-attr]


def test_a_run_of_an_earlier_version_has_commands_to_fill_in() -> None:
    parity = one("pass", ppl=verdict_of(0.01, 0.0, 0.02)).model_copy(update={"run": None})
    assert [command for _, command in next_steps(parity, "keep24")] == [
        "eaftgate lock RUN_DIR --checkpoint out/keep24 --out keep24.lock.json"
    ]
    assert "RUN_DIR" in render(parity)


def test_an_edited_run_has_no_banner() -> None:
    parity = one("pass", ppl=verdict_of(0.01, 0.0, 0.02))
    assert 'class="card pass"' in render(parity)
    assert 'class="card' not in render(parity, as_written=False)


def test_the_command_is_the_one_that_was_given() -> None:
    given = ["-p", "eaftgate.gate.plugin", "-c", "x", "--pyargs", "eaftgate.suite", "--base=a b"]
    assert command_line(given) == "eaftgate gate '--base=a b'"
    assert command_line(["gates/", "-n", "2"]) == "pytest gates/ -n 2"


@pytest.mark.parametrize(
    "given", [["--endpoint=http://me:secret@box"], ["--endpoint", "http://box?key=secret"], ["http://x#secret"]]
)
def test_the_command_holds_no_secret(given: list[str]) -> None:
    assert "secret" not in command_line(["gates/", *given])
    assert "NOT_SHOWN" in command_line(["gates/", *given])
    assert command_line(["--endpoint=http://box:1"]) == "pytest --endpoint=http://box:1"


# Sections


def test_several_candidates_stand_side_by_side_from_the_largest() -> None:
    cells = [
        parity_cell(name=name, checkpoint=f"out/{name}", metrics={"ppl": verdict_of(x, x, x)}, deciding=("ppl",))
        for name, x in (("small", 0.04), ("large", 0.01))
    ]
    sizes = [
        BASE_IDENTITY,
        KEEP24.model_copy(update={"name": "small", "bytes": 500}),
        KEEP24.model_copy(update={"name": "large", "bytes": 900}),
    ]
    page = render(parity_of(*cells, run=run_identity(*sizes)))
    section = page[page.index("Candidates side by side</h2>") :]
    assert section.index("large") < section.index("small")
    assert "900 bytes, 10.0% saved" in section
    assert "Candidates side by side</h2>" not in render(parity_of(cells[0]))


def test_experts_are_drawn_also_where_the_checkpoint_is_gone() -> None:
    drawn = keep_maps(one("pass", ppl=verdict_of(0.01, 0.0, 0.02)))
    assert "keep24</b>: 24 of 32 experts a layer" in drawn
    assert "are not there, or are of another checkpoint" in drawn
    assert drawn.count("h8v8h-8z") == 64  # two layers of 32
    kept = drawn[drawn.index('class="less') : drawn.index('class="more')]
    assert kept.count("h8v8h-8z") == 48


def test_scores_are_found_from_where_the_run_was_started(
    keep24: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report may be made anywhere."""
    monkeypatch.chdir(tmp_path)
    keep = tuple(map(tuple, read_kept(keep24).keep))
    found = KEEP24.model_copy(
        update={"given": keep24.name, "keep": keep, "manifest": sha256_file(keep24 / MANIFEST_FILE)}
    )
    run = run_identity(BASE_IDENTITY, found).model_copy(update={"directory": str(keep24.parent)})
    drawn = keep_maps(one("pass", ppl=verdict_of(0.01, 0.0, 0.02)).model_copy(update={"run": run}))
    assert "What was dropped has" in drawn
    assert "are not there" not in drawn


def test_every_link_of_the_page_leads_somewhere_and_places_are_named_once() -> None:
    page = render(one("pass", ppl=verdict_of(0.01, 0.0, 0.02)))
    ids = [part.partition('"')[0] for part in page.split(' id="')[1:]]
    links = [part.partition('"')[0] for part in page.split('href="#')[1:]]
    assert len(set(ids)) == len(ids)
    assert links
    assert set(links) <= set(ids)


def test_the_run_in_the_picture_of_the_readme_has_a_report() -> None:
    docs = ROOT / "docs"
    parity = read_model(docs / "report-run.json", Parity, what="run", remedy="make it again")
    page = render(parity)
    assert "24 of 32 experts a layer (eaft-reap). 4.45 MB of 5.32 MB, 16.3% saved." in page
    assert (docs / "report.png").stat().st_size < 300_000
    assert "docs/report.png" in (ROOT / "README.md").read_text(encoding="utf-8")


# Landscapes


def test_the_region_of_sure_tokens_is_seen_where_its_quantile_is_all_but_zero() -> None:
    bottom = landscapes.Y0 + landscapes.HEIGHT
    assert bottom - landscapes._height(2.7e-5) > landscapes.HEIGHT / landscapes.BINS.h
    assert (landscapes._height(0.0), landscapes._height(1.0)) == (bottom, landscapes.Y0)


@pytest.mark.parametrize("entropy", [0.0, 2.7e-5, 0.03, 0.5, 1.0])
def test_a_token_is_drawn_where_its_axis_says(entropy: float, bad_run: Run) -> None:
    cell = read_parity(bad_run.results).cells[0]
    saved = cell.inputs.saved(bad_run.results, "base")
    stats = replace(saved.stats, entropy_T=np.full_like(saved.stats.entropy_T, entropy))
    rows = np.flatnonzero(landscapes._histogram(replace(saved, stats=stats)).any(axis=0))
    height = landscapes.HEIGHT / landscapes.BINS.h
    above, below = (landscapes.Y0 + landscapes.HEIGHT - (rows[0] + up) * height for up in (1, 0))
    assert len(rows) == 1
    assert above <= landscapes._height(entropy) <= below


def test_a_command_goes_on_below_between_its_words_alone() -> None:
    assert command_html("a --b=<c> -d") == "<span>a</span> <span>--b=&lt;c&gt;</span> <span>-d</span>"


# The run's own


def test_a_run_leaves_a_page_that_the_command_makes_again(bad_run: Run, tmp_path: Path) -> None:
    page = bad_run.results / "report.html"
    assert f"report: {page}" in bad_run.output
    text = page.read_text(encoding="utf-8")
    for title in ("Candidates side by side", "Landscapes", "What smaller budgets", "Experts, layer by layer"):
        assert f">{title}" in text
    assert "Not drawn" not in text
    assert "Not known" not in text
    assert write_report(bad_run.results, page) is True  # up to date
    moved = tmp_path / "moved"
    shutil.copytree(bad_run.results, moved, ignore=shutil.ignore_patterns("collections"))
    write_report(moved, tmp_path / "report.html")
    without = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert without.count("run the gate again.</p>") == 2  # landscapes and budgets, each in a sentence


def test_the_whole_budget_is_what_the_run_itself_said(bad_run: Run) -> None:
    """So it is not judged again for the section on smaller budgets."""
    parity = read_parity(bad_run.results)
    _, policy = load_gates(bad_run.results / "judged_by.json").policy(parity.policy)
    primary = [cell for cell in parity.cells if cell.severity == "primary"]
    assert len(primary) == 2
    for cell in primary:
        budgets = [cell.num_blocks]
        assert cell_budgets(bad_run.results, cell, policy, budgets, strict=False, best_of=1) == [as_judged(cell)]


def test_what_reads_collections_says_how_far_it_is(
    bad_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the run, too, on a line of its own; twice for either candidate's cell that decides."""
    assert f"\nreport to {bad_run.results / 'report.html'}: 0 of 4 cells" in bad_run.output
    write_report(bad_run.results, tmp_path / "report.html")
    assert "report.html: 0 of 4 cells" in capsys.readouterr().err
    told: list[int] = []

    class Told(Bar):
        def advance(self, amount: int) -> None:
            told.append(amount)

    render(read_parity(bad_run.results), bad_run.results, bar=Told())
    assert sum(told) == 4


def test_the_run_says_what_it_was(bad_run: Run, random8: Path) -> None:
    told = bad_run.parity["run"]
    assert {pack["name"]: pack["rows"] for pack in told["packs"]}.keys() == {"chat", "reasoning", "tool_agentic"}
    assert told["started"] <= told["ended"]
    assert f"--checkpoint={random8}" in shlex.split(told["command"])
    models = {model["name"]: model for model in told["checkpoints"]}
    assert models["base"]["experts"] == 32
    assert models["random8"]["bytes"] < models["base"]["bytes"]
    manifest = json.loads((random8 / "manifest.json").read_text(encoding="utf-8"))
    assert models["random8"]["keep"] == manifest["keep"]
    assert models["raised"]["keep"] == []


def test_a_page_that_cannot_be_written_changes_no_verdict(base_copy: Path, tmp_path: Path) -> None:
    """Its place is taken while the run goes on, by what cannot be replaced."""
    results = tmp_path / "run"
    options = (f"--base={BASE}", f"--checkpoint={base_copy}", f"--packs={GATE_PACKS}", *TINY)
    run = gate(results, *options, "-p", "page_in_the_way_plugin", "-k", "cannot")
    assert f"{results / 'report.html'} could not be written" in run.output
    assert f"eaftgate report {results} --out FILE makes it" in run.output
    assert run.parity["verdict"] == "incomplete"
    assert "INCOMPLETE" in run.output


def test_a_foreign_report_is_not_replaced(base_copy: Path, tmp_path: Path) -> None:
    results = tmp_path / "run"
    results.mkdir()
    (results / "report.html").write_text("<p>mine</p>", encoding="utf-8")
    run = gate(results, f"--base={BASE}", f"--checkpoint={base_copy}", f"--packs={GATE_PACKS}", *TINY)
    assert run.code == 4
    assert "report.html was not made by a gate run" in run.output
    assert (results / "report.html").read_text(encoding="utf-8") == "<p>mine</p>"


def test_asked_is_shown() -> None:
    asked = Asked(seeds=(7,), strict_cells=True, sequential=False, allow_overlap=False, best_of=3)
    page = render(parity_of(parity_cell(), asked=asked))
    assert "all blocks, as the best of 3, all cells decide (--strict-cells)" in page
    assert "<dt>seeds</dt><dd>7, file order</dd>" in page
