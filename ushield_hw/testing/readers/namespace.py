"""The inner process of a host, in its own network and mount namespaces, with pcscd as its child.

Run as a script with ``-I -S``; imports nothing of this package. The path of pcscd's socket is compiled in, so the
process mounts its own /run/pcscd. In its own network namespace pcscd receives no USB hotplug events, and without USB
reader drivers it does not claim readers of this machine. The outer process sends commands through a socket pair:

    "restart"   restarts pcscd                              -> "ready" or the error
    "stop"      stops pcscd                                 -> "stopped"

The daemon ends with this process, and this process ends when the other end of the socket pair is closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

MESSAGE = 4096
DEADLINE_S = 10
_MS_BIND, _PR_SET_PDEATHSIG = 4096, 1
_POLL_S = 0.005
_USB_DRIVERS = ("/usr/lib/pcsc/drivers", "/usr/lib64/pcsc/drivers", "/usr/local/lib/pcsc/drivers")

_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """The command loop of the process. ``folder`` contains the configuration, and later pcscd's socket and log."""

    def __init__(self, outside: socket.socket, folder: Path, pcscd: str) -> None:
        self._outside = outside
        self._folder = folder
        self._pcscd = pcscd
        self._daemon: subprocess.Popen[bytes] | None = None

    def serve(self) -> None:
        """Set up the namespace, start the daemon and handle commands until the other end is closed."""
        try:
            _show_run_folder(self._folder / "run")
            _hide_usb_drivers()
            self._answer(self._start())
            while asked := self._outside.recv(MESSAGE).decode():
                self._do(asked)
        finally:
            self._stop()

    def _do(self, asked: str) -> None:
        if asked == "restart":
            self._stop()
            self._answer(self._start())
        else:
            self._stop()
            self._answer("stopped")

    def _answer(self, text: str) -> None:
        self._outside.send(text.encode())

    def _start(self) -> str:
        daemon = self._folder / "run" / "pcscd.comm"
        daemon.unlink(missing_ok=True)
        command = [self._pcscd, "--foreground", "--config", str(self._folder / "readers")]
        with (self._folder / "pcscd.log").open("ab") as log:
            # The program was chosen by the creator of the host.
            self._daemon = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_the_parent,  # noqa: PLW1509 - there is one thread
            )
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if self._daemon.poll() is not None:
                return f"pcscd ended with {self._daemon.returncode}"
            if _listens(daemon):
                return "ready"
            time.sleep(_POLL_S)
        return f"pcscd does not listen after {DEADLINE_S} s"

    def _stop(self) -> None:
        daemon, self._daemon = self._daemon, None
        if daemon is None:
            return
        daemon.terminate()
        try:
            daemon.wait(DEADLINE_S / 5)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        client.connect(str(path))
        return True
    return False


def _show_run_folder(run: Path) -> None:
    """Mount ``run`` where pcscd has its socket and pid file, because that path is compiled in."""
    held = os.open(run, os.O_PATH)  # the tmpfs on /run may hide this folder
    _mount(b"ushield", b"/run", b"tmpfs", 0)
    Path("/run/pcscd").mkdir()
    _mount(f"/proc/self/fd/{held}".encode(), b"/run/pcscd", None, _MS_BIND)


def _hide_usb_drivers() -> None:
    for folder in filter(os.path.isdir, _USB_DRIVERS):
        _mount(b"ushield", folder.encode(), b"tmpfs", 0)


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int) -> None:
    if _libc.mount(source, target, kind, flags, None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target.decode())


def _end_with_the_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(descriptor: str, folder: str, pcscd: str) -> None:
    """Run the command loop, or send the error to the outer process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at the terminal is handled by the outer process
    with socket.socket(fileno=int(descriptor)) as outside:
        try:
            Namespace(outside, Path(folder), pcscd).serve()
        except OSError as error:
            with contextlib.suppress(OSError):
                outside.send(str(error).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
