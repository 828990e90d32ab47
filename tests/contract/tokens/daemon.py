"""A daemon that a token needs, for as long as a test lasts and not a moment longer."""

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
    """Run a program, wait until it is ready, and end it when the block ends.

    Should this process be killed, the kernel ends the program (PR_SET_PDEATHSIG).

    Args:
        command: the program, which stays in the foreground and becomes no other process.
        ready: the file name of the socket that it listens on, or what tells whether it is ready.
        log: what it says.
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
    """Tell whether a process listens on a socket, from what the kernel says: one that is only asked may take it ill."""
    with suppress(OSError):
        held = {os.readlink(descriptor) for descriptor in Path(f"/proc/{pid}/fd").iterdir()}
        sockets = (line.split() for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:])
        found = (one for one in sockets if f"socket:[{one[6]}]" in held and one[-1].endswith(f"/{named}"))
        return any(int(one[3], 16) & _LISTENING for one in found)
    return False
