"""Fast path for reading another signed order of a known signer: it is written again and compared.

The bytes at the expected positions of content and signature are inserted into the signer's template. If the result is
equal, octet by octet, it is the output of the template, and only the form of the signature value is left to check.
Otherwise the strict parser reads the order and reports the problem. A bank reads many orders of each signer.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

from ushield_hw.cms.attributes import ID_DATA, Confirmation, stated_time
from ushield_hw.cms.build import EXPLICIT_0, MOST_CONTENT, Draft, Profile, Template
from ushield_hw.cms.certificate import CertificateFacts
from ushield_hw.cms.signature import check_wire
from ushield_hw.crypto.algorithms import Suite
from ushield_hw.crypto.der import DerError, set_of

_MOST: Final = 4096
_BEGINNING: Final = 80  # encapContentInfo begins before this offset
_LONG_FORM: Final = 0x80
_NO_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)  # replaces a time that cannot be read; the comparison then fails


class Known(NamedTuple):
    """One form of the orders of a known signer.

    Attributes:
        template: The template that writes them.
        signer: The fields of the signer's certificate.
        intermediates: The CA certificates that come with it, DER, the signer's issuer first.
        suite: The algorithms.
        profile: What the signature covers.
        confirmation: How the user confirms; None for ``PLAIN``.
    """

    template: Template
    signer: CertificateFacts
    intermediates: tuple[bytes, ...]
    suite: Suite
    profile: Profile
    confirmation: Confirmation | None


class Found(NamedTuple):
    """A signed order that was recognized.

    Attributes:
        known: The signer and its form.
        content: The signed content.
        message: The bytes that the signature covers.
        signature: The signature value.
        signing_time: As stated by the signer; None for ``PLAIN``.
    """

    known: Known
    content: bytes
    message: bytes
    signature: bytes
    signing_time: datetime | None


_known: Final[dict[bytes, list[Known]]] = {}  # by the encoded certificates of a signed order


def remember(known: Known) -> None:
    """Add a signer's form to the cache, after it was read strictly.

    Args:
        known: The signer and its form.
    """
    if len(_known) >= _MOST:
        _known.clear()
    ways = _known.setdefault(set_of([known.signer.der, *known.intermediates], EXPLICIT_0), [])
    if known[1:] not in (way[1:] for way in ways):
        ways.append(known)


def recognised(der: bytes) -> Found | None:
    """Return a signed order that equals the output of a known signer's template, or None if it must be parsed.

    Args:
        der: The signed order.

    Raises:
        DerError: ``signature_form``: no key of this kind makes such a value.
    """
    at = der.find(ID_DATA, 0, _BEGINNING)
    if at < 0:
        return None
    wrapped, _ = _inside(der, at + len(ID_DATA))
    start, stop = _inside(der, wrapped)
    _, after = _inside(der, stop)
    content = der[start:stop]
    if len(content) > MOST_CONTENT:  # larger than a template accepts
        return None
    for known in _known.get(der[stop:after], ()):
        time = _signing_time(der, after) if known.profile is Profile.CADES else None
        draft = known.template.draft(content, time or _NO_TIME)
        signature = _signature(der, after, draft)
        if draft.enclose(signature) == der:
            check_wire(signature, known.signer)
            return Found(known, content, draft.message, signature, time)
    return None


def _signing_time(der: bytes, at: int) -> datetime | None:
    """Return the first signing time after the certificates, or None if there is none."""
    try:
        return stated_time(der, at)
    except DerError:
        return None


def _signature(der: bytes, at: int, draft: Draft) -> bytes:
    """Return the bytes at the position of the signature value, if there is one signer."""
    info, _ = _inside(der, at)
    first, _ = _inside(der, info)
    start, stop = _inside(der, first + len(draft.of_signer))
    return der[start:stop]


def _inside(der: bytes, at: int) -> tuple[int, int]:
    """Return start and end of the content of an element, without checking them."""
    size = der[at + 1] if at + 1 < len(der) else 0
    if size < _LONG_FORM:
        return at + 2, at + 2 + size
    start = at + 2 + (size & 0x7F)
    return start, start + int.from_bytes(der[at + 2 : start], "big")
