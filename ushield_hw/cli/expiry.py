"""Warnings before a certificate expires, with the command that renews it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from ushield_hw.cli import options, output
from ushield_hw.cms import CertificateFacts
from ushield_hw.token.key_pairs import Pair

_DAY_S: Final = 86400


def days_left(facts: CertificateFacts, now: datetime | None = None) -> int:
    """Return how many whole days a certificate is still valid; negative if it has expired."""
    return int((facts.not_after - (now or datetime.now(UTC))).total_seconds() // _DAY_S)


def warn_of(pairs: Iterable[Pair], uri: str) -> None:
    """Warn on stderr about active certificates that expire soon or have expired."""
    for pair in pairs:
        if pair.activated and pair.has_key is not False:
            warn(pair.facts, uri)


def warn(facts: CertificateFacts, uri: str) -> None:
    """Warn on stderr if a certificate expires soon or has expired."""
    days, settings = days_left(facts), options.settings()
    louder = sorted(settings.urgent_days)
    if days > max(settings.warn_days, *louder, 0):
        return
    said = "expiry.notice"
    if days < 0:
        said = "expiry.over"
    elif louder and days <= louder[-1]:
        said = "expiry.last_day" if days <= louder[0] else "expiry.soon"
    output.hint(said, subject=facts.subject_text(), date=f"{facts.not_after:%Y-%m-%d}", n=max(days, 0), uri=uri)
