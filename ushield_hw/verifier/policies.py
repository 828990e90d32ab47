"""Certificate policies along a path (RFC 5280 section 6.1), implemented as the graph of RFC 9618.

The graph grows linearly with the certificates; the policy tree of RFC 5280 grows exponentially.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from ushield_hw.verifier import extensions as ext
from ushield_hw.verifier.budget import Budget
from ushield_hw.verifier.certificate import Certificate
from ushield_hw.verifier.extensions import ANY_POLICY


@dataclass(frozen=True, slots=True)
class PolicyInputs:
    """Policy requirements of the verifying party (section 6.1.1).

    Attributes:
        acceptable: accepted policies, as contents of OBJECT IDENTIFIERs. Default: any.
        explicit: the path must be valid for one of them.
        no_mapping: policy mapping is not allowed.
        no_any: ``anyPolicy`` is not accepted.
    """

    acceptable: frozenset[bytes] = frozenset({ANY_POLICY})
    explicit: bool = False
    no_mapping: bool = False
    no_any: bool = False


ANY: Final = PolicyInputs()


@dataclass(slots=True)
class _Node:
    policy: bytes
    expected: set[bytes]
    parents: list[_Node] = field(default_factory=list)


class Policies:
    """Policy state while a path is processed from the trusted CA downwards.

    Args:
        inputs: the policy requirements.
        length: number of certificates below the trusted CA.
        budget: charged for each node.
    """

    def __init__(self, inputs: PolicyInputs, length: int, budget: Budget) -> None:
        self._inputs = inputs
        self._budget = budget
        self._explicit = 0 if inputs.explicit else length + 1
        self._mapping = 0 if inputs.no_mapping else length + 1
        self._any = 0 if inputs.no_any else length + 1
        self._level: dict[bytes, _Node] = {ANY_POLICY: _Node(ANY_POLICY, {ANY_POLICY})}

    def enter(self, certificate: Certificate, *, is_last: bool) -> bool:
        """Process the policies of the next certificate (6.1.3 d-f).

        Returns:
            False if an explicit policy is required and none is left.

        Raises:
            DerError: an extension is malformed.
            VerificationError: ``PATH_TOO_COMPLEX``.
        """
        said: Collection[bytes] | None = certificate.value(ext.POLICIES)
        if said is None:
            self._level = {}
        elif self._level:
            takes_any = self._any > 0 or (not is_last and certificate.is_self_issued)
            self._level = self._next(said, takes_any=takes_any)
        return self._explicit > 0 or bool(self._level)

    def _next(self, said: Collection[bytes], *, takes_any: bool) -> dict[bytes, _Node]:
        found: dict[bytes, _Node] = {}
        above = self._level
        for policy in said:
            if policy == ANY_POLICY:
                continue
            parents = [node for node in above.values() if policy in node.expected]
            if not parents and ANY_POLICY in above:
                parents = [above[ANY_POLICY]]
            self._budget.spend("comparisons", 1 + len(above))
            if parents:
                found[policy] = _Node(policy, {policy}, parents)
        if ANY_POLICY in said and takes_any:
            self._add_expected(found)
        return found

    def _add_expected(self, found: dict[bytes, _Node]) -> None:
        named = set(found)
        for node in self._level.values():
            self._budget.spend("comparisons", 1 + len(node.expected))
            for policy in node.expected - named:
                found.setdefault(policy, _Node(policy, {policy})).parents.append(node)

    def leave(self, certificate: Certificate) -> None:
        """Prepare for the next certificate below (6.1.4 a, b, h-j).

        Raises:
            DerError: an extension is malformed.
            VerificationError: ``PATH_TOO_COMPLEX``.
        """
        self._map(certificate.value(ext.POLICY_MAPPINGS) or ())
        if not certificate.is_self_issued:
            self._explicit, self._mapping, self._any = (
                max(0, left - 1) for left in (self._explicit, self._mapping, self._any)
            )
        limits = certificate.value(ext.POLICY_CONSTRAINTS)
        if limits is not None:
            self._explicit = _least(self._explicit, limits.explicit)
            self._mapping = _least(self._mapping, limits.no_mapping)
        self._any = _least(self._any, certificate.value(ext.INHIBIT_ANY_POLICY))

    def _map(self, pairs: Collection[tuple[bytes, bytes]]) -> None:
        becomes: dict[bytes, set[bytes]] = {}
        for issuers, subjects in pairs:
            becomes.setdefault(issuers, set()).add(subjects)
        for policy, others in becomes.items():
            self._budget.spend("comparisons", len(others))
            if self._mapping == 0:
                self._level.pop(policy, None)
            elif policy in self._level:
                self._level[policy].expected = others
            elif ANY_POLICY in self._level:
                self._level[policy] = _Node(policy, others, self._level[ANY_POLICY].parents)

    def end(self, certificate: Certificate) -> bool:
        """Return whether the path is valid for an acceptable policy, if one is required (6.1.5 a, b, g).

        Raises:
            DerError: an extension is malformed.
        """
        self._explicit = max(0, self._explicit - 1)
        limits = certificate.value(ext.POLICY_CONSTRAINTS)
        if limits is not None and limits.explicit == 0:
            self._explicit = 0
        return self._explicit > 0 or self._is_acceptable()

    def _is_acceptable(self) -> bool:
        acceptable = self._inputs.acceptable
        if ANY_POLICY in acceptable or not self._level:
            return bool(self._level)
        return ANY_POLICY in self._level or any(_below_acceptable(node, acceptable) for node in self._level.values())


def _below_acceptable(node: _Node, acceptable: Collection[bytes]) -> bool:
    """Return whether a policy derives from one that was acceptable where it was introduced under ``anyPolicy``."""
    seen: set[int] = set()
    left = [node]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        for parent in one.parents:
            if parent.policy == ANY_POLICY and one.policy in acceptable:
                return True
            if parent.policy != ANY_POLICY:
                left.append(parent)
    return False


def _least(left: int, said: int | None) -> int:
    return left if said is None else min(left, said)
