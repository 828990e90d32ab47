"""Build and validate paths from the signer's certificate to a trusted CA (RFC 5280 section 6.1).

Imported when the first certificate is checked. Revocation is checked in :mod:`ushield_hw.verifier.revocation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ushield_hw import messages
from ushield_hw.cms import CertificateFacts, names
from ushield_hw.crypto.der import DerError
from ushield_hw.errors import InputError, UntrustedSigner
from ushield_hw.verifier import constraints, policies
from ushield_hw.verifier import extensions as ext
from ushield_hw.verifier.budget import Budget, too_complex
from ushield_hw.verifier.certificate import Certificate
from ushield_hw.verifier.policies import Policies, PolicyInputs
from ushield_hw.verifier.search import LONGEST, Chain, Search, Store
from ushield_hw.verifier.signatures import algorithm, key_problem

# Extensions that may be critical: those evaluated here, and extended key usage, which is irrelevant for signed orders.
_MAY_BE_CRITICAL: Final = frozenset(
    {
        ext.KEY_USAGE,
        ext.ALT_NAMES,
        ext.BASIC_CONSTRAINTS,
        ext.NAME_CONSTRAINTS,
        ext.CRL_POINTS,
        ext.POLICIES,
        ext.POLICY_MAPPINGS,
        ext.POLICY_CONSTRAINTS,
        ext.EXTENDED_KEY_USAGE,
        ext.INHIBIT_ANY_POLICY,
    }
)
_WEAK: Final = frozenset({"weak_key", "unknown_key", "unknown_algorithm"})


@dataclass(frozen=True, slots=True)
class Why:
    """The rule that a path violates, and the serial number (lower-case hex) of the certificate that violates it.

    ``str()`` returns a sentence in the current language.
    """

    rule: str
    serial: str

    def __str__(self) -> str:
        return messages.text(f"path.{self.rule}", serial=self.serial)


class PathBroken(Exception):
    """A path violates a rule.

    Args:
        reason: the ``reason`` of :class:`~ushield_hw.errors.UntrustedSigner`.
        rule: the violated rule, a message id under ``path.``; empty if ``reason`` is specific enough.
        certificate: the certificate that violates it.
    """

    def __init__(self, reason: str, rule: str = "", certificate: Certificate | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.rule = rule
        self.certificate = certificate


def build(
    signer: CertificateFacts,
    sent: Iterable[bytes],
    store: Store,
    budget: Budget,
    moment: datetime,
) -> Iterator[Chain]:
    """Yield paths that are valid at ``moment``: the signer's certificate first, the trusted CA's last; at least one.

    Rejected are weak digests, short RSA keys, CAs outside their validity period, and paths that exceed the path length
    or name constraints of a CA. The trusted CA's certificate is checked too, except for its own signature. No
    certificate is fetched from the network.

    Args:
        signer: the certificate to check.
        sent: CA certificates that came with the order, DER; used before those of the store.
        store: the available CAs, and the policy requirements.
        budget: limits on the work done.
        moment: the time of validation, timezone-aware.

    Raises:
        UntrustedSigner: ``.reason`` is ``unknown_ca``, ``expired`` or ``not_yet_valid`` (the signer's certificate),
            ``ca_expired``, ``ca_not_yet_valid``, ``weak_algorithm``, ``name_encoding``, ``no_purpose`` or
            ``path_invalid``; for the last, ``.why`` names the violated rule.
        VerificationError: ``PATH_TOO_COMPLEX``: the budget was exceeded before a result was reached.
    """
    start, others = _read(signer, sent)
    search, first, holds = Search(store, others, budget), None, False
    for chain in search.chains(start):
        budget.spend("paths")
        try:
            check(chain, moment, budget, store.policies)
        except PathBroken as broken:
            first = first or broken
            continue
        holds = True
        yield chain
    if not holds:
        raise _error(signer, first or _no_chain(search, start, budget))


def _read(signer: CertificateFacts, sent: Iterable[bytes]) -> tuple[Certificate, list[Certificate]]:
    try:
        return Certificate.read(signer.der), [Certificate.read(der) for der in sent]
    except InputError as broken:
        raise untrusted("name_encoding", signer) from broken


def _no_chain(search: Search, start: Certificate, budget: Budget) -> PathBroken:
    if search.is_cut_off:
        raise too_complex("length", LONGEST)
    problem = search.problem
    if problem is None:
        return PathBroken("unknown_ca")
    return PathBroken("weak_algorithm") if problem in _WEAK else PathBroken("path_invalid", problem, start)


def _error(signer: CertificateFacts, broken: PathBroken) -> UntrustedSigner:
    details: dict[str, object] = {}
    if broken.rule:
        broken_by = broken.certificate.facts if broken.certificate is not None else signer
        details["why"] = Why(broken.rule, broken_by.serial_hex)
    return untrusted(broken.reason, signer, **details)


def untrusted(reason: str, signer: CertificateFacts, **details: object) -> UntrustedSigner:
    """Return the error for a signer. ``reason`` is for programs; ``signer_<reason>`` is the message id."""
    return UntrustedSigner(problem=f"signer_{reason}", reason=reason, serial=signer.serial_hex, **details)


# --- the rules --------------------------------------------------------------------------------------------------------


def check(chain: Chain, moment: datetime, budget: Budget, inputs: PolicyInputs = policies.ANY) -> None:
    """Check a chain whose signatures are already verified against the rules of section 6.1.

    Raises:
        PathBroken: a rule is violated.
        VerificationError: ``PATH_TOO_COMPLEX``.
    """
    _check_times(chain, moment)
    for certificate in chain:
        _check_alone(certificate, is_trusted=certificate is chain[-1])
    if len(chain) > 1 and any(one.looks_self_signed for one in chain[:-1]):
        raise PathBroken("path_invalid", "self_signed", next(one for one in chain[:-1] if one.looks_self_signed))
    _walk_down(chain, budget, inputs)
    if chain[0].facts.version == 1:
        raise PathBroken("no_purpose")


def _check_times(chain: Chain, moment: datetime) -> None:
    for certificate in chain:
        prefix = "" if certificate is chain[0] else "ca_"
        if moment < certificate.facts.not_before:
            raise PathBroken(f"{prefix}not_yet_valid")
        if moment > certificate.facts.not_after:
            raise PathBroken(f"{prefix}expired")


def _check_alone(certificate: Certificate, *, is_trusted: bool) -> None:
    """Check what can be checked for one certificate independent of its issuer."""
    problem = key_problem(certificate.facts.spki)
    if problem == "explicit_curve":
        raise PathBroken("path_invalid", problem, certificate)
    signed_with = algorithm(certificate.algorithm)
    if problem is not None or (not is_trusted and (signed_with is None or signed_with.weak)):
        raise PathBroken("weak_algorithm")
    if not all(map(names.is_well_encoded, (certificate.facts.subject, certificate.facts.issuer))):
        raise PathBroken("name_encoding")
    _check_extensions(certificate)
    _check_consistent(certificate)


def _check_consistent(certificate: Certificate) -> None:
    """Reject certificates that contradict themselves in ways RFC 5280 section 4 forbids."""
    facts, here = certificate.facts, certificate.extensions
    use = facts.key_usage or frozenset()
    rules = {
        "ca_nameless": facts.is_ca and not certificate.subject,
        "nameless": not certificate.subject and ext.ALT_NAMES not in certificate.critical,
        "ca_use": "keyCertSign" in use and not facts.is_ca,
        "ca_constraints": ext.NAME_CONSTRAINTS in here and not facts.is_ca,
    }
    broken = next((rule for rule, is_broken in rules.items() if is_broken), None)
    if broken is not None:
        raise PathBroken("path_invalid", broken, certificate)


def _check_extensions(certificate: Certificate) -> None:
    try:
        certificate.value(ext.BASIC_CONSTRAINTS)
    except DerError as broken:
        raise PathBroken("path_invalid", "extension_damaged", certificate) from broken
    if not certificate.extensions.isdisjoint(ext.NOT_FOR_PAYING):
        raise PathBroken("path_invalid", "extension_unfit", certificate)
    if certificate.critical - _MAY_BE_CRITICAL:
        raise PathBroken("path_invalid", "extension_critical", certificate)


def _walk_down(chain: Chain, budget: Budget, inputs: PolicyInputs) -> None:
    """Check path lengths, names and policies from the trusted CA down to the signer (sections 6.1.3 and 6.1.4)."""
    top, below = chain[-1], tuple(reversed(chain[:-1]))
    limits = [found] if (found := top.value(ext.NAME_CONSTRAINTS)) is not None else []
    length = _path_length(top, len(below))
    graph = Policies(inputs, len(below), budget)
    for certificate in below:
        is_last = certificate is chain[0]
        if limits and (is_last or not certificate.is_self_issued):
            _check_names(certificate, limits, budget)
        if not graph.enter(certificate, is_last=is_last):
            raise PathBroken("path_invalid", "policy", certificate)
        if is_last:
            break
        graph.leave(certificate)
        if not certificate.is_self_issued:
            if length == 0:
                raise PathBroken("path_invalid", "path_length", certificate)
            length -= 1
        length = min(length, _path_length(certificate, length))
        if (found := certificate.value(ext.NAME_CONSTRAINTS)) is not None:
            limits.append(found)
    if below and not graph.end(chain[0]):
        raise PathBroken("path_invalid", "policy", chain[0])


def _path_length(certificate: Certificate, most: int) -> int:
    said: int | None = certificate.value(ext.BASIC_CONSTRAINTS)
    return most if said is None else said


def _check_names(certificate: Certificate, limits: list[ext.NameConstraints], budget: Budget) -> None:
    try:
        allowed = constraints.allow(limits, constraints.names_of(certificate), budget)
    except DerError as broken:
        raise PathBroken("path_invalid", "name_malformed", certificate) from broken
    if not allowed:
        raise PathBroken("path_invalid", "name_constraints", certificate)
