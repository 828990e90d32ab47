"""What the doctor says in the end: every finding, one cause named first, and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ushield_hw.doctor.finding import NO_SERVICE, PAST_PCSC, SOFT, Finding, Outcome


@dataclass(frozen=True, slots=True)
class UsableToken:
    """A token that can sign.

    Attributes:
        uri: selects it.
        label: for people; untrusted.
        serial: its serial number; untrusted.
        subject: the certificate that would be used; empty: none shows without a login.
        certain: what signs shows already; False: only a login tells.
    """

    uri: str
    label: str
    serial: str
    subject: str
    certain: bool = True


@dataclass(frozen=True)
class Report:
    """A diagnosis.

    Attributes:
        findings: in the order of the walk.
        usable: the tokens that can sign.
        first: the one cause to look at; None: a token can be used.
        skeleton: a descriptor to begin with, for a token that no descriptor knows.
        environment: versions and the kind of machine, for a ticket.
        named: one token was asked for.
        private: yields the kind and the text of what names a person or a token; it is masked in a bundle.
    """

    findings: Sequence[Finding]
    usable: Sequence[UsableToken] = ()
    first: Finding | None = None
    skeleton: str | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    named: bool = False
    private: Callable[[], Iterable[tuple[str, str]]] = field(default=tuple, repr=False)

    @property
    def outcome(self) -> Outcome:
        """What it comes to."""
        return Outcome.OK if self.first is None else self.first.rule.exits

    def unneeded(self, findings: Iterable[Finding]) -> bool:
        """Tell whether these are about a way that the token that is here does not take."""
        if not any(_is_unneeded(one) for one in self.findings):
            return False
        return any(_is_unneeded(one) or one.evidence.get("reason") == NO_SERVICE for one in findings)

    def to_json(self) -> dict[str, Any]:
        """Return the document of ``ushield doctor --json``."""
        return {
            "verdict": "ok" if self.first is None else "fail",
            "first": None if self.first is None else self.first.to_json() | {"status": "fail"},
            "usable": [
                {
                    "uri": token.uri,
                    "label": token.label,
                    "serial": token.serial,
                    "subject": token.subject,
                    "certain": token.certain,
                }
                for token in self.usable
            ],
            "findings": [finding.to_json() for finding in self.findings],
            "skeleton": self.skeleton,
            "environment": self.environment,
        }

    def __repr__(self) -> str:
        return f"<Report first={self.first.id if self.first else None!r}, {len(self.findings)} findings>"


def _is_unneeded(finding: Finding) -> bool:
    return finding.evidence.get("reason") in {SOFT, PAST_PCSC}
