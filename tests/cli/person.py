"""A user at a terminal: a pty that is the command's controlling terminal."""

from __future__ import annotations

import os
import select
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from typing import Final

from tests.cli.world import AT_A_TERMINAL, TIMEOUT_S, USHIELD, Done, Home, checked

CTRL_C: Final = b"\x03"
CTRL_D: Final = b"\x04"
CTRL_Z: Final = b"\x1a"
CTRL_BACKSLASH: Final = b"\x1c"
_PATIENCE_S: Final = 30.0


class Person:
    """Runs a command at a terminal, reads the terminal's output and types input.

    Stdout of ``ushield`` is a separate file; stdout of an interactive shell is the terminal.
    """

    def __init__(self, home: Home, *words: object, command: Sequence[str] = (), **environment: str) -> None:
        self._ours, self._theirs = os.openpty()
        self._words = words
        self._shown = b""
        self.child = subprocess.Popen(
            [
                *AT_A_TERMINAL,
                "setsid",
                "--ctty",
                *(command or [USHIELD, *map(str, words)]),
            ],  # stdin becomes the controlling terminal
            cwd=home.folder,
            env=home.environment | environment,
            stdin=self._theirs,
            stdout=self._theirs if "-i" in command else subprocess.PIPE,
            stderr=self._theirs,
        )

    @property
    def screen(self) -> str:
        """All output on the terminal so far."""
        return self._shown.decode("utf-8", "replace")

    def sees(self, text: str, times: int = 1) -> None:
        """Wait until the terminal has shown a text the given number of times."""
        self.waits_for(lambda: self.screen.count(text) >= times)

    def waits_for(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"the terminal shows:\n{self.screen}"
            self._look(0.1)

    def types(self, text: str) -> None:
        """Type a line."""
        os.write(self._ours, text.encode() + b"\n")

    def presses(self, key: bytes) -> None:
        """Press a key."""
        os.write(self._ours, key)

    def ends(self, exits: int) -> Done:
        """Wait until the command has ended; check what holds for every command."""
        out, _ = self.child.communicate(timeout=TIMEOUT_S)
        self._look(0.1)
        return checked(Done(self.child.returncode, out.decode(), self.screen), self._words, exits)

    @property
    def echo(self) -> bool:
        """Whether the terminal echoes input."""
        return bool(termios.tcgetattr(self._theirs)[3] & termios.ECHO)

    def leaves(self) -> None:
        """End the command if it still runs, and close the terminal."""
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        if self.child.stdout is not None:
            self.child.stdout.close()
        for descriptor in (self._ours, self._theirs):
            os.close(descriptor)

    def _look(self, timeout_s: float) -> None:
        while select.select([self._ours], [], [], timeout_s)[0]:
            self._shown += os.read(self._ours, 4096)
            timeout_s = 0
