"""Tokens: what is plugged in, through which module, each once; and how one is chosen."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ushield_hw import messages
from ushield_hw.backend.model import (
    BUSY,
    LEFT_OUT,
    CertificateRecord,
    Contents,
    KeyRecord,
    ModuleInfo,
    ObjectProblem,
    SlotInfo,
    TokenFlag,
    TokenInfo,
)
from ushield_hw.backend.module import Module
from ushield_hw.backend.module import busy as reader_busy
from ushield_hw.backend.pkcs11.ckr import name_of
from ushield_hw.cms import CertificateFacts
from ushield_hw.config import Settings, load
from ushield_hw.drivers.catalogue import Catalogue, Driver, Kind
from ushield_hw.drivers.installed import Installed, chosen, discoverable, installed
from ushield_hw.errors import CertificateNotFound, InputError, TokenMultiple, TokenNotFound, UShieldError
from ushield_hw.interaction import Interaction, PinState, Silent
from ushield_hw.system import pcsc
from ushield_hw.system.lazy import cached_property
from ushield_hw.system.limits import side_by_side
from ushield_hw.token.key_pairs import KeyChoice, Pair, pairs
from ushield_hw.token.readiness import asks_for_login, certificates_may_hide
from ushield_hw.token.selection import unread_text
from ushield_hw.token.session import Link, Session, open_session
from ushield_hw.uri import TokenUri

_log: Final = logging.getLogger("ushield_hw")

_OF_TOKEN: Final = ("token", "manufacturer", "serial", "model")
# What is named beside that in a URI, one after the other, as long as it chooses more than one token.
_OF_SLOT: Final = ((), ("slot_description",), ("slot_description", "slot_manufacturer"))


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
    named_apart: tuple[str, ...] = _OF_TOKEN
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
        return self.link.module.contents(self.link.slot_id)

    def pairs(self, contents: Contents | None = None) -> tuple[Pair, ...]:
        """Return the certificates that show without a login, with what is known of their keys.

        Args:
            contents: what :meth:`contents` has just returned; None: it is read now.

        Raises:
            TokenError: the objects cannot be read; where some can, those that cannot are left out.
        """
        if contents is not None:
            return pairs(contents.certificates, contents.keys, logged_in=False)
        module, slot_id = self.link.module, self.link.slot_id
        return pairs(module.certificates(slot_id), module.keys(slot_id), logged_in=False)

    def problems(self, contents: Contents) -> tuple[Problem, ...]:
        """Return what could not be read of the token's objects, in words."""
        return tuple(Problem.of_object(self.module, problem) for problem in contents.problems)

    def certificates_may_hide(self, contents: Contents) -> bool:
        """Tell whether a certificate is missing that a login may show."""
        waits = asks_for_login(self.info)
        return waits and certificates_may_hide(self.driver, contents.certificates, contents.keys)


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
        readers = error.details.get("readers", ())
        return cls(module, error.code, error.message, tuple(readers) if isinstance(readers, list) else ())

    @classmethod
    def of_object(cls, module: Path, problem: ObjectProblem) -> Problem:
        """Say which object could not be read, and why."""
        code = name_of(problem.rv) if problem.rv else "OBJECT_UNUSABLE"
        return cls(module, code if problem.handle else LEFT_OUT, unread_text(problem))

    def to_json(self) -> dict[str, object]:
        """Return it for documents."""
        return {"module": str(self.module), "error": self.error, "message": self.message}


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found, and what stood in the way."""

    tokens: tuple[Token, ...]
    problems: tuple[Problem, ...]


def survey(settings: Settings | None = None, only: Path | None = None) -> Survey:
    """Look at every installed module, side by side, or at one.

    Args:
        settings: default: the ones in force.
        only: a module's path: no other one is loaded.

    Raises:
        DriverError, TokenError: ``only`` is none of the modules that would be loaded, or cannot be read.
        DescriptorError: a descriptor is wrong.
    """
    settings = settings or load()
    catalogue = Catalogue.of(settings)
    if only is not None:
        return _read(chosen(catalogue, settings, only), catalogue, settings)
    entries = discoverable(installed(catalogue, settings))
    looks = side_by_side(lambda entry: _look(entry, catalogue, settings), entries)
    tokens = _once([token for look in looks for token in look.tokens])
    unsafe = [_left_out(error) for error in (*settings.left_out, *catalogue.left_out)]
    return Survey(tokens, (*unsafe, *(problem for look in looks for problem in look.problems)))


def find_tokens(settings: Settings | None = None) -> tuple[Token, ...]:
    """Return the tokens that are plugged in, each once. Modules that could not be read are logged."""
    return survey(settings).tokens


def find_token(
    selector: str | None = None,
    *,
    serial: str | None = None,
    label: str | None = None,
    settings: Settings | None = None,
) -> Token:
    """Return the one token that matches.

    Args:
        selector: a PKCS#11 URI, a serial number or a label; None matches every token.
        serial: exactly this serial number.
        label: exactly this label.
        settings: default: the ones in force.

    Raises:
        TokenNotFound: none; ``.findings`` says what was found instead.
        TokenMultiple: several; ``.candidates`` are their URIs.
        TokenBusy: none that can be read; another program keeps the card in ``.readers`` to itself.
        InputError: the URI is wrong or carries what a URI may not.
    """
    uri = TokenUri.parse(selector) if selector and TokenUri.names(selector) else None
    seen = survey(settings, uri.module_path if uri else None)
    wanted = [
        token
        for token in seen.tokens
        if (serial is None or token.serial == serial)
        and (label is None or token.label == label)
        and (selector is None or names(selector, token))
    ]
    if len(wanted) > 1 and uri is not None and len(bearers := [one for one in wanted if _bears(uri, one)]) == 1:
        wanted = bearers
    busy = sorted({reader for problem in seen.problems for reader in problem.readers})
    anything = serial is None and label is None and selector is None  # then what cannot be read would match, too
    if len(wanted) == 1 and not (anything and busy):
        return wanted[0]
    if len(wanted) > 1:
        code = "TOKENS_ALIKE" if len({token.uri for token in wanted}) < len(wanted) else None
        raise TokenMultiple(code, candidates=[token.uri for token in wanted], n=len(wanted))
    if busy:
        raise reader_busy(busy)
    asked = next((word for word in (selector, serial, label) if word is not None), None)
    findings = [token.uri for token in seen.tokens] + [
        f"{problem.module}: {problem.error}" for problem in seen.problems
    ]
    code = "TOKEN_NONE_MATCHES" if asked is not None and seen.tokens else None
    raise TokenNotFound(code, wanted=asked, findings=findings)


def key_choice(selector: str | None, key_id: str | None = None, certificate: str | None = None) -> KeyChoice:
    """Return which key a URI's ``id=`` and ``object=``, a key id and a certificate's serial or fingerprint ask for.

    Args:
        selector: a URI, a serial number or a label.
        key_id: in hex, colons allowed; instead of the URI's.
        certificate: as :class:`KeyChoice` takes it.

    Raises:
        InputError: ``KEY_ID_INVALID``, ``CERTIFICATE_CHOICE_INVALID``.
        CertificateNotFound: the URI's ``type=`` is that of no key and no certificate.
    """
    uri = TokenUri.parse(selector) if selector and TokenUri.names(selector) else TokenUri()
    try:
        asked = uri.id if key_id is None else bytes.fromhex(key_id.replace(":", ""))
    except ValueError as error:
        raise InputError("KEY_ID_INVALID", key_id=key_id) from error
    if uri.type in {"data", "secret-key"}:
        raise CertificateNotFound("CERTIFICATE_NONE_MATCHES", candidates=[])
    return KeyChoice(asked, uri.object, certificate)


def _bears(uri: TokenUri, token: Token) -> bool:
    """Tell whether the object that a URI names shows on a token without a login."""
    if uri.id is None and uri.object is None:
        return False
    try:
        found = token.contents()
    except UShieldError:
        return False
    objects: list[CertificateRecord | KeyRecord] = [*found.certificates, *found.keys]
    return any(uri.id in {None, one.key_id} and uri.object in {None, one.label} for one in objects)


def names(selector: str, token: Token) -> bool:
    """Tell whether a URI, a serial number or a label names a token.

    Raises:
        InputError: the URI is wrong or carries what a URI may not.
    """
    if not TokenUri.names(selector):
        return selector in {token.serial, token.label} - {""}
    uri = TokenUri.parse(selector)
    asked = {name: getattr(uri, name) for name in token.said()}
    if any(value is not None and value != token.said()[name] for name, value in asked.items()):
        return False
    if not (uri.wants_module(token.module) or uri.wants_module(token.module.resolve())):
        return False
    wanted = (uri.library_manufacturer, uri.library_description, uri.library_version)
    return wanted == (None, None, None) or _is_library(uri, token.link.module.info())


def _is_library(uri: TokenUri, about: ModuleInfo) -> bool:
    """Tell whether a URI names a module by what that says of itself."""
    named = ((uri.library_manufacturer, about.manufacturer), (uri.library_description, about.description))
    return all(asked is None or asked == said for asked, said in named) and uri.wants_version(about.library_version)


def _look(entry: Installed, catalogue: Catalogue, settings: Settings) -> Survey:
    try:
        if entry.driver.by_pcsc:
            pcsc.answers()
        return _read(entry, catalogue, settings)
    except UShieldError as error:
        _log.warning("module %s: %s", entry.path, error.code)
        return Survey((), (Problem.of(entry.path, error),))


def _read(entry: Installed, catalogue: Catalogue, settings: Settings) -> Survey:
    module = entry.module(settings)
    slots = module.slots()
    problems = tuple(_problem(entry, slot) for slot in slots if slot.problem)
    tokens = tokens_in(entry, module, slots, catalogue, settings)
    if n := sum(token.alike for token in tokens):
        problems += (Problem(entry.path, "TOKENS_ALIKE", messages.text("TOKENS_ALIKE", n=n)),)
    return Survey(tokens, problems)


def tokens_in(
    entry: Installed, module: Module, slots: Iterable[SlotInfo], catalogue: Catalogue, settings: Settings
) -> tuple[Token, ...]:
    """Return the tokens in a module's slots, each with a URI of its own. ``module``: the one they are opened with."""

    def token(info: TokenInfo, slot: SlotInfo) -> Token:
        driver = catalogue.family(entry.driver, info)
        link = Link(module, slot.slot_id, info.serial, driver, settings, info.identity)
        return Token(info, link, entry.named_by, slot=slot)

    return _named_apart(
        [token(slot.token, slot) for slot in slots if slot.token is not None and _counts(slot.token, entry.driver)]
    )


def _named_apart(tokens: Sequence[Token]) -> tuple[Token, ...]:
    """Give each token of a module the least that names it and no other: the more, the more they are alike."""
    said = [token.said() for token in tokens]
    seen: dict[tuple[str, ...], Counter[tuple[str, ...]]] = {}

    def bearers(names: tuple[str, ...], one: dict[str, str]) -> int:
        """Return how many tokens a URI with these attributes names."""
        if names not in seen:
            seen[names] = Counter(tuple(other[name] for name in names) for other in said)
        return seen[names][tuple(one[name] for name in names)]

    def named(token: Token, one: dict[str, str]) -> Token:
        for more in _OF_SLOT:
            every = (*_OF_TOKEN, *more)
            for names in (tuple(name for name in every if one[name]), every):  # blank ones only where that is needed
                if bearers(names, one) == 1:
                    return replace(token, named_apart=names)
        return replace(token, named_apart=(*_OF_TOKEN, *_OF_SLOT[-1]), alike=True)

    return tuple(named(token, one) for token, one in zip(tokens, said, strict=True))


def _counts(info: TokenInfo, driver: Driver) -> bool:
    """A software module shows an empty slot where a token could be made: that is no token."""
    return info.has(TokenFlag.TOKEN_INITIALIZED) or driver.kind is not Kind.SOFTWARE


def _left_out(error: InputError) -> Problem:
    return Problem(Path(str(error.details["file"])), error.code, error.message)


def _problem(entry: Installed, slot: SlotInfo) -> Problem:
    if slot.problem == BUSY:
        return Problem.of(entry.path, reader_busy([slot.description]))
    if slot.problem == LEFT_OUT:
        return Problem(entry.path, LEFT_OUT, messages.text("problem.slots_left_out", n=int(slot.description)))
    return Problem(entry.path, slot.problem or "", slot.description)


def _once(tokens: Iterable[Token]) -> tuple[Token, ...]:
    """Merge what several modules show of one token."""
    groups = alike(tokens, certificates_on)
    return tuple(replace(first, also_in=tuple(token.module for token in others)) for first, *others in groups)


def alike(tokens: Iterable[Token], certificates: Callable[[Token], frozenset[bytes]]) -> list[list[Token]]:
    """Put what several modules show of one token together; a family's own module comes before a general one.

    Args:
        tokens: what the modules show.
        certificates: the certificates on a token; asked for only where what the tokens say does not agree.
    """
    groups: list[list[Token]] = []
    for token in sorted(tokens, key=lambda token: token.driver.module.general):
        group = next((group for group in groups if _belongs(group, token, certificates)), None)
        if group is None:
            groups.append([token])
        else:
            group.append(token)
    return groups


def _belongs(group: Sequence[Token], token: Token, certificates: Callable[[Token], frozenset[bytes]]) -> bool:
    """Tell whether a token is the one of a group. Two slots of one module are two tokens, whatever they claim."""
    if any(token.module == other.module for other in group):
        return False
    mine, theirs = token.info.identity, group[0].info.identity
    if mine == theirs and mine.serial:
        return True
    return bool(certificates(token) & certificates(group[0]))


def certificates_on(token: Token) -> frozenset[bytes]:
    """Return the certificates of people that show without a login; none where they cannot be read.

    A CA's certificate is on many tokens and tells none from another.
    """
    try:
        found = token.link.module.certificates(token.link.slot_id)
    except UShieldError:
        return frozenset()
    return frozenset(record.der for record in found if not _is_authority(record.der))


def _is_authority(der: bytes) -> bool:
    try:
        return CertificateFacts.read(der).is_ca
    except InputError:
        return False
