"""What a model made of a task is found again by content, and believed for its own."""

import json
import math
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from evaluations import evaluated, scores

from eaftgate.errors import UserError
from eaftgate.files import sha256_json
from eaftgate.records import Unusable
from eaftgate.tasks.evaluated import Document, Scores, load_evaluated
from eaftgate.tasks.store import EvaluatedStore, Request

FOUND = evaluated(acc=[1.0, 0.0, 1.0])


def request(done: list[str], **other: Any) -> Request:
    def evaluate() -> tuple[tuple[Document, ...], dict[str, Scores]]:
        done.append(given["task"])
        return FOUND.documents, FOUND.metrics

    given = {"checkpoint_digest": "c", "task": "sums", "asked": "a", "settings": {"lm_eval": "0.4.13"}, **other}
    return Request(**{"evaluate": evaluate, **given})


def test_it_is_evaluated_once_for_each_content(tmp_path: Path) -> None:
    done: list[str] = []
    store = EvaluatedStore(tmp_path)
    first = store.get(request(done), shown=nullcontext)
    assert (first.documents, first.metrics) == (FOUND.documents, FOUND.metrics)
    assert EvaluatedStore(tmp_path).get(request(done), shown=nullcontext) == first
    assert len(done) == 1
    for other in ({"checkpoint_digest": "d"}, {"task": "t"}, {"asked": "b"}, {"settings": {"lm_eval": "0.5"}}):
        store.get(request(done, **other), shown=nullcontext)
    assert len(done) == 5


def test_a_damaged_file_or_another_ones_is_evaluated_again(tmp_path: Path) -> None:
    done: list[str] = []
    said: list[str] = []
    store = EvaluatedStore(tmp_path, say=said.append)
    asked = request(done)
    store.get(asked, shown=nullcontext)
    path = store.path(asked)
    whole = json.loads(path.read_text(encoding="utf-8"))
    del whole["sha256"]
    short = {**whole["metrics"]["acc"], "values": [1.0]}
    for change, why in (
        ({"checkpoint": "other"}, "it is of another checkpoint"),
        ({"settings": {}}, "it is of another settings"),
        ({"documents": []}, "it has no document, or no metric"),
        ({"metrics": {"acc": short}}, "acc is of 1 of 3 documents"),
    ):
        changed = {**whole, **change}
        path.write_text(json.dumps({**changed, "sha256": sha256_json(changed)}), encoding="utf-8")
        with pytest.raises(Unusable, match=r"saved results of a task .* remove the file and run again"):
            load_evaluated(path, asked.of())
        store.get(asked, shown=nullcontext)
        assert why in said[-1]
    for damaged in (b"", b"[]", path.read_bytes().replace(b"1.0", b"0.0", 1), json.dumps(whole).encode()):
        path.write_bytes(damaged)
        with pytest.raises(Unusable, match="remove the file and run again"):
            load_evaluated(path, asked.of())
    assert len(done) == 5


def test_a_harness_that_says_what_cannot_be_is_not_believed(tmp_path: Path) -> None:
    broken: list[dict[str, Scores]] = [{}, {"acc": scores([1.0])}, {"acc": Scores((1.0, 0.0, math.nan), {}, True)}]
    for metrics in broken:
        asked = replace(request([]), evaluate=partial(lambda said: (FOUND.documents, said), metrics))
        with pytest.raises(UserError, match=r"task sums: .*; the task or its harness is broken"):
            EvaluatedStore(tmp_path).get(asked, shown=nullcontext)
    assert not list(tmp_path.glob("*.json"))
