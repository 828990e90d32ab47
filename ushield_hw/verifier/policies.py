"""Certificate policies along a path (RFC 5280 section 6.1), as the graph of RFC 9618: it grows with the certificates,
where the tree of the older text doubles with each.
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
    """What the one who checks a path asks of its policies (section 6.1.1).

    Attributes:
        acceptable: policies, contents of OBJECT IDENTIFIERs; any, if nothing else is said.
        explicit: the path must be valid for one of them.
        no_mapping: one CA's policy may not stand for another's.
        no_any: ``anyPolicy`` means nothing.
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
    """The state while a path is walked down from the trusted CA.

    Args:
        inputs: what is asked.
        length: how many certificates follow.
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
        """Take the policies of the next certificate (6.1.3 d-f); False: an explicit one is asked for, and none is left.

        Raises:
            DerError: an extension is damaged.
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
        """Get ready for the certificate below (6.1.4 a, b, h-j).

        Raises:
            DerError: an extension is damaged.
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
        """Tell whether the path holds for an acceptable policy, if one must be (6.1.5 a, b, g).

        Raises:
            DerError: an extension is damaged.
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
    """Tell whether a policy comes from one that was acceptable where it was first named, below "any"."""
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
