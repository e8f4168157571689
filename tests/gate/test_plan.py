"""What a gate run plans: cells, names, and which cases must have run."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eaftgate.errors import UserError
from eaftgate.gate.cases import MODULES, cases, has_cases, required_cases
from eaftgate.gate.plan import Plan
from eaftgate.gate.planning import make_plan
from eaftgate.gate.plugin import RUN_MODULE
from eaftgate.gate.request import GateOptions
from eaftgate.judge.policy import load_gates

METRICS = load_gates().policy("near-lossless-v2")[1].metrics
"""Of near-lossless-v2, which `plan_of` takes."""

DECIDING = ("ppl", "mean_p", "cc_rate", "cc_ratio", "js2d_corrected")


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    directory = tmp_path / "packs"
    directory.mkdir()
    for name in ("reasoning", "chat"):
        pq.write_table(pa.table({"text": ["x"]}), directory / f"{name}.parquet")
    return directory


def plan_of(directory: Path, **options: object) -> Plan:
    defaults = {"results": directory.parent / "run", "packs": directory, "policy": "near-lossless-v2"}
    return make_plan(GateOptions(**{**defaults, **options}), fixture_packs=directory)  # type: ignore[arg-type]


def test_cells_are_checkpoints_by_packs_by_seq_lens(packs: Path) -> None:
    plan = plan_of(packs, checkpoints=("out/a", "out/b"))
    assert [cell.id for cell in plan.cells] == [
        f"{checkpoint}-{pack}-{length}"
        for checkpoint in "ab"
        for pack in ("UNION", "chat", "reasoning")
        for length in (1024, 2048)
    ]
    assert [cell.id for cell in plan.primary_cells] == ["a-UNION-1024", "a-UNION-2048", "b-UNION-1024", "b-UNION-2048"]
    assert {cell.num_blocks for cell in plan.cells} == {512}


def test_test_ids_end_in_the_metric(packs: Path) -> None:
    ids = list(cases(plan_of(packs, checkpoints=("a",), seq_lens=(1024,)), "cell_case"))
    assert ids[:8] == [f"a-UNION-1024-{metric}" for metric in METRICS]


def test_equal_names_get_a_suffix_and_reserved_ones_too(packs: Path) -> None:
    plan = plan_of(packs, checkpoints=("x/keep24", "y/keep24", "z/base", "org/keep24@refs/pr/3"))
    assert plan.checkpoints == {
        "keep24": "x/keep24", "keep24-2": "y/keep24", "base-2": "z/base", "keep24-3": "org/keep24@refs/pr/3",
    }  # fmt: skip


def test_the_same_checkpoint_twice_is_gated_once(packs: Path) -> None:
    assert plan_of(packs, checkpoints=("a", "a")).checkpoints == {"a": "a"}


def test_chosen_seq_lens_decide_when_the_regime_names_none_of_them(packs: Path) -> None:
    plan = plan_of(packs, checkpoints=("a",), seq_lens=(4096, 4096))
    assert [(cell.seq_len, cell.primary) for cell in plan.cells if cell.pack == "UNION"] == [(4096, True)]


def test_chosen_seq_lens_keep_the_regimes_primary_ones(packs: Path) -> None:
    plan = plan_of(packs, checkpoints=("a",), seq_lens=(512, 1024))
    assert [(c.seq_len, c.primary) for c in plan.cells if c.pack == "UNION"] == [(512, False), (1024, True)]


def test_only_a_base_plans_noise_floor_and_noop(packs: Path) -> None:
    plan = plan_of(packs, base="b")
    assert not has_cases(plan, "test_near_lossless")
    assert not has_cases(plan, "test_artifact")
    assert has_cases(plan, "test_noop")
    required = required_cases(plan)
    assert "test_noise_floor::test_floor[base-UNION-1024-ulp-ppl]" in required
    assert "test_noop::test_metrics[noop-UNION-2048-js2d_corrected]" in required


def test_required_is_all_that_is_planned_but_what_only_advises(packs: Path) -> None:
    required = required_cases(plan_of(packs, checkpoints=("a",), seq_lens=(1024,), seeds=(1,)))
    assert required == [
        *(f"test_near_lossless::test_near_lossless[a-UNION-1024-{metric}]" for metric in DECIDING),
        "test_artifact::test_integrity[a]",
        "test_artifact::test_engine[a]",
        "test_artifact::test_disjoint[a]",
        *(
            f"test_noise_floor::test_floor[base-UNION-1024-{tier}-{metric}]"
            for tier in ("rerun", "batch", "ulp")
            for metric in METRICS
        ),
        "test_noise_floor::test_halves[base-UNION-1024]",
        *(f"test_noop::test_metrics[noop-UNION-1024-{metric}]" for metric in METRICS),
        *(f"test_stability::test_stability[a-UNION-1024-seed1-{metric}]" for metric in METRICS),
        "test_stability::test_spread[a-UNION-1024]",
        "test_unchanged::test_unchanged[base]",
        "test_unchanged::test_unchanged[a]",
        "test_noop::test_tensors",
    ]


def near_lossless(required: list[str]) -> list[str]:
    return [case for case in required if case.startswith("test_near_lossless")]


def test_strict_cells_are_required_and_advisory_metrics_are_not(packs: Path) -> None:
    strict = required_cases(plan_of(packs, checkpoints=("a",), seq_lens=(1024,), strict_cells=True))
    assert len(near_lossless(strict)) == 3 * len(DECIDING)


def test_a_point_policy_has_its_own_metrics_and_is_only_asked_to_accept_a_repetition(packs: Path) -> None:
    plan = plan_of(packs, base="b", checkpoints=("a",), policy="near-lossless-v1", seq_lens=(1024,))
    assert list(cases(plan, "cell_case"))[:4] == [f"a-UNION-1024-{m}" for m in ("ppl", "mean_p", "cc_rate", "js2d")]
    assert {tier for _, tier, _ in cases(plan, "floor_case").values()} == {"rerun"}
    with pytest.raises(UserError, match="--sequential needs a policy with confidence bounds"):
        plan_of(packs, checkpoints=("a",), policy="near-lossless-v1", sequential=True)


def test_no_checkpoint_is_lost_to_a_name_that_looks_numbered(packs: Path) -> None:
    given = ("a/keep24", "b/keep24", "c/keep24-2")
    assert tuple(plan_of(packs, checkpoints=given).checkpoints.values()) == given


def test_names_that_give_one_test_id_twice_are_refused(packs: Path) -> None:
    pq.write_table(pa.table({"text": ["x"]}), packs / "b-chat.parquet")
    with pytest.raises(UserError, match="test id"):
        plan_of(packs, checkpoints=("x/a", "x/a-b"))


def test_stability_is_planned_with_seeds_only(packs: Path) -> None:
    assert not has_cases(plan_of(packs, checkpoints=("a",)), "test_stability")
    plan = plan_of(packs, checkpoints=("a",), seeds=(1, 2), seq_lens=(1024,))
    assert list(cases(plan, "stability_case")) == [
        f"a-UNION-1024-seed{seed}-{metric}" for seed in (1, 2) for metric in METRICS
    ]


def test_the_runs_own_row_order_is_no_further_seed(packs: Path) -> None:
    plan = plan_of(packs, checkpoints=("a",), seed=1, seeds=(1, 2, 2), seq_lens=(1024,))
    assert plan.evaluation_seeds == (1, 2)
    assert {cell.seed for cell, _ in cases(plan, "stability_case").values()} == {2}
    assert [[cell.seed for cell in cells] for cells in cases(plan, "spread_case").values()] == [[1, 2]]
    assert not has_cases(plan_of(packs, checkpoints=("a",), seed=1, seeds=(1,)), "test_stability")
    assert not has_cases(plan_of(packs, base="b", seeds=(1, 2)), "test_stability")


def profiled(directory: Path, seed: int) -> str:
    """A directory with the manifest of a checkpoint that was profiled with `seed`; it holds nothing else."""
    directory.mkdir()
    profile = {"seed": seed, "packs": {"chat": 1}}
    value = {
        "base": {"name": "b", "digest": "a" * 64, "num_experts": 8, "top_k": 2},
        "keep_n": 4,
        "keep_frac": 0.5,
        "allow_any_keep_n": False,
        "keep": [[0, 1, 2, 3]],
        "provenance": {"method": "reap", "profile": profile, "calibration_rows": []},
        "tool": {"version": "1"},
        "files": {},
    }
    (directory / "manifest.json").write_text(json.dumps(value), encoding="utf-8")
    return str(directory)


def test_checkpoints_that_differ_in_the_profiling_seed_are_compared(packs: Path, tmp_path: Path) -> None:
    given = tuple(profiled(tmp_path / f"s{seed}", seed) for seed in (7, 3))
    plan = plan_of(packs, checkpoints=("other", *given))
    assert list(cases(plan, "profiling_case")) == ["s3+s7-UNION-1024", "s3+s7-UNION-2048"]
    group, cells = cases(plan, "profiling_case")["s3+s7-UNION-2048"]
    assert cases(plan, "overlap_case") == {"s3+s7": group}
    assert [cell.id for cell in cells] == ["s3-UNION-2048", "s7-UNION-2048"]
    assert set(cells) <= set(plan.primary_cells)
    assert [case for case in required_cases(plan) if "test_stability" in case] == [
        "test_stability::test_profiling_seeds[s3+s7-UNION-1024]",
        "test_stability::test_profiling_seeds[s3+s7-UNION-2048]",
        "test_stability::test_keep_overlap[s3+s7]",
    ]


def test_a_broken_manifest_takes_its_checkpoint_out_of_the_group_only(packs: Path, tmp_path: Path) -> None:
    given = tuple(profiled(tmp_path / f"s{seed}", seed) for seed in (1, 2, 3))
    (Path(given[1]) / "manifest.json").write_text("{", encoding="utf-8")
    plan = plan_of(packs, checkpoints=given)
    assert list(cases(plan, "overlap_case")) == ["s1+s3"]
    assert "s2-UNION-1024-ppl" in cases(plan, "cell_case")
    assert "test_artifact::test_integrity[s2]" in required_cases(plan)


@pytest.mark.parametrize("directory", ["eaftgate/suite", "gates"])
def test_every_module_of_the_suite_has_its_place(directory: str) -> None:
    found = {path.stem for path in (Path(__file__).parents[2] / directory).glob("test_*.py")}
    assert found - {RUN_MODULE} == set(MODULES)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"packs": None, "checkpoints": ("a",)}, "need --packs"),
        ({"packs": None, "base": "b"}, "need --packs"),
        ({}, "needs --checkpoint or --base"),
        ({"base": "b", "num_blocks": 0}, "--num-blocks"),
        ({"base": "b", "batch_size": 0}, "--batch-size"),
        ({"checkpoints": ("a",), "best_of": 0}, "--best-of is 0: it must be at least 1"),
        ({"checkpoints": ("a", "b", "c"), "best_of": 2}, "--best-of is 2, and 3 checkpoints are given"),
        ({"checkpoints": ("a",), "best_of": 2, "policy": "near-lossless-v1"}, "--best-of needs a policy with"),
        ({"base": "b", "seq_lens": (1,)}, "--seq-lens"),
        ({"base": "b", "seed": -1}, "--seed holds -1"),
        ({"base": "b", "seeds": (1, -2)}, "--seeds holds -2"),
        ({"base": "b", "policy": "x"}, "--policy"),
        ({"base": "b", "regime": "x"}, "--regime"),
        ({"base": "b", "packs": Path("nowhere")}, "nowhere"),
    ],
)
def test_contradictions_are_usage_errors(packs: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan_of(packs, **options)


def test_engines_and_servers(packs: Path) -> None:
    """A server has no perturbed copy and no no-op rewrite of the base; an engine of our own has, and wants its GPUs."""
    engine = plan_of(packs, checkpoints=("a",), collector="sglang", of_collector={"tp": 2, "dp": 3})
    assert (engine.needs.starts_engines, engine.needs.gpus) == (True, 6)
    assert {tier for _, tier, _ in cases(engine, "floor_case").values()} == {"rerun", "batch", "ulp"}
    server = plan_of(packs, checkpoints=("a",), collector="sglang", of_collector={"endpoint": ["http://x"]})
    assert not server.needs.starts_engines
    assert {tier for _, tier, _ in cases(server, "floor_case").values()} == {"rerun", "batch"}
    assert not cases(server, "noop_case")
    assert not [case for case in required_cases(server) if "test_noop::test_metrics" in case]
    assert "test_noop::test_tensors" in required_cases(server)
    for wrong in ({"endpoint": ["http://x"]}, {"tp": 2}, {"dp": 2}):
        with pytest.raises(UserError, match=f"--{next(iter(wrong))} is for --collector=sglang"):
            plan_of(packs, checkpoints=("a",), of_collector=wrong)
    with pytest.raises(UserError, match="--tp is 0"):
        plan_of(packs, checkpoints=("a",), collector="sglang", of_collector={"tp": 0})
