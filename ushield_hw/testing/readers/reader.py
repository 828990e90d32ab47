"""A card in a reader: the card's side of the protocol of ``testing/reader.c``.

A message is a 16-bit big-endian length followed by that many bytes. A single byte is an instruction (power off, power
on, reset, get ATR); anything longer is a command APDU. Closing the connection removes the card.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Final, Protocol

from ushield_hw.system.log import LOG

_OUT_S: Final = 0.45  # minimum time between removal and insertion: modules poll for removals
_OFF, _ON, _RESET, _ATR = 0, 1, 2, 4
_NO_PRECISE_DIAGNOSIS: Final = b"\x6f\x00"  # ISO/IEC 7816-4


class Card(Protocol):
    """A card that can be inserted into a reader."""

    @property
    def atr(self) -> bytes:
        """The ATR."""
        ...

    def reset(self) -> None:
        """Reset the card: power on, power off or reset line. Clears its volatile state."""
        ...

    def transmit(self, command: bytes) -> bytes:
        """Return the response APDU for a command APDU."""
        ...

    def pulled_out(self) -> None:
        """The card was removed: end all waits."""
        ...


class Insertion:
    """A card in a reader, until :meth:`eject`.

    Args:
        card: the card; its methods are called from one thread, except ``pulled_out``.
        connection: the connection to the reader's driver.
    """

    def __init__(self, card: Card, connection: socket.socket) -> None:
        self.card = card
        self._connection = connection
        self._noticed = threading.Event()
        self._removed = False
        self._removed_at = 0.0
        connection.settimeout(None)
        self._thread = threading.Thread(target=self._serve, name="virtual card", daemon=True)
        self._thread.start()

    def noticed(self, deadline_s: float) -> bool:
        """Wait until pcscd has detected the card; return False on timeout."""
        return self._noticed.wait(deadline_s)

    @property
    def present(self) -> bool:
        """Whether the card is still in the reader."""
        return self._thread.is_alive() and not self._removed

    def eject(self) -> None:
        """Remove the card immediately."""
        self._removed, self._removed_at = True, time.monotonic()
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self.card.pulled_out()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def rest(self) -> None:
        """Wait until the reader has been empty for the minimum time between two cards."""
        time.sleep(max(0.0, self._removed_at + _OUT_S - time.monotonic()))

    def _serve(self) -> None:
        try:
            with self._connection:
                while (message := self._receive()) is not None:
                    self._handle(message)
        except OSError:
            LOG.debug("virtual card: the reader is gone")
        finally:
            self.card.reset()

    def _handle(self, message: bytes) -> None:
        if message == bytes((_ATR,)):
            self._send(self.card.atr)
        elif len(message) == 1:
            if message[0] in {_OFF, _ON, _RESET}:
                self.card.reset()
            if message[0] == _ON:
                self._noticed.set()
        elif message:
            self._send(self._answer(message))

    def _answer(self, command: bytes) -> bytes:
        try:
            return self.card.transmit(command)
        except Exception:  # an error in a card must not look like a removal
            LOG.exception("virtual card: a command failed inside")
            return _NO_PRECISE_DIAGNOSIS

    def _send(self, message: bytes) -> None:
        self._connection.sendall(struct.pack(">H", len(message)) + message)

    def _receive(self) -> bytes | None:
        head = self._exactly(2)
        return None if head is None else self._exactly(int.from_bytes(head, "big"))

    def _exactly(self, size: int) -> bytes | None:
        found = b""
        while len(found) < size:
            more = self._connection.recv(size - len(found))
            if not more:
                return None
            found += more
        return found
