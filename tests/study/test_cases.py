"""One factor at a time: what is crossed, what is varied, and for which methods."""

from dataclasses import replace

import pytest

from eaftgate.errors import UserError
from eaftgate.prune.methods import METHODS, using
from eaftgate.search.settings import MAX_POSITIONS, SearchSettings
from eaftgate.select.saliency import EaftWeights
from eaftgate.select.scorers import SCORERS
from eaftgate.study.cases import Case, planned

SEARCH = SearchSettings(batch_size=4)


def cases_of(methods: list[str], vary: dict[str, list[str]], keep_ns: tuple[int, ...] = (20,)) -> list[Case]:
    return planned(methods, keep_ns, vary, rows=100, alignment="predicting", search=SEARCH)


def test_methods_and_keep_n_are_crossed() -> None:
    assert [(case.keep_n, case.method) for case in cases_of(["reap", "greedy"], {}, (24, 20))] == [
        (24, "reap"), (24, "greedy"), (20, "reap"), (20, "greedy"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("vary", "changed"),
    [
        ({"uncertain": ["1", "0.5"]}, {"weights": EaftWeights(uncertain=1.0)}),
        ({"low_quantile": ["0.3"]}, {"weights": EaftWeights(low_quantile=0.3)}),
        ({"alignment": ["token"]}, {"alignment": "token"}),
        ({"rows": ["50"]}, {"rows": 50}),
        ({"max_positions": ["9"]}, {"search": replace(SEARCH, max_positions=9)}),
        ({"seed": ["3"]}, {"search": replace(SEARCH, seed=3)}),
    ],
)
def test_one_factor_alone_is_changed(vary: dict[str, list[str]], changed: dict[str, object]) -> None:
    (name, texts), *_ = vary.items()
    method = using(name)[0]
    standard, first, *others = cases_of([method], vary)
    assert first == replace(standard, varied=f"{name}={texts[0]}", **changed)  # type: ignore[arg-type]
    assert len(others) == len(texts) - 1


def test_a_factor_is_varied_where_it_matters_only() -> None:
    vary = {"rows": ["50"], "uncertain": ["1"], "max_positions": ["9"], "seed": ["1"], "alignment": ["token"]}
    varied = {(case.method, case.varied.split("=")[0]) for case in cases_of(list(METHODS), vary)} - {
        (method, "") for method in METHODS
    }
    assert varied == {
        *((method, name) for method in SCORERS for name in ("rows", "alignment")),
        *((method, "uncertain") for method in ("eaft-reap", "eaft-reap-pack-core")),
        *((method, name) for method in ("greedy", "refined") for name in ("rows", "max_positions", "seed")),
        ("random", "seed"),
    }


def test_a_value_that_is_the_standard_one_is_not_run_twice() -> None:
    vary = {"rows": ["50", "100"], "max_positions": [str(MAX_POSITIONS), "9"], "seed": ["0"]}
    assert [case.varied for case in cases_of(["greedy"], vary)] == ["", "rows=50", "max_positions=9"]


@pytest.mark.parametrize(
    ("methods", "vary", "said"),
    [
        (["best"], {}, "'best' is no method"),
        (["reap"], {"depth": ["1"]}, "'depth' cannot be varied: choose among good, "),
        (["reap"], {"uncertain": ["1"]}, "--vary uncertain changes nothing: it matters to eaft-reap, "),
        (["eaft-reap"], {"uncertain": ["much"]}, "--vary uncertain=much is not possible: it must be a finite number"),
        (["eaft-reap"], {"uncertain": ["nan"]}, "must be a finite number"),
        (["eaft-reap"], {"low_quantile": ["1.5"]}, "a finite number from 0 to 1"),
        (["greedy"], {"max_positions": ["1.5"]}, "a whole number from 1"),
        (["greedy"], {"rows": ["0"]}, "a whole number from 1"),
        (["greedy"], {"rows": ["50", "101"]}, "rows=101 is not possible: the profile has 100 rows to choose on"),
        (["reap"], {"alignment": [""]}, "--vary alignment= is not possible: choose among predicting, token"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned(methods: list[str], vary: dict[str, list[str]], said: str) -> None:
    with pytest.raises(UserError) as refused:
        cases_of(methods, vary)
    assert said in str(refused.value)
