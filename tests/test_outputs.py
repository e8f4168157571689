"""Where a command may write: the same rules, in the same words, for everything that makes a directory or a file."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from filelock import FileLock
from tiny_checkpoint import write_tiny_checkpoint
from tiny_model import CPU, write_packs

from eaftgate import outputs
from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.errors import UserError
from eaftgate.gate.models import check_results
from eaftgate.outputs import build, check_new_file, joined, unfinished
from eaftgate.packs.split import split_packs
from eaftgate.profile.profiler import ProfileRequest, profile_checkpoint
from eaftgate.prune.checkpoint import PruneRequest, prune_checkpoint
from eaftgate.rewrite.perturb import make_perturbed

Maker = Callable[..., None]
DIGEST = "0" * 64


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    write_tiny_checkpoint(root / "base")
    write_packs(root / "packs", {"a": 8, "b": 6})
    return root


def split(inputs: Path, out: Path, seed: int) -> None:
    split_packs(inputs / "packs", out, calib_frac=0.5, seed=seed)


def profile(inputs: Path, out: Path, seed: int) -> None:
    request = ProfileRequest(inputs / "packs", seq_len=24, batch_size=8, seed=seed)
    profile_checkpoint(open_checkpoint(inputs / "base"), DIGEST, request, out, CPU)


def prune(inputs: Path, out: Path, seed: int) -> None:
    request = PruneRequest(keep_n=4, method="random")
    if seed:
        request = PruneRequest(keep_n=8)
    prune_checkpoint(open_checkpoint(inputs / "base"), DIGEST, None, request, out)


def perturb(inputs: Path, out: Path, seed: int) -> None:
    make_perturbed(inputs / "base", out, seed=seed)


@pytest.fixture(params=[split, profile, prune, perturb], ids=lambda maker: maker.__name__)
def make(request: pytest.FixtureRequest, inputs: Path) -> Maker:
    """`make(out)`, or with another seed, which is another request."""

    def made(out: Path, seed: int = 0) -> None:
        request.param(inputs, out, seed)

    return made


def contents(directory: Path) -> dict[str, bytes]:
    """Of every file and link below it."""
    paths = [path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir()]
    return {
        str(path.relative_to(directory)): str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        for path in paths
    }


def refused(make: Maker, out: Path, said: str) -> None:
    """In one sentence, and nothing is touched."""
    before = contents(out.parent)
    with pytest.raises(UserError) as caught:
        make(out)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(out.parent) == before


def test_what_is_made_lies_alone(make: Maker, tmp_path: Path) -> None:
    """Missing parents are made, an empty directory is nothing, and no lock or leftover stays beside it."""
    make(tmp_path / "a" / "b" / "out")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["out"]
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    names = set(contents(tmp_path / "a" / "b" / "out"))
    assert names == set(contents(tmp_path / "empty"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "empty"]


@pytest.mark.parametrize("kind", ["file", "dangling link", "link to an empty directory", "directory", "finished"])
def test_what_is_there_is_never_touched(make: Maker, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("x")
    elif kind == "dangling link":
        out.symlink_to("nowhere")
    elif kind == "link to an empty directory":
        (tmp_path / "empty").mkdir()
        out.symlink_to("empty")
    elif kind == "directory":
        out.mkdir()
        (out / "x").touch()
    else:
        make(out)
    refused(make, out, f"{out} already exists: choose another --out or remove it")


@pytest.mark.parametrize("where", ["base/out", "base/a/out", "alias/out", "x/../base/out"])
def test_nothing_is_written_into_a_checkpoint(make: Maker, tmp_path: Path, where: str) -> None:
    write_tiny_checkpoint(tmp_path / "base")
    (tmp_path / "alias").symlink_to("base")
    (tmp_path / "x").mkdir()
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"lies in the checkpoint .*base: choose another --out"):
        make(tmp_path / where)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", ["link", "file", "foreign", "no marker", "linked payload", "a checkpoint"])
def test_a_partial_directory_that_no_run_has_made_is_kept(make: Maker, tmp_path: Path, kind: str) -> None:
    partial = tmp_path / ".out.partial"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("precious")
    if kind == "link":
        partial.symlink_to("elsewhere")
    elif kind == "file":
        partial.write_text("precious")
    elif kind == "a checkpoint":
        write_tiny_checkpoint(partial)
    else:
        partial.mkdir()
        if kind == "linked payload":
            (partial / "request.json").write_text("{}")
            (partial / "payload").symlink_to(tmp_path / "elsewhere")
        elif kind == "no marker":
            (partial / "payload").mkdir()
            (partial / "payload" / "precious").write_text("precious")
        else:
            (partial / "request.json").write_text("{}")
            (partial / "precious").write_text("precious")
    refused(
        make, tmp_path / "out", f"{partial} is in the way, and no run has made it: remove it or choose another --out"
    )


def interrupted(make: Maker, out: Path) -> Path:
    """Everything is there but the last rename, as after a kill."""
    left = unfinished(out).root.with_name("left")

    def kill(work: outputs.Unfinished, _: Path) -> None:
        work.root.rename(left)  # out of reach of what tidies up after an exception
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "_publish", kill)
        with pytest.raises(KeyboardInterrupt):
            make(out)
    return left.rename(unfinished(out).root)


@pytest.mark.parametrize("seed", [0, 1], ids=["the same request", "another"])
def test_what_a_killed_run_left_is_no_obstacle(make: Maker, tmp_path: Path, seed: int) -> None:
    partial = interrupted(make, tmp_path / "out")
    assert contents(partial / "payload")
    (tmp_path / "elsewhere").write_text("precious")
    (partial / "payload" / "planted").symlink_to(tmp_path / "elsewhere")
    (partial / "payload" / ".torn.1-a.tmp").mkdir()
    make(tmp_path / "out", seed=seed)
    make(tmp_path / "whole", seed=seed)
    assert contents(tmp_path / "out").keys() == contents(tmp_path / "whole").keys()
    assert (tmp_path / "elsewhere").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "out", "whole"]


def test_a_second_process_is_refused(make: Maker, tmp_path: Path) -> None:
    out = tmp_path / "out"
    partial = unfinished(out).root
    partial.mkdir()
    with FileLock(partial / "lock"):
        refused(make, out, f"another process is writing {out}: wait for it or choose another --out")


def test_a_parent_that_is_a_file(make: Maker, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"failed while writing .*file/out \(.*\); correct it and run again"):
        make(tmp_path / "file" / "out")


# What `build` promises to those who use it.


def test_a_request_finds_its_own_payload_and_no_other(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def build_until_killed(request: dict[str, int]) -> list[str]:
        found: list[str] = []
        with suppress(KeyboardInterrupt), build(out, request) as work:
            found += sorted(path.name for path in (*work.payload.iterdir(), *work.root.glob(work.state.name)))
            (work.payload / str(request["a"])).touch()
            work.state.write_text("{}")
            raise KeyboardInterrupt
        return found

    assert build_until_killed({"a": 1}) == []
    assert build_until_killed({"a": 1}) == ["1", "state.json"]
    assert build_until_killed({"a": 2}) == []
    assert build_until_killed({"a": 2}) == ["2", "state.json"]
    assert not out.exists()
    with build(out) as work:
        assert list(work.payload.iterdir()) == []


def test_a_run_that_fails_with_nothing_to_keep_leaves_nothing(tmp_path: Path) -> None:
    for request, name in (({}, None), (None, "half")):
        with suppress(RuntimeError), build(tmp_path / "out", request) as work:
            if name:
                (work.payload / name).touch()
            raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_two_that_begin_at_the_same_time(tmp_path: Path) -> None:
    """The second is refused and disturbs nothing; and so is one that began when the first had just ended."""
    out = tmp_path / "out"
    with build(out, {"a": 1}) as work:
        (work.payload / "one").touch()
        with pytest.raises(UserError, match="another process is writing"), build(out, {"a": 2}):
            raise AssertionError
    assert [path.name for path in out.iterdir()] == ["one"]
    real = outputs.check_new_directory
    with pytest.MonkeyPatch.context() as patch:
        looks = iter((lambda *_: None, real))  # the first look is before the other has ended
        patch.setattr(outputs, "check_new_directory", lambda *given: next(looks)(*given))
        with pytest.raises(UserError, match="already exists"), build(out, {"a": 2}):
            raise AssertionError
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_everything_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bool]] = []
    sync = outputs._sync
    out = tmp_path / "out"

    def noting(path: Path) -> None:
        synced.append((path.name, out.exists()))
        sync(path)

    monkeypatch.setattr(outputs, "_sync", noting)
    with build(out, {}) as work:
        (work.payload / "deep").mkdir()
        (work.payload / "deep" / "file").write_text("x")
    assert sorted(synced) == sorted(
        [("deep", False), ("file", False), ("payload", False), (tmp_path.name, True)]
    )  # fmt: skip


def test_others_may_take_part(tmp_path: Path) -> None:
    """From another thread here; processes of torchrun in a profile."""
    out, begun, written = tmp_path / "out", threading.Event(), threading.Event()

    def other() -> None:
        assert begun.wait(10)
        with joined(out) as work:
            (work.payload / "theirs").touch()
        written.set()

    thread = threading.Thread(target=other)
    thread.start()
    with build(out, {}):
        begun.set()
        assert written.wait(10)
    thread.join()
    assert [path.name for path in out.iterdir()] == ["theirs"]
    with pytest.raises(UserError, match="failed while writing"), joined(out):
        raise OSError(5, "Input/output error")


def test_a_file_goes_where_nothing_is(tmp_path: Path) -> None:
    """And not into a base; a checkpoint of ours, which a lock may lie in, has a manifest."""
    write_tiny_checkpoint(tmp_path / "base")
    check_new_file(tmp_path / "new.html")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("empty", "link", "base"):
        with pytest.raises(UserError, match=f"{name} already exists: choose another --out or remove it"):
            check_new_file(tmp_path / name)
    with pytest.raises(UserError, match=r"lies in the checkpoint .*base: choose another --out"):
        check_new_file(tmp_path / "base" / "report.html")
    (tmp_path / "base" / "manifest.json").touch()
    check_new_file(tmp_path / "base" / "report.html")
    with pytest.raises(UserError, match=r"lies in the checkpoint .*base: choose another --results"):
        check_results(tmp_path / "base" / "run")
