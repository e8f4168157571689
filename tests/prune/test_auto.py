"""--method auto: a search where it is known to be short, else a scorer; which and why in one line, and no trace of the
word in what is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_command import Command, Ended
from tiny_checkpoint import Size
from tiny_model import write_lively_checkpoint, write_packs

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.profile.profile import PROFILE_FILE, open_profile
from eaftgate.profile.trace import Trace
from eaftgate.prune.methods import DEFAULT_SCORER, SEARCH
from eaftgate.rewrite.manifest import read_manifest
from eaftgate.search.calibration import calibration_blocks
from eaftgate.search.forecast import expected_passes
from eaftgate.search.journal import Journal
from eaftgate.select.class_weights import BALANCED_WEIGHTS, ClassWeights

SMALL = ("--seq-len", 48, "--batch-size", 8, "--device", "cpu")
PRUNE = ("prune", "base", "--keep-n", 4, "--device", "cpu")
PROFILED = (*PRUNE, "--profile", "profile")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole")
    write_lively_checkpoint(place / "base", size=Size(experts=8, top_k=2))
    write_packs(place / "packs", {"chat": 8, "tools": 4})
    return place


@pytest.fixture
def work(whole: Path, eaftgate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where base, packs and the profile lie, all of them called by relative names."""
    work = tmp_path / "work"
    made = whole / "profile"
    if not made.exists():
        monkeypatch.chdir(whole)
        assert eaftgate("profile", "base", "--packs", "packs", *SMALL, "--out", "profile").code == 0
    shutil.copytree(whole, work)
    monkeypatch.chdir(work)
    return work


def edit(work: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = work / "profile" / PROFILE_FILE
    told = json.loads(path.read_text(encoding="utf-8"))
    change(told)
    path.write_text(json.dumps(told), encoding="utf-8")


def line(ended: Ended) -> str:
    assert ended.code == 0, ended.err
    return ended.out.splitlines()[0]


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_short_search_is_run_on_the_profiles_own_packs(eaftgate: Command, work: Path) -> None:
    said = line(eaftgate(*PROFILED, "--out", "auto"))
    assert said.startswith(f"auto: {SEARCH}, about ")
    assert said.endswith(" s by the profile's speed")
    assert read_manifest(work / "auto").provenance["method"] == SEARCH
    assert eaftgate(*PROFILED, "--method", SEARCH, "--packs", "packs", "--out", "named").code == 0
    assert files(work / "auto") == files(work / "named")
    assert not any(b"auto:" in content or b": auto" in content for content in files(work / "auto").values())
    assert eaftgate("prune", "--recipe", "auto/reap-recipe.yaml", "--profile", "profile", "--out", "again").code == 0
    assert files(work / "auto") == files(work / "again")
    assert "auto is up to date" in eaftgate(*PROFILED, "--out", "auto").out


@pytest.mark.parametrize(
    ("change", "more", "why"),
    [
        (lambda d: (d / "packs").rename(d / "there"), (), "the packs of the profile are not at packs any more"),
        (lambda d: (d / "packs" / "tools.parquet").unlink(), (), "packs holds other rows than when it was profiled"),
        (lambda d: edit(d, lambda told: told.update(packs_dir=None)), (), "does not say where its packs are"),
        (lambda d: edit(d, lambda told: told.pop("speed")), (), "the profile does not say how fast it was made"),
        (lambda d: edit(d, lambda told: told["speed"].update(tokens_per_second=0.01)), (),
         " min by the profile's speed, more than 20 min"),
        (lambda d: edit(d, lambda told: told["speed"].update(streamed=True)), (),
         "the profile was made layer by layer, which does not say how long refined takes (it can be named)"),
        (lambda d: edit(d, lambda told: told["speed"].update(on="NVIDIA H100 in bfloat16")), (),
         "the profile was made on NVIDIA H100 in bfloat16, and its speed says nothing of cpu with "),
        (lambda _: None, ("--dtype", "bfloat16"), " in bfloat16"),
        (lambda _: None, ("--alignment", "token"), "refined looks at the positions that predict"),
        (lambda _: None, ("--w-conflict", -1), "refined does not use EAFT's token weights"),
    ],
)  # fmt: skip
def test_whatever_stands_against_a_search_is_said(
    eaftgate: Command, work: Path, change: Callable[[Path], object], more: tuple[object, ...], why: str
) -> None:
    change(work)
    said = line(eaftgate(*PROFILED, *more, "--out", "auto"))
    scorer = "eaft-reap" if "--w-conflict" in more else DEFAULT_SCORER  # which these weights are for
    assert said.startswith(f"auto: {scorer} with --class-weight balanced, because ")
    assert why in said
    provenance = read_manifest(work / "auto").provenance
    assert provenance["method"] == scorer
    assert provenance["class_weights"] == BALANCED_WEIGHTS.as_dict()


def test_why_packs_cannot_be_read_is_said(eaftgate: Command, work: Path) -> None:
    """They are where they were: nobody has to look for them."""
    (work / "packs" / "tools.parquet").write_bytes(b"PAR1")
    said = line(eaftgate(*PROFILED, "--out", "auto"))
    assert "because the packs of the profile cannot be read: " in said
    assert "tools.parquet" in said


WRITE = Journal.write


def interrupted(self: Journal, state: object) -> None:
    WRITE(self, state)
    raise KeyboardInterrupt


def slower(work: Path) -> None:
    edit(work, lambda told: told["speed"].update(tokens_per_second=0.01))


def test_an_interrupted_search_is_gone_on_with_whatever_speaks_against_it_now(
    eaftgate: Command, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert eaftgate(*PROFILED, "--out", "whole").code == 0
    journal = work / ".auto.search.json"
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "write", interrupted)
        assert eaftgate(*PROFILED, "--out", "auto").code == 130
    assert journal.exists()
    slower(work)
    (work / "packs").rename(work / "there")
    ended = eaftgate(*PROFILED, "--out", "auto")
    assert ended.code == 2
    assert "a search for auto was begun, and the packs of the profile are not at packs any more" in ended.err
    assert journal.exists()
    (work / "there").rename(work / "packs")
    assert line(eaftgate(*PROFILED, "--out", "auto")) == f"auto: {SEARCH}, which was begun for auto"
    assert files(work / "auto") == files(work / "whole")
    assert not journal.exists()


@pytest.mark.parametrize("left", ["of other options", "damaged"])
def test_what_another_search_left_decides_nothing(
    eaftgate: Command, work: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """Else a search of hours would begin where one of minutes is the limit."""
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "write", interrupted)
        assert eaftgate(*PROFILED, "--max-positions", 99, "--out", "auto").code == 130
    if left == "damaged":
        (work / ".auto.search.json").write_text("{}")
    slower(work)
    assert line(eaftgate(*PROFILED, "--out", "auto")).startswith(f"auto: {DEFAULT_SCORER} with ")
    assert not (work / ".auto.search.json").exists()


@pytest.mark.usefixtures("work")
def test_what_no_search_has_a_use_for_is_a_scorers_where_one_was_begun(
    eaftgate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Journal, "write", interrupted)
    assert eaftgate(*PROFILED, "--out", "auto").code == 130
    assert line(eaftgate(*PROFILED, "--w-good", 2, "--out", "auto")).startswith("auto: eaft-reap with ")


def test_what_is_finished_stays_what_was_chosen(eaftgate: Command, work: Path) -> None:
    """Neither packs that are gone nor packs that are back make it another's."""
    assert line(eaftgate(*PROFILED, "--out", "searched")).startswith(f"auto: {SEARCH}")
    (work / "packs").rename(work / "there")
    assert line(eaftgate(*PROFILED, "--out", "ranked")).startswith(f"auto: {DEFAULT_SCORER}")
    for out, change in (("searched", lambda: None), ("ranked", lambda: (work / "there").rename(work / "packs"))):
        change()
        made = files(work / out)
        ended = eaftgate(*PROFILED, "--out", out)
        assert (ended.code, "up to date" in ended.out) == (0, True), ended.err
        assert files(work / out) == made
    ended = eaftgate(*PROFILED, "--keep-frac", 0.75, "--keep-n", 6, "--out", "ranked")
    assert ended.code == 2


@pytest.mark.usefixtures("work")
def test_what_was_made_by_a_method_that_was_named_is_not_taken_for_autos(eaftgate: Command) -> None:
    assert eaftgate(*PROFILED, "--method", "greedy", "--packs", "packs", "--out", "named").code == 0
    ended = eaftgate(*PROFILED, "--out", "named")
    assert ended.code == 2
    assert f"method is greedy there and {SEARCH} here" in ended.err


def test_packs_that_are_asked_for_are_looked_at_where_a_scorer_is_taken(eaftgate: Command, work: Path) -> None:
    slower(work)
    ended = eaftgate(*PROFILED, "--packs", "nowhere", "--out", "auto")
    assert (ended.code, "nowhere" in ended.err) == (2, True)
    write_packs(work / "others", {"chat": 9})
    ended = eaftgate(*PROFILED, "--packs", "others", "--out", "auto")
    assert (ended.code, "--packs others" in ended.err) == (2, True)
    assert eaftgate(*PROFILED, "--out", "auto").code == 0
    ended = eaftgate(*PRUNE, "--scores", "auto/reap-scores.yaml", "--packs", "packs", "--out", "second")
    assert (ended.code, "--packs needs --profile" in ended.err) == (2, True)
    assert not (work / "second").exists()


def test_blocks_without_an_answer_are_not_enough_to_search_on(
    eaftgate: Command, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long prompt fills many; the search itself would refuse them."""
    long = (
        f"<|start|>user<|message|>{'a' * 500}<|end|><|start|>assistant<|channel|>final<|message|>{'b' * 60}<|return|>"
    )
    (work / "long").mkdir()
    pq.write_table(pa.table({"text": [long]}), work / "long" / "chat.parquet")
    assert eaftgate("profile", "base", "--packs", "long", *SMALL, "--out", "few").code == 0
    told = open_profile(work / "few").description
    assert told.num_blocks >= 8
    with monkeypatch.context() as patched:
        patched.setattr("eaftgate.model.spread.load_model", lambda *_: pytest.fail("a model was loaded"))
        said = line(eaftgate(*PRUNE, "--profile", "few", "--out", "auto"))
    why = (
        "refined needs 4 calibration blocks with answers, and has 2: profile more rows (--num-rows), or in shorter "
        "blocks (--seq-len)"
    )
    assert said == f"auto: {DEFAULT_SCORER} with --class-weight balanced, because {why}"
    ended = eaftgate(*PRUNE, "--profile", "few", "--method", SEARCH, "--packs", "long", "--out", "named")
    assert ended.code == 2
    assert why in ended.err


@pytest.mark.usefixtures("work")
def test_a_model_that_does_not_fit_is_not_searched_with(eaftgate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eaftgate.model.memory.free_bytes", lambda _: 1000)
    assert "because base takes " in line(eaftgate(*PROFILED, "--out", "auto"))


def test_packs_that_have_moved_are_found_where_they_are_said_to_be(eaftgate: Command, work: Path) -> None:
    (work / "packs").rename(work / "there")
    assert line(eaftgate(*PROFILED, "--packs", "there", "--out", "auto")).startswith(f"auto: {SEARCH}")
    (work / "there" / "tools.parquet").unlink()
    ended = eaftgate(*PROFILED, "--packs", "there", "--out", "other")
    assert ended.code == 2
    assert "rows are missing or in another order" in ended.err


@pytest.mark.parametrize("gated", [(), ("--pre-gate",)])
def test_packs_are_not_minded_where_a_scorer_is_taken(eaftgate: Command, work: Path, gated: tuple[str, ...]) -> None:
    edit(work, lambda told: told.pop("speed"))
    ended = eaftgate(*PROFILED, "--packs", "packs", *gated, "--out", "auto")
    assert line(ended).startswith(f"auto: {DEFAULT_SCORER}")
    assert ("pre-gate on" in ended.out) == bool(gated)


@pytest.mark.parametrize(
    ("asked", "weights"),
    [("plain", ClassWeights()), ("call=3", ClassWeights(call=3)), ("balanced", BALANCED_WEIGHTS)],
)
def test_weights_that_are_asked_for_are_taken(eaftgate: Command, work: Path, asked: str, weights: ClassWeights) -> None:
    edit(work, lambda told: told.pop("speed"))
    assert eaftgate(*PROFILED, "--class-weight", asked, "--out", "auto").code == 0
    assert eaftgate(*PROFILED, "--class-weight", asked, "--method", DEFAULT_SCORER, "--out", "named").code == 0
    assert files(work / "auto") == files(work / "named")
    assert read_manifest(work / "auto").selection.class_weights == (weights.as_dict() if asked != "plain" else {})


def test_a_method_that_is_named_weighs_every_token_alike(eaftgate: Command, work: Path) -> None:
    ended = eaftgate(*PROFILED, "--method", DEFAULT_SCORER, "--out", "named")
    assert "auto" not in ended.out
    assert read_manifest(work / "named").selection.class_weights == {}


def test_scores_are_never_searched(eaftgate: Command, work: Path) -> None:
    assert eaftgate(*PROFILED, "--method", DEFAULT_SCORER, "--class-weight", "balanced", "--out", "first").code == 0
    ended = eaftgate(*PRUNE, "--scores", "first/reap-scores.yaml", "--out", "second", "--json")
    assert json.loads(ended.out)["auto"] == (
        f"auto: {DEFAULT_SCORER} with --class-weight balanced, because --scores have no packs to search on"
    )
    assert files(work / "first") == files(work / "second")


def test_what_does_not_know_classes_is_cut_plainly(
    eaftgate: Command, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile of before classes, and the scores that are cut from it."""
    edit(work, lambda told: told.pop("speed"))
    monkeypatch.setattr(Trace, "knows_classes", property(lambda _: False))
    assert line(eaftgate(*PROFILED, "--out", "auto")).startswith(f"auto: {DEFAULT_SCORER}, because the profile ")
    ended = eaftgate(*PRUNE, "--scores", "auto/reap-scores.yaml", "--out", "again")
    assert line(ended).startswith(f"auto: {DEFAULT_SCORER}, because --scores ")
    assert files(work / "auto") == files(work / "again")


def test_the_seconds_are_those_of_the_models_own_search(eaftgate: Command, work: Path) -> None:
    base, profile = open_checkpoint(work / "base"), open_profile(work / "profile")
    blocks = calibration_blocks(base, profile, work / "packs")
    experts = {"experts": base.num_experts, "top_k": base.top_k}
    passes = expected_passes(blocks, layers=base.num_layers, keep_n=4, positions=9, **experts)
    # The speed at which it takes so many seconds: a little more than is searched for, and a little less.
    edit(work, lambda told: told["speed"].update(tokens_per_second=passes.seconds(20 * 60 + 5)))
    given = (*PROFILED, "--max-positions", 9)
    assert "refined would take about 20 min by the profile's speed" in line(eaftgate(*given, "--out", "auto"))
    edit(work, lambda told: told["speed"].update(tokens_per_second=passes.seconds(20 * 60 - 5)))
    assert line(eaftgate(*given, "--out", "searched")) == "auto: refined, about 20 min by the profile's speed"


def test_nothing_is_chosen_where_all_experts_stay(eaftgate: Command, work: Path) -> None:
    ended = eaftgate("prune", "base", "--keep-n", 8, "--profile", "profile", "--out", "all")
    assert ended.code == 0, ended.err
    assert "auto" not in ended.out
    assert open_checkpoint(work / "all").num_experts == 8
    # Nor of packs, as a loop over keep_n gives them.
    given = ("--method", SEARCH, "--packs", "packs", "--keep-n", 8, "--profile", "profile")
    assert eaftgate("prune", "base", *given, "--out", "searched").code == 0
    assert files(work / "searched") == files(work / "all")
    gated = ("--pre-gate", "--packs", "packs", "--keep-n", 8, "--profile", "profile", "--out", "gated", "--json")
    assert json.loads(eaftgate("prune", "base", *gated).out)["pre_gate"]["metrics"]


def test_another_bases_profile_is_refused_before_anything_is_said(eaftgate: Command, work: Path) -> None:
    config = json.loads((work / "base" / "config.json").read_text(encoding="utf-8"))
    (work / "base" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-6}), encoding="utf-8")
    ended = eaftgate(*PROFILED, "--out", "auto")
    assert (ended.code, ended.out) == (2, "")
    assert "was made from another checkpoint" in ended.err
