"""The command line: one sentence and exit code 2 for what a user can put right, JSON for scripts, help for people."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_command import Command, Ended, refused
from gate_command import BASE, CALIBRATION_PACKS, GATE_PACKS, ROOT, Run
from rich.console import Console
from rich.table import Table
from tiny_checkpoint import Size
from tiny_model import write_lively_checkpoint, write_packs

from eaftgate import __version__
from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.commands import app as cli
from eaftgate.commands import output
from eaftgate.gate.options import option_names
from eaftgate.model.load import default_settings, load_model
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.pack import UNION, named_packs, read_pack, row_identity, shuffle_key
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.parity.metrics import perplexity
from eaftgate.profile.profile import Profile, open_profile
from eaftgate.profile.profiler import ProfileRequest, profile_checkpoint
from eaftgate.progress import AGAIN, AS_BEFORE
from eaftgate.rewrite.manifest import read_manifest
from eaftgate.search import search as searching
from eaftgate.search.calibration import calibration_blocks
from eaftgate.search.evaluate import collected
from eaftgate.search.forecast import expected_passes
from eaftgate.search.journal import REVISION, Journal
from eaftgate.search.search import Reached, Selected
from eaftgate.search.settings import MAX_POSITIONS
from eaftgate.select.keep import KeepSets, select_keep_sets
from eaftgate.select.saliency import EaftWeights
from eaftgate.study import sweep as sweeping
from eaftgate.study.holdout import hold_out

COMMANDS = (("packs", "split"), ("profile",), ("prune",), ("yardstick",), ("report",), ("lock",), ("verify",),
            ("cost",), ("sweep",), ("diagnose",), ("overlap",))  # fmt: skip


def pack_of(directory: Path, **columns: list[str]) -> Path:
    directory.mkdir()
    pq.write_table(pa.table(columns), directory / "chat.parquet")
    return directory


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--keep-n", "22"], "not a multiple of 4"),
        (["--keep-n", "2", "--allow-any-keep-n"], "fewer than the 4 each token uses"),
        (["--keep-n", "36"], "more than the 32 a layer has"),
        (["--keep-n", "24", "--keep-frac", "0.75"], "exactly one of --keep-n and --keep-frac"),
        ([], "exactly one of --keep-n and --keep-frac"),
        (["--keep-frac", "1.5"], "not in (0, 1]"),
        (["--keep-n", "24"], "needs --profile"),
        (["--keep-n", "24", "--method", "greedy"], "needs --profile"),
        (["--keep-n", "24", "--method", "greedy", "--packs", "x"], "--packs needs --profile"),
        (["--keep-n", "24", "--packs", "x"], "--packs is for --pre-gate and for --method greedy"),
        (["--keep-n", "24", "--pre-gate"], "--pre-gate needs --packs"),
        (["--keep-n", "24", "--nope"], "No such option: --nope"),
        (["--keep-n", "24", "--method", "best"], "error: Invalid value for '--method': 'best' is not one of"),
        (["--keep-n", "24", "--method", "reap-mas"], "'random'; did you mean 'reap-mass'?"),
        (["--keep-n", "24", "--method", "random", "--seed", "-1"], "--seed"),
        (["--keep-n", "24", "--w-good", "nan"], "'--w-good': nan is no finite number"),
        (["--keep-n", "24", "--method", "random", "--device", "gpu"], "device 'gpu' is none of cpu, cuda, cuda:N"),
        (["--keep-n", "32", "--dtype", "float16"], "dtype 'float16' is not one of float32, bfloat16"),
        (["--keep-n", "24", "--profile", "nowhere"], "nowhere is not a finished profile"),
        (["--keep-n", "many"], "--keep-n"),
    ],
)
def test_prune_refuses(eaftgate: Command, tmp_path: Path, arguments: list[str], said: str) -> None:
    refused(eaftgate("prune", BASE, "--out", tmp_path / "out", *arguments), said)
    assert not (tmp_path / "out").exists()


def test_a_missing_option_or_command_is_one_sentence(eaftgate: Command) -> None:
    refused(eaftgate("prune", BASE), "--out")
    refused(eaftgate("distil"), "distil")


def test_a_directory_that_is_no_gpt_oss_checkpoint(eaftgate: Command, tmp_path: Path) -> None:
    refused(eaftgate("cost", tmp_path, "--keep-n", 24), "config.json")
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    refused(eaftgate("cost", tmp_path, "--keep-n", 24), str(tmp_path))


def test_a_missing_shard_is_named(eaftgate: Command, tmp_path: Path) -> None:
    for path in BASE.iterdir():
        if "00002-of" not in path.name:
            (tmp_path / path.name).symlink_to(path)
    refused(eaftgate("prune", tmp_path, "--keep-n", 32, "--out", tmp_path / "out"), "model-00002-of-00002.safetensors")


def test_the_profile_of_another_base(eaftgate: Command, profile: Profile, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(BASE, other)
    entry = open_checkpoint(other).tensors["lm_head.weight"]
    data = bytearray((other / entry.shard).read_bytes())
    data[entry.begin] ^= 1
    (other / entry.shard).write_bytes(data)
    ended = eaftgate("prune", other, "--profile", profile.path, "--keep-n", 24, "--out", tmp_path / "out")
    refused(ended, "was made from another checkpoint")


def test_packs_that_cannot_be_profiled(eaftgate: Command, tmp_path: Path) -> None:
    def profile_of(packs: Path) -> Ended:
        return eaftgate("profile", BASE, "--packs", packs, "--seq-len", 16, "--out", tmp_path / "out")

    refused(profile_of(tmp_path / "nowhere"), "does not exist")
    refused(profile_of(pack_of(tmp_path / "no-text", body=["x"])), "has no column 'text'")
    user_only = ["<|start|>user<|message|>" + "hello there " * 20 + "<|end|>"]
    refused(profile_of(pack_of(tmp_path / "user", text=user_only)), "no assistant message")


def test_what_is_there_is_up_to_date_or_an_error(eaftgate: Command, base_copy: Path, tmp_path: Path) -> None:
    for arguments, more in (
        (("packs", "split", CALIBRATION_PACKS), ("--seed", 1)),
        (("profile", BASE, "--packs", CALIBRATION_PACKS, "--num-rows", 3, "--seq-len", 64), ("--seed", 1)),
        (("prune", BASE, "--keep-n", 24, "--method", "random"), ("--seed", 1)),
        (("yardstick", BASE), ("--bits", 3)),
    ):
        refused(eaftgate(*arguments, "--out", base_copy), "already exists: choose another --out or remove it")
        out = tmp_path / str(arguments[0])
        assert json.loads(eaftgate(*arguments, "--out", out, "--json").out)["up_to_date"] is False
        again = eaftgate(*arguments, "--out", out)
        assert (again.code, again.out, again.err) == (0, f"{out} is up to date\n", "")
        assert json.loads(eaftgate(*arguments, "--out", out, "--json").out)["up_to_date"] is True
        refused(eaftgate(*arguments, *more, "--out", out), f"{out} already exists and was made from other inputs (")


def test_an_output_that_cannot_be_written_is_one_sentence(eaftgate: Command, tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    refused(eaftgate("packs", "split", str(CALIBRATION_PACKS), "--out", str(occupied / "split")), "file")


def test_json_of_split_profile_prune_and_cost(eaftgate: Command, profile: Profile, tmp_path: Path) -> None:
    def parsed(*arguments: object) -> dict[str, Any]:
        ended = eaftgate(*arguments, "--json")
        assert ended.code == 0, ended.err
        value: dict[str, Any] = json.loads(ended.out)
        return value

    split = parsed("packs", "split", CALIBRATION_PACKS, "--out", tmp_path / "split")
    assert [pack["pack"] for pack in split["packs"]] == ["chat", "reasoning", "tool_agentic"]
    packs = tmp_path / "split" / "calibration"
    small = ("--num-rows", 6, "--seq-len", 64, "--device", "cpu")
    assert parsed("profile", BASE, "--packs", packs, *small, "--out", tmp_path / "profile")["counted_tokens"] > 0
    pruned = parsed(
        "prune", BASE, "--profile", profile.path, "--keep-frac", 0.6, "--method", "ean", "--out", tmp_path / "pruned"
    )
    assert (pruned["keep_n"], pruned["num_experts"]) == (20, 32)
    cost = parsed("cost", BASE, "--keep-frac", 0.6, "--regime", "fixture")
    assert cost["pruned_bytes"] == pruned["bytes"] == open_checkpoint(tmp_path / "pruned").nbytes


# Searches and the pre-gate see calibration rows, and nothing else.


@pytest.fixture(scope="module")
def small_profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    base = open_checkpoint(BASE)
    request = ProfileRequest(CALIBRATION_PACKS, num_rows=6, seq_len=64, batch_size=8)
    settings = default_settings(device="cpu", dequantize=True)
    return profile_checkpoint(base, checkpoint_digest(base), request, tmp_path_factory.mktemp("small") / "p", settings)


def prune_on_model(eaftgate: Command, profile: Profile, packs: Path, out: Path, *more: object) -> Ended:
    given = ("--profile", profile.path, "--packs", packs, "--keep-n", 20, "--device", "cpu", "--out", out)
    return eaftgate("prune", BASE, *given, *more)


@pytest.mark.parametrize("more", [("--method", "greedy"), ("--method", "reap", "--pre-gate")])
def test_a_gate_row_is_refused(
    eaftgate: Command, small_profile: Profile, tmp_path: Path, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other packs altogether, and the profile's with a single row exchanged for one of the gate's; no model is run."""
    monkeypatch.setattr("eaftgate.model.spread.load_model", lambda *_: pytest.fail("a model was loaded"))
    ended = prune_on_model(eaftgate, small_profile, GATE_PACKS, tmp_path / "out", *more)
    refused(ended, "6 rows that profile")
    mixed = tmp_path / "mixed"
    shutil.copytree(CALIBRATION_PACKS, mixed)
    texts = pq.read_table(mixed / "chat.parquet")["text"].to_pylist()
    order = read_pack(mixed / "chat.parquet").shuffled(small_profile.description.seed)
    foreign = pq.read_table(GATE_PACKS / "chat.parquet")["text"].to_pylist()
    texts[texts.index(order.texts[0])] = min(foreign, key=lambda text: shuffle_key(3407, row_identity(text)))
    pq.write_table(pa.table({"text": texts}), mixed / "chat.parquet")
    refused(prune_on_model(eaftgate, small_profile, mixed, tmp_path / "out", *more), "1 rows that profile")
    assert not (tmp_path / "out").exists()


def test_packs_that_lack_a_calibration_row_are_refused(
    eaftgate: Command, small_profile: Profile, tmp_path: Path
) -> None:
    """Rows that the profile has seen, but not the blocks that it was made of."""
    used = set(small_profile.description.rows)
    (tmp_path / "fewer").mkdir()
    for path in CALIBRATION_PACKS.glob("*.parquet"):
        texts = [text for text in pq.read_table(path)["text"].to_pylist() if row_identity(text) in used]
        kept = texts[1:] if path.stem == "reasoning" else texts
        pq.write_table(pa.table({"text": kept}), tmp_path / "fewer" / path.name)
    ended = prune_on_model(eaftgate, small_profile, tmp_path / "fewer", tmp_path / "out", "--method", "greedy")
    refused(ended, "does not give the blocks that profile")


def test_a_search_refuses_weights_that_it_would_ignore(
    eaftgate: Command, small_profile: Profile, tmp_path: Path
) -> None:
    more = ("--method", "greedy", "--w-good", "2")
    ended = prune_on_model(eaftgate, small_profile, CALIBRATION_PACKS, tmp_path / "out", *more)
    refused(ended, "does not use EAFT's token weights")


def test_a_search_is_recorded_and_repeatable(eaftgate: Command, small_profile: Profile, tmp_path: Path) -> None:
    more = ("--method", "greedy", "--max-positions", 150, "--seed", 5, "--pre-gate")
    first = prune_on_model(eaftgate, small_profile, CALIBRATION_PACKS, tmp_path / "first", *more, "--json")
    second = prune_on_model(eaftgate, small_profile, CALIBRATION_PACKS, tmp_path / "second", *more)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    manifests = [read_manifest(tmp_path / name) for name in ("first", "second")]
    assert manifests[0].keep == manifests[1].keep
    assert manifests[0].provenance == manifests[1].provenance
    provenance = manifests[0].provenance
    assert provenance["calibration_rows"] == sorted(small_profile.description.rows)
    assert provenance["search"]["settings"] == {"max_positions": 150, "seed": 5, "batch_size": 8}
    assert provenance["search"]["positions"] == 150
    assert "weights" not in provenance
    cell = json.loads(first.out)["pre_gate"]
    assert cell["metrics"]["tokens"] == small_profile.description.counted_tokens
    said = second.out.splitlines()
    assert said[0].startswith("pre-gate on ")
    assert [line.split()[0] for line in said[1:-1]] == list(cell["verdicts"])


def test_an_interrupted_search_goes_on_where_it_was(
    eaftgate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_lively_checkpoint(tmp_path / "base", size=Size(experts=8, top_k=2))
    packs = write_packs(tmp_path / "packs", {"chat": 8, "tools": 8})
    small = ("--seq-len", 48, "--batch-size", 8, "--device", "cpu")
    assert eaftgate("profile", base, "--packs", packs, *small, "--out", tmp_path / "profile").code == 0

    def search(out: str, max_positions: int = 150, *others: str) -> Ended:
        more = ("--keep-n", 4, "--method", "refined", "--max-positions", max_positions, "--device", "cpu", *others)
        return eaftgate(
            "prune", base, "--profile", tmp_path / "profile", "--packs", packs, *more, "--out", tmp_path / out
        )

    def passes(ended: Ended) -> tuple[float, float]:
        """Where its progress begins, and of how much."""
        found = re.search(r"refined to \S+: ([\d.]+) of ([\d.]+) passes;", ended.err)
        assert found is not None
        return float(found[1]), float(found[2])

    blocks = calibration_blocks(open_checkpoint(base), open_profile(tmp_path / "profile"), packs)
    expected = expected_passes(blocks, layers=3, experts=8, top_k=2, keep_n=4, positions=150)
    greedy, two_layers, whole = (round(number, 1) for number in (expected.greedy, *expected.through[2::4]))
    assert 0 < greedy < two_layers < whole
    write, journal = Journal.write, tmp_path / ".out.search.json"

    def interrupted(self: Journal, state: Selected | Reached) -> None:
        write(self, state)
        if isinstance(state, Selected) or state.refinement.layers == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "write", interrupted)
        selected = search("out")
        patched.setattr(searching, "greedy_selections", lambda *_, **__: pytest.fail("selected already"))
        refining = search("out")
    for ended, kept in ((selected, greedy), (refining, two_layers)):
        assert ended.code == 130
        assert f"interrupted at {kept} of {whole} passes, {kept} of them kept; {AGAIN}" in ended.err
        assert "begun anew" not in ended.err
    assert journal.exists()
    assert not (tmp_path / "out").exists()

    def from_the_beginning(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    noted = []

    def noting(self: Journal, state: Selected | Reached) -> None:
        write(self, state)
        noted.append(state.refinement.layers if isinstance(state, Reached) else None)

    with monkeypatch.context() as patched:
        patched.setattr(searching, "greedy_selections", from_the_beginning)
        patched.setattr(Journal, "write", noting)
        for ended in (search("out", max_positions=160), search("out", 150, "--class-weight", "balanced")):
            assert ended.code == 130
            assert "damaged, of other inputs, or of another version of the search: begun anew" in " ".join(
                ended.err.split()
            )
        for setting_up in ("halves_of", "Half.pass_layer"):
            with monkeypatch.context() as at_set_up:
                at_set_up.setattr(f"eaftgate.search.search.{setting_up}", from_the_beginning)
                assert f": {AS_BEFORE}" in search("out").err, "none of its time is the passes'"
        resumed = search("out")
        assert resumed.code == 0
        assert "begun anew" not in resumed.err
    assert noted == [2, 3, 4, 5, 6]
    assert not journal.exists()
    straight = search("straight")
    assert straight.code == 0
    assert passes(straight) == passes(selected) == (0, whole)
    assert passes(refining) == (greedy, whole)
    assert passes(resumed) == (two_layers, whole)
    manifests = [read_manifest(tmp_path / name) for name in ("out", "straight")]
    assert manifests[0].keep == manifests[1].keep
    assert manifests[0].provenance == manifests[1].provenance
    found = manifests[0].provenance["search"]
    assert found["start"].split(", ")[0] in ("greedy", *searching.STARTS)
    assert found["swaps"], "a search without swaps shows nothing"
    assert all(swap["gain"] > 0 for swap in found["swaps"])


def test_the_pre_gate_is_that_of_the_checkpoint(eaftgate: Command, small_profile: Profile, tmp_path: Path) -> None:
    """Perplexity by masking and of the directory that was written, on the calibration blocks."""
    more = ("--method", "reap", "--pre-gate", "--json")
    ended = prune_on_model(eaftgate, small_profile, CALIBRATION_PACKS, tmp_path / "out", *more)
    shown = json.loads(ended.out)["pre_gate"]["metrics"]
    blocks = calibration_blocks(open_checkpoint(BASE), small_profile, CALIBRATION_PACKS)
    written = load_model(tmp_path / "out", default_settings(device="cpu", dequantize=True))
    measured = perplexity(collected(written, blocks).content().stats.logprob_T)
    assert shown["ppl"] == pytest.approx(measured, rel=1e-5)
    assert shown["ppl"] > 1.01 * shown["ppl_base"]


def sweep_of(eaftgate: Command, profile: Profile, packs: Path, out: Path, *more: object) -> Ended:
    given = ("--profile", profile.path, "--packs", packs, "--keep-n", "20", "--device", "cpu", "--out", out)
    return eaftgate("sweep", BASE, *given, *more)


def test_a_sweep_refuses_gate_rows_and_what_it_does_not_know(
    eaftgate: Command, small_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eaftgate.model.spread.load_model", lambda *_: pytest.fail("a model was loaded"))
    (tmp_path / "mine.svg").write_text("<svg/>")
    refused(sweep_of(eaftgate, small_profile, GATE_PACKS, tmp_path / "out"), "6 rows that profile")
    for more, said in (
        (("--methods", "reap,best"), "'best' is no method"),
        (("--vary", "depth=1"), "'depth' cannot be varied"),
        (("--vary", "seed"), "must be a factor and its values"),
        (("--vary", "good=a"), "must be a finite number"),
        (("--vary", "good=1", "--vary", "good=2"), "--vary good is given twice"),
        (("--vary", "rows=2,99"), "the profile has 3 rows to choose on"),
        (("--keep-n", "22"), "not a multiple of 4"),
        (("--keep-n", "20,many"), "must be whole numbers"),
        (("--score-frac", "1"), "must lie between 0 and 1"),
        (("--plot", tmp_path / "figure.pdf"), "must end in .svg or .png"),
        (("--plot", tmp_path / "figure"), "must end in .svg or .png"),
        (("--plot", tmp_path / "out"), "a file of its own"),
        (("--plot", tmp_path / "typo" / "figure.svg"), "typo does not exist"),
        (("--plot", tmp_path / "mine.svg"), "was drawn by no sweep"),
        (("--plot", CALIBRATION_PACKS / "figure.svg"), "which it is made from"),
    ):
        refused(sweep_of(eaftgate, small_profile, CALIBRATION_PACKS, tmp_path / "out", *more), said)
    assert not (tmp_path / "out").exists()
    (tmp_path / "other").write_bytes(b"\x89PNG something of the user's\n")
    refused(
        sweep_of(eaftgate, small_profile, CALIBRATION_PACKS, tmp_path / "other"), "was not written by eaftgate sweep"
    )
    assert (tmp_path / "other").read_bytes() == b"\x89PNG something of the user's\n"


def test_a_sweep_varies_one_factor_at_a_time_and_resumes(
    eaftgate: Command, small_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sweep.jsonl"
    methods = ("--methods", "eaft-reap, ean", "--vary", "uncertain=1", "--vary", "good=0,2")
    lines = json.loads(sweep_of(eaftgate, small_profile, CALIBRATION_PACKS, out, *methods, "--json").out)
    cases = [(line["case"]["method"], line["case"]["varied"]) for line in lines]
    assert cases == [("eaft-reap", ""), ("ean", ""), *(("eaft-reap", v) for v in ("uncertain=1", "good=0", "good=2"))]
    standard = EaftWeights().as_dict()
    for line in lines:
        name, _, value = line["case"]["varied"].partition("=")
        assert line["case"]["weights"] == standard | ({name: float(value)} if name else {})
    blocks = calibration_blocks(open_checkpoint(BASE), small_profile, CALIBRATION_PACKS)
    chosen_on = hold_out(blocks, small_profile, 0.5).calibration(3)
    keep = select_keep_sets(chosen_on.profile.trace, method="ean", keep_n=20, alignment="predicting")
    assert lines[1]["keep"] == keep
    assert lines[1]["chosen_on_tokens"] == chosen_on.blocks.num_counted
    assert lines[1]["chosen_on_tokens"] + lines[1]["scored_on_tokens"] == small_profile.description.counted_tokens
    assert out.with_suffix(".svg").is_file()
    # Cut off in the last line: that case alone runs again, and no other.
    out.write_bytes(out.read_bytes()[:-20])
    ran: list[str] = []
    choose = sweeping._keep_sets

    def choosing(*given: Any) -> Any:
        ran.append(given[0].varied)
        return choose(*given)

    monkeypatch.setattr(sweeping, "_keep_sets", choosing)
    again = json.loads(sweep_of(eaftgate, small_profile, CALIBRATION_PACKS, out, *methods, "--json").out)
    assert ran == ["good=2"]
    assert [line | {"seconds": 0} for line in again] == [line | {"seconds": 0} for line in lines]
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(line.pop("sha256") for line in written)
    assert written == again  # nothing is left of the cut line
    monkeypatch.setattr("eaftgate.model.spread.load_model", lambda *_: pytest.fail("a model was loaded for nothing"))
    (tmp_path / "figures").mkdir()
    plot = tmp_path / "figures" / "sweep.png"
    other = (*methods, "--batch-size", 3, "--plot", plot)  # what is done stays done
    said, *table, known, drawn = sweep_of(eaftgate, small_profile, CALIBRATION_PACKS, out, *other).out.splitlines()
    assert known == f"{out} is up to date"
    assert ran == ["good=2"]
    assert said.startswith("chosen on 3 rows (")
    assert drawn == f"drawn in {plot}"
    assert plot.read_bytes().startswith(b"\x89PNG")
    losses = [float(re.search(r"([+-][\d.]+)%", row)[1]) for row in table[1:]]  # type: ignore[index]
    assert len(losses) == 5
    assert losses == sorted(losses)


def test_a_sweep_without_matplotlib_says_what_the_figure_takes(
    eaftgate: Command, small_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once where a figure was asked for, and else at the end."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out, plot = tmp_path / "sweep.jsonl", tmp_path / "figure.svg"
    ended = sweep_of(eaftgate, small_profile, CALIBRATION_PACKS, out, "--methods", "ean", "--plot", plot)
    takes = "it takes matplotlib, pip install 'eaftgate[plot]'"
    refused(ended, f"--plot {plot} cannot be drawn: {takes}, or leave --plot out")
    assert not out.exists()
    ended = sweep_of(eaftgate, small_profile, CALIBRATION_PACKS, out, "--methods", "ean")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == f"no figure was drawn: {takes}"
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.jsonl"]


def test_budgets_are_prefixes_scored_on_the_same_rows(
    eaftgate: Command, small_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy, with one row and with all: it sees fewer tokens, the same tokens score it."""
    searched: list[Blocks] = []
    search = searching.greedy_search

    def searching_on(*given: Any, **more: Any) -> Any:
        searched.append(given[1])
        return search(*given, **more)

    monkeypatch.setattr(searching, "greedy_search", searching_on)
    scored: list[KeepSets] = []
    score = sweeping._score

    def scoring(*given: Any) -> Any:
        scored.append(given[3])
        return score(*given)

    monkeypatch.setattr(sweeping, "_score", scoring)
    more = ("--methods", "greedy", "--vary", "rows=1", "--vary", "max_positions=20", "--vary", "seed=9", "--json")
    lines = json.loads(sweep_of(eaftgate, small_profile, CALIBRATION_PACKS, tmp_path / "out", *more).out)
    assert [line["case"]["varied"] for line in lines] == ["", "rows=1", "max_positions=20", "seed=9"]
    assert [line["case"]["search"]["max_positions"] for line in lines] == [
        MAX_POSITIONS,
        MAX_POSITIONS,
        20,
        MAX_POSITIONS,
    ]
    assert len({line["scored_on_tokens"] for line in lines}) == 1
    all_rows, one_row, sampled, again = searched
    assert one_row.num_counted < all_rows.num_counted == sampled.num_counted == again.num_counted
    assert len(np.unique(one_row.row_BS[one_row.scored_BS])) == 1
    # Another seed draws nothing here: the same keep sets, which need not be scored again.
    assert lines[3]["keep"] == lines[0]["keep"]
    assert lines[3]["metrics"] == lines[0]["metrics"]
    assert len(scored) == len({str(line["keep"]) for line in lines}) < len(lines)


def test_a_sweep_that_is_given_again_hands_a_search_what_it_had_noted(
    eaftgate: Command, small_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a refinement goes on with it is prune's test, the same call: it begins with several weights, too."""
    noted: list[Any] = []

    def search(
        model: Any, *_: Any, journal: Journal, keep_n: int, classes: Any, **__: Any
    ) -> tuple[KeepSets, dict[str, Any]]:
        assert classes is None
        noted.append(journal.read(dict))
        if noted == [None]:
            journal.write({"state": 1})
            raise KeyboardInterrupt
        return [list(range(keep_n))] * len(model.moe_layers), {}

    monkeypatch.setattr(searching, "refined_search", search)
    given = (eaftgate, small_profile, CALIBRATION_PACKS, tmp_path / "out", "--methods", "refined", "--vary", "seed=9")
    assert sweep_of(*given).code == 130
    assert sweep_of(*given).code == 0
    assert noted == [None, {"state": 1}, None]  # the other case has a journal of its own
    assert not (tmp_path / ".out.search.json").exists()
    assert sweep_of(*given).code == 0
    assert len(noted) == 3
    # What another version of the search chose is no line of this one's.
    monkeypatch.setattr("eaftgate.study.sweep.REVISION", REVISION + 1)
    assert sweep_of(*given).code == 0
    assert len(noted) == 5


def test_a_narrow_terminal_gets_whole_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Columns that can be done without go first, then text is folded."""
    written = io.StringIO()

    def narrow(**options: Any) -> Console:
        return Console(file=written, force_terminal=True, **({"width": 36} | options))

    def build(left_out: Sequence[str]) -> Table:
        table = Table(*(name for name in ("number", "text", "detail") if name not in left_out), box=None)
        table.columns[0].no_wrap = True
        table.add_row("1234567890", *["several words of text", "a detail"][: 2 - len(left_out)])
        return table

    monkeypatch.setattr(output, "Console", narrow)
    output.show(build, ["detail"])
    assert "1234567890  several words of text" in written.getvalue()
    assert "left out for want of width: detail" in capsys.readouterr().out
    written.seek(written.truncate(0))
    monkeypatch.setattr(output, "Console", lambda **options: narrow(**({"width": 22} | options)))
    output.show_whole(build(["detail"]))
    assert "1234567890" in written.getvalue()
    assert "…" not in written.getvalue()


def test_overlap_of_checkpoints(eaftgate: Command, random8: Path, keep24: Path, tmp_path: Path) -> None:
    ended = eaftgate("overlap", random8, keep24, random8, "--json")
    pairs = json.loads(ended.out)
    assert [pair["checkpoints"] for pair in pairs] == [
        [str(a), str(b)] for a, b in ((random8, keep24), (random8, random8), (keep24, random8))
    ]
    few, many = (read_manifest(path).keep for path in (random8, keep24))
    expected = [len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in zip(few, many, strict=True)]
    assert pairs[0]["layers"] == expected
    assert pairs[0]["mean"] == pytest.approx(sum(expected) / len(expected))
    assert (pairs[0]["least"], pairs[0]["keep_n"]) == (min(expected), [8, 24])
    assert expected[pairs[0]["least_layer"]] == min(expected)
    assert (pairs[1]["mean"], pairs[1]["least"]) == (1.0, 1.0)
    table = eaftgate("overlap", random8, keep24).out.splitlines()
    assert table[1].split()[:2] == [str(random8), str(keep24)]
    refused(eaftgate("overlap", random8), "of two checkpoints or more")
    refused(eaftgate("overlap", random8, BASE), "manifest")
    shutil.copytree(random8, tmp_path / "other")
    manifest = json.loads((tmp_path / "other" / "manifest.json").read_text())
    manifest["base"]["digest"] = "0" * 64
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(manifest))
    refused(eaftgate("overlap", random8, tmp_path / "other"), "were made from different bases")


def test_diagnose_says_where_and_what_next(eaftgate: Command, random8: Path) -> None:
    given = ("--packs", GATE_PACKS, "--seq-lens", "64,96", "--num-blocks", 8, "--layers", 1, "--device", "cpu")
    shown = json.loads(eaftgate("diagnose", random8, *given, "--json").out)
    packs = ["UNION", "chat", "reasoning", "tool_agentic"]
    assert [(c["pack"], c["seq_len"]) for c in shown["cells"]] == [(pack, n) for n in (64, 96) for pack in packs]
    base = open_checkpoint(BASE)
    assert [row["layer"] for row in shown["layers"]] == list(range(base.num_layers))
    keep = read_manifest(random8).keep
    worst = max(shown["layers"], key=lambda row: row["loss"])["layer"]
    assert {(row["layer"], row["expert"]) for row in shown["experts"]} == {
        (worst, expert) for expert in range(32) if expert not in keep[worst]
    }
    tokenizer = load_tokenizer(BASE)
    union = named_packs(GATE_PACKS, seed=None)[UNION]
    blocks = build_blocks(union, tokenizer.backend, eos_id=tokenizer.eos_id, seq_len=64, num_blocks=8)
    whole = load_model(BASE, default_settings(device="cpu", dequantize=True))
    unpruned = collected(whole, blocks).content().stats.logprob_T.astype(float)
    with whole.keeping(keep):
        pruned = collected(whole, blocks).content().stats.logprob_T.astype(float)
    assert shown["together"]["loss"] == pytest.approx((unpruned - pruned).mean(), abs=1e-6)
    assert shown["cells"][0]["loss"] == shown["together"]["loss"] > 0.1
    known = [row for row in (*shown["cells"], *shown["layers"]) if row["lower"] is not None]
    assert len(known) >= 8  # so few blocks of long rows have no standard error
    assert all(row["lower"] <= row["loss"] <= row["upper"] for row in known)
    assert any("ppl" in cell["missed"] for cell in shown["cells"])
    text = eaftgate("diagnose", random8, *given).out
    first = text[text.index("dPPL") :].splitlines()[1].split()
    assert first[0] == max(shown["cells"], key=lambda cell: cell["loss"])["pack"]
    assert f"the best 10 of {len(shown['experts'])}" in text
    assert text.splitlines()[-1] == f"next: {shown['lever']}"
    refused(eaftgate("diagnose", random8, *given, "--base", random8), "is not the base")
    refused(eaftgate("diagnose", random8, *given, "--seq-lens", "64,long"), "--seq-lens is '64,long'")


def test_json_of_lock_and_verify(eaftgate: Command, copy_run: Run, tmp_path: Path) -> None:
    lock = tmp_path / "lock.json"
    assert json.loads(eaftgate("lock", copy_run.results, "--out", lock, "--json").out)["verdict"] == "pass"
    ended = eaftgate("verify", lock, "--json")
    assert (ended.code, json.loads(ended.out)) == (0, {"verified": True, "problems": [], "candidate_kind": "pruned"})


def test_version(eaftgate: Command) -> None:
    assert eaftgate("--version") == Ended(0, f"eaftgate {__version__}\n", "")


@pytest.mark.parametrize("arguments", [(), ("packs",)])
def test_no_arguments_print_the_help(eaftgate: Command, arguments: tuple[str, ...]) -> None:
    ended = eaftgate(*arguments)
    assert "Commands" in ended.out + ended.err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_mentions_every_option_with_a_description(eaftgate: Command, command: tuple[str, ...]) -> None:
    import typer.main

    ended = eaftgate(*command, "--help")
    assert ended.code == 0
    found: Any = typer.main.get_command(cli.app)
    for name in command:
        found = found.commands[name]
    for parameter in found.params:
        for option in (name for name in parameter.opts if name.startswith("--")):
            assert option in ended.out
        assert parameter.help
    assert eaftgate(*command, "-h") == ended


def test_the_help_of_the_gate_is_its_own_and_says_that_pytests_options_may_be_given(eaftgate: Command) -> None:
    ended = eaftgate("gate", "--checkpoint=x", "--help")
    assert ended.code == 0
    for option in option_names():
        assert re.search(rf"^ +{option}\b", ended.out, re.M)
    assert "Every option of pytest" in ended.out
    assert "--pdb" not in ended.out  # pytest has two hundred more
    assert eaftgate("gate", "-h") == ended


def test_shells_complete_commands_and_options() -> None:
    """In a process whose program is called eaftgate, after which a shell's variable is named."""
    program = "import sys; from eaftgate.commands.app import main; sys.argv[0] = 'eaftgate'; main()"

    def said(*arguments: str, **environment: str) -> str:
        command = [sys.executable, "-c", program, *arguments]
        env = {**os.environ, **environment}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True).stdout

    for words, completed in (("eaftgate ga", ["gate"]), ("eaftgate prune --keep-f", ["--keep-frac"])):
        place = str(len(words.split()) - 1)
        found = said(_EAFTGATE_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=place)
        assert found.split() == completed
    script = said("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "complete -o default -F _eaftgate_completion eaftgate" in script


def test_an_interrupted_profile_exits_with_130_and_the_same_command_resumes(eaftgate: Command, tmp_path: Path) -> None:
    out = tmp_path / "profile"
    command = [
        "profile", str(BASE), "--packs", str(CALIBRATION_PACKS),
        "--seq-len", "64", "--out", str(out), "--device", "cpu", "--num-rows",
    ]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "eaftgate", *command, "1000"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 240  # a busy machine may take a minute to import torch
        while not (tmp_path / ".profile.partial" / "payload" / "trace").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=240)
    # 130 to a shell, both: Python dies of the signal itself where it came while a string was being executed, as an
    # import may do that makes a dataclass.
    assert process.returncode in (130, -signal.SIGINT), err
    assert b"Traceback" not in err
    assert not out.exists()
    assert eaftgate(*command, "10").code == 0
    assert (out / "profile.json").is_file()


def test_a_split_says_which_rows_are_malformed_and_refuses_more_than_a_hundredth(
    eaftgate: Command, tmp_path: Path
) -> None:
    sound = [f"<|start|>user<|message|>{n}<|end|><|start|>assistant<|message|>a{n}<|return|>" for n in range(150)]
    for name, rows in (("few", sound), ("many", sound[:20])):
        (tmp_path / name).mkdir()
        table = pa.table({"text": [*rows, "<|start|>assistant no message<|end|>"]})
        pq.write_table(table, tmp_path / name / "chat.parquet")
    said = eaftgate("packs", "split", tmp_path / "few", "--out", tmp_path / "out")
    assert said.code == 0
    assert "pack chat: 1 of 151 rows are not well-formed Harmony conversations" in said.out
    refused(eaftgate("packs", "split", tmp_path / "many", "--out", tmp_path / "no"), "1 of 21 rows are not well-formed")
    assert not (tmp_path / "no").exists()


def test_the_report_of_an_edited_result_is_no_pass(eaftgate: Command, copy_run: Run, tmp_path: Path) -> None:
    told = {**copy_run.parity, "verdict": "pass", "failed": []}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "parity.json").write_text(json.dumps(told | {"cells": told["cells"][:1]}))
    ended = eaftgate("report", tmp_path / "run", "--out", tmp_path / "report.html")
    assert ended.code == 1
    assert "has changed since the run wrote it" in ended.out
    page = (tmp_path / "report.html").read_text()
    assert "<title>eaftgate: changed since</title>" in page
    assert "CHANGED SINCE" in page


def test_ctrl_c_in_a_destructor_is_not_lost() -> None:
    """Python drops it there; what is imported runs thousands of them."""
    script = (
        "import sys, time\n"
        "from eaftgate.commands import app\n"
        "class Dropped:\n"
        "    def __del__(self): raise KeyboardInterrupt\n"
        "def work(**_):\n"
        "    Dropped()\n"
        "    time.sleep(60)\n"
        "app.app, sys.argv[1:] = work, ['prune']\n"
        "try: app.main()\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=True)
    assert (ended.stdout, ended.stderr) == ("interrupted\n", "")
