"""Layer D: cards in readers of a real pcscd, and real programs that hold, reset or block them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.soft import SOFTHSM
from tests.stack.doctor.asking import Answer, Asking, another_program, ask
from tests.stack.virtual.desks import ATR, SLOT, Blank, token
from tests.unit.doctor.recorded import Tree, told
from ushield_hw.doctor.finding import Status
from ushield_hw.doctor.probes import card
from ushield_hw.doctor.probes.card import InReader
from ushield_hw.errors import TokenBusy, TokenError, UShieldError
from ushield_hw.system.pcsc import Contact, Reader, ReaderList, Slot
from ushield_hw.testing.readers import PcscHost

pytestmark = pytest.mark.stack

_WITHIN_S: Final = 15.0
SECOND: Final = "Second 01 00"


@pytest.fixture(scope="module")
def shared() -> Iterator[PcscHost]:
    with PcscHost(("Virtual U-shield", "Second")) as desk:
        yield desk


@pytest.fixture
def desk(shared: PcscHost) -> PcscHost:
    """A pcscd with virtual readers and no card."""
    shared.restart()
    return shared


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.link("/proc", "/proc")
    tree.family("blank", ATR.hex(), paths=["/usr/lib/libblank_p11.so"])
    tree.file("/usr/lib/libblank_p11.so")
    return tree


def asked(tree: Tree, desk: PcscHost, until: str = SLOT, **how: Any) -> Answer:
    """Run the probes once programs can connect to the card, which is shortly after pcscd detects it."""
    deadline = time.monotonic() + _WITHIN_S
    while True:
        found = ask("D", tree, desk.env, **how)
        if found.of(card.no_card, until).status is Status.OK:
            return found
        assert time.monotonic() < deadline, "no program can see the card"


class Speaks(Blank):
    """A card with the given ATR."""

    def __init__(self, atr: str) -> None:
        super().__init__()
        self.atr = bytes.fromhex(atr)


# --- is there a card that answers -------------------------------------------------------------------------------------


def test_no_card_in_any_reader(tree: Tree, desk: PcscHost) -> None:
    found = ask("D", tree, desk.env)
    (told_once,) = (one for one in found.findings if one.status is Status.WARN)
    assert told_once.id == "D29"
    told_once.says(Status.WARN, SLOT, SECOND)
    assert SLOT in told_once.evidence["readers"]


def test_a_known_card_gives_no_alarm_beside_empty_readers(tree: Tree, desk: PcscHost) -> None:
    desk.insert(Blank())
    found = asked(tree, desk)
    assert found.alarms == []
    found.of(card.no_card, SECOND).says(Status.SKIP, reason="another_has_one")
    found.of(card.unknown_card, SLOT).says(Status.OK, families=["blank"], ambiguous=False, atr=ATR.hex())
    found.of(card.wrong_module, SLOT).says(Status.OK)


def test_two_cards_are_told_apart(tree: Tree, desk: PcscHost) -> None:
    desk.insert(Blank())
    desk.insert(Speaks("3b021450"), 1)
    asked(tree, desk)
    found = asked(tree, desk, SECOND)
    found.of(card.unknown_card, SECOND).says(Status.WARN, "3b021450")
    assert found.alarms == ["D37"]


def test_a_card_whose_answer_is_none(tree: Tree, desk: PcscHost) -> None:
    desk.insert(Speaks("00000000"))
    found = asked(tree, desk).of(card.mute, SLOT)
    found.says(Status.FAIL, SLOT, "00000000", atr="00000000", name="SCARD_E_PROTO_MISMATCH")


def seen(tree: Tree, error: UShieldError | Contact, atr: bytes = ATR, system: str = "linux") -> InReader:
    """A reader whose card gave this result when it was connected to."""
    reader = Reader(SLOT, Slot.CARD, atr)
    here = InReader(tree.machine(ReaderList((reader,)), system=system), reader)
    here.contact = error
    return here


def test_a_card_that_is_mute(tree: Tree, desk: PcscHost) -> None:
    desk.insert(Speaks(""))
    found = asked(tree, desk).of(card.mute, SLOT)
    found.says(Status.FAIL, SLOT, name="SCARD_STATE_MUTE")


def test_a_card_without_power(tree: Tree) -> None:
    no_power = TokenError("CARD_MUTE", function="SCardConnect", name="SCARD_W_UNPOWERED_CARD", number="0x80100067")
    told(card.unpowered(seen(tree, no_power)), card.unpowered, Status.FAIL, SLOT, "0x80100067", number="0x80100067")
    assert card.unpowered(seen(tree, Contact(ATR, "T=1"))).status is Status.OK


def in_use(desk: PcscHost, reader: str) -> None:
    """Wait until a program is connected to the card in a reader."""
    command = [sys.executable, "-c", _IN_USE, reader, str(_WITHIN_S)]
    subprocess.run(command, env={**os.environ, **desk.env}, check=True)


_IN_USE: Final = """
import sys, time
from ushield_hw.system import pcsc
name, deadline = sys.argv[1], time.monotonic() + float(sys.argv[2])
while not any(reader.name == name and reader.in_use for reader in pcsc.readers()):
    assert time.monotonic() < deadline, "nobody is connected"
"""


# --- is it free -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("does", "name"),
    [("exclusive", "SCARD_E_SHARING_VIOLATION"), ("transaction", "NO_ANSWER")],
    ids=["exclusive", "transaction"],
)
def test_a_card_that_another_program_holds(tree: Tree, desk: PcscHost, does: str, name: str) -> None:
    desk.insert(Blank())
    asked(tree, desk)
    with another_program(desk.env, SLOT, does) as pid:
        found = asked(tree, desk)
    held = found.of(card.held, SLOT)
    held.says(Status.FAIL, f"({pid})", "disable-ccid", "pcsc-shared", name=name, complete=True)
    assert [holder for holder in held.evidence["holders"] if holder.endswith(f"({pid})")]
    assert found.alarms == ["D32"]
    assert asked(tree, desk).alarms == []


def test_a_card_that_another_program_resets(tree: Tree, desk: PcscHost) -> None:
    desk.insert(Blank())
    asked(tree, desk)
    with another_program(desk.env, SLOT, "reset") as pid:
        found = asked(tree, desk, hold_s=10)
    found.of(card.reset_by_another, SLOT).says(
        Status.WARN, f"({pid})", SLOT, name="SCARD_W_RESET_CARD", number="0x80100068"
    )
    assert found.alarms == ["D34"]


def test_a_card_that_goes_while_we_are_connected(tree: Tree, desk: PcscHost) -> None:
    insertion = desk.insert(Blank())
    asked(tree, desk)
    asking = Asking("D", tree, desk.env, hold_s=10)
    asking.go()
    in_use(desk, SLOT)
    insertion.eject()
    found = asking.answer()
    found.of(card.taken_out, SLOT).says(Status.WARN, SLOT, name="SCARD_W_REMOVED_CARD", times=1)
    assert found.alarms == ["D35"]


def test_a_card_that_was_out_since_the_readers_were_looked_at(tree: Tree, desk: PcscHost) -> None:
    first = desk.insert(Blank())
    asked(tree, desk)
    asking = Asking("D", tree, desk.env)
    first.eject()
    desk.insert(Blank())
    asked(tree, desk)
    asking.go()
    found = asking.answer()
    found.of(card.taken_out, SLOT).says(Status.WARN, SLOT, name="-", times=2)
    assert found.alarms == ["D35"]


def test_macos_that_drives_the_card_itself(tree: Tree) -> None:
    busy = TokenBusy("CARD_BUSY", function="SCardConnect", name="SCARD_E_SHARING_VIOLATION", number="0x8010000B")
    told(card.owned_by_macos(seen(tree, busy, system="darwin")), card.owned_by_macos, Status.WARN, "DisabledTokens")
    assert card.owned_by_macos(seen(tree, Contact(ATR, "T=1"), system="darwin")).status is Status.OK
    tree.file("/Library/Preferences/com.apple.security.smartcard.plist", "com.apple.CryptoTokenKit.pivtoken")
    assert card.owned_by_macos(seen(tree, busy, system="darwin")).status is Status.OK
    assert card.owned_by_macos(seen(tree, busy)).status is Status.SKIP


# --- which family is it -----------------------------------------------------------------------------------------------


def test_a_card_that_nobody_has_described(tree: Tree, desk: PcscHost) -> None:
    desk.insert(Speaks("3b021450"))
    found = asked(tree, desk)
    found.of(card.unknown_card, SLOT).says(Status.WARN, "3b021450", "ushield driver check", atr="3b021450")
    assert found.alarms == ["D37"]
    said = subprocess.run(
        ["opensc-tool", "-n"], env={**os.environ, **desk.env}, capture_output=True, text=True, check=False
    )
    assert "Unsupported card" in said.stdout + said.stderr  # nor is it known to OpenSC


def test_an_atr_of_several_families_is_ambiguous(tree: Tree, desk: PcscHost) -> None:
    tree.family("twin", ATR.hex())
    desk.insert(Blank())
    found = asked(tree, desk).of(card.unknown_card, SLOT)
    found.says(Status.OK, families=["blank", "twin"], ambiguous=True)


def test_a_named_module_of_another_family(tree: Tree, desk: PcscHost) -> None:
    tree.family("softhsm2", paths=[str(SOFTHSM)])
    desk.insert(Blank())
    found = asked(tree, desk, selector=f"pkcs11:token=pay?module-path={SOFTHSM}")
    found.of(card.wrong_module, SLOT).says(Status.FAIL, "blank", str(SOFTHSM), module=str(SOFTHSM), families=["blank"])
    assert found.alarms == ["D38"]
    right = asked(tree, desk, selector="pkcs11:token=pay?module-path=/usr/lib/libblank_p11.so")
    assert right.alarms == []


@pytest.mark.parametrize(("general", "status"), [(False, Status.FAIL), (True, Status.WARN)])
def test_a_family_whose_module_is_not_installed(tree: Tree, general: bool, status: Status) -> None:
    (tree.root / "usr/lib/libblank_p11.so").unlink()
    tree.file("/usr/lib/x/opensc-pkcs11.so")
    tree.family("opensc", paths=["/usr/lib/*/opensc-pkcs11.so"], module=f"general = {str(general).lower()}")
    searched = ["/usr/lib/libblank_p11.so"]
    here = seen(tree, Contact(ATR, "T=1"))
    told(card.wrong_module(here), card.wrong_module, status, "blank", *searched, searched=searched)


def test_a_family_that_another_ones_module_drives(tree: Tree) -> None:
    tree.family("opensc", paths=["/usr/lib/*/opensc-pkcs11.so"])
    tree.family("blank", ATR.hex(), module='via = "opensc"')
    assert card.wrong_module(seen(tree, Contact(ATR, "T=1"))).status is Status.FAIL
    tree.file("/usr/lib/x/opensc-pkcs11.so")
    assert card.wrong_module(seen(tree, Contact(ATR, "T=1"))).status is Status.OK


def opensc_says(desk: PcscHost, conf: Path) -> str:
    env = {**os.environ, **desk.env, "OPENSC_CONF": str(conf)}
    said = subprocess.run(["opensc-tool", "-n"], env=env, capture_output=True, text=True, check=False)
    return said.stdout + said.stderr


def test_a_card_driver_that_opensc_was_told_not_to_use(tree: Tree, desk: PcscHost, tmp_path: Path) -> None:
    hsm = token()
    tree.family("opensc", paths=["/usr/lib/libopensc.so"])
    tree.family("hsm", hsm.atr.hex(), module='via = "opensc"')
    desk.insert(hsm)
    asked(tree, desk)
    conf = tree.file("/etc/opensc/opensc.conf", "app default {\n  card_drivers = cardos, 'mcrd';\n}\n")
    assert "Card is invalid or cannot be handled" in opensc_says(desk, conf)
    found = asked(tree, desk).of(card.driver_switched_off, SLOT)
    found.says(Status.WARN, "old, internal", "cardos, mcrd", file="/etc/opensc/opensc.conf", drivers=["cardos", "mcrd"])
    conf.write_text("app default {\n  # card_drivers = cardos;\n  card_drivers = cardos, internal;\n}\n")
    assert "SmartCard-HSM" in opensc_says(desk, conf)
    assert asked(tree, desk).of(card.driver_switched_off, SLOT).status is Status.OK


def test_every_cause_is_asked_once() -> None:
    numbers = [int(re.sub(r"\D", "", probe.id)) for probe in (*card.PROBES, *card.MACHINE_PROBES)]
    assert sorted(numbers) == list(range(29, 40))
