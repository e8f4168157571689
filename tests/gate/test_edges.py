"""The gate's ways out: names that are no names, progress under pytest's capture, a server that dies in the middle."""

import re
import shutil
import unicodedata
from pathlib import Path

import pytest
from gate_command import BASE, GATE_PACKS, gate
from prepared import TINY
from sglang_server import serving

ODD_CHECKPOINT = "c\x1b[1m[red]<b>\nverdict: PASS"
ODD_PACKS = ("e\x1b[31m[red]:smile:\nverdict: PASS", "n" * 246, "\u202egnp")


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_no_name_is_obeyed_and_workers_say_how_far_they_are(tmp_path: Path, workers: tuple[str, ...]) -> None:
    candidate, packs = tmp_path / ODD_CHECKPOINT, tmp_path / "packs"
    shutil.copytree(BASE, candidate)
    packs.mkdir()
    for name in ODD_PACKS:
        shutil.copy(GATE_PACKS / "chat.parquet", packs / f"{name}.parquet")
    run = gate(tmp_path / "run", f"--base={BASE}", f"--checkpoint={candidate}", f"--packs={packs}", *TINY, *workers)
    assert not {char for char in run.output if unicodedata.category(char) in ("Cc", "Cf", "Zl")} - {"\n"}
    assert len(re.findall(r"^verdict: ", run.output, re.M)) == 1
    assert {cell["pack"] for cell in run.parity["cells"]} == {"UNION", *ODD_PACKS}
    assert run.parity["not_run"] == []
    assert run.parity["complete"]
    begun = re.findall(r"score (\S[^:]*?) to \S*run: 0 of 384 tokens; given again", run.output)
    assert "base UNION 64 rerun" in begun
    assert ("[gw0] score" in run.output or "[gw1] score" in run.output) == bool(workers)


def test_a_server_that_lies_makes_cases_red_by_one_line_and_a_rerun_goes_on(tmp_path: Path, base_copy: Path) -> None:
    options = (f"--base={BASE}", f"--checkpoint={base_copy}", f"--packs={GATE_PACKS}", *TINY, "--collector=sglang")
    with serving(str(BASE), 2048) as base, serving(str(base_copy), 2048) as copy:
        copy.lie = lambda answers: [{"meta_info": {}} for _ in answers]
        servers = (f"--endpoint={base.url}", f"--endpoint={copy.url}")
        red = gate(tmp_path / "run", *options, *servers)
        reason = red.junit["test_near_lossless::test_near_lossless[copy-UNION-64-ppl]"].reason
        copy.lie = None
        again = gate(tmp_path / "run", *options, *servers)
    assert red.code == 1
    assert re.search(r"block 0: the answer cannot be read \(there is no 'input_token_logprobs'\): its version", reason)
    assert len(reason.strip().splitlines()) == 1
    assert again.junit["test_near_lossless::test_near_lossless[copy-UNION-64-ppl]"].outcome == "passed"
