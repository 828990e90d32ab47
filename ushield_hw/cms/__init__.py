"""The signed order: CMS SignedData (RFC 5652), written and strictly read.

Two rooms use it: signing fills a :class:`Template`, the verifier calls :func:`parse`. Neither imports a crypto library
here.
"""

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
