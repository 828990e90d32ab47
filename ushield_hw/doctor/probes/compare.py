"""Compare the tokens that modules show with the devices and cards that USB and PC/SC show.

A card of a known family, or a device with a vendor protocol, must show as a token in a slot of a module for its family.
This probe reports the case that every component works and the token is still missing.
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
from ushield_hw.drivers.family import Driver
from ushield_hw.system.pcsc import Slot

_MANY_SLOTS: Final = (
    16  # OpenSC's limit (max_virtual_slots), with four slots per reader (slots_per_card): enough for four readers
)


@dataclass
class Expected:
    """A card or device, and the modules that should show its token.

    Attributes:
        subject: the reader or the device.
        families: the matching families; empty for an unknown card.
        loaded: the modules of these families, or the general ones, that were loaded and listed their slots.
        card: the card in its reader; None for a device that does not use PC/SC.
    """

    subject: str
    families: tuple[Driver, ...]
    loaded: Sequence[Loaded]
    card: InReader | None = None

    @property
    def way(self) -> Way:
        """The access path of the token."""
        return Way.DIRECT if self.card is None else Way.PCSC

    def slots(self) -> list[SlotInfo]:
        """Return the slots that can contain its token: those of its reader, or all slots of its modules."""
        found = [slot for one in self.loaded for slot in one.slots]
        return found if self.card is None else [slot for slot in found if of_reader(slot, self.card.reader)]

    def served(self) -> list[str]:
        """Return the readers that its modules have slots for; this reader may be missing if all slots are used."""
        if self.card is None:
            return []
        readers = self.card.machine.reader_list.readers
        return [
            reader.name for reader in readers if any(of_reader(slot, reader) for of in self.loaded for slot in of.slots)
        ]

    def evidence(self) -> dict[str, Any]:
        """Return the evidence for the finding."""
        return {
            "served": self.served(),
            "subject_name": self.subject,
            "families": [driver.product or driver.id for driver in self.families],
            "modules": [str(one.file.path) for one in self.loaded],
            "slots": sum(len(one.slots) for one in self.loaded),
        }


def expected(machine: Machine, readers: Sequence[InReader], loaded: Sequence[Loaded]) -> Iterator[Expected]:
    """Yield every card that answers and every known device that does not use PC/SC.

    An unknown card is included too: a general module must have a slot for it.

    Args:
        machine: the machine.
        readers: its readers.
        loaded: the modules that were loaded.
    """
    general = [one for one in loaded if one.error is None and one.file.driver.module.general]
    for card in readers:
        if card.reader.slot is Slot.CARD:
            modules = _driving(loaded, card.families) if card.families else general
            yield Expected(card.reader.name, card.families, modules, card)
    for one in plugged(machine):
        if one.past_pcsc:
            yield Expected(one.label, one.drivers, _driving(loaded, one.drivers))


def shows_a_token(card: InReader, loaded: Sequence[Loaded]) -> bool:
    """Return whether a module shows a token in a reader."""
    return any(slot.token is not None and of_reader(slot, card.reader) for one in loaded for slot in one.slots)


def _driving(loaded: Sequence[Loaded], families: tuple[Driver, ...]) -> list[Loaded]:
    wanted = drivable_by(families)
    return [one for one in loaded if one.error is None and one.file.driver.id in wanted]


@probe("F77", "slots.shown", Rule(after=causes("A6 A7 A9 D30 D31 D32 D34 D35 D38 D39 F52 F60")))
def shown(one: Expected) -> Said:
    """Check that a card or device of a known family shows as a token in a loaded module."""
    if not one.loaded:
        return skip("no_module_of_its_family")
    slots = one.slots()
    if any(slot.token is not None for slot in slots):
        return ok(**one.evidence())
    if any(slot.problem for slot in slots):
        return skip("slot_not_readable", **one.evidence())  # reported as F60
    full = not slots and bool(one.served())
    if not full and not one.families:
        return skip("unknown_card", **one.evidence())  # reported as D37
    return fail(kind="full" if full else one.way.value, **one.evidence())


PROBES: Final[tuple[Probe[Expected], ...]] = (shown,)
