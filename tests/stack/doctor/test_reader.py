"""Layer C: readers of a real pcscd, with a recorded USB bus, as this kernel may have none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.stack.doctor.asking import ask
from tests.unit.doctor.recorded import NO_SERVICE, TOKEN, Tree, told
from ushield_hw.doctor.finding import Status
from ushield_hw.doctor.probes import reader
from ushield_hw.system.pcsc import Reader, ReaderList, Slot
from ushield_hw.system.usb import CCID
from ushield_hw.testing.readers import PcscHost

pytestmark = pytest.mark.stack

REAL_LIST: Final = Path("/usr/lib/pcsc/drivers/ifd-ccid.bundle/Contents/Info.plist")


@pytest.fixture(scope="module")
def bare() -> Iterator[PcscHost]:
    """A pcscd without a reader."""
    with PcscHost(()) as desk:
        yield desk


def real_driver(tree: Tree) -> None:
    """Install the device list of this machine's own reader driver."""
    tree.file(str(REAL_LIST), REAL_LIST.read_bytes())


def test_readers_that_are_there_give_no_alarm(tree: Tree, desk: PcscHost) -> None:
    real_driver(tree)
    found = ask("C", tree, desk.env)
    assert found.alarms == []
    found.of(reader.no_reader).says(Status.OK, readers=["Virtual U-shield 00 00"])
    found.of(reader.too_many).says(Status.OK, count=1, most=16)


def test_a_token_that_the_installed_driver_lists(tree: Tree, desk: PcscHost) -> None:
    real_driver(tree)
    tree.device(TOKEN)
    ask("C", tree, desk.env).of(reader.unknown_to_the_driver).says(Status.OK, devices=[TOKEN])


def test_a_device_that_the_installed_driver_does_not_list(tree: Tree, bare: PcscHost, desk: PcscHost) -> None:
    real_driver(tree)
    tree.device("abcd:0001", name="New Token")
    found = ask("C", tree, bare.env).of(reader.unknown_to_the_driver)
    found.says(Status.FAIL, "abcd:0001 New Token", "libccid", "ifd-ccid.bundle", devices=["abcd:0001 New Token"])
    ask("C", tree, desk.env).of(reader.unknown_to_the_driver).says(Status.WARN)  # it may be among those shown


def test_pcscd_without_a_driver(tree: Tree, bare: PcscHost) -> None:
    tree.device(TOKEN)
    ask("C", tree, bare.env).of(reader.no_driver).says(
        Status.FAIL, "apt install libccid", "/usr/lib/pcsc/drivers", devices=[TOKEN]
    )


def test_without_a_reader_on_the_bus_a_missing_driver_is_a_warning(tree: Tree, desk: PcscHost) -> None:
    ask("C", tree, desk.env).of(reader.no_driver).says(Status.WARN, devices=["-"])
    real_driver(tree)
    ask("C", tree, desk.env).of(reader.no_driver).says(Status.OK)


@pytest.mark.parametrize("content", [b"", b"<plist>", b"not XML", b"<plist><array/></plist>", b"\xff\xfe"])
def test_a_driver_whose_list_cannot_be_read_is_none(tree: Tree, content: bytes) -> None:
    tree.file(str(REAL_LIST), content)
    tree.device(TOKEN)
    told(reader.no_driver(tree.machine()), reader.no_driver, Status.FAIL, devices=[TOKEN])


def test_a_drivers_list_is_found_where_its_link_leads(tree: Tree) -> None:
    tree.reader_driver(TOKEN)
    bundle = tree.root / "usr/lib/pcsc/drivers/ifd-ccid.bundle/Contents/Info.plist"
    tree.file("/etc/libccid_Info.plist", bundle.read_bytes())
    bundle.unlink()
    tree.link("/usr/lib/pcsc/drivers/ifd-ccid.bundle/Contents/Info.plist", "/etc/libccid_Info.plist")
    tree.device(TOKEN)
    assert reader.unknown_to_the_driver(tree.machine()).status is Status.OK


def test_a_service_without_a_reader(tree: Tree, bare: PcscHost) -> None:
    real_driver(tree)
    found = ask("C", tree, bare.env)
    found.of(reader.no_reader).says(Status.WARN, "journalctl -u pcscd", devices=["-"])
    assert found.alarms == ["C26"]
    tree.device(TOKEN, name="Maker Token")
    found = ask("C", tree, bare.env)
    found.of(reader.no_reader).says(Status.FAIL, f"{TOKEN} Maker Token", devices=[f"{TOKEN} Maker Token"])


def test_as_many_readers_as_there_can_be(tree: Tree) -> None:
    real_driver(tree)
    with PcscHost([f"Reader {letter}" for letter in "ABCDEFGHIJKLMNOP"]) as full:
        found = ask("C", tree, full.env)
    found.of(reader.too_many).says(Status.WARN, "vsmartcard-vpcd", count=16, most=16)
    assert found.alarms == ["C27"]


def test_a_reader_with_a_name_in_chinese_disturbs_no_other(tree: Tree) -> None:
    real_driver(tree)
    with PcscHost(["某银行", "Other"]) as desk:
        found = ask("C", tree, desk.env)
    found.of(reader.no_reader).says(Status.OK, readers=["某银行 00 00", "Other 01 00"])
    assert found.alarms == []


def test_windows_can_have_fewer(tree: Tree) -> None:
    ten = ReaderList(tuple(Reader(f"Maker Token {number}", Slot.EMPTY) for number in range(10)))
    told(reader.too_many(tree.machine(ten, system="win32")), reader.too_many, Status.WARN, count=10, most=10)
    assert reader.too_many(tree.machine(ten)).status is Status.OK


# --- recorded: a virtual reader is never removed while its service runs -----------------------------------------------


def test_a_reader_that_cannot_be_asked_any_more(tree: Tree) -> None:
    gone = ReaderList((Reader("Maker Token 00 00", Slot.UNAVAILABLE), Reader("Other 01 00", Slot.EMPTY)))
    told(
        reader.stale(tree.machine(gone)), reader.stale, Status.FAIL, "Maker Token 00 00", readers=["Maker Token 00 00"]
    )


DOUBLED: Final = ("Maker Token [CCID Interface] (0815) 00 00", "Maker Token [CCID Interface] (0815) 01 00")


def test_two_readers_for_one_device(tree: Tree) -> None:
    reader_list = ReaderList(tuple(Reader(name, Slot.CARD, b"\x3b\x00") for name in DOUBLED))
    tree.device(TOKEN, name="Maker Token")
    told(reader.stale(tree.machine(reader_list)), reader.stale, Status.WARN, *DOUBLED, readers=list(DOUBLED))
    tree.device(TOKEN, name="Maker Token", place="1-3")
    assert reader.stale(tree.machine(reader_list)).status is Status.OK


def test_a_device_that_is_two_readers_is_not_stale(tree: Tree) -> None:
    reader_list = ReaderList(tuple(Reader(name, Slot.CARD, b"\x3b\x00") for name in DOUBLED))
    tree.device(TOKEN, [CCID, CCID], name="Maker Token")
    assert reader.stale(tree.machine(reader_list)).status is Status.OK


def test_without_a_service_nothing_is_said_of_readers(tree: Tree) -> None:
    for probe in (reader.no_reader, reader.too_many, reader.stale):
        told(probe(tree.machine(NO_SERVICE)), probe, Status.SKIP, reason="no_service")


def test_every_cause_is_asked_once_and_in_order() -> None:
    assert [int(re.sub(r"\D", "", probe.id)) for probe in reader.PROBES] == list(range(24, 29))


# --- devices compared with readers ------------------------------------------------------------------------------------


def with_names(tree: Tree) -> None:
    tree.device(TOKEN, name="Feitian ePass2003")
    tree.device("058f:9540", name="Alcor Micro AU9540", place="1-3")


@pytest.mark.parametrize(
    ("readers", "kind"),
    [
        (["Alcor Micro AU9540 00 00"], "missing"),
        (["Built-in 00 00"], "missing"),  # two devices, one reader with an unrelated name
        (["Alcor Micro AU9540 00 00", "Virtual PCD 01 00"], "missing"),
        (["Alcor Micro AU9540 00 00", "Feitian ePass2003 01 00"], None),
        (["Alcor Micro AU9540 00 00", "Driver's own name 01 00"], None),
    ],
)
def test_a_device_without_a_reader_beside_one_that_has_one(tree: Tree, readers: list[str], kind: str | None) -> None:
    with_names(tree)
    found = reader.no_reader(tree.machine(ReaderList(tuple(Reader(name, Slot.EMPTY) for name in readers))))
    assert (found.status, found.evidence.get("kind")) == (Status.FAIL if kind else Status.OK, kind)
    assert kind is None or f"{TOKEN} Feitian ePass2003" in found.evidence["devices"]


def test_where_a_reader_is_shown_its_driver_is_there(tree: Tree) -> None:
    """As on NixOS, where pcscd reads its drivers from another folder."""
    tree.file("/usr/sbin/pcscd")
    tree.device("058f:9540", name="Alcor Micro AU9540")
    shown = ReaderList((Reader("Alcor Micro AU9540 00 00", Slot.EMPTY),))
    assert reader.no_driver(tree.machine(shown)).status is Status.OK
    told(reader.no_driver(tree.machine()), reader.no_driver, Status.FAIL)
