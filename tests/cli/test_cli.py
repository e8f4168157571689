"""The command line: one sentence and exit code 2 for what a user can put right, JSON for scripts, help for people."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gate_command import BASE, CALIBRATION_PACKS, ROOT, Run

from eaftgate import __version__, cli
from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.profile.profiler import Profile

COMMANDS = (("packs", "split"), ("profile",), ("prune",), ("report",), ("lock",), ("verify",), ("cost",))


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def eaftgate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`eaftgate ARGUMENTS` in this process."""

    def command(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["eaftgate", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        return Ended(int(exit_info.value.code or 0), *capsys.readouterr())

    return command


def refused(ended: Ended, said: str) -> None:
    """Exit code 2, nothing on stdout, one sentence on stderr that says `said`."""
    assert ended.code == 2
    assert ended.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", ended.err)
    assert said in ended.err


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
        (["--keep-n", "24", "--nope"], "No such option: --nope"),
        (["--keep-n", "24", "--method", "best"], "'best' is not one of"),
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
    for path in BASE.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    entry = open_checkpoint(tmp_path).tensors["lm_head.weight"]
    data = bytearray((tmp_path / entry.shard).read_bytes())
    data[entry.begin] ^= 1
    (tmp_path / entry.shard).write_bytes(data)
    ended = eaftgate("prune", tmp_path, "--profile", profile.path, "--keep-n", 24, "--out", tmp_path / "out")
    refused(ended, "was made from another checkpoint")


def test_packs_that_cannot_be_profiled(eaftgate: Command, tmp_path: Path) -> None:
    def profile_of(packs: Path) -> Ended:
        return eaftgate("profile", BASE, "--packs", packs, "--seq-len", 16, "--out", tmp_path / "out")

    refused(profile_of(tmp_path / "nowhere"), "does not exist")
    refused(profile_of(pack_of(tmp_path / "no-text", body=["x"])), "has no column 'text'")
    user_only = ["<|start|>user<|message|>" + "hello there " * 20 + "<|end|>"]
    refused(profile_of(pack_of(tmp_path / "user", text=user_only)), "no assistant message")


def test_a_finished_output_is_never_overwritten(eaftgate: Command, base_copy: Path) -> None:
    for arguments in (
        ("packs", "split", CALIBRATION_PACKS),
        ("profile", BASE, "--packs", CALIBRATION_PACKS),
        ("prune", BASE, "--keep-n", 24, "--method", "random"),
    ):
        refused(eaftgate(*arguments, "--out", base_copy), "already exists")


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
    pruned = parsed("prune", BASE, "--profile", profile.path, "--keep-frac", 0.6, "--out", tmp_path / "pruned")
    assert (pruned["keep_n"], pruned["num_experts"]) == (20, 32)
    cost = parsed("cost", BASE, "--keep-frac", 0.6, "--regime", "fixture")
    assert cost["pruned_bytes"] == pruned["bytes"] == open_checkpoint(tmp_path / "pruned").nbytes


def test_json_of_lock_and_verify(eaftgate: Command, copy_run: Run, tmp_path: Path) -> None:
    lock = tmp_path / "lock.json"
    assert json.loads(eaftgate("lock", copy_run.results, "--out", lock, "--json").out)["verdict"] == "pass"
    ended = eaftgate("verify", lock, "--json")
    assert (ended.code, json.loads(ended.out)) == (0, {"verified": True, "problems": []})


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


def test_an_interrupted_profile_exits_with_130_and_the_same_command_resumes(tmp_path: Path) -> None:
    out = tmp_path / "profile"
    command = [
        sys.executable, "-m", "eaftgate.cli", "profile", str(BASE), "--packs", str(CALIBRATION_PACKS),
        "--seq-len", "64", "--out", str(out), "--device", "cpu", "--num-rows",
    ]  # fmt: skip
    with subprocess.Popen([*command, "1000"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / ".profile.partial" / "trace").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    assert not out.exists()
    subprocess.run([*command, "10"], cwd=ROOT, check=True, capture_output=True)
    assert (out / "profile.json").is_file()
