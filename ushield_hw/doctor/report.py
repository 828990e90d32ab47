"""The result of a diagnosis: all findings, the first cause and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ushield_hw import messages
from ushield_hw.doctor.finding import NO_PYSCARD, NO_SERVICE, PAST_PCSC, SOFT, Finding, Layer, Outcome, Status


@dataclass(frozen=True, slots=True)
class UsableToken:
    """A token that can sign.

    Attributes:
        uri: the URI that selects it.
        label: its label, for display; untrusted.
        serial: its serial number; untrusted.
        subject: subject of the certificate that would be used; empty: no certificate is visible without a login.
        certain: whether key and certificate are visible already. False: only a login can show.
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
        findings: in layer order.
        usable: the tokens that can sign.
        first: the cause to fix first; None: a token can be used.
        skeleton: a draft descriptor for a token that no descriptor matches.
        environment: versions and kind of machine, for a support ticket.
        named: whether a token was selected.
        private: yields kind and text of personal data and token identifiers, which are masked in a bundle.
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
        """The exit code of the diagnosis."""
        return Outcome.OK if self.first is None else self.first.rule.exits

    def unneeded(self, findings: Iterable[Finding]) -> bool:
        """Return whether findings concern an access path that the present token does not use."""
        if not any(_is_unneeded(one) for one in self.findings):
            return False
        return any(_is_unneeded(one) or one.evidence.get("reason") in {NO_PYSCARD, NO_SERVICE} for one in findings)

    @property
    def headline(self) -> str:
        """The message id of the headline above the first cause."""
        declared = self.first.rule.headline if self.first is not None else ""
        return declared or ("doctor.unusable.named" if self.named else "doctor.unusable")

    @property
    def unrelated(self) -> list[Finding]:
        """The problems that do not concern what the user asked about."""
        return [finding for finding in self.findings if finding.unrelated and finding.is_problem]

    def of(self, layer: Layer) -> list[Finding]:
        """Return the findings of a layer, without unrelated ones."""
        return [finding for finding in self.findings if finding.layer is layer and not finding.unrelated]

    def state(self, layer: Layer) -> tuple[Status, str]:
        """Return the state of a layer and the id of its text: its worst finding, else whether it was checked."""
        findings = self.of(layer)
        there = {Status.FAIL if finding is self.first else finding.status for finding in findings}
        reasons = [str(finding.evidence["reason"]) for finding in findings if finding.unchecked]
        worst = next((status for status in (Status.FAIL, Status.WARN) if status in there), None)
        if worst is None and self.unneeded(findings):
            return Status.SKIP, "doctor.unneeded"
        if worst is None and reasons and (Status.OK not in there or NO_SERVICE in reasons):
            text = f"doctor.unchecked.{reasons[0]}"
            return Status.SKIP, text if messages.known(text) else "doctor.status.unchecked"
        state = worst or (Status.OK if Status.OK in there else Status.SKIP)
        return state, f"doctor.status.{state.value}"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document of ``ushield doctor --json``."""
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
