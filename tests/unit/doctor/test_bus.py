"""Layer A: findings about the USB bus, on recorded machines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.project.tree import ROOT
from tests.unit.doctor.recorded import POWERLESS, Tree, texts, told
from ushield_hw.doctor.finding import Finding, Probe, Status
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes import bus
from ushield_hw.doctor.probes.bus import DEVICE_PROBES, PROBES, Plugged, plugged
from ushield_hw.system.pcsc import Reader, ReaderList, Slot
from ushield_hw.system.usb import CCID, HID, MASS_STORAGE

pytestmark = pytest.mark.unit

TOKEN = "096e:0807"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.family(
        "epass", f"{TOKEN} ccid", "096e:0309 vendor", "055c:db08 mass-storage", "1ea8:c001 hid", "1050:0401 no-ccid"
    )
    return tree


def asked(machine: Machine, probe: Probe[Plugged]) -> Finding:
    (one,) = plugged(machine)
    return probe(one, one.label)


# --- the bus as a whole -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", [[], ["046d:c31c"]])
def test_a_bus_without_a_token_is_told_with_what_is_there(tree: Tree, devices: list[str]) -> None:
    tree.bus()
    for usb in devices:
        tree.device(usb, [HID], name="Keyboard")
    seen = [f"{usb} Keyboard" for usb in devices]
    found = bus.nothing_on_the_bus(tree.machine())
    told(found, bus.nothing_on_the_bus, Status.WARN, "lsusb", *seen, seen=seen or ["-"])
    assert not [cause for cause, _ in texts(found).values() if "-" in cause.replace("U-", "")] or devices


def test_a_token_on_the_bus_is_fine(tree: Tree) -> None:
    tree.device(TOKEN)
    told(bus.nothing_on_the_bus(tree.machine()), bus.nothing_on_the_bus, Status.OK, devices=[TOKEN])


def test_three_tokens_give_no_alarm(tree: Tree) -> None:
    for number in (1, 2, 3):
        tree.device(TOKEN, place=f"1-{number}")
    machine = tree.machine()
    findings = [probe(machine) for probe in PROBES]
    findings += [probe(one) for one in plugged(machine) for probe in DEVICE_PROBES]
    assert [finding.id for finding in findings if finding.is_problem] == []
    assert len(findings) == 2 + 3 * 8


def test_a_machine_without_usb_has_nothing_to_tell(tree: Tree) -> None:
    machine = tree.machine()
    assert machine.usb is None
    assert {probe(machine).status for probe in PROBES} == {Status.SKIP}
    assert plugged(machine) == ()


def wsl(tree: Tree) -> None:
    tree.file("/proc/version", "Linux version 5.15.90.1-microsoft-standard-WSL2")


def vm(tree: Tree) -> None:
    tree.file("/sys/class/dmi/id/sys_vendor", "QEMU\n")


@pytest.mark.parametrize(("make", "kind", "word"), [(wsl, "wsl", "usbipd"), (vm, "vm", "USB")])
def test_a_guest_without_a_token_asks_its_host(tree: Tree, make: Any, kind: str, word: str) -> None:
    tree.bus()
    make(tree)
    machine = tree.machine()
    told(bus.only_the_host_has_it(machine), bus.only_the_host_has_it, Status.WARN, word, kind=kind)
    assert bus.nothing_on_the_bus(machine).status is Status.SKIP  # only one cause is reported


@pytest.mark.parametrize("make", [wsl, vm])
def test_a_card_that_came_another_way_is_enough(tree: Tree, make: Any) -> None:
    tree.bus()
    machine = tree.machine(ReaderList((Reader("Redirected 00 00", Slot.CARD, b"\x3b\x00"),)))
    assert bus.nothing_on_the_bus(machine).status is Status.SKIP
    make(tree)
    machine = tree.machine(machine.reader_list)
    assert [bus.nothing_on_the_bus(machine).status, bus.only_the_host_has_it(machine).status] == [Status.SKIP] * 2


def test_a_container_without_usb_is_no_guest(tree: Tree) -> None:
    tree.file("/.dockerenv")
    assert {probe(tree.machine()).status for probe in PROBES} == {Status.SKIP}


def test_a_guest_that_was_given_the_token_is_fine(tree: Tree) -> None:
    tree.device(TOKEN)
    vm(tree)
    told(bus.only_the_host_has_it(tree.machine()), bus.only_the_host_has_it, Status.OK, kind="vm")


# --- one device -------------------------------------------------------------------------------------------------------


def test_a_known_token_that_is_only_a_drive(tree: Tree) -> None:
    tree.device(TOKEN, [MASS_STORAGE], name="ePass Auto")
    told(
        asked(tree.machine(), bus.drive_only), bus.drive_only, Status.FAIL, "ePass Auto", usb=TOKEN, families=["epass"]
    )


def test_a_drive_by_a_maker_of_tokens_may_be_one(tree: Tree) -> None:
    tree.device("096e:0999", [MASS_STORAGE])
    told(asked(tree.machine(), bus.drive_only), bus.drive_only, Status.WARN, families=["epass"])


@pytest.mark.parametrize("usb", ["0951:1666", "04b4:6830"])  # a flash drive; a chip vendor's id used in many products
def test_another_drive_is_no_token(tree: Tree, usb: str) -> None:
    tree.family("minghua", "04b4:1234 vendor")
    tree.device(usb, [MASS_STORAGE])
    assert plugged(tree.machine()) == ()


def test_a_token_that_is_a_drive_beside_its_reader_is_fine(tree: Tree) -> None:
    tree.device(TOKEN, [CCID, MASS_STORAGE])
    assert asked(tree.machine(), bus.drive_only).status is Status.OK


@pytest.mark.parametrize(
    ("usb", "usb_class", "binding"), [("1ea8:c001", HID, "hid"), ("055c:db08", MASS_STORAGE, "mass-storage")]
)
def test_a_token_past_pcsc_needs_its_makers_module(tree: Tree, usb: str, usb_class: int, binding: str) -> None:
    tree.device(usb, [usb_class])
    machine = tree.machine()
    told(asked(machine, bus.own_protocol), bus.own_protocol, Status.WARN, binding, "PKCS#11", "epass", binding=binding)
    assert asked(machine, bus.drive_only).status is Status.SKIP or usb_class == HID
    assert asked(machine, bus.ccid_off).status is Status.SKIP


def test_with_its_makers_module_a_token_past_pcsc_is_fine(tree: Tree) -> None:
    module = "/opt/maker/lib/libmaker_p11.so"
    tree.family("maker", "1ea8:c001 hid", paths=["/opt/*/lib/libmaker_p11.so"])
    (tree.drivers / "epass.toml").unlink()
    tree.file(module)
    tree.device("1ea8:c001", [HID])
    told(asked(tree.machine(), bus.own_protocol), bus.own_protocol, Status.OK, modules=[module])


def test_a_family_with_an_skf_library_only_cannot_be_driven(tree: Tree) -> None:
    tree.family("skf", "1ea8:c777 hid", interface="skf")
    tree.device("1ea8:c777", [HID])
    told(asked(tree.machine(), bus.own_protocol), bus.own_protocol, Status.WARN, "SKF", families=["skf"])


@pytest.mark.parametrize("usb", ["1050:0401", TOKEN])
def test_a_switched_off_reader_interface(tree: Tree, usb: str) -> None:
    tree.device(usb, [HID, HID])
    told(asked(tree.machine(), bus.ccid_off), bus.ccid_off, Status.FAIL, usb, "CCID", classes=["03", "03"])


def test_a_reader_interface_that_is_there(tree: Tree) -> None:
    tree.device("1050:0401", [HID, CCID])
    assert asked(tree.machine(), bus.ccid_off).status is Status.OK


_POWERLESS_LOOK = """
import json, sys
from pathlib import Path
from ushield_hw.config import Settings
from ushield_hw.doctor.probes import bus
from ushield_hw.doctor.inspect.machine import Machine
root, drivers = map(Path, sys.argv[1:])
machine = Machine(Settings(drivers=(drivers,)), root, environ={}, system="linux", log="")
finding = bus.node_permission(bus.plugged(machine)[0])
print(json.dumps([finding.status.value, finding.evidence]))
"""


def powerless(tree: Tree) -> tuple[str, dict[str, Any]]:
    """Run the probe without root's privileges."""
    command = [*POWERLESS, sys.executable, "-c", _POWERLESS_LOOK, str(tree.root), str(tree.drivers)]
    status, evidence = json.loads(subprocess.check_output(command, text=True, cwd=ROOT))
    return status, evidence


@pytest.mark.parametrize(
    ("usb", "usb_class", "node"), [("1ea8:c001", HID, "hidraw3"), ("055c:db08", MASS_STORAGE, "sg1")]
)
def test_a_node_that_may_not_be_opened(tree: Tree, usb: str, usb_class: int, node: str) -> None:
    tree.device(usb, [usb_class])
    made = tree.node(node)
    made.touch()
    made.chmod(0o000)
    status, evidence = powerless(tree)
    assert (status, evidence["node"]) == ("fail", f"/dev/{node}")
    assert evidence["mode"] == "0000"
    told(
        Finding("A6", "usb.node_permission", Status.FAIL, "", evidence),
        bus.node_permission,
        Status.FAIL,
        "uaccess",
        f"/dev/{node}",
    )
    made.chmod(0o666)
    assert powerless(tree)[0] == "ok"


def test_a_token_of_the_vendors_own_class_is_opened_by_its_usb_node(tree: Tree) -> None:
    node = tree.device("096e:0309", [0xFF])
    node.chmod(0o000)
    status, evidence = powerless(tree)
    assert (status, evidence["node"]) == ("fail", "/dev/bus/usb/001/002")


def test_a_hid_token_without_hidraw(tree: Tree) -> None:
    tree.device("1ea8:c001", [HID])
    told(
        asked(tree.machine(), bus.no_hidraw),
        bus.no_hidraw,
        Status.FAIL,
        "hidraw",
        missing=["/dev/hidraw*"],
        kind="plain",
    )


def test_a_hidraw_node_that_the_container_was_not_given(tree: Tree) -> None:
    tree.device("1ea8:c001", [HID])
    node = tree.node("hidraw3")
    told(
        asked(tree.machine(), bus.no_hidraw),
        bus.no_hidraw,
        Status.FAIL,
        "--device /dev/hidraw3",
        missing=["/dev/hidraw3"],
    )
    node.touch()
    assert asked(tree.machine(), bus.no_hidraw).status is Status.OK


def test_a_kernel_driver_that_took_the_reader(tree: Tree) -> None:
    tree.device(TOKEN, driver="pn533_usb")
    told(
        asked(tree.machine(), bus.claimed_by_kernel),
        bus.claimed_by_kernel,
        Status.FAIL,
        "blacklist pn533_usb",
        driver="pn533_usb",
    )


@pytest.mark.parametrize("driver", [None, "usbfs"])
def test_a_reader_that_only_pcscd_has(tree: Tree, driver: str | None) -> None:
    tree.device(TOKEN, driver=driver)
    assert asked(tree.machine(), bus.claimed_by_kernel).status is Status.OK


IO_ERROR = "pcscd[812]: 00004021 ccid_usb.c:783:ReadUSB() read failed (1/4): -1 LIBUSB_ERROR_IO"
RESET = "kernel: usb 1-2: reset full-speed USB device number 4 using xhci_hcd"
UNPLUGGED = "kernel: usb 1-2: USB disconnect\npcscd[812]: WriteUSB() write failed (1/2): -4 LIBUSB_ERROR_NO_DEVICE"


@pytest.mark.parametrize(("power", "log"), [("auto", IO_ERROR), ("on", "\n".join([RESET] * 3))])
def test_an_unsteady_connection(tree: Tree, power: str, log: str) -> None:
    tree.device(TOKEN, power=power)
    last = log.splitlines()[-1]
    told(
        asked(tree.machine(log=log), bus.unsteady),
        bus.unsteady,
        Status.WARN,
        last,
        'ATTR{power/control}="on"',
        power=power,
    )


@pytest.mark.parametrize(("power", "log"), [("auto", UNPLUGGED), ("auto", RESET.replace("1-2", "1-3")), ("on", RESET)])
def test_pulling_out_and_putting_in_is_not_unsteady(tree: Tree, power: str, log: str) -> None:
    tree.device(TOKEN, power=power)
    assert asked(tree.machine(log=log), bus.unsteady).status is Status.OK


def test_pcscd_that_may_not_open_the_device(tree: Tree) -> None:
    node = tree.device(TOKEN)
    node.chmod(0o640)
    tree.process(812, "pcscd", uid=4711)
    finding = asked(tree.machine(), bus.pcscd_permission)
    told(
        finding,
        bus.pcscd_permission,
        Status.FAIL,
        "92_pcscd_ccid.rules",
        "4711",
        node="/dev/bus/usb/001/002",
        mode="0640",
    )
    node.chmod(0o666)
    assert asked(tree.machine(), bus.pcscd_permission).status is Status.OK
    told(asked(tree.machine(log="LIBUSB_ERROR_ACCESS"), bus.pcscd_permission), bus.pcscd_permission, Status.FAIL)


def test_pcscd_as_root_may_open_everything(tree: Tree) -> None:
    tree.device(TOKEN).chmod(0o000)
    tree.process(812, "pcscd")
    assert asked(tree.machine(), bus.pcscd_permission).status is Status.OK


def test_without_pcscd_there_is_nobody_to_be_kept_out(tree: Tree) -> None:
    tree.device(TOKEN)
    told(asked(tree.machine(), bus.pcscd_permission), bus.pcscd_permission, Status.SKIP, reason="no_pcscd")


def test_what_a_device_says_is_shown_safely(tree: Tree) -> None:
    tree.device(TOKEN, [MASS_STORAGE], name="\u202eevil\x1b[2J")
    told(asked(tree.machine(), bus.drive_only), bus.drive_only, Status.FAIL, "\\u{202e}evil\\u{001b}[2J")


def test_a_bus_that_says_nonsense_breaks_no_probe(tree: Tree) -> None:
    tree.device(TOKEN, [CCID, HID, MASS_STORAGE], place="1-3")
    for file in ("busnum", "devnum", "power/control", "1-3:1.0/bInterfaceClass"):
        tree.file(f"/sys/bus/usb/devices/1-3/{file}", b"\xff\x00nonsense")
    tree.file("/sys/bus/usb/devices/nothing/idVendor", b"\xff")
    machine = tree.machine(log="\x00\ud800 LIBUSB")
    findings = [probe(machine) for probe in PROBES]
    findings += [probe(one) for one in plugged(machine) for probe in DEVICE_PROBES]
    assert len(findings) == 2 + 8
    assert [finding.id for finding in findings if finding.evidence.get("reason") == "probe_failed"] == []
