"""A daemon that a token requires, running only during the test."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

Ready = Callable[[], bool]
_DEADLINE_S: Final = 20
_POLL_S: Final = 0.005
_LISTENING: Final = 0x10000  # __SO_ACCEPTCON in /proc/net/unix


@contextmanager
def running(command: Sequence[str], ready: str | Ready, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, wait until it is ready, and end it at the end of the block.

    If this process is killed, the kernel ends the program (PR_SET_PDEATHSIG).

    Args:
        command: the program; it must stay in the foreground and must not fork into another process.
        ready: the name of the socket it listens on, or a function that tells whether it is ready.
        log: receives its output.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        _await(process, ready, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], ready: str | Ready, log: Path) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while not (_listens(process.pid, ready) if isinstance(ready, str) else ready()):
        said = log.read_text(errors="replace")
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}: {said}"
        assert time.monotonic() < deadline, f"{process.args!r} is not ready: {said}"
        time.sleep(_POLL_S)


def _listens(pid: int, named: str) -> bool:
    """Tell whether a process listens on a socket, according to /proc: a connection attempt could disturb the daemon."""
    with suppress(OSError):
        held = {os.readlink(descriptor) for descriptor in Path(f"/proc/{pid}/fd").iterdir()}
        sockets = (line.split() for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:])
        found = (one for one in sockets if f"socket:[{one[6]}]" in held and one[-1].endswith(f"/{named}"))
        return any(int(one[3], 16) & _LISTENING for one in found)
    return False
