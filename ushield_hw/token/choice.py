"""Choosing one token, and a key on it, by what a person types."""

from __future__ import annotations

from ushield_hw.backend.model import (
    CertificateRecord,
    KeyRecord,
    ModuleInfo,
)
from ushield_hw.backend.module import busy as reader_busy
from ushield_hw.config import Settings
from ushield_hw.errors import CertificateNotFound, InputError, TokenMultiple, TokenNotFound, UShieldError
from ushield_hw.token.discovery import survey
from ushield_hw.token.key_pairs import KeyChoice
from ushield_hw.token.token import Token
from ushield_hw.uri import TokenUri


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
    return wanted == (None, None, None) or _is_library(uri, token.module_info())


def _is_library(uri: TokenUri, about: ModuleInfo) -> bool:
    """Tell whether a URI names a module by what that says of itself."""
    named = ((uri.library_manufacturer, about.manufacturer), (uri.library_description, about.description))
    return all(asked is None or asked == said for asked, said in named) and uri.wants_version(about.library_version)
