"""A reader who follows a page: a shell and a Python interpreter in an empty home, fed block by block."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Final

VENV: Final = Path(sys.executable).parent
TIMEOUT_S: Final = 60
_SHELL: Final = r"""
while IFS= read -r -d '' -u "$1" command; do
  eval "$command" >"$3" 2>&1 </dev/null
  printf '%s\n' "$?" >&"$2"
done
"""
_PYTHON: Final = """
import contextlib, io, json, sys, traceback
scope = {"__name__": "__main__"}
for line in sys.stdin:
    out, ok = io.StringIO(), True
    with contextlib.redirect_stdout(out):
        try:
            exec(compile(json.loads(line), "<block>", "exec"), scope)
        except BaseException:
            ok = False
            traceback.print_exc(file=out)
    print(json.dumps([ok, out.getvalue()]), flush=True)
"""
# Modules that are installed for other tests and have no reader here; a reader's machine does not have them.
_NOISE: Final = re.compile(
    r"^(?:Not read: |无法读取：)/\S*(?:ykcs11|opensc|tpm2|opencryptoki)\S*[^\n]*\n", re.MULTILINE
)
_PORT: Final = "8700"  # of servers in the pages


class Reader:
    """Runs the blocks of one page.

    Args:
        home: the home, and the folder in which the reader works.
        language: the reader's locale.
    """

    def __init__(self, home: Path, language: str) -> None:
        self.home = home
        self.port = str(_free_port())
        self.environment = {
            "PATH": f"{VENV}:{os.environ['PATH']}",
            "LANG": language,
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "XDG_STATE_HOME": str(home / ".local" / "state"),
            "PCSCLITE_CSOCK_NAME": str(home / ".no-pcscd"),  # the readers of this machine are not there
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",  # lines in the order in which a terminal shows them
            "PYTEST_ADDOPTS": "-p no:cacheprovider",
        }
        self._python: subprocess.Popen[str] | None = None
        asks, self._commands = os.pipe()
        self._codes, answers = os.pipe()
        self._output = home.parent / "output"
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-c", _SHELL, "bash", str(asks), str(answers), str(self._output)],
            cwd=home,
            env=self.environment,
            pass_fds=(asks, answers),
            start_new_session=True,
        )
        os.close(asks)
        os.close(answers)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End everything that was started, servers in the background included."""
        for process in (self._python, self._shell):
            if process is not None:
                _end(process)
        os.close(self._commands)
        os.close(self._codes)

    # --- what a page has ----------------------------------------------------------------------------------------------

    def write(self, file: str, body: str) -> None:
        """Write a block to a file."""
        path = self.home / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._here(body), encoding="utf-8")

    def command(self, words: str) -> tuple[int, str]:
        """Run a command in the shell; return its exit code and its output."""
        os.write(self._commands, self._here(words).encode() + b"\0")
        code = int(_line(self._codes, words))
        said = self._output.read_text(encoding="utf-8", errors="replace").replace(self.port, _PORT)
        return code, _NOISE.sub("", said)

    def python(self, body: str) -> tuple[bool, str]:
        """Run a block in the interpreter of the page, started with the shell's environment at its first block."""
        if self._python is None:
            self._python = self._started()
        _pipe(self._python.stdin).write(json.dumps(self._here(body)) + "\n")
        _pipe(self._python.stdin).flush()
        ok, said = json.loads(_line(_pipe(self._python.stdout).fileno(), body))
        return ok, said.replace(self.port, _PORT)

    def _started(self) -> subprocess.Popen[str]:
        self.command("env -0 > ../environment; pwd > ../folder")
        pairs = (self.home.parent / "environment").read_text().split("\0")
        return subprocess.Popen(
            [VENV / "python", "-u", "-c", _PYTHON],
            cwd=(self.home.parent / "folder").read_text().strip(),
            env=dict(pair.split("=", 1) for pair in pairs if pair),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _here(self, text: str) -> str:
        """Return a text with a port that is free here."""
        return re.sub(rf"\b{_PORT}\b", self.port, text)


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """End a process and those that it has started."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue
    process.wait(timeout=TIMEOUT_S)


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _line(descriptor: int, what: str) -> str:
    """Read one line with a deadline."""
    until, read = time.monotonic() + TIMEOUT_S, b""
    while not read.endswith(b"\n"):
        ready, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
        assert ready, f"no end after {TIMEOUT_S} s: {what}"
        part = os.read(descriptor, 1 << 16)
        assert part, f"ended: {what}"
        read += part
    return read.decode()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
