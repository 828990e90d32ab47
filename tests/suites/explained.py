"""Where the verifier differs from a suite's expectation, and why. Written to docs/verifier.md by ``table``.

``LAXER``: it accepts what the suite rejects. ``STRICTER``: it rejects what the suite accepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Reasons = Mapping[str, tuple[str, ...]]

LIMBO_LAXER: Final[Reasons] = {
    "Names of servers: a signer of orders is asked for no host name, and no client connects to one. A dNSName is "
    "looked at only where a CA limits it (name constraints).": (
        "rfc5280::san::underscore-dns",
        "rfc5280::san::ip-in-dns",
        "rfc5280::ca-as-leaf-wrong-san",
        "webpki::cn::*",
        "webpki::san::*",
    ),
    "Extended key usage is for TLS servers there; a signer's certificate has another or none, and may have any "
    "(`-purpose any`).": (
        "rfc5280::eku::ee-wrong-eku",
        "webpki::eku::*",
    ),
    "Rules of the CA/Browser Forum for public TLS, which RFC 5280 does not have.": (
        "webpki::aki::*",
        "webpki::ee-basicconstraints-ca",
        "webpki::ca-as-leaf",
        "webpki::forbidden-rsa-not-divisible-by-8-in-root",
        "webpki::forbidden-rsa-key-not-divisible-by-8-in-leaf",
    ),
    "RFC 5280 binds the CA that issues (key identifiers must be there, an extension must be critical, a serial number "
    "positive, a CRL numbered); sections 6.1 and 6.3, which bind the reader, do not ask for it. What such an extension "
    "says is held to all the same.": (
        "crl::crlnumber-missing",
        "rfc5280::aki::leaf-missing-aki",
        "rfc5280::aki::intermediate-missing-aki",
        "rfc5280::aki::cross-signed-root-missing-aki",
        "rfc5280::ski::root-missing-ski",
        "rfc5280::ski::intermediate-missing-ski",
        "rfc5280::nc::permitted-dns-match-noncritical",
        "rfc5280::pc::ica-noncritical-pc",
        "rfc5280::root-non-critical-basic-constraints",
        "rfc5280::serial::zero",
    ),
    "A limit that its caller sets; here a path may have 16 certificates.": (
        "pathlen::max-chain-depth-0-exhausted",
        "pathlen::max-chain-depth-1-exhausted",
    ),
    "Valid, as the suite itself says, and expected to be refused because it costs others too much; here it is decided "
    "within the budget.": ("pathological::nc-dos-3",),
}

LIMBO_STRICTER: Final[Reasons] = {}

PKITS_LAXER: Final[Reasons] = {}

PKITS_STRICTER: Final[Reasons] = {
    "DSA: no signed order and no CA of today uses it.": (
        "valid_dsa_signatures_test4",
        "valid_dsa_parameter_inheritance_test5",
    ),
    "A CRL by somebody else than the certificate's issuer (indirect CRL): could not be checked.": (
        "valid_idp_with_indirectcrl_test22",
        "valid_idp_with_indirectcrl_test24",
        "valid_idp_with_indirectcrl_test25",
        "valid_crlissuer_test28",
        "valid_crlissuer_test29",
        "valid_crlissuer_test30",
        "valid_crlissuer_test33",
    ),
}


def explains(reasons: Reasons, case: str) -> bool:
    """Tell whether a case is listed; a name that ends with ``*`` matches by prefix."""
    names = [name for listed in reasons.values() for name in listed]
    return any(case == name or (name.endswith("*") and case.startswith(name[:-1])) for name in names)
