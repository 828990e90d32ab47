"""Reading another signed order of a signer that is known: it is written anew, and must come out the same.

What stands at the places where content and signature must be is put into the signer's own template. Equal, octet for
octet, it is what the template writes, and nothing is left to check but the form of the signature value. Anything else
is for the strict reader to judge and to name. A bank reads many orders of one signer.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

from ushield_hw.cms.attributes import ID_DATA, Confirmation, stated_time
from ushield_hw.cms.build import EXPLICIT_0, MOST_CONTENT, Draft, Profile, Template
from ushield_hw.cms.certificate import CertificateFacts
from ushield_hw.cms.der import DerError, set_of
from ushield_hw.cms.signature import check_wire
from ushield_hw.crypto.algorithms import Suite

_MOST: Final = 4096
_BEGINNING: Final = 80  # encapContentInfo begins well before
_LONG_FORM: Final = 0x80
_NO_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)  # stands for a time that cannot be read; what has none is not equal


class Known(NamedTuple):
    """One way in which a known signer's orders are written.

    Attributes:
        template: writes them.
        signer: what the signer's certificate says.
        intermediates: the CA certificates that come with it, DER, the signer's issuer first.
        suite: the algorithms.
        profile: what the signature covers.
        confirmation: how the person confirms; None for ``PLAIN``.
    """

    template: Template
    signer: CertificateFacts
    intermediates: tuple[bytes, ...]
    suite: Suite
    profile: Profile
    confirmation: Confirmation | None


class Found(NamedTuple):
    """A signed order that was recognised.

    Attributes:
        known: who signs so.
        content: what was signed.
        message: what the signature covers.
        signature: its value.
        signing_time: as the signer states it; None for ``PLAIN``.
    """

    known: Known
    content: bytes
    message: bytes
    signature: bytes
    signing_time: datetime | None


_known: Final[dict[bytes, list[Known]]] = {}  # by the certificates, as they stand in a signed order


def remember(known: Known) -> None:
    """Know a signer's way from now on; it was read strictly."""
    if len(_known) >= _MOST:
        _known.clear()
    ways = _known.setdefault(set_of([known.signer.der, *known.intermediates], EXPLICIT_0), [])
    if known[1:] not in (way[1:] for way in ways):
        ways.append(known)


def recognised(der: bytes) -> Found | None:
    """Return a signed order that a known signer's template writes, octet for octet; None: it has to be read.

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
    if len(content) > MOST_CONTENT:  # more than a template takes
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
    """Return what stands where the signing time may be in the part of the signers; None: nothing that is a time."""
    try:
        return stated_time(der, at)
    except DerError:
        return None


def _signature(der: bytes, at: int, draft: Draft) -> bytes:
    """Return what stands where the signature value of the only signer must be."""
    info, _ = _inside(der, at)
    first, _ = _inside(der, info)
    start, stop = _inside(der, first + len(draft.of_signer))
    return der[start:stop]


def _inside(der: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the element at a place would be, believing everything."""
    size = der[at + 1] if at + 1 < len(der) else 0
    if size < _LONG_FORM:
        return at + 2, at + 2 + size
    start = at + 2 + (size & 0x7F)
    return start, start + int.from_bytes(der[at + 2 : start], "big")
