"""Search chains from a certificate to trusted CAs, checking each signature while the chain grows.

An invalid signature ends a chain immediately, so certificates that only have a matching name cost one check each. Every
check, chain and octet is charged to a budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from ushield_hw.cms.names import Canonical
from ushield_hw.verifier.budget import Budget
from ushield_hw.verifier.certificate import Certificate
from ushield_hw.verifier.policies import ANY, PolicyInputs
from ushield_hw.verifier.signatures import algorithm, is_right, key_problem

LONGEST: Final = 16
"""Maximum number of certificates on a path, including the trusted CA's. Real paths have three or four."""

_KEYS_REMEMBERED: Final = 64  # per certificate

Chain = tuple[Certificate, ...]
"""A chain: the checked certificate first, the trusted CA's last."""


class Store:
    """CA certificates indexed by name. The lookup cost does not depend on their number (10,000 were measured).

    Args:
        anchors: certificates of the trusted CAs.
        others: certificates of intermediate CAs.
        policies: policy requirements for a path.
    """

    def __init__(
        self, anchors: Iterable[Certificate], others: Iterable[Certificate], policies: PolicyInputs = ANY
    ) -> None:
        self.policies = policies
        self._by_name: dict[Canonical, list[Certificate]] = {}
        self._trusted: set[bytes] = set()
        for certificate in anchors:
            self._trusted.add(certificate.facts.der)
            self._by_name.setdefault(certificate.subject, []).append(certificate)
        for certificate in others:
            if certificate.facts.der not in self._trusted:
                self._by_name.setdefault(certificate.subject, []).append(certificate)

    def trusts(self, certificate: Certificate) -> bool:
        """Return whether the certificate is a trusted CA's."""
        return certificate.facts.der in self._trusted

    def trusts_der(self, der: bytes) -> bool:
        """Return whether these are the octets of a trusted CA's certificate."""
        return der in self._trusted

    def named(self, name: Canonical) -> list[Certificate]:
        """Return the certificates with this subject."""
        return self._by_name.get(name, [])


class Search:
    """A single chain search.

    Args:
        store: the available CAs.
        sent: CA certificates that came with the order; used before those of the store.
        budget: charged for every step.

    Attributes:
        problem: why the first candidate issuer was rejected, if no candidate was accepted: ``weak_key``,
            ``explicit_curve``, ``unknown_key``, ``unknown_algorithm``, ``other_key``, ``no_ca``; None: there was no
            candidate.
        is_cut_off: whether a chain was dropped because it exceeded :data:`LONGEST`.
    """

    def __init__(self, store: Store, sent: Iterable[Certificate], budget: Budget) -> None:
        self._store = store
        self._sent: dict[Canonical, list[Certificate]] = {}
        for certificate in sent:
            self._sent.setdefault(certificate.subject, []).append(certificate)
        self._budget = budget
        self._issuers: dict[bytes, list[Certificate]] = {}
        self.problem: str | None = None
        self.is_cut_off = False

    def chains(self, start: Certificate) -> Iterator[Chain]:
        """Yield chains to a trusted CA with verified signatures, the shortest first.

        Raises:
            VerificationError: ``PATH_TOO_COMPLEX``.
        """
        if self._store.trusts(start):
            yield (start,)
            return
        seen = set()
        for chain in self._one_for_each(start):
            seen.add(_ids(chain))
            yield chain
        if seen:  # a CA may be reachable over several chains of which only one is valid
            yield from (chain for chain in self._all(start) if _ids(chain) not in seen)

    def _one_for_each(self, start: Certificate) -> Iterator[Chain]:
        """Yield chains that reach each certificate in one way only."""
        first: Chain = (start,)
        left, reached = deque([first]), {start.facts.der}
        while left:
            chain = left.popleft()
            for issuer in self._issuers_of(chain[-1]):
                if self._store.trusts(issuer):
                    yield (*chain, issuer)
                elif issuer.facts.der not in reached and self._may_grow(chain):
                    reached.add(issuer.facts.der)
                    left.append((*chain, issuer))

    def _all(self, start: Certificate) -> Iterator[Chain]:
        """Yield every chain to a trusted CA in which no CA key occurs twice."""
        first: Chain = (start,)
        useful, left = self._leading_up(), deque([first])
        while left:
            chain = left.popleft()
            keys = {(one.subject, one.facts.spki) for one in chain}
            for issuer in self._issuers_of(chain[-1]):
                if self._store.trusts(issuer):
                    yield (*chain, issuer)
                elif issuer.facts.der in useful and (issuer.subject, issuer.facts.spki) not in keys:
                    self._budget.spend("candidates", 20)
                    if self._may_grow(chain):
                        left.append((*chain, issuer))

    def _may_grow(self, chain: Chain) -> bool:
        if len(chain) + 2 <= LONGEST:
            return True
        self.is_cut_off = True
        return False

    def _leading_up(self) -> set[bytes]:
        """Return the examined certificates from which a trusted CA can be reached."""
        below: dict[bytes, list[bytes]] = {}
        for der, issuers in self._issuers.items():
            for issuer in issuers:
                below.setdefault(issuer.facts.der, []).append(der)
        found, left = set(), [der for der in below if der not in self._issuers]
        while left:
            der = left.pop()
            if der not in found:
                found.add(der)
                left += below.get(der, [])
        return found

    def _issuers_of(self, certificate: Certificate) -> list[Certificate]:
        known = self._issuers.get(certificate.facts.der)
        if known is None:
            known = self._issuers[certificate.facts.der] = self._found(certificate)
        return known

    def _found(self, certificate: Certificate) -> list[Certificate]:
        seen, found, problems = {certificate.facts.der}, [], []
        for candidate in (*self._sent.get(certificate.issuer, ()), *self._store.named(certificate.issuer)):
            self._budget.spend("candidates")
            if candidate.facts.der in seen:
                continue
            seen.add(candidate.facts.der)
            problem = self._problem(certificate, candidate)
            if problem is None:
                found.append(candidate)
            else:
                problems.append(problem)
        if problems and not found:
            self.problem = self.problem or problems[0]
        return found

    def _problem(self, certificate: Certificate, issuer: Certificate) -> str | None:
        if not issuer.may_be_issuer_of(certificate):
            return "other_key"
        if not issuer.signs_certificates:
            return "no_ca"
        problem = key_problem(issuer.facts.spki)
        if problem is None and algorithm(certificate.algorithm) is None:
            problem = "unknown_algorithm"
        return problem or (None if self._is_signed_by(certificate, issuer.facts.spki) else "other_key")

    def _is_signed_by(self, certificate: Certificate, spki: bytes) -> bool:
        known = certificate.known_issuers
        if spki not in known:
            self._budget.spend("signatures")
            self._budget.spend("octets", len(certificate.signed))
            right = is_right(spki, certificate.algorithm, certificate.signature, certificate.signed)
            if len(known) >= _KEYS_REMEMBERED:
                known.clear()
            known[spki] = right
        return known[spki]


def _ids(chain: Chain) -> tuple[bytes, ...]:
    return tuple(certificate.facts.sha256 for certificate in chain)
