"""Signed orders: CMS SignedData (RFC 5652), writing and strict reading.

Signing fills a :class:`Template`; the verifier calls :func:`parse`. This package imports no crypto library.

Names are imported on first use, because reading a certificate does not need signed orders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ushield_hw.system.lazy import names_of

if TYPE_CHECKING:
    from ushield_hw.cms.attributes import CONFIRMATION_OID, Confirmation
    from ushield_hw.cms.build import MOST_OCTETS, Draft, Profile, Template
    from ushield_hw.cms.certificate import CertificateFacts
    from ushield_hw.cms.read import SignedOrderParts, parse

__all__ = [
    "CONFIRMATION_OID",
    "MOST_OCTETS",
    "CertificateFacts",
    "Confirmation",
    "Draft",
    "Profile",
    "SignedOrderParts",
    "Template",
    "parse",
]

if not TYPE_CHECKING:
    __getattr__ = names_of(
        __name__,
        {
            "CONFIRMATION_OID": "attributes",
            "CertificateFacts": "certificate",
            "Confirmation": "attributes",
            "Draft": "build",
            "MOST_OCTETS": "build",
            "Profile": "build",
            "SignedOrderParts": "read",
            "Template": "build",
            "parse": "read",
        },
    )
