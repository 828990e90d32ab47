"""A token that is plugged in, as it was found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import (
    LEFT_OUT,
    CertificateRecord,
    Contents,
    KeyRecord,
    ModuleInfo,
    ObjectProblem,
    SlotInfo,
    TokenInfo,
)
from ushield_hw.config import Settings
from ushield_hw.drivers.catalogue import Driver
from ushield_hw.errors import TokenBusy, UShieldError
from ushield_hw.interaction import Interaction, PinState, Silent
from ushield_hw.system.lazy import cached_property
from ushield_hw.token.key_pairs import Pair, pairs
from ushield_hw.token.link import Link
from ushield_hw.token.readiness import asks_for_login, certificates_may_hide
from ushield_hw.token.selection import unread_text
from ushield_hw.token.session import Session, open_session
from ushield_hw.uri import TokenUri

NAMED_BY: Final = ("token", "manufacturer", "serial", "model")


@dataclass(frozen=True)
class Token:
    """A token that is plugged in. What it says of itself is a claim: a serial number can be forged.

    Attributes:
        info: what it said when it was found.
        link: where it is. Internal.
        named_by: what made its module known: a descriptor's id, a ``*.module`` file, ``config``.
        also_in: other modules that show the same token.
        slot: the slot it was found in.
        named_apart: the attributes of a URI that name this token and no other of its module.
        alike: nothing tells it from another token of its module, which has the same URI.
    """

    info: TokenInfo
    link: Link
    named_by: str
    also_in: tuple[Path, ...] = ()
    slot: SlotInfo | None = field(default=None, repr=False)
    named_apart: tuple[str, ...] = NAMED_BY
    alike: bool = False

    @property
    def serial(self) -> str:
        """The serial number, as the token claims it."""
        return self.info.serial

    @property
    def label(self) -> str:
        """The label; it may change with the certificate on some tokens."""
        return self.info.label

    @property
    def driver(self) -> Driver:
        """The family it belongs to."""
        return self.link.driver

    @property
    def settings(self) -> Settings:
        """Those in force when it was found."""
        return self.link.settings

    @property
    def isolation(self) -> Isolation:
        """Where its module runs."""
        return self.link.module.isolation

    @property
    def module(self) -> Path:
        """The module file it is driven by."""
        return self.link.module.path

    @cached_property
    def uri(self) -> str:
        """The URI that selects this token again: serial, manufacturer, model, label and module, and more if needed."""
        said = self.said()
        return str(TokenUri(**{name: said[name] for name in self.named_apart}, module_path=self.module))  # type: ignore[arg-type]

    def said(self) -> dict[str, str]:
        """Return what token and slot say of themselves, by the names that :class:`TokenUri` has for it."""
        info, slot = self.info, self.slot
        return {
            "token": info.label,
            "manufacturer": info.manufacturer,
            "serial": info.serial,
            "model": info.model,
            "slot_description": slot.description if slot else "",
            "slot_manufacturer": slot.manufacturer if slot else "",
        }

    def open(self, interaction: Interaction | None = None, *, purpose: str = "sign") -> Session:
        """Log in, asking for the PIN, or join the login that this process already has.

        Args:
            interaction: whoever is asked; default: nobody, which refuses.
            purpose: said in the PIN prompt.

        Raises:
            PinError, TokenError, DriverError, StorageError: nothing was opened.
        """
        return open_session(self.link, interaction or Silent(), purpose)

    def pin_state(self) -> PinState:
        """Return what is known of the PIN; spends no try."""
        return self.link.pin.state()

    def contents(self) -> Contents:
        """Return the objects that show without a login, and what could not be read of them."""
        return self.link.contents()

    def certificates(self) -> tuple[CertificateRecord, ...]:
        """Return the certificate objects that show without a login."""
        return self.link.certificates()

    def keys(self) -> tuple[KeyRecord, ...]:
        """Return the key objects that show without a login."""
        return self.link.keys()

    def mechanisms(self) -> tuple[str, ...]:
        """Return the names of the mechanisms that it offers."""
        return self.link.mechanisms()

    def module_info(self) -> ModuleInfo:
        """Return what its module says of itself."""
        return self.link.module.info()

    def pin_limits(self) -> PinState:
        """Return the shortest and the longest PIN that it takes."""
        return self.link.pin.limits()

    def pairs(self, contents: Contents | None = None) -> tuple[Pair, ...]:
        """Return the certificates that show without a login, with what is known of their keys.

        Args:
            contents: what :meth:`contents` has just returned; None: it is read now.

        Raises:
            TokenError: the objects cannot be read; where some can, those that cannot are left out.
        """
        if contents is not None:
            return pairs(contents.certificates, contents.keys, logged_in=False)
        return pairs(self.certificates(), self.keys(), logged_in=False)

    def problems(self, contents: Contents) -> tuple[Problem, ...]:
        """Return what could not be read of the token's objects, in words."""
        return tuple(Problem.of_object(self.module, problem) for problem in contents.problems)

    def certificates_may_hide(self, contents: Contents) -> bool:
        """Tell whether a certificate is missing that a login may show."""
        waits = asks_for_login(self.info)
        return waits and certificates_may_hide(self.driver, contents.certificates, contents.keys)

    def __repr__(self) -> str:
        return f"<Token {self.label!r} serial={self.serial!r} driver={self.driver.id!r} module={str(self.module)!r}>"


@dataclass(frozen=True, slots=True)
class Problem:
    """A module, a slot or an object that could not be read; or a file of the configuration that was left out.

    Attributes:
        module: the module's file.
        error: the code of what was wrong.
        message: that in words.
        readers: those whose card another program keeps to itself, where that is what was wrong.
    """

    module: Path
    error: str
    message: str
    readers: tuple[str, ...] = ()

    @classmethod
    def of(cls, module: Path, error: UShieldError) -> Problem:
        """Say what was wrong with a module or a slot."""
        readers = error.readers if isinstance(error, TokenBusy) else ()
        return cls(module, error.code, error.message, tuple(readers))

    @classmethod
    def of_object(cls, module: Path, problem: ObjectProblem) -> Problem:
        """Say which object could not be read, and why."""
        code = problem.code or "OBJECT_UNUSABLE"
        return cls(module, code if problem.handle else LEFT_OUT, unread_text(problem))

    def to_json(self) -> dict[str, object]:
        """Return it for documents."""
        return {"module": str(self.module), "error": self.error, "message": self.message}
