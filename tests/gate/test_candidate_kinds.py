"""Candidates that eaftgate did not make: what --candidate-kind=other asks of them, and where it is said."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from foreign_checkpoint import in_fp8
from gate_command import BASE, CALIBRATION_PACKS, GATE_PACKS, Run, gate
from prepared import SMALL, TINY, copy_of_base, once
from safetensors.torch import load_file, save_file

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.errors import UserError
from eaftgate.families.gpt_oss import GptOss
from eaftgate.families.gpt_oss_model import GptOssModel
from eaftgate.gate.cases import cases, required_cases
from eaftgate.gate.models import Models
from eaftgate.gate.planning import make_plan
from eaftgate.gate.request import GateOptions
from eaftgate.gate.results import read_parity
from eaftgate.model.load import ModelSettings, load_model
from eaftgate.report.html import render, write_report
from eaftgate.report.lock import read_lock, verify_lock, write_lock
from eaftgate.rewrite.yardstick import write_yardstick

OTHER = "--candidate-kind=other"
ON_GATE_PACKS = (f"--base={BASE}", f"--packs={GATE_PACKS}")
INTEGRITY = "test_artifact::test_integrity"
Tensors = dict[str, torch.Tensor]


def changed(path: Path, change: Callable[[Tensors], None]) -> Path:
    """A copy of the base in one shard, as `change` leaves its tensors."""
    copy_of_base(path)
    tensors: Tensors = {}
    for shard in path.glob("*.safetensors"):
        tensors |= load_file(shard)
        shard.unlink()
    (path / "model.safetensors.index.json").unlink()
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def tuned(path: Path) -> Path:
    """A fine-tune of the mildest kind: every router's weight too large by 0.4 %."""

    def change(tensors: Tensors) -> None:
        for name in tensors:
            if name.endswith("router.weight"):
                tensors[name] = (tensors[name].float() * 1.004).bfloat16()

    return changed(path, change)


@pytest.fixture(scope="module")
def tuned_candidate(made: Path) -> Path:
    return once(made / "tuned", tuned)


@pytest.fixture(scope="module")
def other_run(made: Path, tuned_candidate: Path) -> Run:
    return gate(made / "other-run", *ON_GATE_PACKS, f"--checkpoint={tuned_candidate}", *SMALL, OTHER)


def test_weights_of_its_own_pass_as_other_and_fail_as_pruned(
    other_run: Run, tuned_candidate: Path, tmp_path: Path
) -> None:
    """In the same results directory, whose collections serve both."""
    assert other_run.code == 0, other_run.output
    assert other_run.cells("tuned")["UNION-64"]["delta_ppl"] != 0
    results = shutil.copytree(other_run.results, tmp_path / "run")
    pruned = gate(results, *ON_GATE_PACKS, f"--checkpoint={tuned_candidate}", *SMALL)
    assert pruned.code == 1
    assert pruned.parity["asked"]["candidate_kind"] == "pruned"
    reason = pruned.junit[f"{INTEGRITY}[tuned]"].reason
    assert "differs from the base" in reason
    assert reason.strip().endswith("a candidate with weights of its own is gated with --candidate-kind=other")
    assert [case["case"].partition("::")[2] for case in pruned.parity["failed"]] == ["test_integrity[tuned]"]
    assert pruned.cells("tuned") == other_run.cells("tuned")


def test_every_place_says_which_kind_it_was(other_run: Run, copy_run: Run, tmp_path: Path) -> None:
    said = "kind other: weights of their own, which were not compared with the base's"
    assert said in other_run.output
    assert "kind pruned: kept tensors are the base's" in copy_run.output
    assert other_run.parity["asked"]["candidate_kind"] == "other"
    assert copy_run.parity["asked"]["candidate_kind"] == "pruned"
    assert other_run.parity["candidates"] == [
        {"name": "tuned", "kind": "other", "rows_known": False, "yardstick_bits": None}
    ]
    assert other_run.junit[f"{INTEGRITY}[tuned]"].properties["candidate_kind"] == "other"
    for run, kind in ((other_run, "other"), (copy_run, "pruned")):
        write_report(run.results, tmp_path / f"{kind}.html")
        assert f"Kind {kind}: " in (tmp_path / f"{kind}.html").read_text()
        lock = tmp_path / f"{kind}.lock.json"
        write_lock(run.results, None, lock)
        assert read_lock(lock).candidate_kind == kind
        assert verify_lock(lock) == []


@pytest.mark.parametrize(
    ("changed_config", "said"),
    [
        ({"eos_token_id": 5}, "has eos_token_id 5 in config.json and its base"),
        ({"num_experts_per_tok": 2, "experts_per_token": 2}, "routes to 2 experts a token and its base to 4"),
    ],
)
def test_it_stops_and_routes_as_its_base(changed_config: dict[str, int], said: str, tmp_path: Path) -> None:
    path = shutil.copytree(BASE, tmp_path / "other")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changed_config))
    run = gate(tmp_path / "run", *ON_GATE_PACKS, f"--checkpoint={path}", *TINY, OTHER, "-k", "test_integrity")
    assert run.code == 1
    assert said in run.junit[f"{INTEGRITY}[other]"].reason


def test_that_no_overlap_can_be_known_is_said_once_and_is_no_green_case(other_run: Run) -> None:
    assert other_run.output.count("tuned: nothing says which rows it was made on") == 1
    assert not any("test_disjoint" in name for name in other_run.junit)


def another_vocabulary(tensors: Tensors) -> None:
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], tensors[name][:32]])


def without_the_norm(tensors: Tensors) -> None:
    del tensors["model.norm.weight"]


def with_an_adapter(tensors: Tensors) -> None:
    tensors["model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.zeros(8, 128)


def with_nan(tensors: Tensors) -> None:
    tensors["model.layers.2.input_layernorm.weight"][3] = torch.nan


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (another_vocabulary, "has vocab_size 2080 and its base 2048"),
        (without_the_norm, "tensor 'model.norm.weight' is missing, which the model needs"),
        (with_an_adapter, "tensor 'model.layers.0.self_attn.q_proj.lora_A.weight' is none that the model has"),
        (with_nan, "tensor 'model.layers.2.input_layernorm.weight' holds NaN or infinity at element 3"),
    ],
)
def test_what_no_kind_may_be(change: Callable[[Tensors], None], said: str, tmp_path: Path) -> None:
    path = changed(tmp_path / "broken", change)
    if change is another_vocabulary:
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"vocab_size": 2080}))
    run = gate(tmp_path / "run", *ON_GATE_PACKS, f"--checkpoint={path}", *TINY, OTHER, "-k", "test_artifact")
    assert run.code == 1
    case = run.junit[f"{INTEGRITY}[broken]"]
    assert (case.outcome, said in case.reason) == ("failure", True), case.reason
    assert "Traceback" not in run.output


def test_another_tokenizer_is_refused_for_every_kind(other_tokenizer: Path, tmp_path: Path) -> None:
    options = (*ON_GATE_PACKS, f"--checkpoint={other_tokenizer}", *TINY, OTHER, "-k", "test_artifact")
    run = gate(tmp_path / "run", *options)
    assert "has another tokenizer.json than its base" in run.junit[f"{INTEGRITY}[other_tokenizer]"].reason


def test_fewer_experts_without_a_manifest_are_of_kind_other(keep24: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(keep24, tmp_path / "bare")
    (bare / "manifest.json").write_text('{"version": 1, "made by": "another tool"}')
    options = (*ON_GATE_PACKS, f"--checkpoint={bare}", *TINY, "-k", "test_artifact")
    assert gate(tmp_path / "other", *options, OTHER).junit[f"{INTEGRITY}[bare]"].outcome == "passed"
    (bare / "manifest.json").unlink()
    pruned = gate(tmp_path / "pruned", *options)
    assert "gated with --candidate-kind=other" in pruned.junit[f"{INTEGRITY}[bare]"].reason


def test_a_manifest_names_the_base_and_the_rows_and_must_be_true(keep24: Path, tmp_path: Path) -> None:
    options = (f"--packs={CALIBRATION_PACKS}", *TINY, OTHER, "-k", "test_artifact")
    run = gate(tmp_path / "run", f"--checkpoint={keep24}", *options)
    assert run.junit[f"{INTEGRITY}[keep24]"].outcome == "passed"
    assert "120 rows of UNION" in run.junit["test_artifact::test_disjoint[keep24]"].reason
    assert "nothing says which rows" not in run.output

    trained = shutil.copytree(keep24, tmp_path / "trained")
    config = json.loads((trained / "config.json").read_text())
    (trained / "config.json").write_text(json.dumps(config | {"note": "trained since"}))
    reason = gate(tmp_path / "stale", f"--checkpoint={trained}", *options).junit[f"{INTEGRITY}[trained]"].reason
    assert "config.json has" in reason
    assert "where the manifest says" in reason


def test_without_a_manifest_the_base_must_be_said(tuned_candidate: Path, tmp_path: Path) -> None:
    run = gate(tmp_path / "run", f"--checkpoint={tuned_candidate}", f"--packs={GATE_PACKS}", *TINY, OTHER)
    assert run.code == 1
    assert "pass --base" in run.junit[f"{INTEGRITY}[tuned]"].reason


def test_only_what_can_be_known_is_planned(tuned_candidate: Path, keep24: Path, tmp_path: Path) -> None:
    given = (str(tuned_candidate), str(keep24))
    pruned = GateOptions(results=tmp_path, packs=GATE_PACKS, base=str(BASE), checkpoints=given)
    other = make_plan(replace(pruned, candidate_kind="other"), fixture_packs=GATE_PACKS)
    assert list(cases(other, "disjoint_case")) == ["keep24"]
    assert [case for case in required_cases(other) if "test_artifact" in case] == [
        "test_artifact::test_integrity[tuned]",
        "test_artifact::test_integrity[keep24]",
        "test_artifact::test_engine[tuned]",
        "test_artifact::test_engine[keep24]",
        "test_artifact::test_disjoint[keep24]",
    ]
    assert list(cases(make_plan(pruned, fixture_packs=GATE_PACKS), "disjoint_case")) == ["tuned", "keep24"]


def test_a_kind_without_a_candidate_is_a_usage_error(tmp_path: Path) -> None:
    run = gate(tmp_path / "run", *ON_GATE_PACKS, OTHER)
    assert run.code == 4
    assert "--candidate-kind=other needs --checkpoint" in run.output


def test_a_recipe_may_say_the_kind(tuned_candidate: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "eval.yaml"
    recipe.write_text(f"gate: {{base: {BASE}, packs: {GATE_PACKS}, candidate_kind: other, num_blocks: 6}}\n")
    options = (f"--recipe={recipe}", f"--checkpoint={tuned_candidate}", "--regime=fixture", "--seq-lens=64")
    run = gate(tmp_path / "run", *options, "-k", "test_integrity")
    assert run.parity["asked"]["candidate_kind"] == "other"
    assert run.junit[f"{INTEGRITY}[tuned]"].outcome == "passed"


# Other storage


def dequantised(path: Path) -> Path:
    """The base with its experts as plain bfloat16, in one shard."""
    model = load_model(BASE, ModelSettings("cpu", "bfloat16", dequantize=True))
    assert isinstance(model, GptOssModel)
    copy_of_base(path)
    for file in (*path.glob("*.safetensors"), path / "model.safetensors.index.json"):
        file.unlink()
    tensors = {name: tensor.contiguous() for name, tensor in model.module.state_dict().items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(GptOss().plain_config(config)))
    return path


@pytest.fixture(scope="module")
def stored_otherwise(made: Path) -> list[str]:
    """The base as plain bfloat16, and with its attention as FP8."""
    fp8 = once(made / "fp8", lambda path: in_fp8(dequantised(path)))
    return [f"--checkpoint={once(made / 'bf16', dequantised)}", f"--checkpoint={fp8}"]


def test_what_transformers_loads_is_gated_locked_and_verified(stored_otherwise: list[str], tmp_path: Path) -> None:
    run = gate(tmp_path / "run", *ON_GATE_PACKS, *stored_otherwise, *TINY, OTHER)
    files = ("test_artifact::", "test_unchanged::")
    artifact = {name: case.outcome for name, case in run.junit.items() if name.startswith(files)}
    assert len(artifact) == 7
    assert set(artifact.values()) == {"passed"}, run.output
    same, rounded = run.cells("bf16")["UNION-64"], run.cells("fp8")["UNION-64"]
    assert same["delta_ppl"] == 0
    assert 0 < abs(rounded["delta_ppl"]) < 0.02 * rounded["ppl_base"]
    storage = {model["name"]: model["storage"] for model in run.parity["run"]["checkpoints"]}
    assert storage == {"base": None, "bf16": None, "fp8": "fp8"}
    assert "stored as fp8" in render(read_parity(run.results))

    lock = tmp_path / "fp8.lock.json"
    write_lock(run.results, stored_otherwise[1].partition("=")[2], lock)
    assert verify_lock(lock) == [f"the locked verdict is {read_lock(lock).verdict}"]


def test_as_pruned_or_by_a_collector_that_hears_of_no_missing_weight_it_is_refused(
    stored_otherwise: list[str], tmp_path: Path
) -> None:
    fp8 = stored_otherwise[1].partition("=")[2]
    options = GateOptions(results=tmp_path, packs=GATE_PACKS, base=str(BASE), checkpoints=(fp8,))
    with pytest.raises(UserError, match=r"stored as 'fp8', .* --candidate-kind=other"):
        Models(make_plan(options, fixture_packs=GATE_PACKS), BASE)["fp8"]
    other = replace(options, candidate_kind="other", collector="sglang")
    with pytest.raises(UserError, match="is stored as fp8, which --collector=sglang is not asked to load"):
        Models(make_plan(other, fixture_packs=GATE_PACKS), BASE)["fp8"]


# The base with rounded experts


@pytest.fixture(scope="module")
def yardstick(made: Path) -> Path:
    def make(path: Path) -> None:
        base = open_checkpoint(BASE)
        write_yardstick(base, path, bits=4, base_digest=checkpoint_digest(base))

    return once(made / "rtn4", make)


def test_a_yardstick_passes_beside_a_pruned_one_and_measures_it(yardstick: Path, keep24: Path, tmp_path: Path) -> None:
    """Both name the base, and of both it is known which rows they saw: 120, and none."""
    candidates = (f"--checkpoint={yardstick}", f"--checkpoint={keep24}")
    budget = ("--regime=fixture", "--policy=near-lossless-v2", "--seq-lens=128", "--num-blocks=128")
    only = ("-k", "test_artifact or (test_near_lossless and UNION)")
    run = gate(tmp_path / "run", *candidates, f"--packs={GATE_PACKS}", *budget, OTHER, *only)
    assert run.parity["failed"] == [], run.output
    assert run.cells("rtn4")["UNION-128"]["verdict"] == "pass"
    assert run.cells("rtn4")["UNION-128"]["delta_ppl"] != 0
    assert {c["name"]: (c["yardstick_bits"], c["rows_known"]) for c in run.parity["candidates"]} == {
        "rtn4": (4, True), "keep24": (None, True),
    }  # fmt: skip
    assert run.junit["test_artifact::test_disjoint[rtn4]"].outcome == "passed"
    assert "rounding the experts to 4 bits costs" in render(read_parity(run.results))


def test_a_yardstick_that_is_not_what_it_says_fails(yardstick: Path, tmp_path: Path) -> None:
    sharpened = shutil.copytree(yardstick, tmp_path / "sharpened")
    entry = open_checkpoint(sharpened).tensors["model.norm.weight"]
    with (sharpened / entry.shard).open("r+b") as shard:
        shard.seek(entry.begin)
        shard.write(b"\x80\x3f")
    options = (*ON_GATE_PACKS, f"--checkpoint={sharpened}", *TINY, OTHER, "-k", "test_integrity")
    reason = gate(tmp_path / "run", *options).junit[f"{INTEGRITY}[sharpened]"].reason
    assert "does not have the sha256 of yardstick.json" in reason
