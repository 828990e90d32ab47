"""What the doctor says in the end: every finding, one cause named first, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from ushield_hw.doctor.finding import Finding, Layer, Status


class Outcome(IntEnum):
    """The exit codes of design 3.1 that a diagnosis can end in."""

    OK = 0
    NO_TOKEN = 3
    PIN_LOCKED = 5
    CERTIFICATE = 6


@dataclass(frozen=True, slots=True)
class UsableToken:
    """A token that can sign.

    Attributes:
        uri: selects it.
        label: for people; untrusted.
        serial: its serial number; untrusted.
        subject: the certificate that would be used.
    """

    uri: str
    label: str
    serial: str
    subject: str


@dataclass(frozen=True)
class Report:
    """A diagnosis.

    Attributes:
        findings: in the order of the walk.
        usable: the tokens that can sign.
        first: the one cause to look at; None: nothing is wrong.
        skeleton: a descriptor to begin with, for a token that no descriptor knows.
        environment: versions and the kind of machine, for a ticket.
    """

    findings: Sequence[Finding]
    usable: Sequence[UsableToken] = ()
    first: Finding | None = None
    skeleton: str | None = None
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def outcome(self) -> Outcome:
        """What it comes to."""
        if self.first is None:
            return Outcome.OK
        if self.first.id == "G64":
            return Outcome.PIN_LOCKED
        return Outcome.CERTIFICATE if self.first.layer is Layer.OBJECTS else Outcome.NO_TOKEN

    def to_json(self) -> dict[str, Any]:
        """Return the document of ``ushield doctor --json``."""
        return {
            "verdict": "ok" if self.first is None else "fail",
            "first": None if self.first is None else self.first.id,
            "usable": [
                {"uri": token.uri, "label": token.label, "serial": token.serial, "subject": token.subject}
                for token in self.usable
            ],
            "findings": [finding.to_json() for finding in self.findings],
            "skeleton": self.skeleton,
            "environment": self.environment,
        }


def first_cause(findings: Sequence[Finding], *, prefer: Sequence[str] = ()) -> Finding | None:
    """Return the failure that explains the rest: of the subject that came furthest, the first one on its way.

    A token that is there but cannot sign says more than a service that nobody may need.

    Args:
        findings: all of them.
        prefer: subjects that somebody asked for; a failure of theirs goes before all others.
    """
    failures = [finding for finding in findings if finding.status is Status.FAIL]
    asked = [finding for finding in failures if finding.subject in prefer]
    if asked:
        return asked[0]
    of_tokens = [finding for finding in failures if finding.layer in {Layer.PIN, Layer.OBJECTS}]
    return next(iter(of_tokens or failures), None)
