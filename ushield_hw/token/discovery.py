"""Enumerate the connected tokens of all modules, each token once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ushield_hw import messages
from ushield_hw.backend.model import (
    BUSY,
    LEFT_OUT,
    CertificateRecord,
    SlotInfo,
    TokenFlag,
    TokenInfo,
)
from ushield_hw.backend.module import Module
from ushield_hw.backend.sharing import reader_busy
from ushield_hw.cms import CertificateFacts
from ushield_hw.config import Settings, load_settings
from ushield_hw.drivers.catalogue import Catalogue
from ushield_hw.drivers.family import Driver, Kind
from ushield_hw.drivers.installed import Installed, chosen, discoverable, installed
from ushield_hw.errors import InputError, UShieldError
from ushield_hw.system import pcsc
from ushield_hw.system.limits import side_by_side
from ushield_hw.system.log import LOG
from ushield_hw.token.link import Link
from ushield_hw.token.token import NAMED_BY, Problem, Token

# Attributes that a URI gets in addition to NAMED_BY, in this order, while it still selects more than one token.
_OF_SLOT: Final = ((), ("slot_description",), ("slot_description", "slot_manufacturer"))


@dataclass(frozen=True, slots=True)
class Survey:
    """The result of an enumeration.

    Attributes:
        tokens: The tokens found, each once.
        problems: The modules, slots and configuration files that could not be read.
    """

    tokens: tuple[Token, ...]
    problems: tuple[Problem, ...]

    def __repr__(self) -> str:
        return f"<Survey of {len(self.tokens)} tokens, {len(self.problems)} problems>"


def survey(settings: Settings | None = None, only: Path | None = None) -> Survey:
    """Enumerate the tokens of all installed modules, in parallel, or of one module.

    Args:
        settings: Default: the settings in force.
        only: The path of a module. No other module is loaded.

    Returns:
        The tokens found and the problems met.

    Raises:
        DriverError, TokenError: ``only`` is not a module that would be loaded, or it cannot be read.
        DescriptorError: A descriptor is invalid.
    """
    settings = settings or load_settings()
    catalogue = Catalogue.of(settings)
    if only is not None:
        return _read(chosen(catalogue, settings, only), catalogue, settings)
    entries = discoverable(installed(catalogue, settings))
    looks = side_by_side(lambda entry: _look(entry, catalogue, settings), entries)
    tokens = _once([token for look in looks for token in look.tokens])
    unsafe = [_left_out(error) for error in (*settings.left_out, *catalogue.left_out)]
    return Survey(tokens, (*unsafe, *(problem for look in looks for problem in look.problems)))


def find_tokens(settings: Settings | None = None) -> tuple[Token, ...]:
    """Return the connected tokens, each once. Modules that cannot be read are logged.

    Args:
        settings: Default: the settings in force.

    Raises:
        DescriptorError: A descriptor is invalid.
    """
    return survey(settings).tokens


def _look(entry: Installed, catalogue: Catalogue, settings: Settings) -> Survey:
    try:
        if entry.driver.by_pcsc:
            pcsc.answers()
        return _read(entry, catalogue, settings)
    except UShieldError as error:
        if _means_no_reader(entry, error):
            LOG.info("module %s: %s, and no card is inserted", entry.path, error.code)
            return Survey((), ())
        LOG.warning("module %s: %s", entry.path, error.code)
        return Survey((), (Problem.of(entry.path, error),))


def _means_no_reader(entry: Installed, error: UShieldError) -> bool:
    """Return whether a module for cards only failed to list slots because there is no reader or no card.

    ykcs11 returns CKR_DEVICE_ERROR then, which would be reported by every command on a machine without readers.
    """
    if not entry.driver.by_pcsc or error.failure is None or error.failure.function != "C_GetSlotList":
        return False
    try:
        return all(reader.slot is pcsc.Slot.EMPTY for reader in pcsc.readers())
    except UShieldError as unavailable:
        return unavailable.code in {"PCSC_NO_SERVICE", "PCSC_NO_LIBRARY"}


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
    """Return the tokens in a module's slots, each with the URI attributes that select it.

    Args:
        entry: The installed module.
        module: The module with which the tokens are opened.
        slots: The slots that were enumerated.
        catalogue: The token families.
        settings: The settings in force.
    """

    def token(info: TokenInfo, slot: SlotInfo) -> Token:
        driver = catalogue.family(entry.driver, info)
        link = Link(module, slot.slot_id, info.serial, driver, settings, info.identity)
        return Token(info, link, entry.named_by, slot=slot)

    return _named_apart(
        [token(slot.token, slot) for slot in slots if slot.token is not None and _counts(slot.token, entry.driver)]
    )


def _named_apart(tokens: Sequence[Token]) -> tuple[Token, ...]:
    """Give each token of a module the smallest set of URI attributes that selects only this token."""
    said = [token.said() for token in tokens]
    seen: dict[tuple[str, ...], Counter[tuple[str, ...]]] = {}

    def bearers(names: tuple[str, ...], one: dict[str, str]) -> int:
        """Return how many tokens a URI with these attributes selects."""
        if names not in seen:
            seen[names] = Counter(tuple(other[name] for name in names) for other in said)
        return seen[names][tuple(one[name] for name in names)]

    def named(token: Token, one: dict[str, str]) -> Token:
        for more in _OF_SLOT:
            every = (*NAMED_BY, *more)
            for names in (tuple(name for name in every if one[name]), every):  # blank attributes only if needed
                if bearers(names, one) == 1:
                    return replace(token, named_apart=names)
        return replace(token, named_apart=(*NAMED_BY, *_OF_SLOT[-1]), alike=True)

    return tuple(named(token, one) for token, one in zip(tokens, said, strict=True))


def _counts(info: TokenInfo, driver: Driver) -> bool:
    """Tell whether a slot holds an initialized token; a software module also shows a free slot for the next token."""
    return info.has(TokenFlag.TOKEN_INITIALIZED) or driver.kind is not Kind.SOFTWARE


def _left_out(error: InputError) -> Problem:
    return Problem(Path(str(error.file)), error.code, error.message)


def _problem(entry: Installed, slot: SlotInfo) -> Problem:
    if slot.problem == BUSY:
        return Problem.of(entry.path, reader_busy([slot.description]))
    if slot.problem == LEFT_OUT:
        return Problem(entry.path, LEFT_OUT, messages.text("problem.slots_left_out", n=int(slot.description)))
    return Problem(entry.path, slot.problem or "", slot.description)


def _once(tokens: Iterable[Token]) -> tuple[Token, ...]:
    """Merge the tokens that several modules show."""
    groups = alike(tokens, certificates_on)
    return tuple(replace(first, also_in=tuple(token.module for token in others)) for first, *others in groups)


def alike(tokens: Iterable[Token], certificates: Callable[[Token], frozenset[bytes]]) -> list[list[Token]]:
    """Group the entries that several modules show for one token; the family's own module comes before a generic one.

    Args:
        tokens: The tokens that the modules show.
        certificates: Returns the certificates on a token. Called only when the reported identities differ, once for
            each token.
    """
    read: dict[int, frozenset[bytes]] = {}

    def once(token: Token) -> frozenset[bytes]:
        if id(token) not in read:
            read[id(token)] = certificates(token)
        return read[id(token)]

    groups: list[list[Token]] = []
    for token in sorted(tokens, key=lambda token: token.driver.module.general):
        group = next((group for group in groups if _belongs(group, token, once)), None)
        if group is None:
            groups.append([token])
        else:
            group.append(token)
    return groups


def _belongs(group: Sequence[Token], token: Token, certificates: Callable[[Token], frozenset[bytes]]) -> bool:
    """Tell whether a token belongs to a group. Two slots of one module are two tokens, whatever they report."""
    if any(token.module == other.module for other in group):
        return False
    mine, theirs = token.info.identity, group[0].info.identity
    if mine == theirs and mine.serial:
        return True
    return bool(certificates(token) & certificates(group[0]))


def certificates_on(token: Token) -> frozenset[bytes]:
    """Return the end-entity certificates visible without a login; an empty set if they cannot be read."""
    try:
        return end_entities(token.certificates())
    except UShieldError:
        return frozenset()


def end_entities(records: Iterable[CertificateRecord]) -> frozenset[bytes]:
    """Return the certificates, DER, without CA certificates: these are on many tokens and identify none of them.

    Args:
        records: The certificate objects of a token.
    """
    return frozenset(record.der for record in records if not _is_authority(record.der))


def _is_authority(der: bytes) -> bool:
    try:
        return CertificateFacts.read(der).is_ca
    except InputError:
        return False
