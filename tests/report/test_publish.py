"""Publishing to a Hub which is none: what has passed, under a licence that is known, in private, and nothing else."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import yaml
from cli_command import Command, refused
from gate_command import BASE, GATE_PACKS, Run, gate
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError
from prepared import SMALL

from eaftgate.report import publish as publishing
from eaftgate.report.lock import write_lock
from eaftgate.rewrite.manifest import read_manifest, verify_files


@dataclass
class Hub:
    """In the place of huggingface_hub.HfApi. `private` is of the repository, None where there is none."""

    private: bool | None = None
    failure: Exception | None = None
    made: list[tuple[str, Any]] = field(default_factory=list)
    committed: dict[str, bytes] = field(default_factory=dict)

    def __call__(self) -> "Hub":  # without a token: the login is the library's
        return self

    def repo_info(self, _: str) -> Any:
        if self.failure is not None:
            raise self.failure
        if self.private is None:
            raise RepositoryNotFoundError("no such repository", response=response(404))
        return SimpleNamespace(private=self.private)

    def create_repo(self, repo: str, *, private: bool, **_: Any) -> None:
        self.made.append((repo, private))

    def create_branch(self, repo: str, *, branch: str, **_: Any) -> None:
        self.made.append((repo, branch))

    def create_commit(self, repo: str, operations: list[Any], **_: Any) -> Any:
        for one in operations:
            given = one.path_or_fileobj
            self.committed[one.path_in_repo] = given if isinstance(given, bytes) else Path(given).read_bytes()
        return SimpleNamespace(commit_url=f"https://hub/{repo}/commit/1")


def response(status: int) -> Any:
    return SimpleNamespace(status_code=status, headers={}, request=None)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    fake = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    return fake


@pytest.fixture
def lock(copy_run: Run, tmp_path: Path) -> Path:
    """Of a checkpoint that passed."""
    path = tmp_path / "keep24.lock.json"
    write_lock(copy_run.results, None, path)
    return path


@pytest.fixture
def checkpoint(keep24: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(keep24, tmp_path / "keep24"))


@pytest.fixture
def holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every lock does."""
    monkeypatch.setattr(publishing, "verify_lock", lambda *_, **__: [])


def published(hub: Hub) -> str:
    return hub.committed["README.md"].decode()


@pytest.mark.usefixtures("holds", "lock")
def test_what_has_passed_is_uploaded_in_private_with_its_verdict(eaftgate: Command, hub: Hub, checkpoint: Path) -> None:
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    ended = eaftgate("publish", checkpoint, "me/keep24", "--license", "mit", "--base-model", "openai/gpt-oss-20b")
    assert ended.code == 0, ended.err
    assert "(pass), private: https://hub/me/keep24/commit/1" in ended.out
    assert hub.made == [("me/keep24", True)]
    manifest = read_manifest(checkpoint)
    assert hub.committed.keys() == manifest.files.keys() | {"manifest.json", "README.md"}
    front = yaml.safe_load(published(hub).split("---\n")[1])
    assert (front["license"], front["base_model"]) == ("mit", "openai/gpt-oss-20b")
    assert "**PASS** under `near-lossless-v2`" in published(hub)
    assert "| `UNION` | 128 |" in published(hub)
    assert {
        path.name: path.read_bytes() for path in checkpoint.iterdir()
    } == before  # nothing of it is in the directory


@pytest.mark.usefixtures("holds", "lock")
def test_what_is_published_still_is_what_its_manifest_says(
    eaftgate: Command, hub: Hub, checkpoint: Path, tmp_path: Path
) -> None:
    assert eaftgate("publish", checkpoint, "me/x", "--license", "mit", "--revision", "v1", "--public").code == 0
    assert hub.made == [("me/x", False), ("me/x", "v1")]
    (there := tmp_path / "downloaded").mkdir()
    for name, data in hub.committed.items():
        (there / name).write_bytes(data)
    assert verify_files(there, read_manifest(there).files, hash_contents=True) == []


def test_a_lock_of_another_checkpoint_is_none(eaftgate: Command, hub: Hub, checkpoint: Path, lock: Path) -> None:
    ended = eaftgate("publish", checkpoint, "me/x", "--license", "mit")
    refused(ended, f"{lock} does not say that {checkpoint} has passed: the checkpoint {checkpoint} is not the one")
    lock.unlink()
    refused(eaftgate("publish", checkpoint, "me/x", "--license", "mit"), f"there is no {lock}")
    assert hub.committed == {}
    ended = eaftgate("publish", checkpoint, "me/x", "--license", "mit", "--unverified")
    assert "(unverified), private" in ended.out
    assert "Published without a lock that says that it has passed" in published(hub)


@pytest.mark.slow
def test_a_lock_that_passes_is_enough_by_itself(eaftgate: Command, hub: Hub, tmp_path: Path) -> None:
    """Pruned, gated and locked by the commands, and the lock is verified by judging the run's collections again."""
    checkpoint = tmp_path / "keep32"
    assert eaftgate("prune", BASE, "--keep-n", 32, "--out", checkpoint).code == 0
    run = gate(tmp_path / "run", f"--base={BASE}", f"--checkpoint={checkpoint}", f"--packs={GATE_PACKS}", *SMALL)
    assert run.code == 0, run.output
    publishes = ("publish", checkpoint, "me/keep32", "--license", "mit")
    refused(eaftgate(*publishes), f"there is no {checkpoint}.lock.json")
    assert eaftgate("lock", run.results, "--out", tmp_path / "keep32.lock.json").code == 0
    ended = eaftgate(*publishes)
    assert ended.code == 0, ended.err
    assert "**PASS** under `near-lossless-v2`" in published(hub)
    hub.committed.clear()
    damaged(run.results / "collections")
    refused(eaftgate(*publishes), "does not say that")
    assert hub.committed == {}


def damaged(path: Path) -> None:
    shard = next(path.glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)


@pytest.mark.usefixtures("holds", "lock")
@pytest.mark.parametrize(
    ("options", "change", "said"),
    [
        ((), lambda _: None, "no licence is known of the base"),
        (("--license", "a b"), lambda _: None, "--license is 'a b'"),
        (("--license", "mit", "--base-model", "/home/me/base"), lambda _: None, "--base-model is"),
        (("--license", "mit"), damaged, "is not what its manifest says: model-0000"),
        (("--license", "mit"), lambda path: (path / "manifest.json").unlink(), "the manifest is missing"),
    ],
)
def test_what_must_not_be_published_is_refused_before_the_hub_is_asked(
    eaftgate: Command, hub: Hub, checkpoint: Path, options: tuple[str, ...], change: Callable[[Path], object], said: str
) -> None:
    change(checkpoint)
    hub.failure = AssertionError("the Hub was asked")
    refused(eaftgate("publish", checkpoint, "me/x", *options), said)


@pytest.mark.usefixtures("holds", "lock")
def test_a_public_repository_is_not_published_to_unasked(eaftgate: Command, hub: Hub, checkpoint: Path) -> None:
    hub.private = False
    refused(eaftgate("publish", checkpoint, "me/x", "--license", "mit"), "me/x is there and public: give --public")
    assert hub.committed == {}
    assert "public: https" in eaftgate("publish", checkpoint, "me/x", "--license", "mit", "--public").out
    assert hub.made == []


@pytest.mark.usefixtures("holds", "lock")
@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (LocalTokenNotFoundError("no token, hf_secret"), "run hf auth login"),
        (HfHubHTTPError("hf_secret", response=response(403)), "the Hub refuses me/x (status 403); hf auth login"),
        (HfHubHTTPError("hf_secret", response=response(500)), "the Hub refuses me/x (status 500)"),
        (ConnectionError("hf_secret"), "the Hub cannot be reached"),
    ],
)
def test_whatever_the_hub_says_is_one_sentence_without_a_token(
    eaftgate: Command, hub: Hub, checkpoint: Path, failure: Exception, said: str
) -> None:
    hub.failure = failure
    ended = eaftgate("publish", checkpoint, "me/x", "--license", "mit")
    refused(ended, said)
    assert "hf_secret" not in ended.err


def test_a_name_that_is_no_repository(eaftgate: Command, checkpoint: Path) -> None:
    refused(eaftgate("publish", checkpoint, "justaname"), "give it as OWNER/NAME")
