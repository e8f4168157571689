"""Processes of pytest-xdist as forks of one that has imported the libraries, instead of interpreters of their own.
tests/test_wheel.py starts them as users do."""

import json
import os
import select
import signal
import socket
import sys
from typing import Any

from execnet import gateway_base, gateway_io

_MESSAGE_BYTES = 1 << 20
"""The whole environment, at most."""


def fork_workers() -> None:
    """From now on execnet's processes are forks of this one as it is now, with the environment of then."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        here.close()
        _fork_on_demand(there)
    there.close()

    def forked(self: Any, _: list[str], execmodel: Any) -> None:
        self.popen = _Forked(here)
        gateway_base.Popen2IO.__init__(self, self.popen.stdin, self.popen.stdout, execmodel=execmodel)

    gateway_io.Popen2IOMaster.__init__ = forked  # type: ignore[method-assign, assignment]


def _fork_on_demand(asked: socket.socket) -> None:
    """Until whoever asks is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        environment, pipes, _, _ = socket.recv_fds(asked, _MESSAGE_BYTES, 2)
        if not environment:
            os._exit(0)
        if (pid := os.fork()) == 0:
            asked.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _work(json.loads(environment), *pipes)
        for pipe in pipes:
            os.close(pipe)
        asked.send(pid.to_bytes(8, "big"))


def _work(environment: dict[str, str], stdin: int, stdout: int) -> None:
    """What `python -u -c LINE` does with execnet's line."""
    os.environ.clear()
    os.environ.update(environment)
    for pipe, place in ((stdin, 0), (stdout, 1)):
        os.dup2(pipe, place)
        os.close(pipe)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["-c"]
    try:
        exec(eval(sys.stdin.readline()), {"__name__": "__main__"})
    finally:
        sys.stderr.flush()
        os._exit(0)


class _Forked:
    """What execnet asks of a process that it has started."""

    def __init__(self, zygote: socket.socket) -> None:
        its_stdin, stdin = os.pipe()
        stdout, its_stdout = os.pipe()
        socket.send_fds(zygote, [json.dumps(dict(os.environ)).encode()], [its_stdin, its_stdout])
        os.close(its_stdin)
        os.close(its_stdout)
        self._process = os.pidfd_open(int.from_bytes(zygote.recv(8), "big"))
        self.stdin, self.stdout = os.fdopen(stdin, "wb", 0), os.fdopen(stdout, "rb")

    def wait(self) -> None:
        select.select([self._process], [], [])

    def kill(self) -> None:
        signal.pidfd_send_signal(self._process, signal.SIGKILL)
