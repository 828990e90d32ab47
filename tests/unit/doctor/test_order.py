"""Which cause is reported first on recorded machines with several problems, and checks of the probes' declarations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.project.causes import probes
from tests.unit.doctor.recorded import NO_SERVICE, TOKEN, Tree, texts
from ushield_hw.doctor.finding import Finding, Priority, Rule, Status, Way, causes
from ushield_hw.doctor.ranking import Case, first, weighed
from ushield_hw.doctor.runner import examine
from ushield_hw.system.pcsc import Failure, Reader, ReaderList, Slot
from ushield_hw.system.usb import HID, MASS_STORAGE

pytestmark = pytest.mark.unit

EMPTY: Final = ReaderList((Reader("Alcor Micro AU9540 00 00", Slot.EMPTY),))
HANGS: Final = ReaderList(failure=Failure("SCardEstablishContext", "NO_ANSWER"))
IO_ERROR: Final = "pcscd[1]: ccid_usb.c:859:WriteUSB() write failed (1/2): -1 LIBUSB_ERROR_IO"
NO_RIGHT: Final = "pcscd[1]: ccid_usb.c:672:OpenUSBByName() Can't libusb_open(1/2): LIBUSB_ERROR_ACCESS"
NOT_AUTHORIZED: Final = (
    "pcscd[1]: auth.c:143:IsClientAuthorized() Process 7 (user: 1000) is NOT authorized for action: access_pcsc"
)
DENIED: Final = 'audit: apparmor="DENIED" operation="connect" profile="bank" name="/run/pcscd/pcscd.comm"'
BUSY: Final = "pcscd[1]: ccid_usb.c:672:OpenUSBByName() Can't claim interface 1/2: LIBUSB_ERROR_BUSY"
NO_FOLDER: Final = "pcscd[1]: hotplug_libudev.c:128 Cannot open PC/SC drivers directory: /usr/lib/pcsc/drivers"


@dataclass
class Made:
    """A recorded machine. ``hail``: the answer from pcscd's socket."""

    make: Callable[[Tree], None]
    first: str
    reader_list: ReaderList = field(default_factory=ReaderList)
    log: str = ""
    hail: str | None = None
    how: dict[str, Any] = field(default_factory=dict)


def driver(tree: Tree) -> None:
    tree.file("/usr/sbin/pcscd")
    tree.reader_driver(TOKEN, "058f:9540")


def token(tree: Tree) -> None:
    driver(tree)
    tree.device(TOKEN, name="Feitian ePass2003")
    tree.file("/usr/lib/libepass.so")


def beside_a_built_in_reader(tree: Tree) -> None:
    token(tree)
    tree.device("058f:9540", name="Alcor Micro AU9540", place="1-3")


def taken(tree: Tree) -> None:
    token(tree)
    tree.process(101, "scdaemon", links=["/dev/bus/usb/001/002"])


def claimed(tree: Tree) -> None:
    driver(tree)
    tree.device(TOKEN, driver="pn533")
    tree.file("/usr/lib/libepass.so")


def unknown_to_its_driver(tree: Tree) -> None:
    token(tree)
    tree.reader_driver("072f:90cc")


def no_reader_driver(tree: Tree) -> None:
    tree.file("/usr/sbin/pcscd")
    tree.device(TOKEN)


def nothing(tree: Tree) -> None:
    driver(tree)
    tree.bus()


def switched_off(tree: Tree) -> None:
    nothing(tree)
    tree.family("offkey", "1050:0401 no-ccid")
    tree.device("1050:0401", [HID], name="YubiKey OTP+FIDO")


def not_allowed(tree: Tree) -> None:
    token(tree)
    tree.process(812, "pcscd", uid=4711)


def sleepy(tree: Tree) -> None:
    driver(tree)
    tree.device(TOKEN, power="auto")
    tree.file("/usr/lib/libepass.so")


def in_wsl(tree: Tree) -> None:
    nothing(tree)
    tree.file("/proc/version", "Linux version 5.15.90.1-microsoft-standard-WSL2")


def without_pcscd(tree: Tree) -> None:
    tree.device(TOKEN)
    tree.file("/usr/lib/libepass.so")


def without_its_module(tree: Tree) -> None:
    driver(tree)
    tree.device(TOKEN)


def reader_alone(tree: Tree) -> None:
    driver(tree)
    tree.device("058f:9540", name="Alcor Micro AU9540", place="1-3")


def own_protocol(usb: str, *classes: int, also: Callable[[Tree], None] = nothing) -> Callable[[Tree], None]:
    def make(tree: Tree) -> None:
        also(tree)
        tree.device(usb, classes, name="Bank Key")

    return make


def of_an_unknown_model(tree: Tree) -> None:
    nothing(tree)
    tree.device("096e:7777", [HID], name="Feitian R5xx")


VENDOR: Final = 0xFF
BANK_KEYS: Final = {"hid": ("1ea8:c001", HID), "vendor": ("096e:0309", VENDOR), "skf": ("055c:db08", MASS_STORAGE)}


def bank_keys() -> dict[str, Made]:
    """Return a key with a vendor protocol in combination with every PC/SC state, none of which is a problem for it."""
    reader_lists = {"no service": NO_SERVICE, "no reader": ReaderList(), "an empty reader": EMPTY}
    return {
        f"{kind} key, {state}": Made(
            own_protocol(*key, also=reader_alone if reader_list is EMPTY else nothing), "A4", reader_list
        )
        for kind, key in BANK_KEYS.items()
        for state, reader_list in reader_lists.items()
    }


MACHINES: Final = {
    **bank_keys(),
    "a program has the token's node": Made(taken, "D33"),
    "and there is a built-in reader": Made(taken, "D33", EMPTY),
    "the kernel has the interface": Made(claimed, "A8"),
    "its id is not in the list": Made(unknown_to_its_driver, "C24"),
    "no reader driver": Made(no_reader_driver, "C25"),
    "pcscd cannot open its folder of drivers": Made(token, "C25", log=NO_FOLDER),
    "pcscd could not claim it": Made(beside_a_built_in_reader, "C26", EMPTY, log=BUSY),
    "one reader too few": Made(beside_a_built_in_reader, "C26", EMPTY),
    "nothing but an empty reader": Made(reader_alone, "D29", EMPTY),
    "nothing": Made(nothing, "A1"),
    "a model that nobody knows, by a maker of tokens": Made(of_an_unknown_model, "A1"),
    "AppArmor, and the socket is closed": Made(token, "B21", NO_SERVICE, log=DENIED, hail="barred"),
    "a socket that is closed": Made(token, "B16", NO_SERVICE, hail="barred"),
    "pcscd hangs after the greeting": Made(token, "B12", HANGS, hail="4:5"),
    "pcscd hangs": Made(token, "B12", HANGS, hail="silent"),
    "pcscd may not open the device": Made(not_allowed, "A10", log=NO_RIGHT),
    "a device that falls asleep": Made(sleepy, "A9", log=IO_ERROR),
    "the card interface of the token is switched off": Made(switched_off, "A5"),
    "switched off, and no service": Made(switched_off, "A5", NO_SERVICE),
    "nothing reaches the guest": Made(in_wsl, "A2", NO_SERVICE),
    "polkit": Made(token, "B16", NO_SERVICE, log=NOT_AUTHORIZED, hail="closed"),
    "another protocol": Made(token, "B19", NO_SERVICE, hail="4:5"),
    "no service, and it is not installed": Made(without_pcscd, "B11", NO_SERVICE),
    "a reader of before": Made(token, "C28", ReaderList((Reader("Feitian ePass2003 00 00", Slot.UNAVAILABLE),))),
    "a card that is mute": Made(token, "D30", ReaderList((Reader("Feitian ePass2003 00 00", Slot.MUTE),))),
    "no module for the token that is there": Made(without_its_module, "C26"),
    "an own key that may not be opened has to have a module first": Made(own_protocol("1ea8:c001", HID), "A4"),
}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.family("epass", f"{TOKEN} ccid", paths=["/usr/lib/libepass.so"], module='discover = "named"')
    tree.family("hidkey", "1ea8:c001 hid", interface="skf")
    tree.family("vendorkey", "096e:0309 vendor", interface="skf")
    tree.family("drivekey", "055c:db08 mass-storage", interface="skf")
    return tree


@pytest.mark.parametrize("made", MACHINES.values(), ids=MACHINES)
def test_the_cause_comes_before_what_follows_from_it(tree: Tree, made: Made) -> None:
    made.make(tree)
    machine = tree.machine(made.reader_list, log=made.log, **made.how)
    if made.hail is not None:
        machine.hail = made.hail
    report = examine(machine)
    named = report.first
    assert named is not None
    told = [(one.id, one.status.value, one.unrelated) for one in report.findings if one.is_problem]
    assert named.id == made.first, told
    for cause, remedy in texts(named).values():
        assert cause
        assert remedy


# --- the rule itself --------------------------------------------------------------------------------------------------


def found(id: str, status: Status = Status.FAIL, subject: str = "", **rule: Any) -> Finding:
    return Finding(id, id, status, subject, {}, Rule(**rule))


def named(tree: Tree, *findings: Finding) -> str:
    case = Case(tree.machine())
    best = first(weighed(findings, case), case)
    assert best is not None
    return best.id


def test_a_cause_takes_over_the_priority_of_what_follows(tree: Tree) -> None:
    remark = found("A9", Status.WARN)
    fault = found("C26", after=causes("A9"))
    assert named(tree, fault, remark) == "A9"
    assert named(tree, fault, found("D32"), remark) == "A9"
    assert named(tree, found("D32"), remark) == "D32"


def test_a_chain_leads_to_its_beginning(tree: Tree) -> None:
    chain = [found("F60", after=causes("E48")), found("E48", after=causes("D32")), found("D32", after=causes("D36"))]
    assert named(tree, *chain) == "D32"
    assert named(tree, *chain, found("D36", Status.WARN)) == "D36"
    assert named(tree, *chain, found("G62", failed=Priority.TOKEN)) == "G62"


def test_in_one_layer_a_cause_is_one_for_the_same_subject_only(tree: Tree) -> None:
    node = found("A6", subject="1-2", after=causes("A4"))
    assert named(tree, node, found("A4", Status.WARN, "1-3")) == "A6"
    assert named(tree, node, found("A4", Status.WARN, "1-2")) == "A4"


def test_another_way_is_no_cause(tree: Tree) -> None:
    soft = Finding("F52", "", Status.FAIL, "m", {}, Rule(after=causes("B12")), Way.SOFT)
    assert not soft.follows(found("B12", way=Way.PCSC))
    assert Finding("F52", "", Status.FAIL, "m", {}, soft.rule, Way.PCSC).follows(found("B12", way=Way.PCSC))


def test_what_is_declared_names_causes_that_there_are_and_goes_round_in_no_circle() -> None:
    asked = probes()
    after = {id: {other for one in found for other in one.rule.after} for id, found in asked.items()}
    assert {other for others in after.values() for other in others} <= set(asked)

    def behind(id: str, seen: tuple[str, ...] = ()) -> None:
        assert id not in seen, seen
        for other in after[id]:
            behind(other, (*seen, id))

    for id in asked:
        behind(id)
