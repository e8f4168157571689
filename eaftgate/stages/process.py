"""A stage as a process of its own: what it has of the memory of a device is free again when it ends.

Ctrl-C reaches the stage, which ends as it does without a run around it; a run that is terminated takes its stage along.
"""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import IO

from eaftgate.stages.stage import Stage

GRACE_SECONDS = 3.0
"""A terminal has told the stage of Ctrl-C, too; whoever ended the run alone has not."""


def command_of(stage: Stage) -> list[str]:
    """The words of the command line by which this interpreter starts the stage."""
    program = [sys.executable, "-m"]
    if stage.gpus > 1:
        program += ["torch.distributed.run", "--standalone", f"--nproc-per-node={stage.gpus}", "-m"]
    return [*program, "eaftgate", *stage.words]


def shown_command(stage: Stage) -> list[str]:
    """The same as a user would give it."""
    torchrun = ["torchrun", "--standalone", f"--nproc-per-node={stage.gpus}", "-m"] if stage.gpus > 1 else []
    return [*torchrun, "eaftgate", *stage.words]


def run_stage(stage: Stage, *, line: Callable[[str], None], stdout: IO[str] | None = None) -> int:
    """The exit code. Every line that the command prints goes to `line`, the gate's, which draws, to `stdout` (ours when
    None). Raises KeyboardInterrupt after the stage has ended."""
    captured = stage.name != "gate"
    with (
        subprocess.Popen(
            command_of(stage), stdout=subprocess.PIPE if captured else stdout, text=True, errors="backslashreplace"
        ) as process,
        _interrupted_with(process),
    ):
        for text in process.stdout or ():
            line(text.rstrip("\n"))
        return process.wait()


@contextmanager
def _interrupted_with(process: "subprocess.Popen[str]") -> Iterator[None]:
    def terminated(number: int, _: FrameType | None) -> None:
        process.send_signal(number)
        process.wait()
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    except KeyboardInterrupt:
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
