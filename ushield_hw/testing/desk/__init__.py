"""A desk with card readers: real pcscd, real PC/SC clients, cards of our own making. Needs Linux.

pcscd and vpcd (vsmartcard-vpcd) run in namespaces of their own, so that nothing listens outside and desks side by side
do not meet; no root is needed where the kernel lets users make namespaces. Programs outside reach the desk's pcscd by
``PCSCLITE_CSOCK_NAME``, which :attr:`Desk.env` holds.

::

    with Desk() as desk:
        card = desk.insert(some_card)
        subprocess.run(["pcsc_scan", "-r"], env={**os.environ, **desk.env})
        card.eject()
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from ushield_hw.errors import InputError
from ushield_hw.testing.desk.door import DEADLINE_S, MESSAGE
from ushield_hw.testing.desk.reader import Card, Insertion

__all__ = ["Card", "Desk", "Insertion"]

DRIVER: Final = Path("/usr/lib/pcsc/drivers/serial/libifdvpcd.so")
_DOOR: Final = Path(__file__).with_name("door.py")
_FIRST_PORT: Final = 0x8C7B  # vpcd's own; the namespace has it to itself
_NOTICED_S: Final = 2.0
_SLOTS: Final = 2  # that vpcd makes a reader, on ports in a row


class Desk:
    """pcscd with virtual readers.

    Args:
        readers: a name for each; programs see it with slot numbers behind it.

    Raises:
        InputError: ``PCSCD_MISSING``: pcscd or vpcd is not installed. ``DESK_REFUSED``: the namespace or the daemon
            could not be made; says why.
    """

    def __init__(self, readers: Sequence[str] = ("Virtual U-shield",)) -> None:
        self._readers = tuple(readers)
        self._inserted: dict[int, Insertion] = {}
        self._lock = threading.RLock()
        pcscd = _found("pcscd", "/usr/sbin/pcscd", "/usr/local/sbin/pcscd")
        if not DRIVER.exists():
            raise InputError("PCSCD_MISSING", program="vsmartcard-vpcd", path=str(DRIVER))
        self.folder = Path(tempfile.mkdtemp(prefix="ushield-desk-", dir="/tmp"))  # a socket's path is short
        self._configure()
        self._outside, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._outside.settimeout(DEADLINE_S * 2)
        with inside:
            self._process = self._start(inside, pcscd)
        try:
            self._expect(self._told()[0], "ready")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def env(self) -> dict[str, str]:
        """What a program needs in its environment to find this desk's pcscd."""
        return {"PCSCLITE_CSOCK_NAME": str(self.folder / "run" / "pcscd.comm")}

    @property
    def log(self) -> str:
        """What pcscd has said so far."""
        return (self.folder / "pcscd.log").read_text(encoding="utf-8", errors="replace")

    def insert(self, card: Card, reader: int = 0, deadline_s: float = DEADLINE_S) -> Insertion:
        """Put a card into a reader and wait until pcscd has seen it.

        Args:
            card: the card.
            reader: the number of the reader, from 0.
            deadline_s: how long to wait.

        Raises:
            InputError: ``DESK_REFUSED``: there is no such reader, it is taken, or pcscd does not answer.
        """
        with self._lock:
            if (there := self._inserted.get(reader)) is not None and there.present:
                raise InputError("DESK_REFUSED", reason=f"reader {reader} has a card in it")
            if not 0 <= reader < len(self._readers):
                raise InputError("DESK_REFUSED", reason=f"there is no reader {reader}")
            until = time.monotonic() + deadline_s
            while time.monotonic() < until:
                if there is not None:
                    there.rest()
                there = self._inserted[reader] = Insertion(card, self._connect(_FIRST_PORT + reader * _SLOTS))
                if there.noticed(_NOTICED_S):
                    return there
                there.eject()
            raise InputError("DESK_REFUSED", reason=f"pcscd did not see the card within {deadline_s} s")

    def restart(self) -> None:
        """End pcscd and start it again. Cards are out afterwards."""
        self._eject_all()
        self._expect(self._ask("restart")[0], "ready")

    def stop(self) -> None:
        """End pcscd; :meth:`restart` brings it back. Cards are out afterwards."""
        self._eject_all()
        self._expect(self._ask("stop")[0], "stopped")

    def close(self) -> None:
        """Pull the cards out, end the daemon and remove the folder. May be called twice."""
        self._eject_all()
        self._outside.close()
        try:
            self._process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _eject_all(self) -> None:
        with self._lock:
            for insertion in self._inserted.values():
                insertion.eject()
            self._inserted.clear()

    def _configure(self) -> None:
        (self.folder / "run").mkdir()
        readers = self.folder / "readers"
        readers.mkdir()
        for number, name in enumerate(self._readers):
            driver = self.folder / f"reader{number}.so"
            shutil.copyfile(DRIVER, driver)  # one loaded file keeps the connections of one reader only
            port = f"0x{_FIRST_PORT + number * _SLOTS:X}"
            entry = f'FRIENDLYNAME "{name}"\nDEVICENAME /dev/null:{port}\nLIBPATH {driver}\nCHANNELID {port}\n'
            (readers / f"reader{number}").write_text(entry, encoding="utf-8")

    def _start(self, inside: socket.socket, pcscd: str) -> subprocess.Popen[bytes]:
        as_whom = () if os.geteuid() == 0 else ("--map-root-user",)
        unshare = _found("unshare", "/usr/bin/unshare")
        door = [sys.executable, "-I", "-S", str(_DOOR), str(inside.fileno()), str(self.folder), pcscd]
        with (self.folder / "door.log").open("wb") as log:
            return subprocess.Popen(  # noqa: S603 - programs found on the system's own paths
                [unshare, *as_whom, "--net", "--mount", *door],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[inside.fileno()],
            )

    def _connect(self, port: int) -> socket.socket:
        text, sockets = self._ask(str(port))
        self._expect(text, "connected")
        return sockets[0]

    def _ask(self, question: str) -> tuple[str, list[socket.socket]]:
        with self._lock:
            try:
                self._outside.send(question.encode())
            except OSError as error:
                raise InputError("DESK_REFUSED", reason=f"the desk is gone: {error}") from error
            return self._told()

    def _told(self) -> tuple[str, list[socket.socket]]:
        try:
            text, descriptors, _flags, _address = socket.recv_fds(self._outside, MESSAGE, 1)
        except OSError as error:
            raise InputError("DESK_REFUSED", reason=str(error)) from error
        return text.decode(), [socket.socket(fileno=descriptor) for descriptor in descriptors]

    def _expect(self, text: str, wanted: str) -> None:
        if text != wanted:
            raise InputError("DESK_REFUSED", reason=text or self._last_words())

    def _last_words(self) -> str:
        with suppress(OSError):
            return (self.folder / "door.log").read_text(encoding="utf-8", errors="replace").strip()[-500:]
        return "?"


def _found(name: str, *places: str) -> str:
    """Return a system program; /usr/sbin is not on everybody's path."""
    for place in (*places, shutil.which(name)):
        if place and os.access(place, os.X_OK):
            return place
    raise InputError("PCSCD_MISSING", program=name, path=places[0])
