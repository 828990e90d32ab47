"""D: the card in a reader. Check that it answers, is not held by another program, and belongs to a known family.

The probes connect in shared mode, hold the connection for a short time and disconnect without a reset. No command is
sent to the card.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ushield_hw.doctor.finding import Priority, Rule, Said, Way, causes, fail, ok, probe, skip, unchecked, warn
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes.bus import ccid_devices, modules_of
from ushield_hw.drivers.family import Driver
from ushield_hw.errors import UShieldError
from ushield_hw.system import pcsc
from ushield_hw.system.lazy import cached_property
from ushield_hw.system.pcsc import Contact, Reader, Slot
from ushield_hw.system.processes import Holders, users_of_node, users_of_pcsc
from ushield_hw.uri import TokenUri

_PCSC: Final = Rule(way=Way.PCSC)
_ANSWER_S: Final = 2.0
_HOLD_S: Final = 0.3
_MUTE: Final = {"SCARD_W_UNRESPONSIVE_CARD", "SCARD_W_UNSUPPORTED_CARD", "SCARD_E_PROTO_MISMATCH"}
_NO_ANSWER: Final = "NO_ANSWER"
_BUSY: Final = {"SCARD_E_SHARING_VIOLATION", _NO_ANSWER}  # PC/SC waits while another program has a transaction
_RESET: Final = "SCARD_W_RESET_CARD"
_REMOVED: Final = {"SCARD_W_REMOVED_CARD", "SCARD_E_NO_SMARTCARD", "SCARD_E_READER_UNAVAILABLE"}
_OPENSC_CONF: Final = ("/etc/opensc/opensc.conf", "/etc/opensc.conf", "/usr/local/etc/opensc.conf")
_CARD_DRIVERS: Final = re.compile(r"^\s*card_drivers\s*=\s*([^;#]*);", re.MULTILINE)
_EVERY_DRIVER: Final = {"internal", "default"}
_CTK_SETTINGS: Final = "/Library/Preferences/com.apple.security.smartcard.plist"


@dataclass
class InReader:
    """A reader and the card in it.

    Attributes:
        machine: the machine.
        reader: the reader as PC/SC shows it.
        hold_s: seconds to stay connected, to detect a reset or removal.
        enough: set when a usable token was found; the connection is then ended early.
        shown: whether a module shows a token in it.
    """

    machine: Machine
    reader: Reader
    hold_s: float = _HOLD_S
    enough: threading.Event = field(default_factory=threading.Event)
    shown: bool = False

    @cached_property
    def contact(self) -> Contact | UShieldError | None:
        """The result of connecting to the card, or the error; None: no card that answers."""
        if self.reader.slot is not Slot.CARD:
            return None
        try:
            return pcsc.contact(self.reader.name, _ANSWER_S, self.hold_s, self.enough)
        except UShieldError as error:
            return error

    @property
    def trouble(self) -> str:
        """The PC/SC error name of connecting; empty: no error."""
        return str(self.contact.details.get("name", "")) if isinstance(self.contact, UShieldError) else ""

    @cached_property
    def families(self) -> tuple[Driver, ...]:
        """The families that have its ATR."""
        return tuple(self.machine.catalogue.for_atr(self.reader.atr)) if self.reader.atr else ()

    def evidence(self, **more: Any) -> dict[str, Any]:
        """Return the common evidence of its findings, and ``more``."""
        return {"reader": self.reader.name, **more}

    def failed(self, **more: Any) -> dict[str, Any]:
        """Return the PC/SC error as evidence, and ``more``."""
        details = self.contact.details if isinstance(self.contact, UShieldError) else {}
        return self.evidence(**{name: details.get(name, "-") for name in ("function", "name", "number")}, **more)


def readers(machine: Machine, enough: threading.Event | None = None) -> tuple[InReader, ...]:
    """Return every reader, with or without a card.

    Args:
        machine: the machine.
        enough: ends the connections early when it is set.
    """
    ends = enough or threading.Event()
    return tuple(InReader(machine, reader, enough=ends) for reader in machine.reader_list.readers)


# --- presence ---------------------------------------------------------------------------------------------------------


@probe("D29", "card.present", Rule(warned=Priority.ABSENT, way=Way.PCSC, after=causes("C26 C28 D33")))
def no_card(card: InReader) -> Said:
    """Check that a reader has a card; reported once if all are empty, and not at all if another reader has a card."""
    all_of_them = card.machine.reader_list.readers
    if card.reader.slot is not Slot.EMPTY:
        return ok(**card.evidence())
    if any(reader.slot is not Slot.EMPTY for reader in all_of_them):
        return skip("another_has_one", **card.evidence())
    if card.reader.name != all_of_them[0].name:
        return skip("reported_at_the_first", **card.evidence())
    return warn(**card.evidence(readers=[reader.name for reader in all_of_them]))


@probe("D30", "card.answers", _PCSC)
def mute(card: InReader) -> Said:
    """Check that the card answers; it may be upside down, dirty, broken or not a smart card."""
    if card.reader.slot is Slot.MUTE:
        return fail(**card.evidence(atr=card.reader.atr.hex() or "-", name="SCARD_STATE_MUTE"))
    if card.reader.slot is not Slot.CARD:
        return skip("no_card", **card.evidence())
    evidence = card.evidence(atr=card.reader.atr.hex() or "-")
    return fail(**evidence, name=card.trouble) if card.trouble in _MUTE else ok(**evidence)


@probe("D31", "card.powered", _PCSC)
def unpowered(card: InReader) -> Said:
    """Check that the reader can power the card."""
    if card.reader.slot is not Slot.CARD:
        return skip("no_card", **card.evidence())
    return fail(**card.failed()) if card.trouble == "SCARD_W_UNPOWERED_CARD" else ok(**card.evidence())


# --- exclusive use ----------------------------------------------------------------------------------------------------


@probe("D32", "card.free", Rule(way=Way.PCSC, after=causes("D36")))
def held(card: InReader) -> Said:
    """Check that no program has exclusive access to the card or a transaction that does not end."""
    if card.reader.slot is not Slot.CARD:
        return skip("no_card", **card.evidence())
    if card.trouble not in _BUSY:
        return ok(**card.evidence())
    holders = users_of_pcsc(card.machine)
    if card.trouble == _NO_ANSWER and holders.ourselves and not holders.programs and not holders.unexplained:
        return unchecked("own_access", **card.failed())  # a slow card that the doctor's own workers are reading
    return fail(**card.failed(**_held_by(holders)))


def _held_by(holders: Holders) -> dict[str, Any]:
    found: dict[str, Any] = {"holders": list(holders.programs), "hidden": holders.hidden, "complete": holders.complete}
    if not holders.programs:
        return {**found, "kind": "unseen"}
    if holders.foreign:
        pids = [name.rpartition("(")[2].removesuffix(")") for name in holders.foreign]
        return {**found, "kind": "foreign", "foreign": list(holders.foreign), "pids": " ".join(pids)}
    return found


@probe("D33", "card.usb_taken", _PCSC)
def usb_taken(machine: Machine) -> Said:
    """Check that no program (most often GnuPG's scdaemon) uses the device directly, so that pcscd cannot claim it."""
    devices = ccid_devices(machine)
    if not devices:
        return skip("no_ccid_device")
    for device in devices:
        holders = users_of_node(machine, device.node)
        if holders.programs:
            return fail(usb=device.id, name=device.name or device.id, **_held_by(holders))
    return ok(devices=[device.id for device in devices])


@probe("D34", "card.left_alone", _PCSC)
def reset_by_another(card: InReader) -> Said:
    """Check whether another program resets the card, which ends logins and interrupts signatures."""
    if card.reader.slot is not Slot.CARD:
        return skip("no_card", **card.evidence())
    if card.trouble != _RESET:
        return ok(**card.evidence())
    return warn(**card.failed(**_held_by(users_of_pcsc(card.machine))))


@probe("D35", "card.stays", Rule(way=Way.PCSC, after=causes("A9")))
def taken_out(card: InReader) -> Said:
    """Check whether the card was removed or inserted during the check, by the user or a loose contact."""
    if card.reader.slot is not Slot.CARD:
        return skip("no_card", **card.evidence())
    if card.trouble in _REMOVED:
        return warn(**card.failed(times=1))
    times = _changes(card)
    return warn(**card.evidence(function="SCardGetStatusChange", name="-", number="-", times=times)) if times else ok()


def _changes(card: InReader) -> int:
    """Return how often PC/SC counted an insertion or removal in this reader since the diagnosis began."""
    try:
        now = {reader.name: reader.changes for reader in pcsc.readers(_ANSWER_S)}
    except UShieldError:
        return 0
    return max(0, now.get(card.reader.name, card.reader.changes) - card.reader.changes)


@probe("D36", "card.cryptotokenkit", _PCSC)
def owned_by_macos(card: InReader) -> Said:
    """Check whether macOS's own token extension uses the card. Tested with recorded data only."""
    if card.machine.system != "darwin":
        return skip("not_on_this_system")
    switched_off = "pivtoken" in (card.machine.text(_CTK_SETTINGS) or "")
    if card.trouble not in _BUSY or switched_off:
        return ok(**card.evidence(disabled=switched_off))
    return warn(**card.failed(disabled=switched_off))


# --- family -----------------------------------------------------------------------------------------------------------


@probe("D37", "card.known", Rule(warned=Priority.STRANGE, way=Way.PCSC))
def unknown_card(card: InReader) -> Said:
    """Check that a descriptor has the card's ATR. A module may know the card nevertheless."""
    if card.reader.slot is not Slot.CARD:
        return skip("no_card", **card.evidence())
    evidence = card.evidence(atr=card.reader.atr.hex())
    if not card.families:
        return ok(**evidence, shown=True) if card.shown else warn(**evidence)
    return ok(**evidence, families=_ids(card.families), ambiguous=len(card.families) > 1)


@probe("D38", "card.module", _PCSC)
def wrong_module(card: InReader) -> Said:
    """Check that the requested module drives the card's family, or that a module for it is installed."""
    if not card.families:
        return skip("no_known_card", **card.evidence())
    evidence = card.evidence(atr=card.reader.atr.hex(), families=_ids(card.families), ambiguous=len(card.families) > 1)
    if (asked := _asked(card.machine)) is not None:
        driver = card.machine.catalogue.for_module(asked)
        right = driver is None or driver.module.general or driver.id in drivable_by(card.families)
        return ok(**evidence) if right else fail(**evidence, module=str(asked), searched=["-"])
    return _installed(card, evidence)


def _installed(card: InReader, evidence: dict[str, Any]) -> Said:
    """Check for an installed module of the card's families; a general module may do."""
    machine, known = card.machine, card.machine.catalogue.ids()
    drivers = [machine.catalogue.get(name) for name in drivable_by(card.families) if name in known]
    searched = [path for driver in drivers for path in driver.module.paths]
    if not searched:
        return skip("no_module_known", **evidence)
    if any(modules_of(machine, driver) for driver in drivers):
        return ok(**evidence)
    stopgap = any(modules_of(machine, driver) for driver in machine.catalogue if driver.module.general)
    evidence.update(module="-", searched=searched)
    return warn(**evidence) if stopgap else fail(**evidence)


def _asked(machine: Machine) -> Path | None:
    """Return the module file that the selected URI names."""
    if machine.selector is None or not TokenUri.names(machine.selector):
        return None
    try:
        return TokenUri.parse(machine.selector).module_path
    except UShieldError:
        return None


def drivable_by(families: tuple[Driver, ...]) -> list[str]:
    """Return the ids of the descriptors whose modules drive these families."""
    found = [name for one in families for name in (one.id, one.module.via, *one.module.also_via) if name is not None]
    return list(dict.fromkeys(found))


def _ids(families: tuple[Driver, ...]) -> list[str]:
    return [driver.id for driver in families]


@probe("D39", "card.opensc_drivers", _PCSC)
def driver_switched_off(card: InReader) -> Said:
    """Check whether OpenSC is configured with a list of card drivers that disables others.

    The descriptors do not record which of OpenSC's drivers a card needs, so any list without the built-in drivers is
    reported.
    """
    if not any("opensc" in drivable_by((family,)) for family in card.families):
        return skip("not_by_opensc", **card.evidence())
    named = card.machine.environ.get("OPENSC_CONF")
    for file in (named,) if named else _OPENSC_CONF:
        chosen = _CARD_DRIVERS.search(card.machine.text(file) or "")
        drivers = [name.strip(" \"'") for name in chosen.group(1).split(",")] if chosen else []
        if drivers and not _EVERY_DRIVER.intersection(drivers):
            return warn(**card.evidence(file=file, drivers=drivers, families=_ids(card.families)))
    return ok(**card.evidence())


MACHINE_PROBES: Final = (usb_taken,)
CONTACT_PROBES: Final = (no_card, mute, unpowered, held, reset_by_another, taken_out, owned_by_macos)
FAMILY_PROBES: Final = (unknown_card, wrong_module, driver_switched_off)  # run after the modules were checked
PROBES: Final = (*CONTACT_PROBES, *FAMILY_PROBES)
