"""A host with virtual card readers: real pcscd, real PC/SC clients, virtual cards. Needs Linux.

pcscd runs in its own namespaces with a reader driver of this package (``testing/reader.c``). It therefore sees no other
reader, several hosts are independent, and no root is needed where the kernel allows user namespaces. Other programs
reach this pcscd by ``PCSCLITE_CSOCK_NAME``, which is in :attr:`PcscHost.env`.

::

    with PcscHost() as host:
        card = host.insert(some_card)
        subprocess.run(["pcsc_scan", "-r"], env={**os.environ, **host.env})
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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from ushield_hw.errors import InputError
from ushield_hw.testing.compiled import Part, built
from ushield_hw.testing.readers.namespace import DEADLINE_S, MESSAGE
from ushield_hw.testing.readers.reader import Card, Insertion

__all__ = ["Card", "Insertion", "PcscHost"]

_NAMESPACE: Final = Path(__file__).with_name("namespace.py")


class PcscHost:
    """A pcscd with virtual readers.

    Args:
        readers: a name for each reader; pcscd appends two numbers.

    Raises:
        InputError: ``PCSCD_MISSING``: pcscd is not installed. ``COMPILER_MISSING``, ``COMPILER_FAILED``: the reader
            driver cannot be built. ``PCSC_HOST_REFUSED``: the namespace or the daemon could not start; includes the
            reason.
        StorageError: as :func:`~ushield_hw.testing.compiled.built`.
    """

    def __init__(self, readers: Sequence[str] = ("Virtual U-shield",)) -> None:
        self._readers = tuple(readers)
        self._inserted: dict[int, Insertion] = {}
        self._lock = threading.RLock()
        pcscd = _found("pcscd", "/usr/sbin/pcscd", "/usr/local/sbin/pcscd")
        driver = built(Part.READER)
        # the path of a Unix socket must be short
        self.folder = Path(tempfile.mkdtemp(prefix="ushield-host-", dir="/tmp"))
        self._configure(driver)
        self._outside, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._outside.settimeout(DEADLINE_S * 2)
        with inside:
            self._process = self._start(inside, pcscd)
        try:
            self._expect(self._answer(), "ready")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def env(self) -> dict[str, str]:
        """The environment variables with which a program finds this pcscd."""
        return {"PCSCLITE_CSOCK_NAME": str(self.folder / "run" / "pcscd.comm")}

    @property
    def log(self) -> str:
        """The log of pcscd."""
        return (self.folder / "pcscd.log").read_text(encoding="utf-8", errors="replace")

    def insert(self, card: Card, reader: int = 0, deadline_s: float = DEADLINE_S) -> Insertion:
        """Insert a card into a reader and wait until pcscd has detected it.

        Args:
            card: the card.
            reader: the number of the reader, from 0.
            deadline_s: timeout in seconds.

        Returns:
            The inserted card.

        Raises:
            InputError: ``PCSC_HOST_REFUSED``: no such reader, it has a card already, or pcscd does not respond.
        """
        with self._lock:
            if (there := self._inserted.get(reader)) is not None and there.present:
                raise InputError("PCSC_HOST_REFUSED", reason=f"reader {reader} has a card in it")
            if not 0 <= reader < len(self._readers):
                raise InputError("PCSC_HOST_REFUSED", reason=f"there is no reader {reader}")
            if there is not None:
                there.rest()
            there = self._inserted[reader] = Insertion(card, self._connect(reader))
            if not there.noticed(deadline_s):
                there.eject()
                raise InputError("PCSC_HOST_REFUSED", reason=f"pcscd did not see the card within {deadline_s} s")
            return there

    def restart(self) -> None:
        """Restart pcscd. All cards are removed."""
        self._eject_all()
        self._expect(self._ask("restart"), "ready")

    def stop(self) -> None:
        """Stop pcscd until :meth:`restart`. All cards are removed."""
        self._eject_all()
        self._expect(self._ask("stop"), "stopped")

    def close(self) -> None:
        """Remove the cards, stop the daemon and delete the folder. May be called twice."""
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

    def _configure(self, driver: Path) -> None:
        (self.folder / "run").mkdir()
        entries = (
            f'FRIENDLYNAME "{name}"\nDEVICENAME ushield:{self._slot(number)}\nLIBPATH {driver}\nCHANNELID {number}\n'
            for number, name in enumerate(self._readers)
        )
        (self.folder / "readers").write_text("\n".join(entries), encoding="utf-8")

    def _slot(self, reader: int) -> Path:
        """Return the socket on which a reader's driver accepts its card."""
        return self.folder / f"slot{reader}"

    def _start(self, inside: socket.socket, pcscd: str) -> subprocess.Popen[bytes]:
        as_whom = () if os.geteuid() == 0 else ("--map-root-user",)
        unshare = _found("unshare", "/usr/bin/unshare")
        inner = [sys.executable, "-I", "-S", str(_NAMESPACE), str(inside.fileno()), str(self.folder), pcscd]
        with (self.folder / "namespace.log").open("wb") as log:
            return subprocess.Popen(  # noqa: S603 - programs found on the system's own paths
                [unshare, *as_whom, "--net", "--mount", *inner],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[inside.fileno()],
            )

    def _connect(self, reader: int) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(DEADLINE_S)
            connection.connect(str(self._slot(reader)))
        except OSError as error:
            connection.close()
            raise InputError("PCSC_HOST_REFUSED", reason=f"reader {reader}: {error}") from error
        return connection

    def _ask(self, question: str) -> str:
        with self._lock:
            try:
                self._outside.send(question.encode())
            except OSError as error:
                raise InputError("PCSC_HOST_REFUSED", reason=f"the process of pcscd has ended: {error}") from error
            return self._answer()

    def _answer(self) -> str:
        try:
            return self._outside.recv(MESSAGE).decode()
        except OSError as error:
            raise InputError("PCSC_HOST_REFUSED", reason=str(error)) from error

    def _expect(self, text: str, wanted: str) -> None:
        if text != wanted:
            raise InputError("PCSC_HOST_REFUSED", reason=text or self._last_words())

    def _last_words(self) -> str:
        with suppress(OSError):
            return (self.folder / "namespace.log").read_text(encoding="utf-8", errors="replace").strip()[-500:]
        return "?"


def _found(name: str, *places: str) -> str:
    """Return the path of a system program; /usr/sbin is not always in PATH."""
    for place in (*places, shutil.which(name)):
        if place and os.access(place, os.X_OK):
            return place
    raise InputError("PCSCD_MISSING", program=name, path=places[0])
