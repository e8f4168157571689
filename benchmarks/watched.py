"""A command while it runs: every line that it writes, with its second, and what memory it takes; stopped at a limit.

As a script it is `python -m eaftgate`, and writes what torch has taken of the GPUs to a file every second:

    python benchmarks/watched.py FILE profile BASE --packs DIR --out DIR
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import IO, Any

GRACE_SECONDS = 20.0
"""For a command to end by itself after the interrupt at its limit."""
OF_TORCH = {"allocated": "max_memory_allocated", "reserved": "max_memory_reserved"}


@dataclass
class Watched:
    """`lines`: (second, text). Peaks in bytes: of the processes' memory, files that are mapped into it included; of any
    one GPU, all that is in use on it, by nvidia-smi; and by torch, where the command is this script."""

    code: int | None = None
    stopped: bool = False
    seconds: float = 0.0
    host_peak: int = 0
    gpu_peak: int = 0
    torch_peak: dict[str, int] = field(default_factory=dict)
    lines: list[tuple[float, str]] = field(default_factory=list)


def run_watched(
    command: Sequence[str], *, limit: float, torch_file: Path | None = None, beat: Callable[[Watched], None]
) -> Watched:
    """Interrupts the command after `limit` seconds, as Ctrl-C does. `beat` gets what is known every second."""
    found, started = Watched(), time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", process_group=0
    )
    assert process.stdout is not None
    reader = Thread(target=_read, args=(process.stdout, found, started), daemon=True)
    reader.start()
    with _gpu_use(found):
        while process.poll() is None:
            found.seconds = time.perf_counter() - started
            found.host_peak = max(found.host_peak, sum(map(_peak_of, _descendants(process.pid))))
            _take_torch(found, torch_file)
            beat(found)
            if not found.stopped and found.seconds > limit:
                found.stopped = True
                os.killpg(process.pid, signal.SIGINT)
            elif found.seconds > limit + GRACE_SECONDS:
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
    reader.join()
    _take_torch(found, torch_file)
    found.code, found.seconds = process.returncode, time.perf_counter() - started
    return found


def gpus() -> list[str]:
    """Names and sizes, by nvidia-smi; none where there is no such program."""
    query = _smi("name,memory.total", "--format=csv,noheader")
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []


def _smi(columns: str, *options: str) -> list[str]:
    """What asks for them, of the GPUs that the commands see."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return ["nvidia-smi", f"--query-gpu={columns}", *options, *(["--id", seen] if seen else [])]


@contextmanager
def smaller_card(free_bytes: int | None) -> Iterator[None]:
    """While the context is open, a process of its own holds so much of the GPU that `free_bytes` of it are free, for
    whoever asks and whoever allocates: a smaller card."""
    if free_bytes is None:
        yield
        return
    hold = (
        "import torch, sys; free = torch.cuda.mem_get_info()[0]; "
        f"held = torch.empty(free - {free_bytes}, dtype=torch.uint8, device='cuda'); "
        "print(torch.cuda.mem_get_info()[0], flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        print(f"of the GPU {int(holder.stdout.readline()) / 1e9:.2f} GB are free", flush=True)
        try:
            yield
        finally:
            holder.stdin.close()


def _read(stream: IO[str], found: Watched, started: float) -> None:
    for line in stream:
        second = time.perf_counter() - started
        found.lines.append((second, line.rstrip()))
        print(f"[{second:6.1f}] {line}", end="", flush=True)


def _descendants(first: int) -> Iterator[int]:
    """The process and all that it began: torchrun's are in groups of their own."""
    parents: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            parents[int(place.parent.name)] = int(place.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    for process in parents:
        ancestor: int | None = process
        while ancestor is not None and ancestor != first:
            ancestor = parents.get(ancestor)
        if ancestor == first:
            yield process


def _peak_of(process: int) -> int:
    with suppress(OSError, KeyError):
        text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
        lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024
    return 0


def _take_torch(found: Watched, file: Path | None) -> None:
    """The largest of all processes that write one: torchrun's have a file each."""
    if file is None:
        return
    for place in file.parent.glob(f"{file.name}*"):
        with suppress(OSError, ValueError):  # one that is just being written
            for name, peak in json.loads(place.read_text(encoding="utf-8")).items():
                found.torch_peak[name] = max(found.torch_peak.get(name, 0), peak)


@contextmanager
def _gpu_use(found: Watched) -> Iterator[None]:
    query = _smi("memory.used", "--format=csv,noheader,nounits", "-lms", "500")
    try:
        process = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
    except OSError:  # no GPU
        yield
        return

    def follow() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip().isdigit():
                found.gpu_peak = max(found.gpu_peak, int(line) << 20)

    thread = Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        process.terminate()
        process.wait()
        thread.join()


def _tell_torch(file: Path, ended: Event) -> None:
    while not ended.wait(1.0):
        _write_torch(file)


def _write_torch(file: Path) -> None:
    torch: Any = sys.modules.get("torch")
    with suppress(AttributeError):  # torch that is not there, or just being imported
        if torch.cuda.is_initialized():
            devices = range(torch.cuda.device_count())
            peaks = {name: max(map(getattr(torch.cuda, asked), devices)) for name, asked in OF_TORCH.items()}
            file.write_text(json.dumps(peaks), encoding="utf-8")


def _main() -> None:
    file = Path(sys.argv[1] + os.environ.get("LOCAL_RANK", ""))
    file.unlink(missing_ok=True)
    sys.argv = ["eaftgate", *sys.argv[2:]]
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from eaftgate.commands.app import main

    ended = Event()
    thread = Thread(target=_tell_torch, args=(file, ended), daemon=True)
    thread.start()
    try:
        main()
    finally:
        ended.set()
        thread.join()
        _write_torch(file)


if __name__ == "__main__":
    _main()
