"""report.html, the lockfile and its check, and the cost estimate, over a run in which a copy of the base passed."""

import copy
import json
import re
import shutil
from html import escape
from pathlib import Path
from typing import Any

import pytest
from gate_command import BASE, Run
from prepared import pruned
from results import lost_message

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest, tokenizer_digest
from eaftgate.errors import UserError
from eaftgate.files import sha256_json
from eaftgate.gate.results import Parity
from eaftgate.judge.policy import load_gates
from eaftgate.prune.checkpoint import PruneRequest
from eaftgate.report.cost import estimate_cost
from eaftgate.report.html import render, write_report
from eaftgate.report.lock import verify_lock, write_lock
from eaftgate.report.rows import Cell, row

METRICS = {
    "ppl": {"count": 2, "min": 0.01, "max": 0.02, "std": 0.007},
    "cc_ratio": {"count": 2, "min": 1.0, "max": 1.1, "std": 0.07},
    "rms_dp": {"count": 1, "min": 0.02, "max": 0.02, "std": None},
    "js2d_corrected": {"count": 0, "min": None, "max": None, "std": None},
}
ROW = {"pack": "UNION", "seq_len": 256, "metrics": METRICS}
STABILITY: dict[str, Any] = {
    "planned": True,
    "note": "stability: over all",
    "evaluation_seeds": [None, 1],
    "spread": [{**ROW, "checkpoint": "x/a", "name": "a", "seeds": [None, 1], "verdicts": ["pass", "inconclusive"]}],
    "profiling_groups": [
        {
            "name": "a+b",
            "checkpoints": ["x/a", "x/b"],
            "seeds": [1, 2],
            "cells": [{**ROW, "verdicts": ["pass", "fail"], "verdict": "fail"}],
            "keep_jaccard": [{"mean": 0.5, "min": 0.5}, {"mean": 0.9, "min": 0.9}],
            "rows_jaccard": 0.25,
        }
    ],
}


def rendered(parity: dict[str, Any]) -> str:
    return render(Parity.model_validate_json(json.dumps(parity)))


def test_the_page_shows_the_verdict_and_every_cell(copy_run: Run, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert write_report(copy_run.results, page) is False
    text = page.read_text(encoding="utf-8")
    assert '<span class="verdict pass">PASS</span>' in text
    for cell in copy_run.parity["cells"]:
        row = f'<td class="name">{cell["name"]}</td><td class="name">{cell["pack"]}</td><td>{cell["seq_len"]}</td>'
        assert text.count(row) == 1
    assert checkpoint_digest(open_checkpoint(BASE)) in text
    assert write_report(copy_run.results, page) is True  # up to date
    page.write_text(text + " ", encoding="utf-8")
    with pytest.raises(UserError, match="already exists and holds something else"):
        write_report(copy_run.results, page)
    with pytest.raises(UserError, match=r"parity\.json, which it is made from"):
        write_report(copy_run.results, copy_run.results / "parity.json")


def test_names_and_reasons_are_escaped(copy_run: Run) -> None:
    evil = "<script>alert('&')</script>"
    parity = copy.deepcopy(copy_run.parity)
    for cell in parity["cells"]:
        cell.update(name=evil, checkpoint=evil, pack=evil)
    failed = [{"case": evil, "reason": evil, "verdict": None}]
    parity.update(policy=evil, regime=evil, failed=failed, not_run=[evil])
    parity["stability"] = copy.deepcopy(STABILITY)
    parity["stability"].update(note=evil)
    parity["stability"]["spread"][0].update(name=evil, pack=evil)
    parity["stability"]["profiling_groups"][0].update(name=evil)
    page = rendered(parity)
    assert "<script" not in page
    assert page.count(escape(evil)) > 5


def test_stability_is_shown_with_ranges_and_overlap(copy_run: Run) -> None:
    page = rendered({**copy_run.parity, "stability": STABILITY})
    assert "<p>Stability: over all.</p>" in page
    assert "<td>file order, 1<br><small>pass, inconclusive</small></td>" in page
    assert '<td class="verdict inconclusive">inconclusive</td>' in page
    assert "<td>+1.01% .. +2.02%<br><small>sd 0.70%</small></td>" in page
    assert "<td>x1.00 .. x1.10<br><small>sd 0.07</small></td>" in page
    assert "<td>0.0200 .. 0.0200<br><small>1 of 2 seeds</small></td><td>-</td></tr>" in page
    assert '<td class="verdict fail">not the same</td><td>1, 2<br><small>pass, fail</small></td>' in page
    assert "<td>0.50</td><td>0.90</td></tr>" in page
    assert "keep sets overlap by 0.70 (Jaccard, mean of layers), least in layer 0, by 0.50" in page
    unjudged = copy.deepcopy(STABILITY)
    unjudged["profiling_groups"][0]["cells"] = []
    page = rendered({**copy_run.parity, "stability": unjudged})
    assert "not the same" not in page
    assert "keep sets overlap by 0.70" in page


def test_a_run_of_an_earlier_version_has_a_report(copy_run: Run) -> None:
    older = {key: value for key, value in copy_run.parity.items() if key != "stability"}
    assert "Stability" not in rendered(older)


MESSAGES = {
    "kind": "call", "pack": "tool", "domain": "[red]<b>\x1b[31m", "messages": 9, "exact": 8, "lost": 3, "gained": 1,
    "close": 2, "close_lost": 1, "close_gained": 0,
}  # fmt: skip
EXACT = {
    "estimate": 0.25,
    "lower": 0.1,
    "upper": 0.4,
    "margin": 0.03,
    "verdict": "fail",
    "documents": 9,
    "unit": "share",
}
HEADER = {
    "estimate": 0.01,
    "lower": 0.0,
    "upper": 0.02,
    "margin": 0.05,
    "verdict": "pass",
    "documents": 9,
    "unit": "nats",
}


def with_classes(parity: dict[str, Any], **lost: Any) -> str:
    parity = copy.deepcopy(parity)
    for cell in parity["cells"]:
        cell["metrics"] = {"nll_header": HEADER, **cell["metrics"], "exact_calls": EXACT}
        cell["deciding"] = ["nll_header", "exact_calls"]
        cell["details"] = {"nll_header": {"tokens": 1234}}
        cell["messages"] = [{**MESSAGES, "prompt_cut": cut} for cut in (False, True)]
    parity["lost_messages"] = {"copy": [lost_message(**lost).model_dump(mode="json")] * 2}
    return rendered(parity)


def test_classes_messages_and_those_lost_have_sections_of_their_own(copy_run: Run) -> None:
    page = with_classes(copy_run.parity, prompt_cut=True)
    assert ">copy, by class</h2>" in page
    header = '<td class="pass">+1.01%<br><small>[+0.00%, +2.02%]<br>1,234 tokens</small></td>'
    assert page.count(header) == 8
    assert page.count("<th>nll_header</th>") == 1  # against the margins, not in the table of all figures
    assert ">copy, whole messages</h2>" in page
    net = '<td class="fail">+25.00%<br><small>[+10.00%, +40.00%]</small></td><td class="fail">FAIL</td>'
    counts = "<td>18</td><td>16</td><td>6</td><td>2</td>"
    close = "<td>4</td><td>2</td><td>0</td><td>9, 8, 3, 1</td><td>9, 8, 3, 1</td></tr>"
    assert page.count(f'<td class="name">UNION 64</td><td class="name">call</td>{counts}{net}{close}') == 1
    domain = '<td class="name">tool</td><td class="name">[red]&lt;b&gt;\\x1b[31m</td><td>call</td>'
    assert page.count(f"{domain}{counts}<td>+25.00%</td><td>4</td><td>9</td></tr>") == 2  # the cells that decide
    whole_pack = '<td class="name">tool</td><td class="name">all</td><td>call</td>'
    assert page.count(f"{whole_pack}{counts}<td>+25.00%</td><td>4</td><td>9</td></tr>") == 2
    assert "<summary>copy UNION 64: by pack, domain and class</summary>" in page
    assert "prompt cut off by the block, seq_len 256, 4 of 9 tokens right" in page
    assert "the candidate would write `no` instead of `yes` after `say `" in page
    assert page.count("<code>&lt;|channel|&gt;final&lt;|message|&gt;so</code>") == 2
    older = rendered({key: value for key, value in copy_run.parity.items() if key != "lost_messages"})
    assert "the first messages lost" not in older


def test_divergence_stands_beside_what_llama_cpp_prints_of_it(copy_run: Run) -> None:
    parity = copy_run.parity
    assert 'id="divergence"' not in rendered(parity)  # of v2, which does not measure it
    judged = {"lower": None, "upper": None, "margin": None, "verdict": None, "decides": False}
    for cell in parity["cells"]:
        cell["metrics"]["top20_kld"] = {"estimate": 0.018823, **judged}
        cell["details"] = {"top20_kld": {"maximum": 13.51, "p99_9": 5.9, "iid_standard_error": 0.00269}}
    page = rendered(parity)
    section = page[page.index('id="divergence"') :]
    shown = ("0.01882<br><small>± 0.00269", ">13.51000<", ">5.90000<", ">-<")
    assert [text for text in shown if text not in section] == []


def test_every_line_of_an_entry_is_text() -> None:
    entry = '<td class="fail">&lt;a&gt;<br><small>&lt;b&gt;<br>&lt;i&gt;</small></td>'
    assert row("td", ["x", Cell("<a>", "fail", "<b>\n<i>")]) == f'<tr><td class="name">x</td>{entry}</tr>'


def test_what_a_conversation_says_is_text_on_the_page(copy_run: Run) -> None:
    evil = "<script>[red]\x1b[31m\u202e\\"
    texts = ("pack", "domain", "reference", "before", "expected", "written")
    page = with_classes(copy_run.parity, **dict.fromkeys(texts, evil))
    assert page.count("&lt;script&gt;[red]\\x1b[31m\\u202e\\\\") == 2 * len(texts)
    assert not re.search(r"<script|\x1b|\u202e", page)


def test_a_directory_without_a_run_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gate result is missing: there is no file .*parity\.json; run the gate"):
        write_report(tmp_path, tmp_path / "report.html")


def damaged(value: dict[str, Any], where: str, change: Any) -> dict[str, Any]:
    """`value` with the entry at `where` (keys and places, separated by dots) changed, or gone."""
    value = copy.deepcopy(value)
    *parents, last = where.split(".")
    node: Any = value
    for key in parents:
        node = node[int(key) if isinstance(node, list) else key]
    if change is None:
        del node[last]
    else:
        node[last] = change
    return value


@pytest.mark.parametrize(
    ("where", "change", "said"),
    [
        ("schema_version", 2, "'schema_version' is not valid (Input should be 3)"),
        ("schema_version", None, "'schema_version' is not valid (Field required)"),
        ("cells", None, "'cells' is not valid (Field required)"),
        ("cells.0.verdict", "perhaps", "'cells.0.verdict' is not valid"),
        ("cells.0.tokens", "many", "'cells.0.tokens' is not valid (Input should be a valid integer)"),
        ("cells.0.metrics.ppl.estimate", "small", "'cells.0.metrics.ppl.estimate' is not valid"),
        ("cells.0.inputs.base.digest", None, "'cells.0.inputs.base.digest' is not valid (Field required)"),
        ("stability.spread", 5, "'stability.spread' is not valid"),
        ("asked", [], "'asked' is not valid"),
    ],
)
def test_a_damaged_result_is_named_in_one_sentence(
    copy_run: Run, tmp_path: Path, where: str, change: Any, said: str
) -> None:
    (tmp_path / "parity.json").write_text(json.dumps(damaged(copy_run.parity, where, change)))
    out = tmp_path / "out"
    for use in (lambda: write_report(tmp_path, out), lambda: write_lock(tmp_path, None, out)):
        with pytest.raises(UserError) as caught:
            use()
        assert f"gate result {tmp_path / 'parity.json'}: {said}" in str(caught.value)
        assert str(caught.value).endswith("; run the gate again")


def test_what_a_later_version_adds_to_a_result_is_not_minded(copy_run: Run, tmp_path: Path) -> None:
    parity = copy_run.parity
    parity["cells"][0]["metrics"]["ppl"]["documents"] = 5
    parity["cells"][0]["metrics"]["new_metric"] = {**parity["cells"][0]["metrics"]["ppl"]}
    parity["new"] = {}
    (tmp_path / "parity.json").write_text(json.dumps(parity))
    write_report(tmp_path, tmp_path / "report.html")
    assert "new_metric" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("where", "change", "said"),
    [
        ("schema", "lock-2", "'schema' is not valid (Input should be 'lock-1')"),
        ("schema", None, "'schema' is not valid (Field required)"),
        ("base.tokenizer", None, "'base.tokenizer' is not valid (Field required)"),
        ("checkpoint.manifest", 3, "'checkpoint.manifest' is not valid"),
        ("cells.0.verdict", "perhaps", "'cells.0.verdict' is not valid"),
    ],
)
def test_a_damaged_lock_is_named_in_one_sentence(
    copy_run: Run, tmp_path: Path, where: str, change: Any, said: str
) -> None:
    lock = tmp_path / "lock.json"
    write_lock(copy_run.results, None, lock)
    lock.write_text(json.dumps(damaged(json.loads(lock.read_text()), where, change)))
    with pytest.raises(UserError) as caught:
        verify_lock(lock)
    assert str(caught.value) == f"lockfile {lock}: {said}{str(caught.value).rpartition(said)[2]}"
    assert str(caught.value).endswith("; make it again with eaftgate lock")


def test_a_lock_of_before_stability_is_verified(copy_run: Run, tmp_path: Path) -> None:
    lock = tmp_path / "lock.json"
    write_lock(copy_run.results, None, lock)
    older = json.loads(lock.read_text())
    added = ("gates_sha256", "collections", "repeated", "luck", "outcomes", "results", "sha256")
    for key in ("asked", "stability", *added):
        del older[key]
    for cell in older["cells"]:
        del cell["flags"]
    lock.write_text(json.dumps(older))
    assert verify_lock(lock, files_only=True) == []
    (problem,) = verify_lock(lock)
    assert "which does not say what its verdicts were made from: they were not judged again" in problem


def test_a_lock_pins_what_was_judged_and_is_never_overwritten(copy_run: Run, base_copy: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock.json"
    write_lock(copy_run.results, None, lock)
    pinned = json.loads(lock.read_text(encoding="utf-8"))
    base = open_checkpoint(BASE)
    assert pinned["base"] == {
        "name": str(BASE),
        "digest": checkpoint_digest(base),
        "tokenizer": tokenizer_digest(base),
    }
    assert pinned["checkpoint"]["digest"] == checkpoint_digest(open_checkpoint(base_copy))
    assert (pinned["verdict"], pinned["keep_n"], len(pinned["cells"])) == ("pass", 32, 8)
    assert all(len(cell["blocks_digest"]) == 64 for cell in pinned["cells"])
    asked = {"seeds": [], "strict_cells": False, "sequential": False, "allow_overlap": False}
    asked |= {"best_of": 1, "candidate_kind": "pruned", "scores_copies": True}
    assert pinned["asked"] == asked | {"generate": 0, "generate_tokens": None, "tasks": []}
    assert pinned["stability"] == copy_run.parity["stability"]
    assert write_lock(copy_run.results, None, lock)[1] is True  # up to date
    lock.write_text(lock.read_text().replace('"pass"', '"fail"'))
    with pytest.raises(UserError, match="already exists and holds something else"):
        write_lock(copy_run.results, None, lock)


def test_verify_finds_a_changed_byte_in_either_model(copy_run: Run, base_copy: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock.json"
    write_lock(copy_run.results, str(base_copy), lock)
    assert verify_lock(lock) == []
    retokenised = tmp_path / "retokenised"
    shutil.copytree(base_copy, retokenised)
    tokenizer = retokenised / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"version"', '"Version"', 1))
    (problem,) = verify_lock(lock, base=str(retokenised))
    assert "another tokenizer.json" in problem
    changed = tmp_path / "changed"
    shutil.copytree(base_copy, changed)
    entry = open_checkpoint(changed).tensors["lm_head.weight"]
    with (changed / entry.shard).open("r+b") as stream:
        stream.seek(entry.begin)
        byte = stream.read(1)[0]
        stream.seek(entry.begin)
        stream.write(bytes([byte ^ 1]))
    (problem,) = verify_lock(lock, base=None, checkpoint=str(changed))
    assert "the checkpoint" in problem
    assert "digest differs" in problem
    (problem,) = verify_lock(lock, base=str(changed))
    assert "the base" in problem


def test_a_checkpoint_that_the_run_did_not_judge_is_not_locked(copy_run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="say which with --checkpoint"):
        write_lock(copy_run.results, "another", tmp_path / "lock.json")


def test_of_a_run_that_was_interrupted_before_its_first_verdict_the_lock_says_so(copy_run: Run, tmp_path: Path) -> None:
    parity = json.loads((copy_run.results / "parity.json").read_text(encoding="utf-8"))
    resealed = {key: value for key, value in (parity | {"cells": [], "further": []}).items() if key != "sha256"}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "parity.json").write_text(json.dumps({**resealed, "sha256": sha256_json(resealed)}))
    with pytest.raises(UserError, match="has judged no checkpoint: run the gate to its end"):
        write_lock(tmp_path / "run", None, tmp_path / "lock.json")


@pytest.mark.parametrize("keep_n", [24, 8])
def test_cost_says_the_bytes_of_a_really_pruned_checkpoint(keep_n: int, tmp_path: Path) -> None:
    out = pruned(tmp_path / "pruned", PruneRequest(keep_n=keep_n, method="random"))
    cost = estimate_cost(open_checkpoint(BASE), keep_n, load_gates().regime("fixture"), None, 1000.0)
    assert cost.pruned_bytes == open_checkpoint(out).nbytes
    assert cost.base_bytes == open_checkpoint(BASE).nbytes
    assert cost.gate_seconds == cost.gate_tokens / 1000
    assert cost.profile_memory_bytes / 4 < cost.streamed_memory_bytes < cost.profile_memory_bytes, "of four layers"
