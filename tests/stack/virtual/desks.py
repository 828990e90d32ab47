"""Cards and programs for tests with virtual readers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from smartcard import scard

from ushield_hw.system.pcsc import Monitor, Slot
from ushield_hw.testing.card.schsm import SmartCardHsm, blank
from ushield_hw.testing.readers import Card, Insertion, PcscHost

READER: Final = "Virtual U-shield"
SLOT: Final = f"{READER} 00 00"  # pcscd appends the numbers of the reader and of its slot
YUBIKEY: Final = "Yubico YubiKey CCID"  # ykcs11 ignores readers with other names
ATR: Final = bytes.fromhex("3B80800101")
WITHIN_S: Final = 15.0  # upper limit for an event that must come
SOON_S: Final = 2.0  # the target is 0.5 s; a machine that runs tests may be busy


class Blank:
    """A card that rejects every command. ``resets`` counts power losses and resets."""

    def __init__(self) -> None:
        self.atr = ATR
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def transmit(self, command: bytes) -> bytes:
        return b"\x6d\x00"

    def pulled_out(self) -> None:
        """Nothing to cancel."""


def token(serial: str = "WATCH1") -> SmartCardHsm:
    """Return a card that OpenSC knows."""
    return SmartCardHsm(blank(serial, "123456", "3537363231383830", tries=3))


def inserted(desk: PcscHost, card: Card) -> Insertion:
    """Insert a card into the first reader; return once programs can connect to it, shortly after pcscd detects it."""
    insertion, deadline = desk.insert(card), time.monotonic() + WITHIN_S
    with Monitor() as monitor:
        reader_list = monitor.wait(None, WITHIN_S)
        while not any(reader.name == SLOT and reader.slot is Slot.CARD for reader in reader_list.readers):
            assert time.monotonic() < deadline, "no program can see the card"
            reader_list = monitor.wait(reader_list, WITHIN_S)
    return insertion


@contextmanager
def another_program(share: int = scard.SCARD_SHARE_SHARED) -> Iterator[None]:
    """A connection to the card in the first reader, as another program would have it."""
    context = succeeds(scard.SCardEstablishContext(scard.SCARD_SCOPE_USER))[0]
    try:
        card, _ = succeeds(scard.SCardConnect(context, SLOT, share, scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1))
        yield
        succeeds([scard.SCardDisconnect(card, scard.SCARD_LEAVE_CARD)])
    finally:
        scard.SCardReleaseContext(context)


def succeeds(answer: list[Any]) -> list[Any]:
    """Assert that a PC/SC call succeeded; return its results."""
    rv, *found = answer
    assert rv == scard.SCARD_S_SUCCESS, hex(rv & 0xFFFFFFFF)
    return found


@contextmanager
def hanging(desk: PcscHost) -> Iterator[None]:
    """Suspend pcscd: it exists and does not answer."""
    pid = int((desk.folder / "run" / "pcscd.pid").read_text().strip("\0\n"))
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
