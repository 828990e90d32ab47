"""What the probes of the later layers look at: a module's file, the module once it is loaded, and a token in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import (
    CertificateRecord,
    Contents,
    KeyRecord,
    ModuleInfo,
    ObjectClass,
    ObjectProblem,
    SlotInfo,
)
from ushield_hw.backend.module import Module
from ushield_hw.backend.sharing import descriptions
from ushield_hw.doctor.finding import Way
from ushield_hw.doctor.inspect.image import glance, processor, read_image
from ushield_hw.doctor.inspect.image_model import Image
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.soft_store import objects_stored
from ushield_hw.drivers.catalogue import GENERIC, Driver, Kind
from ushield_hw.drivers.installed import module_environment
from ushield_hw.errors import UShieldError
from ushield_hw.interaction import PinState
from ushield_hw.order import KeyUse
from ushield_hw.system.lazy import cached_property
from ushield_hw.system.pcsc import Reader
from ushield_hw.token.key_pairs import KeyChoice, Pair, pairs
from ushield_hw.token.readiness import Decision, Seen, Verdict, asks_for_login, decide
from ushield_hw.token.token import Token

LOAD_DEADLINE_S: Final = 10.0


@dataclass
class ModuleFile:
    """A PKCS#11 module's file, which may be anything.

    Attributes:
        machine: where it lies.
        path: the file.
        driver: the family it belongs to; ``GENERIC``: none that is known.
        asked: somebody named this very file.
        closely: its tables are read; else a file that looks well is taken at its header's word.
    """

    machine: Machine
    path: Path
    driver: Driver = GENERIC
    asked: bool = False
    closely: bool = True

    @property
    def way(self) -> Way:
        """How its tokens come to a program, as far as its descriptor says."""
        if self.driver.kind in {Kind.SOFTWARE, Kind.PLATFORM}:
            return Way.SOFT
        families = (self.driver, *self.machine.catalogue.driven_by(self.driver))
        past = any(usb.binding.past_pcsc for family in families for usb in family.usb)
        return Way.ANY if past or self.driver is GENERIC else Way.PCSC

    @property
    def image(self) -> Image | None:
        """What the file says of itself, read without loading it; None: it cannot be read."""
        return self._image if self.closely or self.glance is None else self.glance

    @cached_property
    def glance(self) -> Image | None:
        """What its header says, if that looks like a module for this very machine; None: it needs a closer look."""
        found = glance(self.path)
        ours = processor(self.machine.architecture)
        return found if found is not None and ours in found.architectures else None

    @cached_property
    def _image(self) -> Image | None:
        return read_image(self.path)


@dataclass
class Loaded:
    """A module in a worker process of its own, or why it is not. Made by :func:`load`.

    Attributes:
        file: where it came from.
        error: what went wrong, in loading, in C_Initialize or in listing the slots.
        info: what the module says of itself; None if it did not come that far.
        slots: its slots.
        module: the module; to be closed.
    """

    file: ModuleFile
    module: Module
    error: UShieldError | None = None
    info: ModuleInfo | None = None
    slots: Sequence[SlotInfo] = field(default_factory=tuple)


def load(file: ModuleFile, deadline_s: float = LOAD_DEADLINE_S) -> Loaded:
    """Load a module in a worker of its own and list its slots; never in this process, whatever its descriptor says."""
    spec, environment = file.driver.module, module_environment(file.driver, file.machine.settings)
    loaded = Loaded(file, Module(file.path, Isolation.PROCESS, spec.options, deadline_s, environment))
    try:
        loaded.info = loaded.module.info()
        loaded.slots = loaded.module.slots()
    except UShieldError as error:
        loaded.error = error
    return loaded


def of_reader(slot: SlotInfo | None, reader: Reader) -> bool:
    """Tell whether a slot's description is the name of a reader, as far as it fits into one."""
    if slot is None or not slot.description:
        return False
    return slot.description.rstrip() in {reader.name, *descriptions((reader.name,))}


def _is_half(key: KeyRecord, pair: Pair) -> bool:
    """Tell whether a key object that shows is the other half of a certificate, or stands for it by its id."""
    if key.public is not None:
        return key.public in pair.facts.spki
    return bool(key.key_id) and key.key_id == pair.certificate.key_id


@dataclass
class TokenSeen:
    """A token in a slot. Nothing here logs in: what a PIN would show stays unknown.

    Attributes:
        token: the token.
        loaded: the module it was seen through.
    """

    token: Token
    loaded: Loaded

    @property
    def name(self) -> str:
        """The subject of findings about it."""
        return f"{self.token.label} ({self.token.serial})"

    @cached_property
    def reader(self) -> str:
        """The reader that its slot is named for; empty: none is."""
        readers = self.loaded.file.machine.scene.readers
        return next((reader.name for reader in readers if of_reader(self.slot, reader)), "")

    @property
    def slot(self) -> SlotInfo | None:
        """Its slot."""
        return next((slot for slot in self.loaded.slots if slot.slot_id == self.token.info.slot_id), None)

    @property
    def atr(self) -> bytes:
        """The ATR of the card in its reader; empty if that cannot be told."""
        readers = self.loaded.file.machine.scene.readers
        return next((reader.atr for reader in readers if reader.name == self.reader), b"")

    @property
    def general(self) -> bool:
        """Whether it shows through a module that drives many families, and is of none that is told apart there."""
        file = self.loaded.file
        return file.driver.module.general and self.token.driver.id == file.driver.id

    @cached_property
    def set_up_by(self) -> tuple[Driver, ...]:
        """The families that its card may be of whose own modules set it up so that a general one shows nothing."""
        if not self.general:
            return ()
        ours = self.loaded.file.driver.id
        families = self.loaded.file.machine.catalogue.for_atr(self.atr)
        return tuple(one for one in families if ours not in {one.id, one.module.via, *one.module.also_via})

    @cached_property
    def nothing_hides(self) -> bool:
        """Whether it is known without a login that a token that shows neither key nor certificate has none."""
        return not asks_for_login(self.token.info) or bool(self.set_up_by and not self.pairs) or self.all_shown

    @cached_property
    def stored(self) -> int | None:
        """How many objects its files hold, shown or not; None: that cannot be told."""
        file = self.loaded.file
        return objects_stored(file.machine, file.driver.module.config_env, self.token.serial)

    @property
    def all_shown(self) -> bool:
        """Whether it is known that no object hides until a login."""
        unread = sum(one.count for one in self.unread if one.left_out)
        return self.stored is not None and self.stored <= len(self.certificates) + len(self.keys) + unread

    @cached_property
    def blank(self) -> bool:
        """Whether it is a soft token without a certificate, which nobody may be waiting for."""
        try:
            return self.token.driver.kind is Kind.SOFTWARE and not self.pairs
        except UShieldError:
            return False

    @cached_property
    def pin(self) -> PinState:
        """What is known of its PIN; no try is spent."""
        return self.token.pin_state()

    @property
    def now(self) -> datetime:
        """What the clock says."""
        return self.loaded.file.machine.now or datetime.now(UTC)

    @property
    def choice(self) -> KeyChoice:
        """Which of its keys was asked for."""
        return self.loaded.file.machine.choice

    @cached_property
    def decision(self) -> Decision:
        """What ``ushield sign`` would go by, as far as it can be known without a login.

        Raises:
            UShieldError: the token cannot be read.
        """
        try:
            pin: PinState | UShieldError = self.pin
        except UShieldError as error:
            pin = error
        shown = (self.certificates, self.keys, self.mechanisms)
        known = (self.unread, self.all_shown)
        view = Seen(self.token.info, self.token.driver, self.token.settings, *shown, False, pin, *known)
        return decide(view, KeyUse.PAYMENT, self.choice, self.now)

    @property
    def able(self) -> bool:
        """Whether it can sign, or a login may show that it can."""
        verdict = self.decision.verdict
        return verdict is Verdict.CAN or (verdict is Verdict.UNDECIDED and not (self.bare and self.nothing_hides))

    @property
    def bare(self) -> bool:
        """Whether it shows no key and no certificate that could sign: it is empty, or all of it hides until a login."""
        return self.decision.pair is None and not self.keys

    @property
    def uncertain(self) -> bool:
        """Whether nothing that shows proves that the key or the certificate is there: only a login tells."""
        pair = self.decision.pair
        if self.decision.verdict is not Verdict.UNDECIDED:
            return False
        proving = (key for key in self.keys if key.private or self._halves_prove)
        return pair is None or not any(_is_half(key, pair) for key in proving)

    @cached_property
    def _halves_prove(self) -> bool:
        """Whether a public key that shows is as good as its private one.

        It may have been left behind: where others show, or could not be read, or where keys are files, of which
        either half can be removed alone. There only the number of files tells that something hides.
        """
        private = any(key.private for key in self.keys)
        unread = any(one.kind is ObjectClass.PRIVATE_KEY for one in self.unread)
        files = self.token.driver.kind in {Kind.SOFTWARE, Kind.PLATFORM} and self.stored is None
        return not (private or unread or files)

    @cached_property
    def contents(self) -> Contents:
        """The objects that show without a login, and what could not be read."""
        return self.token.contents()

    @property
    def unread(self) -> Sequence[ObjectProblem]:
        """What could not be read."""
        return self.contents.problems

    @cached_property
    def certificates(self) -> Sequence[CertificateRecord]:
        """The certificate objects that show without a login.

        Raises:
            UShieldError: none of them can be read.
        """
        found = self.contents.certificates
        refused = not found and any(one.kind is ObjectClass.CERTIFICATE for one in self.unread)
        return self.token.certificates() if refused else found

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """The certificates that show without a login."""
        return pairs(self.certificates, self.keys, logged_in=False)

    @cached_property
    def keys(self) -> tuple[KeyRecord, ...]:
        """The key objects that show without a login.

        Raises:
            UShieldError: none of them can be read.
        """
        found = self.contents.keys
        refused = not found and any(one.kind is not ObjectClass.CERTIFICATE for one in self.unread)
        return self.token.keys() if refused else found

    @cached_property
    def mechanisms(self) -> tuple[str, ...]:
        """The mechanisms it offers."""
        return self.token.mechanisms()
