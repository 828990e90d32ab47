"""Tokens: what is plugged in, through which module, each once; and how one is chosen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ushield_hw.config import Settings, load
from ushield_hw.cryptoki.model import SlotInfo, TokenFlag, TokenInfo
from ushield_hw.cryptoki.module import Module
from ushield_hw.drivers import Catalogue, Driver, Kind
from ushield_hw.errors import InputError, TokenMultiple, TokenNotFound, UShieldError
from ushield_hw.installed import Installed, chosen, discoverable, installed
from ushield_hw.interaction import Interaction, PinState, Silent
from ushield_hw.keys import KeyChoice, Pair, pairs
from ushield_hw.lazy import cached_property
from ushield_hw.session import Link, Session, open_session
from ushield_hw.uri import TokenUri

_log: Final = logging.getLogger("ushield_hw")


@dataclass(frozen=True)
class Token:
    """A token that is plugged in. What it says of itself is a claim: a serial number can be forged.

    Attributes:
        info: what it said when it was found.
        link: where it is. Internal.
        named_by: what made its module known: a descriptor's id, a ``*.module`` file, ``config``.
        also_in: other modules that show the same token.
    """

    info: TokenInfo
    link: Link
    named_by: str
    also_in: tuple[Path, ...] = ()

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
        """The URI that selects this token again: serial, manufacturer, model and module, never the label alone."""
        info = self.info
        named = {"serial": info.serial, "manufacturer": info.manufacturer, "model": info.model}
        given = {name: value for name, value in named.items() if value}
        if "serial" not in given:
            given["token"] = info.label
        return str(TokenUri(**given, module_path=self.module))  # type: ignore[arg-type]

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

    def pairs(self) -> tuple[Pair, ...]:
        """Return the certificates that show without a login, with what is known of their keys."""
        module, slot_id = self.link.module, self.link.slot_id
        return pairs(module.certificates(slot_id), module.keys(slot_id), logged_in=False)


@dataclass(frozen=True, slots=True)
class Problem:
    """A module, or a slot of one, that could not be read; or a file of the configuration that was left out."""

    module: Path
    error: str
    message: str

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
    with ThreadPoolExecutor(max_workers=max(1, len(entries))) as pool:
        looks = list(pool.map(lambda entry: _look(entry, catalogue, settings), entries))
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
    if len(wanted) == 1:
        return wanted[0]
    if wanted:
        raise TokenMultiple(candidates=[token.uri for token in wanted], n=len(wanted))
    asked = next((word for word in (selector, serial, label) if word is not None), None)
    findings = [token.uri for token in seen.tokens] + [
        f"{problem.module}: {problem.error}" for problem in seen.problems
    ]
    code = "TOKEN_NONE_MATCHES" if asked is not None and seen.tokens else None
    raise TokenNotFound(code, wanted=asked, findings=findings)


def key_choice(selector: str | None, key_id: str | None) -> KeyChoice:
    """Return which key a URI's ``id=`` and ``object=``, or a hex key id, ask for.

    Raises:
        InputError: ``KEY_ID_INVALID``.
    """
    uri = TokenUri.parse(selector) if selector and TokenUri.names(selector) else TokenUri()
    if key_id is None:
        return KeyChoice(uri.id, uri.object)
    try:
        return KeyChoice(bytes.fromhex(key_id), uri.object)
    except ValueError as error:
        raise InputError("KEY_ID_INVALID", key_id=key_id) from error


def names(selector: str, token: Token) -> bool:
    """Tell whether a URI, a serial number or a label names a token.

    Raises:
        InputError: the URI is wrong or carries what a URI may not.
    """
    if not TokenUri.names(selector):
        return selector in {token.serial, token.label} - {""}
    uri, info = TokenUri.parse(selector), token.info
    named = (
        (uri.token, info.label),
        (uri.serial, info.serial),
        (uri.manufacturer, info.manufacturer),
        (uri.model, info.model),
    )
    return all(asked is None or asked == said for asked, said in named)


def _look(entry: Installed, catalogue: Catalogue, settings: Settings) -> Survey:
    try:
        return _read(entry, catalogue, settings)
    except UShieldError as error:
        _log.warning("module %s: %s", entry.path, error.code)
        return Survey((), (Problem(entry.path, error.code, error.message),))


def _read(entry: Installed, catalogue: Catalogue, settings: Settings) -> Survey:
    module = entry.module(settings)
    slots = module.slots()
    problems = tuple(_problem(entry, slot) for slot in slots if slot.problem)
    return Survey(tokens_in(entry, module, slots, catalogue, settings), problems)


def tokens_in(
    entry: Installed, module: Module, slots: Iterable[SlotInfo], catalogue: Catalogue, settings: Settings
) -> tuple[Token, ...]:
    """Return the tokens in a module's slots. ``module``: the one they are opened with."""

    def token(info: TokenInfo, slot_id: int) -> Token:
        driver = catalogue.family(entry.driver, info)
        return Token(info, Link(module, slot_id, info.serial, driver, settings), entry.named_by)

    return tuple(
        token(slot.token, slot.slot_id)
        for slot in slots
        if slot.token is not None and _counts(slot.token, entry.driver)
    )


def _counts(info: TokenInfo, driver: Driver) -> bool:
    """A software module shows an empty slot where a token could be made: that is no token."""
    return info.has(TokenFlag.TOKEN_INITIALIZED) or driver.kind is not Kind.SOFTWARE


def _left_out(error: InputError) -> Problem:
    return Problem(Path(str(error.details["file"])), error.code, error.message)


def _problem(entry: Installed, slot: SlotInfo) -> Problem:
    return Problem(entry.path, slot.problem or "", slot.description)


def _once(tokens: Iterable[Token]) -> tuple[Token, ...]:
    """Merge what several modules show of one token."""
    groups = alike(tokens, certificates_on)
    return tuple(replace(first, also_in=tuple(token.module for token in others)) for first, *others in groups)


def alike(tokens: Iterable[Token], certificates: Callable[[Token], frozenset[bytes]]) -> list[list[Token]]:
    """Put what several modules show of one token together; a family's own module comes before a general one.

    Args:
        tokens: what the modules show.
        certificates: the certificates on a token; asked for only where serial, manufacturer and model do not agree.
    """
    groups: list[list[Token]] = []
    for token in sorted(tokens, key=lambda token: token.driver.module.general):
        group = next((group for group in groups if _same(group[0], token, certificates)), None)
        if group is None:
            groups.append([token])
        else:
            group.append(token)
    return groups


def _same(token: Token, other: Token, certificates: Callable[[Token], frozenset[bytes]]) -> bool:
    """Two slots of one module are two tokens, whatever they claim."""
    if token.module == other.module:
        return False
    mine, theirs = token.info, other.info
    claims = (mine.serial, mine.manufacturer, mine.model) == (theirs.serial, theirs.manufacturer, theirs.model)
    if claims and mine.serial:
        return True
    return bool(certificates(token) & certificates(other))


def certificates_on(token: Token) -> frozenset[bytes]:
    """Return the certificates that show without a login; none where they cannot be read."""
    try:
        return frozenset(record.der for record in token.link.module.certificates(token.link.slot_id))
    except UShieldError:
        return frozenset()
