"""Readers and cards through PC/SC, with a service that runs, is absent, crashes or hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from smartcard import scard

from tests.stack.virtual.desks import ATR, SLOT, WITHIN_S, Blank, another_program, hanging, inserted
from ushield_hw.errors import DriverError, TokenBusy, TokenRemoved
from ushield_hw.system import pcsc
from ushield_hw.system.pcsc import Contact, Monitor, ReaderList, Slot, contact, readers
from ushield_hw.testing.readers import PcscHost

pytestmark = pytest.mark.stack


def slots(reader_list: ReaderList) -> list[Slot]:
    return [reader.slot for reader in reader_list.readers]


# --- current state ----------------------------------------------------------------------------------------------------


def test_readers_with_what_is_in_them(desk: PcscHost) -> None:
    inserted(desk, Blank())
    found = {reader.name: reader for reader in readers()}
    assert len(found) == 2
    assert (found[SLOT].slot, found[SLOT].atr) == (Slot.CARD, ATR)
    others = [(reader.slot, reader.atr) for name, reader in found.items() if name != SLOT]
    assert others == [(Slot.EMPTY, b"")]


def test_without_a_service_the_error_names_the_call_and_what_it_said(desk: PcscHost) -> None:
    desk.stop()
    with pytest.raises(DriverError) as caught:
        readers()
    assert caught.value.code == "PCSC_NO_SERVICE"
    expected = {"function": "SCardEstablishContext", "name": "SCARD_E_NO_SERVICE", "number": "0x8010001D"}
    assert caught.value.details == expected
    assert "SCARD_E_NO_SERVICE" in caught.value.message


def test_a_service_that_hangs_keeps_nobody(desk: PcscHost) -> None:
    with Monitor() as monitor, hanging(desk):
        began = time.monotonic()
        with pytest.raises(DriverError) as caught:
            readers(0.3)
        assert caught.value.code == "PCSC_NO_ANSWER"
        with pytest.raises(DriverError, match="does not respond"):
            contact(SLOT, 0.3)
        monitor.wait(monitor.reader_list, 0.3)
        monitor.close()
        assert time.monotonic() - began < WITHIN_S
    assert len(readers()) == 2


def test_without_the_library_nothing_is_printed(
    desk: PcscHost, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pcsc.winscard, "_LIBRARY", "libnothing.so.1")
    pcsc.winscard._scard.cache_clear()
    with pytest.raises(DriverError) as caught:
        readers()
    assert caught.value.code == "PCSC_NO_LIBRARY"
    assert capfd.readouterr() == ("", "")


def test_pyscard_is_imported_when_it_is_needed() -> None:
    asked = "import sys, ushield_hw.system.pcsc, ushield_hw.token.watch; print('smartcard' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", asked], text=True).strip() == "False"


@pytest.mark.parametrize(
    ("flags", "slot"),
    [
        ("PRESENT MUTE", Slot.MUTE),
        ("PRESENT INUSE", Slot.CARD),
        ("EMPTY", Slot.EMPTY),
        ("UNAVAILABLE", Slot.UNAVAILABLE),
        ("UNKNOWN", Slot.UNAVAILABLE),
    ],
)
def test_states_that_no_virtual_reader_makes(flags: str, slot: Slot) -> None:
    event = sum(getattr(scard, f"SCARD_STATE_{flag}") for flag in flags.split()) | 7 << 16
    found = pcsc.winscard._reader("reader", event, b"")
    assert (found.slot, found.in_use, found.changes) == (slot, "INUSE" in flags, 7)


# --- a card -----------------------------------------------------------------------------------------------------------


def test_a_card_is_left_as_it_was(desk: PcscHost) -> None:
    card = Blank()
    inserted(desk, card)
    with another_program():
        before = card.resets
        assert contact(SLOT) == Contact(ATR, "T=1")
        assert contact(SLOT).atr == ATR
        assert card.resets == before


def test_a_card_that_another_program_keeps_to_itself(desk: PcscHost) -> None:
    inserted(desk, Blank())
    with another_program(scard.SCARD_SHARE_EXCLUSIVE):
        with pytest.raises(TokenBusy) as caught:
            contact(SLOT)
        assert next(reader for reader in readers() if reader.name == SLOT).exclusive
    assert caught.value.code == "CARD_BUSY"
    assert (caught.value.details["name"], caught.value.details["number"]) == ("SCARD_E_SHARING_VIOLATION", "0x8010000B")
    assert contact(SLOT).atr == ATR


@pytest.mark.parametrize(("reader", "code"), [(SLOT, "CARD_ABSENT"), ("No such reader", "READER_GONE")])
def test_no_card(desk: PcscHost, reader: str, code: str) -> None:
    with pytest.raises(TokenRemoved) as caught:
        contact(reader)
    assert (caught.value.code, caught.value.details["reader"]) == (code, reader)
    assert reader in caught.value.message


# --- changes ----------------------------------------------------------------------------------------------------------


def test_the_monitor_sees_a_card_come_and_go(desk: PcscHost) -> None:
    with Monitor() as monitor:
        empty = monitor.wait(None, WITHIN_S)
        assert slots(empty) == [Slot.EMPTY] * 2
        insertion = desk.insert(Blank())
        there = monitor.wait(empty, WITHIN_S)
        assert [(reader.name, reader.atr) for reader in there.readers if reader.slot is Slot.CARD] == [(SLOT, ATR)]
        insertion.eject()
        assert slots(monitor.wait(there, WITHIN_S)) == [Slot.EMPTY] * 2


def test_a_card_that_was_out_between_two_looks_is_another_scene(desk: PcscHost) -> None:
    first = inserted(desk, Blank())
    with Monitor() as monitor:
        there = monitor.wait(None, WITHIN_S)
        first.eject()
        monitor.wait(there, WITHIN_S)  # until then PC/SC would take the next card for this one
        desk.insert(Blank())
        again = contains_a_card(monitor)
        assert slots(again) == slots(there)
        assert again != there


def contains_a_card(monitor: Monitor) -> ReaderList:
    reader_list, deadline = monitor.reader_list, time.monotonic() + WITHIN_S
    while Slot.CARD not in slots(reader_list):
        assert time.monotonic() < deadline
        reader_list = monitor.wait(reader_list, WITHIN_S)
    return reader_list


def test_a_program_that_uses_a_card_is_no_change(desk: PcscHost) -> None:
    inserted(desk, Blank())
    with Monitor() as monitor:
        before = monitor.wait(None, WITHIN_S)
        with another_program():
            assert monitor.wait(before, 1.5) == before  # PC/SC reports it after half a second at the latest
        with another_program(scard.SCARD_SHARE_EXCLUSIVE):
            assert monitor.wait(before, WITHIN_S) != before


def test_the_service_dies_and_comes_back(desk: PcscHost) -> None:
    with Monitor() as monitor:
        before = monitor.wait(None, WITHIN_S)
        desk.stop()
        without = monitor.wait(before, WITHIN_S)
        assert without.readers == ()
        assert without.failure is not None
        desk.restart()
        after = without
        while after.failure is not None:
            known, after = after, monitor.wait(after, WITHIN_S)
            assert after != known, "it did not come back in time"
        assert slots(after) == slots(before)
        assert after.era > before.era


def test_a_service_that_comes_after_the_monitor(desk: PcscHost) -> None:
    desk.stop()
    with Monitor() as monitor:
        without = monitor.wait(None, WITHIN_S)
        assert without.failure is not None
        assert without.failure.error().code == "PCSC_NO_SERVICE"
        desk.restart()
        assert slots(monitor.wait(without, WITHIN_S)) == [Slot.EMPTY] * 2


def test_closing_ends_every_wait(desk: PcscHost) -> None:
    monitor = Monitor()
    reader_list = monitor.wait(None, WITHIN_S)
    waiting = [threading.Thread(target=monitor.wait, args=(reader_list,), daemon=True) for _ in range(2)]
    for thread in waiting:
        thread.start()
    monitor.close()
    for thread in waiting:
        thread.join(WITHIN_S)
        assert not thread.is_alive()


def test_a_wait_that_is_over_says_what_was_there(desk: PcscHost) -> None:
    with Monitor() as monitor:
        reader_list = monitor.wait(None, WITHIN_S)
        began = time.monotonic()
        assert monitor.wait(reader_list, 0.2) == reader_list
        assert 0.2 <= time.monotonic() - began < WITHIN_S


def test_a_reader_whose_name_is_not_ascii_can_be_asked_about() -> None:
    with PcscHost(("某银行", "Other")) as desk:
        command, env = [sys.executable, "-c", _SEEN], {**os.environ, **desk.env}
        said = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert said.stdout.split("\n")[:2] == ["某银行 00 00 empty", "Other 01 00 empty"], said.stderr


_SEEN = """
from ushield_hw.system import pcsc
for reader in pcsc.readers():
    print(reader.name, reader.slot.value)
"""


# --- without pyscard --------------------------------------------------------------------------------------------------


@pytest.fixture
def no_pyscard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """pyscard is not installed."""
    monkeypatch.setattr(pcsc.winscard, "find_spec", lambda name: None)
    for cached in (pcsc.winscard.is_installed, pcsc.winscard._scard):
        cached.cache_clear()
    yield
    for cached in (pcsc.winscard.is_installed, pcsc.winscard._scard):
        cached.cache_clear()


@pytest.mark.usefixtures("no_pyscard")
def test_what_needs_pyscard_says_the_command_that_installs_it() -> None:
    with pytest.raises(DriverError) as caught:
        readers()
    assert caught.value.code == "PCSC_NO_PYSCARD"
    assert "ushield-hw[pcsc]" in caught.value.remedy or "python3-pyscard" in caught.value.remedy


@pytest.mark.usefixtures("no_pyscard")
def test_without_pyscard_a_module_is_not_held_up() -> None:
    """A module may still call PC/SC itself: nothing is known about it, and nothing prevents its use."""
    pcsc.answers()
    assert pcsc.held(0.1) == ()
