"""Compares devices on the bus and PC/SC readers with the modules' slots: real readers, virtual cards and OpenSC."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.stack.doctor.walking import walk
from tests.unit.doctor.recorded import Tree, told
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import SlotInfo, TokenInfo
from ushield_hw.backend.module import Module
from ushield_hw.doctor.finding import Finding, Status, Way
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes import compare
from ushield_hw.doctor.probes.card import InReader
from ushield_hw.doctor.probes.compare import expected
from ushield_hw.doctor.subjects import Loaded, ModuleFile
from ushield_hw.system.pcsc import Reader, ReaderList, Slot
from ushield_hw.system.usb import HID
from ushield_hw.testing.readers import PcscHost
from ushield_hw.testing.shield import VirtualShield

pytestmark = pytest.mark.stack

READERS: Final = ("First", "Second", "Third", "Fourth", "Fifth")
LAST: Final = "Fifth 04 00"
MODULE: Final = "/usr/lib/libkey_p11.so"


def test_opensc_has_no_slot_left_for_the_fifth_reader(tmp_path: Path) -> None:
    with PcscHost(READERS) as desk, VirtualShield(host=desk, reader=len(READERS) - 1, serial="FIFTH1") as shield:
        found = walk(tmp_path, shield.host_env, cards=1)
        (tmp_path / "opensc.conf").write_text("app default { }\napp opensc-pkcs11 { pkcs11 { slots_per_card = 1; } }\n")
        helped = walk(tmp_path, shield.host_env, {"OPENSC_CONF": str(tmp_path / "opensc.conf")}, cards=1)
    found.names("F77", 3, "opensc.conf", "max_virtual_slots", "16", kind="full", subject_name=LAST)
    assert [token["serial"] for token in helped.report["usable"]] == ["FIFTH1"]


def test_a_reader_whose_name_does_not_fit_into_a_slots_description(tmp_path: Path) -> None:
    """OpenSC truncates the name and appends three dots: the token is still matched to its reader."""
    with PcscHost(("A" * 90,)) as desk, VirtualShield(host=desk, serial="LONG1") as shield:
        found = walk(tmp_path, shield.host_env, cards=1)
    found.is_well("LONG1")
    assert [one["status"] for one in found.report["findings"] if one["id"] == "F77"] == ["ok"]


# --- recorded: a vendor-specific device needs the vendor's module -----------------------------------------------------


@pytest.fixture
def key(tree: Tree) -> Machine:
    """A machine with a USB key that has no PC/SC reader, and the module for it."""
    tree.family("key", "1ea8:c001 hid", paths=[MODULE])
    tree.device("1ea8:c001", [HID], name="Bank Key")
    return tree.machine()


def loaded(machine: Machine, *slots: SlotInfo) -> Loaded:
    file = ModuleFile(machine, Path(MODULE), machine.catalogue.get("key"))
    return Loaded(file, Module(file.path, Isolation.PROCESS, file.driver.module.options, 10), slots=slots)


def slot(description: str = "", token: bool = False, problem: str | None = None) -> SlotInfo:
    info = TokenInfo(0, "pay", "Maker", "Key", "1", 0, 0, 0, (1, 0)) if token else None
    return SlotInfo(0, description, True, info, problem)


def asked(machine: Machine, *modules: Loaded, readers: tuple[InReader, ...] = ()) -> Finding:
    (one,) = expected(machine, readers, modules)
    return compare.shown(one, one.subject, one.way)


def test_a_module_that_does_not_show_the_key_that_is_plugged_in(key: Machine) -> None:
    found = asked(key, loaded(key))
    told(found, compare.shown, Status.FAIL, MODULE, kind="direct", families=["key"])
    assert found.concerns is Way.DIRECT
    assert asked(key, loaded(key, slot())).status is Status.FAIL
    assert asked(key, loaded(key, slot(token=True))).status is Status.OK
    assert asked(key, loaded(key, slot(problem="CKR_DEVICE_ERROR"))).status is Status.SKIP
    assert asked(key).status is Status.SKIP  # no module loaded: other causes report that


def test_a_card_has_to_show_in_a_slot_of_its_own_reader(tree: Tree) -> None:
    tree.family("key", "3b00", paths=[MODULE])
    reader_list = ReaderList((Reader("Maker Reader 00 00", Slot.CARD, b"\x3b\x00"), Reader("Other 01 00", Slot.EMPTY)))
    machine = tree.machine(reader_list)
    here = (InReader(machine, reader_list.readers[0]),)
    empty = loaded(machine, slot("Other 01 00", token=True), slot("Maker Reader 00 00"))
    told(asked(machine, empty, readers=here), compare.shown, Status.FAIL, "Maker Reader 00 00", kind="pcsc")
    assert asked(machine, loaded(machine, slot("Maker Reader 00 00", token=True)), readers=here).status is Status.OK
    others = loaded(machine, slot("Other 01 00"))
    told(asked(machine, others, readers=here), compare.shown, Status.FAIL, "opensc.conf", kind="full")
    told(asked(machine, loaded(machine), readers=here), compare.shown, Status.FAIL, kind="pcsc")


def test_of_a_card_that_nobody_knows_only_a_slot_is_expected(tree: Tree) -> None:
    tree.family("key", paths=[MODULE], module="general = true")
    reader_list = ReaderList((Reader("Maker Reader 00 00", Slot.CARD, b"\x3b\x00"), Reader("Other 01 00", Slot.EMPTY)))
    machine = tree.machine(reader_list)
    here = (InReader(machine, reader_list.readers[0]),)
    assert asked(machine, loaded(machine, slot("Maker Reader 00 00")), readers=here).status is Status.SKIP
    others = loaded(machine, slot("Other 01 00"))
    told(asked(machine, others, readers=here), compare.shown, Status.FAIL, "Other 01 00", kind="full")
