"""Where a command may write: the same rules, in the same words, for everything that makes a directory or a file."""

import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tiny_checkpoint import write_tiny_checkpoint
from tiny_model import CPU, write_packs

from eaftgate import __version__, building, made_from, outputs
from eaftgate.building import build, joined
from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.errors import UserError
from eaftgate.locks import held
from eaftgate.outputs import check_file, put_file
from eaftgate.packs.split import split_packs
from eaftgate.profile.profiler import ProfileRequest, profile_checkpoint
from eaftgate.prune.checkpoint import PruneRequest, prune_checkpoint
from eaftgate.rewrite.perturb import make_perturbed
from eaftgate.rewrite.yardstick import write_yardstick
from eaftgate.unfinished import Unfinished, unfinished

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


def yardstick(inputs: Path, out: Path, seed: int) -> None:
    write_yardstick(open_checkpoint(inputs / "base"), out, bits=4 + seed, base_digest=DIGEST)


COMMANDS = [split, profile, prune, yardstick]


def name_of(maker: Maker) -> str:
    return maker.__name__


@pytest.fixture(params=COMMANDS, ids=name_of)
def command(request: pytest.FixtureRequest, inputs: Path) -> Maker:
    return making(request.param, inputs)


@pytest.fixture(params=[*COMMANDS, perturb], ids=name_of)
def make(request: pytest.FixtureRequest, inputs: Path) -> Maker:
    """What a command makes, or a gate run for its own use."""
    return making(request.param, inputs)


def making(maker: Maker, inputs: Path) -> Maker:
    """`make(out)`, or with another seed, which is another request."""

    def made(out: Path, seed: int = 0) -> None:
        maker(inputs, out, seed)

    made.__name__ = maker.__name__
    return made


def contents(directory: Path) -> dict[str, bytes]:
    """Of every file and link below it; of a FIFO that it is there."""

    def content(path: Path) -> bytes:
        return str(path.readlink()).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""

    paths = [path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir()]
    return {str(path.relative_to(directory)): content(path) for path in paths}


def refused(make: Maker, out: Path, said: str) -> None:
    """In one sentence, and nothing is touched."""
    before = contents(out.parent)
    with pytest.raises(UserError) as caught:
        make(out)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(out.parent) == before


def test_what_is_made_lies_alone(make: Maker, tmp_path: Path) -> None:
    """An empty directory is nothing, and no lock or leftover stays beside it."""
    make(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    assert set(contents(tmp_path / "out")) == set(contents(tmp_path / "empty"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "out"]


def test_a_directory_that_is_not_there_is_not_made_up(make: Maker, tmp_path: Path) -> None:
    """It may be mistyped, and the disk below it another."""
    parent = tmp_path / "typo" / "deep"
    with pytest.raises(UserError) as caught:
        make(parent / "out")
    assert str(caught.value) == f"{parent} does not exist: correct --out, or make it with mkdir -p {parent}"
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    for name in ("fifo", "file"):
        with pytest.raises(UserError, match=f"{name} is no directory, so .* cannot be made: choose another --out"):
            make(tmp_path / name / "out")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("loop/out", "null\0byte"):
        with pytest.raises(UserError, match="is no path that can be: choose another --out"):
            make(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "file", "loop"]


# One rule for what is there already.


def test_the_same_again_is_up_to_date_and_touches_nothing(command: Maker, tmp_path: Path) -> None:
    command(tmp_path / "out")
    before, stamps = contents(tmp_path), [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "_publish", None)
        command(tmp_path / "out")
    assert contents(tmp_path) == before
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))] == stamps


def test_other_inputs_are_an_error_that_says_which(command: Maker, tmp_path: Path) -> None:
    command(tmp_path / "out")
    before = contents(tmp_path)
    said = {"prune": "keep_n is 4 there and 8 here", "yardstick": "bits is 4 there and 5 here"}
    differs = said.get(command.__name__, "seed is 0 there and 1 here")
    with pytest.raises(UserError) as caught:
        command(tmp_path / "out", seed=1)
    assert str(caught.value).startswith(f"{tmp_path / 'out'} already exists and was made from other inputs (")
    assert differs in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("how", ["edited", "cut", "removed", "a damaged record", "another version"])
def test_an_output_that_has_changed_since_is_not_up_to_date(command: Maker, tmp_path: Path, how: str) -> None:
    out = tmp_path / "out"
    command(out)
    record = out / "made_from.json"
    victim = max((path for path in out.rglob("*") if path.is_file() and path != record), key=lambda p: p.stat().st_size)
    said = f"made from the same inputs, but {victim.relative_to(out)} has changed since: remove it and run again"
    if how == "edited":
        data = bytearray(victim.read_bytes())
        data[-1] ^= 1
        victim.write_bytes(data)
    elif how == "cut":
        victim.write_bytes(victim.read_bytes()[:-1])
    elif how == "removed":
        victim.unlink()
        said = f"{victim.relative_to(out)} is missing since"
    elif how == "a damaged record":
        record.write_text("{}")
        said = "made_from.json"
    else:
        record.write_text(record.read_text().replace(f'"eaftgate": "{__version__}"', '"eaftgate": "0.0.1"'))
        said = f"eaftgate is 0.0.1 there and {__version__} here"
    refused(command, out, said)
    refused(command, out, str(out))


def test_what_is_added_to_an_output_does_not_matter(command: Maker, tmp_path: Path) -> None:
    """A lock lies well in the checkpoint that it pins."""
    command(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").touch()
    command(tmp_path / "out")


def test_large_files_are_known_by_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_from, "HASHED_BYTES", 3)
    with build(tmp_path / "out", made_from={"a": 1}) as work:
        (work.payload / "large").write_text("1234")
        (work.payload / "small").write_text("123")
    files = json.loads((tmp_path / "out" / "made_from.json").read_text())["files"]
    assert (files["large"]["sha256"] is None, files["small"]["sha256"] is None) == (True, False)
    assert outputs.up_to_date(tmp_path / "out", {"a": 1})
    (tmp_path / "out" / "large").write_text("4321")
    assert outputs.up_to_date(tmp_path / "out", {"a": 1})
    (tmp_path / "out" / "large").write_text("12345")
    with pytest.raises(UserError, match="but large has changed since"):
        outputs.up_to_date(tmp_path / "out", {"a": 1})


def test_what_differs_is_said_shortly(tmp_path: Path) -> None:
    there = {"a": 1, "deep": {"b": "x", "digest": "0" * 64}, "c": [1], "same": None}
    with build(tmp_path / "out", made_from=there):
        pass
    for asked, said in (
        ({**there, "a": None}, "a is 1 there and not given here"),
        ({**there, "deep": {"b": "y", "digest": "1" * 64}}, "deep.b is x there and y here, another deep.digest"),
        ({"a": 2, "deep": {}, "c": [2], "same": None}, "a is 1 there and 2 here, deep.b is x there and not given here, "
         "another deep.digest, and 1 more"),
    ):  # fmt: skip
        with pytest.raises(UserError) as caught:
            outputs.up_to_date(tmp_path / "out", asked)
        assert f"({said})" in str(caught.value)


@pytest.mark.parametrize("kind", ["left", "held", "with a payload", "foreign"])
def test_what_a_run_left_that_was_killed_when_all_was_made_goes(tmp_path: Path, kind: str) -> None:
    """Between the rename, which is flushed to disk, and the removal of what it was built in."""
    with build(tmp_path / "out", {"a": 1}, made_from={"a": 1}) as work:
        (work.payload / "x").write_text("x")
    work = unfinished(tmp_path / "out")
    work.root.mkdir()
    for path in (work.lock, work.request, work.state):
        path.write_text('{"process": 1}')
    if kind == "with a payload":
        work.payload.mkdir()
    elif kind == "foreign":
        (work.root / "precious").touch()
    if kind == "held":
        with held(work.lock):
            assert outputs.up_to_date(tmp_path / "out", {"a": 1})
            assert work.request.exists()
        return
    assert outputs.up_to_date(tmp_path / "out", {"a": 1})
    assert work.root.exists() == (kind != "left")


@pytest.mark.parametrize("of_packs", [split, profile], ids=name_of)
def test_nothing_is_written_into_the_packs(of_packs: Maker, inputs: Path) -> None:
    before = contents(inputs)
    (inputs / "packs" / "empty").mkdir()
    for name in ("packs/out", "packs/empty", "packs/empty/../out", "packs"):
        with pytest.raises(UserError):
            of_packs(inputs, inputs / name, 0)
    (inputs / "packs" / "empty").rmdir()
    assert contents(inputs) == before


@pytest.mark.parametrize(
    "kind", ["file", "fifo", "dangling link", "link to an empty directory", "directory", "a link to it"]
)
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
    elif kind == "fifo":
        os.mkfifo(out)
    else:
        make(tmp_path / "finished")
        out.symlink_to("finished")
    refused(make, out, f"{out} already exists: choose another --out or remove it")


@pytest.mark.parametrize("where", ["base/out", "base/a/out", "alias/out", "x/../base/out", "ours/base/out"])
def test_nothing_is_written_into_a_checkpoint(make: Maker, tmp_path: Path, where: str) -> None:
    write_tiny_checkpoint(tmp_path / "base")
    write_tiny_checkpoint(tmp_path / "ours" / "base")
    (tmp_path / "ours" / "base" / "manifest.json").touch()
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

    def kill(work: Unfinished, _: Path) -> None:
        work.root.rename(left)  # out of reach of what tidies up after an exception
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "_publish", kill)
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
    (partial / "payload" / ".torn.1-a.tmp" / "half").touch()
    make(tmp_path / "out", seed=seed)
    make(tmp_path / "whole", seed=seed)
    assert contents(tmp_path / "out").keys() == contents(tmp_path / "whole").keys()
    assert (tmp_path / "elsewhere").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "out", "whole"]


def test_a_second_process_is_refused(make: Maker, tmp_path: Path) -> None:
    out = tmp_path / "out"
    partial = unfinished(out).root
    partial.mkdir()
    with held(partial / "lock"):
        refused(make, out, f"another process is writing {out} (")
        refused(make, out, f", process {os.getpid()} on ")


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
    real = outputs.check_free
    with pytest.MonkeyPatch.context() as patch:
        looks = iter((lambda *_: None, real))  # the first look is before the other has ended
        patch.setattr(building, "check_free", lambda *given: next(looks)(*given))
        with pytest.raises(UserError, match="already exists"), build(out, {"a": 2}):
            raise AssertionError
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_everything_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bool]] = []
    sync = building._sync
    out = tmp_path / "out"

    def noting(path: Path) -> None:
        synced.append((path.name, out.exists()))
        sync(path)

    monkeypatch.setattr(building, "_sync", noting)
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    with build(out, {}) as work:
        (work.payload / "deep").mkdir()
        (work.payload / "deep" / "file").write_text("x")
    assert sorted(synced) == sorted(
        [("deep", False), ("file", False), ("payload", False), (tmp_path.name, True)]
    )  # fmt: skip
    assert len(flushed) == len(synced)


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
    check_file(tmp_path / "new.html")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("empty", "link", "base"):
        with pytest.raises(UserError, match=f"{name} already exists: choose another --out or remove it"):
            check_file(tmp_path / name)
    with pytest.raises(UserError, match=r"lies in the checkpoint .*base: choose another --out"):
        check_file(tmp_path / "base" / "report.html")
    (tmp_path / "base" / "manifest.json").touch()
    check_file(tmp_path / "base" / "report.html")
    with pytest.raises(UserError, match=r"parity\.json, which it is made from: choose another --out"):
        check_file(tmp_path / "empty" / ".." / "parity.json", [tmp_path / "parity.json"])


def test_a_file_is_written_once_and_then_compared(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert put_file(out, "one") is False
    stamp = out.stat().st_mtime_ns
    assert put_file(out, "one") is True
    assert out.stat().st_mtime_ns == stamp
    for other in ("two", "three"):
        with pytest.raises(UserError, match="already exists and holds something else than what would be written now"):
            put_file(out, other)
    assert out.read_text() == "one"
    assert list(tmp_path.iterdir()) == [out]
