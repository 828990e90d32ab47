"""The subjects of the later probes: a module file, a loaded module, and a token in a slot."""

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
from ushield_hw.doctor.finding import NO_PYSCARD, NO_SERVICE, Way
from ushield_hw.doctor.inspect.image import glance, processor, read_image
from ushield_hw.doctor.inspect.image_model import Image
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.soft_store import objects_stored
from ushield_hw.drivers.catalogue import GENERIC
from ushield_hw.drivers.family import Driver, Kind
from ushield_hw.drivers.installed import module_environment
from ushield_hw.errors import UShieldError
from ushield_hw.interaction import PinState
from ushield_hw.order import KeyUse
from ushield_hw.system import pcsc
from ushield_hw.system.lazy import cached_property
from ushield_hw.system.pcsc import Reader
from ushield_hw.token.discovery import alike, end_entities
from ushield_hw.token.key_pairs import KeyChoice, Pair, pairs
from ushield_hw.token.readiness import Decision, Seen, Verdict, asks_for_login, decide
from ushield_hw.token.token import Token

LOAD_DEADLINE_S: Final = 10.0


@dataclass
class ModuleFile:
    """A file that should be a PKCS#11 module.

    Attributes:
        machine: the machine it is on.
        path: the file.
        driver: the family it belongs to; ``GENERIC``: unknown.
        asked: whether the user named this file.
        closely: whether its tables are parsed; otherwise a file with a valid header is accepted.
    """

    machine: Machine
    path: Path
    driver: Driver = GENERIC
    asked: bool = False
    closely: bool = True

    @property
    def way(self) -> Way:
        """The access path of its tokens according to its descriptor."""
        if self.driver.kind in {Kind.SOFTWARE, Kind.PLATFORM}:
            return Way.SOFT
        families = (self.driver, *self.machine.catalogue.driven_by(self.driver))
        past = any(usb.binding.past_pcsc for family in families for usb in family.usb)
        return Way.ANY if past or self.driver is GENERIC else Way.PCSC

    @property
    def image(self) -> Image | None:
        """What the file contains, read without loading it; None: it cannot be read."""
        return self._image if self.closely or self.glance is None else self.glance

    @cached_property
    def glance(self) -> Image | None:
        """The header if it looks like a module for this machine; None: the tables must be parsed."""
        found = glance(self.path)
        ours = processor(self.machine.architecture)
        return found if found is not None and ours in found.architectures else None

    @cached_property
    def _image(self) -> Image | None:
        return read_image(self.path)


@dataclass
class Loaded:
    """A module in its own worker process, or the error of loading it. Created by :func:`load`.

    Attributes:
        file: the module file.
        module: the module; must be closed.
        error: the error of loading, of C_Initialize or of listing the slots.
        info: the result of C_GetInfo; None if it was not reached.
        slots: its slots.
    """

    file: ModuleFile
    module: Module
    error: UShieldError | None = None
    info: ModuleInfo | None = None
    slots: Sequence[SlotInfo] = field(default_factory=tuple)


def load(file: ModuleFile, deadline_s: float = LOAD_DEADLINE_S) -> Loaded:
    """Load a module in its own worker process and list its slots; never in-process, whatever its descriptor says.

    Args:
        file: the module file.
        deadline_s: timeout in seconds.
    """
    spec, environment = file.driver.module, module_environment(file.driver, file.machine.settings)
    loaded = Loaded(file, Module(file.path, Isolation.PROCESS, spec.options, deadline_s, environment))
    try:
        loaded.info = loaded.module.info()
        loaded.slots = loaded.module.slots()
    except UShieldError as error:
        loaded.error = error
    return loaded


def of_reader(slot: SlotInfo | None, reader: Reader) -> bool:
    """Return whether a slot description is the name of a reader, possibly truncated."""
    if slot is None or not slot.description:
        return False
    return slot.description.rstrip() in {reader.name, *descriptions((reader.name,))}


def _is_half(key: KeyRecord, pair: Pair) -> bool:
    """Return whether a visible key object belongs to a certificate, by its public key or its id."""
    if key.public is not None:
        return key.public in pair.facts.spki
    return bool(key.key_id) and key.key_id == pair.certificate.key_id


@dataclass
class TokenSeen:
    """A token in a slot. Nothing here logs in, so private objects stay unknown.

    Attributes:
        token: the token.
        loaded: the module it was found through.
    """

    token: Token
    loaded: Loaded

    @property
    def name(self) -> str:
        """The subject of findings about it."""
        return f"{self.token.label} ({self.token.serial})"

    @cached_property
    def reader(self) -> str:
        """The reader that its slot is named after; empty if there is none."""
        readers = self.loaded.file.machine.reader_list.readers
        return next((reader.name for reader in readers if of_reader(self.slot, reader)), "")

    @property
    def slot(self) -> SlotInfo | None:
        """Its slot."""
        return next((slot for slot in self.loaded.slots if slot.slot_id == self.token.info.slot_id), None)

    @property
    def atr(self) -> bytes:
        """The ATR of the card in its reader; empty if unknown."""
        readers = self.loaded.file.machine.reader_list.readers
        return next((reader.atr for reader in readers if reader.name == self.reader), b"")

    @property
    def general(self) -> bool:
        """Whether it shows through a module for many families and its own family is not known."""
        file = self.loaded.file
        return file.driver.module.general and self.token.driver.id == file.driver.id

    @cached_property
    def set_up_by(self) -> tuple[Driver, ...]:
        """The possible families of its card whose own modules format it so that a general module shows nothing."""
        if not self.general:
            return ()
        ours = self.loaded.file.driver.id
        families = self.loaded.file.machine.catalogue.for_atr(self.atr)
        return tuple(one for one in families if ours not in {one.id, one.module.via, *one.module.also_via})

    @cached_property
    def nothing_hides(self) -> bool:
        """Whether it is known without a login that a token that shows no key and no certificate has none."""
        return not asks_for_login(self.token.info) or bool(self.set_up_by and not self.pairs) or self.all_shown

    @cached_property
    def stored(self) -> int | None:
        """The number of objects in its files, visible or not; None if it cannot be determined."""
        file = self.loaded.file
        return objects_stored(file.machine, file.driver.module.config_env, self.token.serial)

    @property
    def all_shown(self) -> bool:
        """Whether it is known that no object becomes visible by a login."""
        unread = sum(one.count for one in self.unread if one.left_out)
        return self.stored is not None and self.stored <= len(self.certificates) + len(self.keys) + unread

    @cached_property
    def blank(self) -> bool:
        """Whether it is a soft token without a certificate."""
        try:
            return self.token.driver.kind is Kind.SOFTWARE and not self.pairs
        except UShieldError:
            return False

    @cached_property
    def pin(self) -> PinState:
        """The state of its PIN; uses no attempt."""
        return self.token.pin_state()

    @property
    def now(self) -> datetime:
        """The current time of the machine."""
        return self.loaded.file.machine.now or datetime.now(UTC)

    @property
    def choice(self) -> KeyChoice:
        """The key that was requested."""
        return self.loaded.file.machine.choice

    @cached_property
    def decision(self) -> Decision:
        """The decision of ``ushield sign`` as far as it can be made without a login.

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
        """Whether it shows neither a key nor a certificate that could sign: it is empty, or its objects are private."""
        return self.decision.pair is None and not self.keys

    @property
    def uncertain(self) -> bool:
        """Whether no visible object proves that key and certificate exist, so that only a login can show."""
        pair = self.decision.pair
        if self.decision.verdict is not Verdict.UNDECIDED:
            return False
        proving = (key for key in self.keys if key.private or self._halves_prove)
        return pair is None or not any(_is_half(key, pair) for key in proving)

    @cached_property
    def _halves_prove(self) -> bool:
        """Whether a visible public key proves that its private key exists.

        It does not if other private keys are visible, if a private key could not be read, or if keys are files of which
        either half can be deleted alone. In the last case only the number of files shows whether there are private
        objects.
        """
        private = any(key.private for key in self.keys)
        unread = any(one.kind is ObjectClass.PRIVATE_KEY for one in self.unread)
        files = self.token.driver.kind in {Kind.SOFTWARE, Kind.PLATFORM} and self.stored is None
        return not (private or unread or files)

    @cached_property
    def contents(self) -> Contents:
        """The objects visible without a login, and those that could not be read."""
        return self.token.contents()

    @property
    def unread(self) -> Sequence[ObjectProblem]:
        """The objects that could not be read."""
        return self.contents.problems

    @cached_property
    def certificates(self) -> Sequence[CertificateRecord]:
        """The certificate objects visible without a login.

        Raises:
            UShieldError: none of them can be read.
        """
        found = self.contents.certificates
        refused = not found and any(one.kind is ObjectClass.CERTIFICATE for one in self.unread)
        return self.token.certificates() if refused else found

    @cached_property
    def end_entities(self) -> frozenset[bytes]:
        """The certificates that identify the token, DER; empty if they cannot be read."""
        try:
            return end_entities(self.certificates)
        except UShieldError:
            return frozenset()

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """The certificates visible without a login."""
        return pairs(self.certificates, self.keys, logged_in=False)

    @cached_property
    def keys(self) -> tuple[KeyRecord, ...]:
        """The key objects visible without a login.

        Raises:
            UShieldError: none of them can be read.
        """
        found = self.contents.keys
        refused = not found and any(one.kind is not ObjectClass.CERTIFICATE for one in self.unread)
        return self.token.keys() if refused else found

    @cached_property
    def mechanisms(self) -> tuple[str, ...]:
        """Its mechanisms."""
        return self.token.mechanisms()


def each(tokens: Sequence[TokenSeen]) -> list[TokenSeen]:
    """Return every token once, through the module of its own family if there is one.

    Args:
        tokens: the tokens; twice if a token shows through two modules.
    """
    by_token = {id(seen.token): seen for seen in tokens}
    groups = alike([seen.token for seen in tokens], lambda token: by_token[id(token)].end_entities)
    return [by_token[id(group[0])] for group in groups]


def pcsc_unavailable(machine: Machine) -> str:
    """Return why readers and cards cannot be examined, as a reason of a finding; empty if they can.

    Args:
        machine: the machine.
    """
    failure = machine.reader_list.failure
    if failure is None:
        return ""
    return NO_PYSCARD if failure.name == pcsc.NO_PYSCARD else NO_SERVICE
