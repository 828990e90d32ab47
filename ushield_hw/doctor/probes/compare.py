"""Two views of one thing compared: what the bus and PC/SC show, and what the modules make of it.

A card whose family is known, or a device with its maker's own protocol, has to show as a token in a slot of a module
that drives its family. Where every part looks well by itself and the token is missing all the same, this says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ushield_hw.backend.model import SlotInfo
from ushield_hw.doctor.finding import Probe, Rule, Said, Way, causes, fail, ok, probe, skip
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes.bus import plugged
from ushield_hw.doctor.probes.card import InReader, drivable_by
from ushield_hw.doctor.subjects import Loaded, of_reader
from ushield_hw.drivers.catalogue import Driver
from ushield_hw.system.pcsc import Slot

_MANY_SLOTS: Final = (
    16  # OpenSC has no more (max_virtual_slots), four a reader (slots_per_card): enough for four readers
)


@dataclass
class Expected:
    """A card or a device of known families, and the modules that should show its token.

    Attributes:
        subject: the reader, or the device.
        families: the families that know it; none: a card that nothing here knows.
        loaded: the modules of these families, or the general ones, that have been started and have listed their slots.
        here: the card in its reader; None: a device past PC/SC.
    """

    subject: str
    families: tuple[Driver, ...]
    loaded: Sequence[Loaded]
    here: InReader | None = None

    @property
    def way(self) -> Way:
        """How it comes to a program."""
        return Way.DIRECT if self.here is None else Way.PCSC

    def slots(self) -> list[SlotInfo]:
        """Return the slots in which its token can be: those of its reader, or all of its modules."""
        found = [slot for one in self.loaded for slot in one.slots]
        return found if self.here is None else [slot for slot in found if of_reader(slot, self.here.reader)]

    def served(self) -> list[str]:
        """Return the readers that its modules have slots for, though there may be none left for this one."""
        if self.here is None:
            return []
        readers = self.here.machine.scene.readers
        return [
            reader.name for reader in readers if any(of_reader(slot, reader) for of in self.loaded for slot in of.slots)
        ]

    def evidence(self) -> dict[str, Any]:
        """Return what the finding says."""
        return {
            "served": self.served(),
            "subject_name": self.subject,
            "families": [driver.product or driver.id for driver in self.families],
            "modules": [str(one.file.path) for one in self.loaded],
            "slots": sum(len(one.slots) for one in self.loaded),
        }


def expected(machine: Machine, readers: Sequence[InReader], loaded: Sequence[Loaded]) -> Iterator[Expected]:
    """Yield every card that answers, and every device past PC/SC that a descriptor knows.

    A general module has to have a slot for a card that nothing here knows, too.
    """
    general = [one for one in loaded if one.error is None and one.file.driver.module.general]
    for here in readers:
        if here.reader.slot is Slot.CARD:
            modules = _driving(loaded, here.families) if here.families else general
            yield Expected(here.reader.name, here.families, modules, here)
    for one in plugged(machine):
        if one.past_pcsc:
            yield Expected(one.label, one.drivers, _driving(loaded, one.drivers))


def shows_a_token(here: InReader, loaded: Sequence[Loaded]) -> bool:
    """Tell whether a module shows a token in a reader."""
    return any(slot.token is not None and of_reader(slot, here.reader) for one in loaded for slot in one.slots)


def _driving(loaded: Sequence[Loaded], families: tuple[Driver, ...]) -> list[Loaded]:
    wanted = drivable_by(families)
    return [one for one in loaded if one.error is None and one.file.driver.id in wanted]


@probe("F77", "slots.shown", Rule(after=causes("A6 A7 A9 D30 D31 D32 D34 D35 D38 D39 F52 F60")))
def shown(one: Expected) -> Said:
    """The card or the device is there, its family is known, its module is started, and no token shows."""
    if not one.loaded:
        return skip("no_module_of_its_family")
    slots = one.slots()
    if any(slot.token is not None for slot in slots):
        return ok(**one.evidence())
    if any(slot.problem for slot in slots):
        return skip("slot_not_readable", **one.evidence())  # F60 says so
    full = not slots and bool(one.served())
    if not full and not one.families:
        return skip("unknown_card", **one.evidence())  # D37 says so
    return fail(kind="full" if full else one.way.value, **one.evidence())


PROBES: Final[tuple[Probe[Expected], ...]] = (shown,)
