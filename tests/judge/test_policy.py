"""near_lossless_gates.json: what is shipped is valid, what is invalid is named."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from shipped_policies import V1

from eaftgate.errors import UserError
from eaftgate.judge.metrics import METRICS
from eaftgate.judge.policy import DEFAULT_GATES, IntervalPolicy, is_primary, load_gates, pack_selection

ROOT = Path(__file__).parents[2]


@pytest.fixture
def raw() -> dict[str, Any]:
    gates: dict[str, Any] = json.loads(DEFAULT_GATES.read_text())
    return gates


def saved(tmp_path: Path, value: Any) -> Path:
    path = tmp_path / "gates.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_the_shipped_file_is_the_one_at_the_top() -> None:
    assert DEFAULT_GATES.read_bytes() == (ROOT / "near_lossless_gates.json").read_bytes()


def test_v1_has_the_origins_thresholds() -> None:
    limits = {name: limit["value"] for name, limit in V1.thresholds.model_dump().items()}
    assert limits == {
        "max_abs_delta_ppl": 0.25,
        "max_rel_delta_ppl": 0.05,
        "max_abs_delta_cc_rate": 0.002,
        "max_abs_delta_mean_prob": 0.02,
        "max_js2d": 0.02,
    }


def test_bigblocks_is_canonical() -> None:
    regime = load_gates().regime("bigblocks")
    assert (regime.seq_lens, regime.num_blocks, regime.batch_size) == ([1024, 2048], 512, 1)
    assert regime.primary.model_dump() == {"packs": ["UNION"], "seq_lens": [1024, 2048]}


@pytest.mark.parametrize("name", ["longseq-1m", "longseq-10m", "longseq-64k"])
def test_long_regimes_keep_the_token_budget_constant(name: str) -> None:
    regime = load_gates().regime(name)
    assert len({length * regime.blocks_for(length) for length in regime.seq_lens}) == 1


@pytest.mark.parametrize("name", sorted(load_gates().regimes))
def test_a_regime_has_the_blocks_without_which_nothing_may_decide(name: str) -> None:
    regime, policy = load_gates().regime(name), load_gates().policies["near-lossless-v3"]
    assert isinstance(policy, IntervalPolicy)
    assert policy.evidence is not None
    assert min(map(regime.blocks_for, regime.seq_lens)) >= policy.evidence.min_blocks


def test_a_seq_len_the_regime_does_not_name_keeps_its_budget() -> None:
    regime = load_gates().regime("longseq-1m")
    assert regime.blocks_for(2048) == 2 * regime.blocks_for(4096)
    assert regime.blocks_for(3000) == 256 * 4096 // 3000
    assert regime.blocks_for(10**9) == 1


def broken(raw: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    raw = copy.deepcopy(raw)
    *parents, last = path.split("/")
    node = raw
    for key in parents:
        node = node[key]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return raw


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("default", "nobody", "default"),
        ("policies/near-lossless-v1/thresholds/max_js2d/value", -1, "max_js2d"),
        ("policies/near-lossless-v1/thresholds/max_js2d/rationale", None, "rationale"),
        ("policies/near-lossless-v1/thresholds/max_js2d", None, "max_js2d"),
        ("policies/near-lossless-v1/rule", "vibes", "rule"),
        ("regimes/bigblocks/num_blocks", 0, "num_blocks"),
        ("regimes/bigblocks/num_blocks", {"1024": 5}, "2048"),
        ("regimes/bigblocks/seq_lens", [1], "seq_lens"),
        ("regimes/bigblocks/typo", 1, "typo"),
        ("regimes/bigblocks/primary/seq_lens", [512], "512"),
        ("regimes/bigblocks/packs", ["chat"], "UNION"),
        ("regimes/bigblocks/must_decide", ["ppl", "exact_call"], "no metric 'exact_call'"),
        ("policies/near-lossless-v2/alpha", 0.5, "alpha"),
        ("policies/near-lossless-v2/rules", {}, "no metric that decides"),
        ("policies/near-lossless-v2/rules/ppl/margin", None, "margin"),
        ("policies/near-lossless-v2/rules/ppl/margin/origin", None, "origin"),
        ("policies/near-lossless-v2/rules/ppl/side", "up", "side"),
        ("policies/near-lossless-v2/rules/ppl/min_base_events", 5, "min_base_events"),
        ("policies/near-lossless-v2/rules/ppl/min_effective_documents", 5, "a policy that has evidence"),
        (
            "policies/near-lossless-v2/rules/luck",
            {"side": "worse", "role": "advisory", "margin": None},
            "no metric 'luck': there are ppl, nll_header, ",
        ),
        ("policies/near-lossless-v2/rules", [], "rules"),
        ("policies/near-lossless-v2/rules/ppl", 5, "ppl"),
        ("policies/near-lossless-v2/js2d/swaps", 3, "swaps"),
        ("policies/near-lossless-v2/sequential/js2d_looks", [0.5], "js2d_looks"),
    ],
)
def test_an_invalid_file_is_refused_by_name(
    raw: dict[str, Any], tmp_path: Path, path: str, value: Any, named: str
) -> None:
    with pytest.raises(UserError, match=named):
        load_gates(saved(tmp_path, broken(raw, path, value)))


def test_a_policy_judges_what_its_rules_name_in_the_order_of_the_table(raw: dict[str, Any], tmp_path: Path) -> None:
    """Files of before a metric stay valid, and a rule may leave its side to the metric."""
    rules = raw["policies"]["near-lossless-v2"]["rules"]
    chosen = {name: rules[name] for name in ("rms_dp", "cc_ratio", "mean_p", "ppl")}
    for rule in chosen.values():
        del rule["side"]
    raw["policies"]["near-lossless-v2"]["rules"] = chosen
    _, policy = load_gates(saved(tmp_path, raw)).policy("near-lossless-v2")
    assert isinstance(policy, IntervalPolicy)
    assert policy.metrics == ("ppl", "mean_p", "cc_ratio", "rms_dp")
    assert policy.deciding == {"ppl", "mean_p", "cc_ratio"}
    assert {name: rule.side for name, rule in policy.rules.items()} == {
        "ppl": "worse", "mean_p": "both", "cc_ratio": "worse", "rms_dp": "worse"
    }  # fmt: skip


def test_a_rule_has_the_side_that_it_names(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["policies"]["near-lossless-v2"]["rules"]["ppl"]["side"] = "both"
    _, policy = load_gates(saved(tmp_path, raw)).policy("near-lossless-v2")
    assert isinstance(policy, IntervalPolicy)
    assert policy.rules["ppl"].side == "both" != METRICS["ppl"].side


def test_the_shipped_rules_are_one_for_every_metric() -> None:
    policy = load_gates().policies["near-lossless-v2"]
    assert set(policy.metrics) <= set(METRICS)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"default": NaN}'])
def test_a_malformed_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"^gates file \S+ .*; correct it or give another with --gates$"):
        load_gates(saved(tmp_path, text))


def test_unknown_names_list_the_known_ones() -> None:
    gates = load_gates()
    for ask, name, known in ((gates.policy, "policy", gates.policies), (gates.regime, "regime", gates.regimes)):
        with pytest.raises(UserError) as caught:
            ask("none such")
        assert str(caught.value) == f"--{name} is 'none such': the gates file has {', '.join(known)}"


def test_primary_is_union_at_the_primary_lengths() -> None:
    regime = load_gates().regime("bigblocks")
    assert is_primary(regime, "UNION", 1024, any_seq_len=False)
    assert not is_primary(regime, "UNION", 512, any_seq_len=False)
    assert is_primary(regime, "UNION", 512, any_seq_len=True)
    assert not is_primary(regime, "reasoning", 1024, any_seq_len=True)


def test_packs_are_union_first_and_a_missing_one_is_named() -> None:
    regime = load_gates().regime("bigblocks")
    assert pack_selection(regime, ["a", "b"]) == ["UNION", "a", "b"]
    with pytest.raises(UserError) as caught:
        pack_selection(regime.model_copy(update={"packs": ["a", "missing"]}), ["a", "b"])
    assert str(caught.value) == "the regime asks for pack missing, which is not among a, b"
