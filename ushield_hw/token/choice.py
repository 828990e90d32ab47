"""Select one token, and a key on it, from what the user entered."""

from __future__ import annotations

from ushield_hw.backend.model import (
    CertificateRecord,
    KeyRecord,
    ModuleInfo,
)
from ushield_hw.backend.sharing import reader_busy
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
    """Return the one connected token that matches.

    Args:
        selector: An RFC 7512 URI, a serial number or a label. None matches every token.
        serial: The exact serial number.
        label: The exact label.
        settings: Default: the settings in force.

    Raises:
        TokenNotFound: No token matches. ``.findings`` lists what was found instead.
        TokenMultiple: Several tokens match. ``.candidates`` lists their URIs.
        TokenBusy: No readable token matches, and another program holds the cards in ``.readers`` exclusively.
        InputError: The URI is invalid or has an attribute that is not accepted.
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
    anything = serial is None and label is None and selector is None  # an unreadable token would match too
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
    """Return the key choice for a URI's ``id=`` and ``object=``, a key id, and a certificate's serial or fingerprint.

    Args:
        selector: An RFC 7512 URI, a serial number or a label.
        key_id: Hex digits, colons allowed. Overrides the URI's ``id=``.
        certificate: A serial number or fingerprint, see :class:`KeyChoice`.

    Raises:
        InputError: ``KEY_ID_INVALID``, ``CERTIFICATE_CHOICE_INVALID``.
        CertificateNotFound: The URI's ``type=`` is neither a key nor a certificate.
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
    """Tell whether the object named by a URI is visible on a token without a login."""
    if uri.id is None and uri.object is None:
        return False
    try:
        found = token.contents()
    except UShieldError:
        return False
    objects: list[CertificateRecord | KeyRecord] = [*found.certificates, *found.keys]
    return any(uri.id in {None, one.key_id} and uri.object in {None, one.label} for one in objects)


def names(selector: str, token: Token) -> bool:
    """Tell whether a URI, a serial number or a label selects a token.

    Args:
        selector: An RFC 7512 URI, a serial number or a label.
        token: The token to compare with.

    Raises:
        InputError: The URI is invalid or has an attribute that is not accepted.
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
    """Tell whether a URI's ``library-*`` attributes match what the module reports."""
    named = ((uri.library_manufacturer, about.manufacturer), (uri.library_description, about.description))
    return all(asked is None or asked == said for asked, said in named) and uri.wants_version(about.library_version)
