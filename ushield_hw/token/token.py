"""A token as enumerated, before any session is open."""

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
from ushield_hw.drivers.family import Driver
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
    """A token that was enumerated.

    What a token reports about itself is a claim: a serial number can be forged.

    Attributes:
        info: The token information as read at enumeration.
        link: Module, slot and driver of the token. Internal.
        named_by: How its module became known: a descriptor's id, a ``*.module`` file, or ``config``.
        also_in: Other modules that show the same token.
        slot: The slot in which it was found.
        named_apart: The URI attributes that select this token and no other token of its module.
        alike: Whether another token of its module reports the same attributes, so that both have the same URI.
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
        """The serial number reported by the token."""
        return self.info.serial

    @property
    def label(self) -> str:
        """The token label. Some tokens change it when a certificate is written."""
        return self.info.label

    @property
    def driver(self) -> Driver:
        """The driver of the token's family."""
        return self.link.driver

    @property
    def settings(self) -> Settings:
        """The settings in force when the token was enumerated."""
        return self.link.settings

    @property
    def isolation(self) -> Isolation:
        """Where the token's module runs."""
        return self.link.module.isolation

    @property
    def module(self) -> Path:
        """The path of the token's module."""
        return self.link.module.path

    @cached_property
    def uri(self) -> str:
        """The RFC 7512 URI that selects this token: serial, manufacturer, model, label, module, and slot if needed."""
        said = self.said()
        return str(TokenUri(**{name: said[name] for name in self.named_apart}, module_path=self.module))  # type: ignore[arg-type]

    def said(self) -> dict[str, str]:
        """Return the attributes that token and slot report.

        Returns:
            The values by their :class:`TokenUri` attribute name.
        """
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
        """Log in to the token and return a session; prompt for the PIN unless this process is already logged in.

        Args:
            interaction: Callbacks for PIN prompts and confirmation. Default: :class:`Silent`, which refuses them.
            purpose: Shown in the PIN prompt.

        Returns:
            An open session. Close it, or use it as a context manager.

        Raises:
            PinError, TokenError, DriverError, StorageError: No session was opened.
            InputError: ``DESCRIPTOR_NEEDS_CONSENT``: the descriptor needs consent in the configuration.
        """
        return open_session(self.link, interaction or Silent(), purpose)

    def pin_state(self) -> PinState:
        """Return the state of the PIN. Uses no attempt.

        Returns:
            Attempts remaining, lengths and flags, as far as they are known.

        Raises:
            TokenError, DriverError: The token cannot be read.
            StorageError: The attempt counter on this host cannot be read.
        """
        return self.link.pin.state()

    def contents(self) -> Contents:
        """Return the objects visible without a login, and the objects that could not be read.

        Raises:
            TokenError, DriverError: The token cannot be read.
        """
        return self.link.contents()

    def certificates(self) -> tuple[CertificateRecord, ...]:
        """Return the certificate objects visible without a login.

        Raises:
            TokenError, DriverError: The token cannot be read.
        """
        return self.link.certificates()

    def keys(self) -> tuple[KeyRecord, ...]:
        """Return the key objects visible without a login.

        Raises:
            TokenError, DriverError: The token cannot be read.
        """
        return self.link.keys()

    def mechanisms(self) -> tuple[str, ...]:
        """Return the names of the mechanisms offered by the token.

        Raises:
            TokenError, DriverError: The token cannot be read.
        """
        return self.link.mechanisms()

    def module_info(self) -> ModuleInfo:
        """Return the information that the module reports about itself (CK_INFO).

        Raises:
            TokenError, DriverError: The module cannot be loaded or does not answer.
        """
        return self.link.module.info()

    def pin_limits(self) -> PinState:
        """Return the minimum and maximum PIN length that the token accepts.

        Returns:
            A state in which only ``min_length`` and ``max_length`` are set.

        Raises:
            TokenError, DriverError: The token cannot be read.
        """
        return self.link.pin.limits()

    def pairs(self, contents: Contents | None = None) -> tuple[Pair, ...]:
        """Return the certificates visible without a login, each with what is known of its private key.

        Args:
            contents: The result of :meth:`contents`. None: read it now.

        Raises:
            TokenError: The objects cannot be read. If only some are unreadable, they are left out.
        """
        if contents is not None:
            return pairs(contents.certificates, contents.keys, logged_in=False)
        return pairs(self.certificates(), self.keys(), logged_in=False)

    def problems(self, contents: Contents) -> tuple[Problem, ...]:
        """Return the objects that could not be read, as problems with a message for the user.

        Args:
            contents: The result of :meth:`contents`.
        """
        return tuple(Problem.of_object(self.module, problem) for problem in contents.problems)

    def certificates_may_hide(self, contents: Contents) -> bool:
        """Tell whether a certificate is missing that may become visible after a login.

        Args:
            contents: The result of :meth:`contents`.
        """
        waits = asks_for_login(self.info)
        return waits and certificates_may_hide(self.driver, contents.certificates, contents.keys)

    def __repr__(self) -> str:
        return f"<Token {self.label!r} serial={self.serial!r} driver={self.driver.id!r} module={str(self.module)!r}>"


@dataclass(frozen=True, slots=True)
class Problem:
    """A module, slot or object that could not be read, or a configuration file that was ignored.

    Attributes:
        module: The path of the module, or of the configuration file.
        error: The error code.
        message: The message for the user.
        readers: The readers whose card is held exclusively by another program, if that is the cause.
    """

    module: Path
    error: str
    message: str
    readers: tuple[str, ...] = ()

    @classmethod
    def of(cls, module: Path, error: UShieldError) -> Problem:
        """Return the problem for an error of a module or a slot.

        Args:
            module: The path of the module.
            error: The error that was raised.
        """
        readers = error.readers if isinstance(error, TokenBusy) else ()
        return cls(module, error.code, error.message, tuple(readers))

    @classmethod
    def of_object(cls, module: Path, problem: ObjectProblem) -> Problem:
        """Return the problem for an object that could not be read.

        Args:
            module: The path of the module.
            problem: What the backend reported for the object.
        """
        code = problem.code or "OBJECT_UNUSABLE"
        return cls(module, code if problem.handle else LEFT_OUT, unread_text(problem))

    def to_json(self) -> dict[str, object]:
        """Return the problem for JSON output."""
        return {"module": str(self.module), "error": self.error, "message": self.message}
