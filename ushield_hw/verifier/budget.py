"""Limits on the work done for one signer, because a crafted certificate can take minutes to check."""

from __future__ import annotations

from dataclasses import dataclass, field

from ushield_hw.errors import VerificationError


@dataclass(slots=True)
class Budget:
    """The remaining budget for one signer. Each step is charged before it is done.

    The limits are far above what real hierarchies need (a path of four certificates has four signatures) and bound a
    hostile one to a fraction of a second.

    Attributes:
        signatures: signature checks.
        paths: paths checked against the rules of RFC 5280 section 6.1.
        octets: octets hashed.
        candidates: certificates considered as issuer because of their name.
        comparisons: comparisons of names with name constraints, and of policies with policies.
    """

    signatures: int = 300
    paths: int = 100
    octets: int = 16 << 20
    candidates: int = 20_000
    comparisons: int = 10_000
    _first: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def spend(self, what: str, amount: int = 1) -> None:
        """Charge ``amount`` of one kind.

        Args:
            what: the attribute to charge.
            amount: how much.

        Raises:
            VerificationError: ``PATH_TOO_COMPLEX``: the budget is exceeded; ``.what``, ``.most``.
        """
        left: int = getattr(self, what)
        most = self._first.setdefault(what, left)
        if amount > left:
            raise too_complex(what, most)
        setattr(self, what, left - amount)


def too_complex(what: str, most: int) -> VerificationError:
    """Return the error for a signer that exceeds the limit ``most`` of one kind."""
    return VerificationError("PATH_TOO_COMPLEX", problem=f"budget_{what}", what=what, most=most)
