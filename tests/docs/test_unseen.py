"""What benchmarks/unseen.py says of two selections is what drawing documents one by one says, and its tables say it."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import class_trace
import numpy as np
import pytest
import tables
from content import content_blocks
from numpy.typing import NDArray
from tiny_checkpoint import Size
from tiny_model import load_lively, write_lively_checkpoint

from benchmarks.masked_blocks import Scored
from benchmarks.paired_bootstrap import LEVEL, by_document, ratio, share_difference
from benchmarks.unseen_tables import SHOWN, write_tables
from benchmarks.weights_sweep import REFERENCE, settings, sweep_keep_sets
from eaftgate.profile.profile import Profile
from eaftgate.search.evaluate import collected, masked_tokens
from eaftgate.select.class_weights import BALANCED_WEIGHTS
from eaftgate.select.keep import select_keep_sets
from eaftgate.strict_json import read_object

SEED, DRAWS, DOCUMENTS = 3407, 400, 60
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


def drawn_one_by_one(*columns: NDArray[np.float64]) -> list[list[float]]:
    """By draw, the sum of every column over the documents drawn."""
    generator = np.random.default_rng(SEED)
    draws = [generator.integers(DOCUMENTS, size=DOCUMENTS).tolist() for _ in range(DRAWS)]
    return [[sum(float(column[document]) for document in draw) for column in columns] for draw in draws]


def test_values_are_summed_by_document() -> None:
    assert by_document(np.array([0, 2, 0]), np.array([1.0, 2.0, 4.0]), 4).tolist() == [5.0, 0.0, 2.0, 0.0]


def test_a_ratio_has_the_interval_of_plain_loops() -> None:
    generator = np.random.default_rng(1)
    size_D = generator.integers(5, 400, DOCUMENTS).astype(np.float64)
    other_D = size_D * generator.normal(0.05, 0.02, DOCUMENTS)
    one_D = 0.8 * other_D + size_D * generator.normal(0, 0.002, DOCUMENTS)
    found = ratio(one_D, other_D, seed=SEED, draws=DRAWS)
    expected = np.quantile([one / other for one, other in drawn_one_by_one(one_D, other_D)], TAILS).tolist()
    assert found == pytest.approx({"ratio": one_D.sum() / other_D.sum(), "lower": expected[0], "upper": expected[1]})
    # The documents are the same ones for both: by themselves either sum is known to a tenth only.
    assert expected[1] - expected[0] < 0.04


def test_calls_lost_more_are_a_share_of_those_that_there_are() -> None:
    generator = np.random.default_rng(2)
    of_D = generator.integers(0, 4, DOCUMENTS).astype(np.float64)
    one_D, other_D = np.minimum(of_D, 1), np.where(np.arange(DOCUMENTS) < 10, of_D, 0.0)
    found = share_difference(one_D, other_D, of_D, seed=SEED, draws=DRAWS)
    slow = [(one - other) / of for one, other, of in drawn_one_by_one(one_D, other_D, of_D)]
    lower, upper = np.quantile(slow, TAILS).tolist()
    value = (one_D.sum() - other_D.sum()) / of_D.sum()
    assert found == pytest.approx({"difference": value, "lower": lower, "upper": upper})


def test_a_loss_that_may_be_none_has_no_ratio_that_could_be_believed() -> None:
    rise_D = np.array([1.0, -0.5, 0.1])
    assert ratio(rise_D, rise_D, seed=SEED, draws=DRAWS) == {"ratio": 1.0, "lower": None, "upper": None}
    assert ratio(rise_D, -rise_D, seed=SEED, draws=DRAWS)["ratio"] is None
    assert share_difference(rise_D, rise_D, np.zeros(3), seed=SEED)["difference"] is None


def test_what_is_asked_first_is_compared_with_the_whole_model_too(tmp_path: Path) -> None:
    model = load_lively(write_lively_checkpoint(tmp_path / "base", size=Size(layers=2, experts=6)))
    ids_BS = np.random.default_rng(0).integers(0, len(model.head_VD), (4, 16)).astype(np.int32)
    row_BS = np.repeat(np.arange(4, dtype=np.int32), 16).reshape(4, 16)
    scored_BS = np.arange(16) > np.zeros((4, 1))
    blocks = content_blocks("chat", 16, ids_BS, scored_BS, row_BS, tuple(map(str, range(4))))
    keep = [[0, 1, 2, 3], [2, 3, 4, 5]]
    scored = Scored(model, blocks, batch_size=2)
    masked = masked_tokens(model, blocks, collected(model, blocks), keep)
    np.testing.assert_allclose(scored.rises_T(keep), masked.nll_delta_T, atol=1e-5)
    assert abs(scored.rises_T(keep)).max() > 0.1


def test_a_sweep_holds_the_scorers_that_there_are() -> None:
    assert len(settings()) <= 40
    whole = class_trace.trace()
    pack_T = (np.arange(9) == 5).astype(np.uint8)
    of_two_packs = dataclasses.replace(whole.shards[0], pack_T=pack_T, entropy_T=np.zeros(9, np.float32))  # all good
    trace = dataclasses.replace(whole, shards=(of_two_packs,))
    profile = cast(Profile, SimpleNamespace(trace=trace, description=None))
    for keep_n in range(1, 5):
        swept = dict(sweep_keep_sets(profile, keep_n))
        for name, method, classes in (
            (REFERENCE, "reap-mass", None),
            ("eaft-reap", "eaft-reap", None),
            ("eaft-reap, core pack", "eaft-reap-pack-core", None),
            (f"{REFERENCE}, balanced", "reap-mass", BALANCED_WEIGHTS),
        ):
            asked: dict[str, Any] = {"keep_n": keep_n, "alignment": "predicting", "classes": classes}
            assert swept[name] == select_keep_sets(trace, method=method, **asked), name
    of_before = cast(Profile, SimpleNamespace(trace=class_trace.trace(of_before=True), description=None))
    assert f"{REFERENCE}, balanced" not in dict(sweep_keep_sets(of_before, 2))


def gate_cell(dppl: float, net: float | None, worst: float = 9.9, verdict: str = "pass") -> dict[str, Any]:
    return {"dppl": dppl, "worst_over_union": worst, "calls": {"exact": 200, "net": net}, "v3": {"verdict": verdict}}


def bounded(name: str, value: float, interval: tuple[float | None, float | None]) -> dict[str, float | None]:
    return {name: value, "lower": interval[0], "upper": interval[1]}


def found(
    dppl: float = 0.02,
    *,
    ratio: tuple[float | None, float | None] = (0.75, 0.9),
    calls: tuple[float | None, float | None] = (-0.03, -0.005),
    net: float | None = 0.01,
    verdict: str = "pass",
    packs: tuple[str, ...] | None = ("pass", "fail"),
    resumed: bool = False,
) -> dict[str, Any]:
    """At one keep_n, as unseen.py writes it, of what the tables read."""
    sweep = {
        name: {"ratio": 1.0 + 0.01 * number, "lower": 0.98 + 0.01 * number, "upper": 1.02 + 0.01 * number}
        for number, name in enumerate([REFERENCE, *(f"weights {n}" for n in range(SHOWN + 5)), "eaft-reap"])
    }
    sweep["like weights 0"] = sweep["weights 0"]
    other = {"rise": bounded("ratio", 7, (6, 8)), "net_calls": bounded("difference", 7, (6, 8))}
    judged = {} if packs is None else {str(number): {"verdict": verdict} for number, verdict in enumerate(packs)}
    return {
        "best": "ean, balanced",
        "search": {"seconds": 60.0, "resumed": resumed},
        "gate": {
            "default": gate_cell(dppl, net, worst=1 + 10 * dppl, verdict=verdict),
            "best ranking": gate_cell(0.025, 0.03),
            "reap-mass": gate_cell(0.03, 0.1),
        },
        "compared": {
            "reap-mass": other,
            "best ranking": {
                "rise": bounded("ratio", 0.8 + dppl, ratio),
                "net_calls": bounded("difference", -0.01, calls),
            },
        },
        "sweep": {"settings": sweep},
    } | ({} if packs is None else {"cells": {"best ranking": {"0": {"verdict": "pass"}}, "default": judged}})


def stored(model: str, of_seeds: dict[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """A file of unseen.py: by seed, what was found at a keep_n."""
    ran = {"device": "a GPU", "dtype": "bfloat16", "torch": "2.11.0+cu130"}
    asked = {"packs": "there", "rows": None, "seq_len": 64, "blocks": 8, "device": "cuda", "dtype": "bfloat16"}
    seeds = {seed: {"keep_n": keep_n} for seed, keep_n in of_seeds.items()}
    return model, {"model": ran, "arguments": asked, "seeds": seeds}


def test_tables_are_made_of_what_is_stored(tmp_path: Path) -> None:
    first = stored("lab", {"10": {"20": found(), "24": found(), "28": {"rankings": {"ean": 0.1}}}})
    second = stored("lab", {"9": {"24": found(0.04, verdict="inconclusive", resumed=True)}})
    written = write_tables([first, second], tmp_path, commit="abc1234")
    unseen, sweep = (tables.measured_table(path, tmp_path / "page.md").splitlines() for path in written)
    measured = read_object(written[0], what="table")
    of_all = "--seeds 9 10 --keep-n 24 20 --seq-len 64 --blocks 8 --device cuda --dtype bfloat16"
    command = f"PYTHONPATH=. python benchmarks/unseen.py lab PACKS {of_all} --pack-cells --work DIR --out FILE"
    assert (measured["command"][0], measured["commit"]) == (command, "abc1234")
    assert [row["seeds"] for row in measured["rows"]] == [[9, 10], [10]]
    assert unseen[2:5] == [
        "| lab | 24 | +3.00% | +2.50% | 0.84, 0.82 | 0.83 | 2, 0 | 1.4, 1.2 | 1.0, 1.0 | 2, 0 | 3.0% | 10.0% | - "
        "| 1 pass, 1 inconclusive | 2 fail |",
        "| lab | 20 | +2.00% | +2.50% | 0.82 | 0.82 | 1, 0 | 1.2 | 1.0 | 1, 0 | 3.0% | 10.0% | 60 | 1 pass | 1 fail |",
        "",
    ]
    assert sweep[0] == "| weights | lab 24 | lab 20 | more | less |"
    assert not [line for line in sweep if "like weights 0" in line]
    assert sweep[2] == "| weights 0 | 1.01, 1.01 | 1.01 | 0 of 3 | 0 of 3 |"
    assert sweep[SHOWN + 2].startswith("| eaft-reap | 1.14, 1.14 | 1.14 | 3 of 3 | 0 of 3 |")


def test_seeds_are_counted_by_their_intervals(tmp_path: Path) -> None:
    """By the whole of them; where there is none, or nothing was judged, that is said and counts for nothing."""
    none = (None, None)
    seeds = {
        "1": found(ratio=(0.75, 0.9), calls=(-0.03, -0.01)),
        "2": found(ratio=(0.9, 1.1), calls=(-0.01, 0.01)),
        "3": found(ratio=(1.1, 1.2), calls=(0.01, 0.02), packs=("inconclusive", "pass"), verdict="fail"),
        "4": found(ratio=(1.0, 1.2), calls=(0.0, 0.01), packs=None),
        "5": found(ratio=(0.8, 1.0), calls=(-0.01, 0.0), packs=()),
        "6": found(ratio=none, calls=none, net=None, packs=("pass", "pass")),
        "7": found(ratio=(None, 0.9), calls=(0.1, None)),
    }
    files = [
        stored("z", {seed: {"24": cell} for seed, cell in seeds.items()}),
        stored("a", {"1": {"24": found(), "28": found()}}),
    ]
    (rows,) = (read_object(path, what="table")["rows"] for path in write_tables(files, tmp_path, commit="x")[:1])
    assert [(row["model"], row["keep_n"], len(row["seeds"])) for row in rows] == [
        ("z", 24, 7),
        ("a", 28, 1),
        ("a", 24, 1),
    ]
    counted = ("less", "more", "fewer_calls", "more_calls", "verdicts", "packs")
    assert [rows[0][name] for name in counted] == [
        1, 1, 1, 1, "6 pass, 1 fail", "1 pass, 1 inconclusive, 3 fail, 2 not judged",
    ]  # fmt: skip
    assert rows[0]["net_percent"] == [1, 1, 1, 1, 1, None, 1]
    table = tables.measured_table(tmp_path / "unseen.json", tmp_path / "page.md").splitlines()
    assert " | 1.0, 1.0, 1.0, 1.0, 1.0, -, 1.0 | " in table[2]
