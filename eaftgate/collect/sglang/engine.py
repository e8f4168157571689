"""One SGLang engine in a process of its own, from the side of the process that uses it."""

import json
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from eaftgate.errors import UserError

DEQUANTISING = ("triton",)
"""MoE backends that turn MXFP4 experts into bfloat16 when they load them."""
SHUTDOWN_SECONDS = 60.0


class Engine:
    """Boots on creation. `arguments` are sglang.Engine's; `log` gets what SGLang prints.

    Raises UserError when it does not boot, or would dequantise MXFP4 experts.
    """

    def __init__(self, model: Path, arguments: dict[str, Any], log: Path, *, is_mxfp4: bool) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "eaftgate.collect.sglang.worker"]
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, bufsize=1
            )
        assert self._process.stdin is not None  # both were asked to be pipes
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._write({"model": str(model), "arguments": arguments})
        used = self._read()["ready"]
        if is_mxfp4 and used["moe_runner_backend"] in DEQUANTISING:
            self.close()
            raise UserError(
                f"SGLang would run {model} with moe_runner_backend {used['moe_runner_backend']}, which dequantises its "
                "MXFP4 experts: choose another backend"
            )

    def submit(self, rids: Sequence[str]) -> None:
        """Hand over requests whose files are written. `wait` answers in the same order."""
        self._write(list(rids))

    def wait(self) -> int:
        """Until the oldest list of requests is scored; returns its length."""
        return int(self._read()["done"])

    def write(self, number: int, tokens: str, sampling: Mapping[str, Any]) -> None:
        """Ask for what follows the tokens whose file is written, under a number that `wait_written` says again."""
        self._write({"number": number, "tokens": tokens, "sampling": sampling})

    def wait_written(self) -> tuple[int, Any]:
        """Until anything is written: which, and SGLang's answer."""
        found = self._read()
        return found["number"], found["answer"]

    def close(self) -> None:
        """The worker ends when its input does."""
        with suppress(BrokenPipeError):
            self._stdin.close()
        try:
            self._process.wait(SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()

    def _write(self, value: Any) -> None:
        try:
            self._stdin.write(json.dumps(value) + "\n")
        except BrokenPipeError:
            raise self._failure() from None

    def _read(self) -> Any:
        line = "" if self._stdout.closed else self._stdout.readline()
        if not line:
            raise self._failure()
        value = json.loads(line)
        if "error" in value:
            self.close()
            raise UserError(f"the SGLang engine refused blocks ({value['error'][:300]}): see {self._log}")
        return value

    def _failure(self) -> UserError:
        self.close()
        with self._log.open(encoding="utf-8", errors="replace") as stream:
            lines = [line.strip() for line in deque(stream, 200) if line.strip()]
        errors = [line for line in lines if "Error" in line]
        last = (errors or lines or ["nothing"])[-1][:300]
        return UserError(f"the SGLang engine ended with code {self._process.returncode} ({last}): see {self._log}")
