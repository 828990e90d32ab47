"""From the signer's certificate to a trusted CA: the rules that a path must keep (RFC 5280 section 6.1).

Imported when the first certificate is judged. Revocation is judged elsewhere, see
:mod:`ushield_hw.verifier.revocation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ushield_hw import messages
from ushield_hw.cms import CertificateFacts, names
from ushield_hw.cms.der import DerError
from ushield_hw.errors import InputError, UntrustedSigner
from ushield_hw.verifier import constraints, policies
from ushield_hw.verifier import extensions as ext
from ushield_hw.verifier.budget import Budget, too_complex
from ushield_hw.verifier.certificate import Certificate
from ushield_hw.verifier.policies import Policies, PolicyInputs
from ushield_hw.verifier.search import LONGEST, Chain, Search, Store
from ushield_hw.verifier.signatures import algorithm, key_problem

# What may be critical: what is judged here, and extended key usage, which does not matter for a signed order.
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
    """Which rule a path breaks, and the serial number of the certificate that breaks it, lower-case hex.

    As text: a sentence in the language in force.
    """

    rule: str
    serial: str

    def __str__(self) -> str:
        return messages.text(f"path.{self.rule}", serial=self.serial)


class PathBroken(Exception):
    """A rule is broken.

    Args:
        reason: what :class:`~ushield_hw.errors.UntrustedSigner` says.
        rule: the rule, one of the ids under ``path.`` in the texts; empty if the reason says it all.
        certificate: in which certificate.
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
    """Yield paths that hold at ``moment``: the signer's certificate first, the trusted CA's last; one at least.

    Refused are weak digests and short RSA keys, CAs out of their time, and paths that are longer or lead to other names
    than a CA's certificate allows; the trusted CA's certificate counts too, but for its own signature. Nothing is
    fetched.

    Args:
        signer: the certificate to judge.
        sent: CA certificates that came with it, DER; tried first.
        store: the CAs at hand, and what is asked of policies.
        budget: what may be spent.
        moment: aware.

    Raises:
        UntrustedSigner: ``.reason`` is ``unknown_ca``, ``expired`` or ``not_yet_valid`` (the signer's certificate),
            ``ca_expired``, ``ca_not_yet_valid``, ``weak_algorithm``, ``name_encoding``, ``no_purpose`` or
            ``path_invalid``; with the latter, ``.why`` says which rule is broken.
        VerificationError: ``PATH_TOO_COMPLEX``: nothing was decided, because that would have taken too long.
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
    """Return the error for a signer; ``reason`` is for programs and has a text of its own."""
    return UntrustedSigner(problem=f"signer_{reason}", reason=reason, serial=signer.serial_hex, **details)


# --- the rules --------------------------------------------------------------------------------------------------------


def check(chain: Chain, moment: datetime, budget: Budget, inputs: PolicyInputs = policies.ANY) -> None:
    """Hold a chain, whose signatures are right, to the rules.

    Raises:
        PathBroken: it does not keep them.
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
    """Refuse what is wrong with one certificate whatever stands above it."""
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
    """Refuse what RFC 5280 section 4 forbids a CA to issue, where two parts of a certificate contradict each other."""
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
    """Go from the trusted CA to the signer: lengths, names and policies (section 6.1.3 and 6.1.4)."""
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
