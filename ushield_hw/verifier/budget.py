"""How much may be spent on one signer: anybody can send a certificate that costs minutes to judge."""

from __future__ import annotations

from dataclasses import dataclass, field

from ushield_hw.errors import VerificationError


@dataclass(slots=True)
class Budget:
    """What is left. One a signer: each step is charged, and no step is taken that is not paid for.

    The bounds are far above what real hierarchies need (a path of four has four signatures) and hold a hostile one to
    a fraction of a second.

    Attributes:
        signatures: signature checks.
        paths: paths judged by the rules of RFC 5280 section 6.1.
        octets: octets hashed.
        candidates: certificates that may be an issuer by their name.
        comparisons: names compared with name constraints, and policies with policies.
    """

    signatures: int = 300
    paths: int = 100
    octets: int = 16 << 20
    candidates: int = 20_000
    comparisons: int = 10_000
    _first: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def spend(self, what: str, amount: int = 1) -> None:
        """Take so much of one kind.

        Raises:
            VerificationError: ``PATH_TOO_COMPLEX``: it is used up; ``.what``, ``.most``.
        """
        left: int = getattr(self, what)
        most = self._first.setdefault(what, left)
        if amount > left:
            raise too_complex(what, most)
        setattr(self, what, left - amount)


def too_complex(what: str, most: int) -> VerificationError:
    """Return the error for a signer that costs too much: more than ``most`` of one kind."""
    return VerificationError("PATH_TOO_COMPLEX", problem=f"budget_{what}", what=what, most=most)
