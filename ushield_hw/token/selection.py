"""Select the pair for a use: the newest that fits, or the requested one; and the reason for every other pair."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ushield_hw import messages
from ushield_hw.backend.model import ObjectProblem
from ushield_hw.backend.pkcs11.ckr import name_of
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.errors import CertificateExpired, CertificateMultiple, CertificateNotFound, UShieldError
from ushield_hw.order import KeyUse
from ushield_hw.order.times import time_text
from ushield_hw.token.key_pairs import ANY, KeyChoice, Pair, Why, keys_ambiguous


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A pair that was not selected, with the reason. ``str()`` returns both, in the current language.

    Attributes:
        pair: The pair.
        why: The reason.
    """

    pair: Pair
    why: Why

    def __str__(self) -> str:
        return f"{self.pair.brief()}: {messages.text(f'left_out.{self.why.value}')}"

    def to_json(self) -> dict[str, object]:
        """Return the pair and the reason for JSON output."""
        facts = self.pair.facts
        return {"key_id": self.pair.key_id, "sha256": facts.sha256.hex(), "why": self.why.value}


@dataclass(frozen=True, slots=True)
class Selection:
    """The result of a selection.

    Attributes:
        pair: The selected pair; None if there is none.
        error: Why no pair was selected.
        left_out: The pairs that were excluded, with the reason.
    """

    pair: Pair | None
    error: UShieldError | None
    left_out: tuple[LeftOut, ...]


def unread_text(problem: ObjectProblem) -> str:
    """Return the message for an object that could not be read.

    Args:
        problem: What the backend reported for the object.
    """
    code = name_of(problem.rv) if problem.rv else "OBJECT_UNUSABLE"
    kind = messages.text(f"object.{problem.kind.value}")
    values = {"kind": kind, "handle": problem.handle, "label": problem.label, "function": problem.function}
    if problem.handle == 0:
        said = "objects_left_out" if problem.count else "objects_without_end"
        return messages.text(f"problem.{said}", n=problem.count, **values)
    said = "object_unreadable" if problem.left_out else "object_in_part"
    return messages.text(f"problem.{said}", ckr=code, **values)


Refuses = Callable[[KeyKind], UShieldError | None]
"""Returns the error if a token cannot sign with a kind of key, otherwise None."""


def _takes_all(kind: KeyKind) -> None:
    """Accept every kind of key."""


def select(
    found: Sequence[Pair],
    use: KeyUse,
    choice: KeyChoice = ANY,
    now: datetime | None = None,
    refuses: Refuses = _takes_all,
) -> Selection:
    """Select the newest activated pair that fits a use.

    Args:
        found: The pairs on the token.
        use: The use of the key.
        choice: The requested key.
        now: A timezone-aware time; default: the current time.
        refuses: Returns the error if the token cannot sign with a kind of key.

    Returns:
        The pair, or the error that explains why there is none: ``CertificateNotFound``: no pair fits, with the reason
        for each; ``CertificateExpired``: those that would fit are not within their validity; ``CertificateMultiple``:
        the user must choose, because the pairs that fit have different subjects or issuers, ``choice.certificate``
        matches two, or several private keys cannot be distinguished; ``TokenError``: ``MECHANISM_MISSING``.
    """
    moment = now or datetime.now(UTC)
    named = choice.among(found)
    if choice.certificate is not None and len(named) > 1:
        return Selection(None, CertificateMultiple("CERTIFICATE_SEVERAL_MATCH", candidates=_briefs(named)), ())
    taken = {id(pair) for pair in named}
    judged = [
        (pair := choice.resolved(one), _why_not(pair, use, moment, refuses) if id(one) in taken else Why.NOT_ASKED)
        for one in found
    ]
    left_out = [LeftOut(pair, why) for pair, why in judged if why is not None]
    usable = [pair for pair, why in judged if why is None]
    living = [pair for pair in usable if pair.activated]
    if living:
        left_out += [LeftOut(pair, Why.SUPERSEDED) for pair in usable if not pair.activated]
    else:
        living = usable  # a superseded pair may be requested by its id
    if not living:
        return Selection(None, _nothing(left_out, use, choice, refuses), tuple(left_out))
    if len({pair.names for pair in living}) > 1:
        return Selection(None, CertificateMultiple(candidates=_briefs(living)), tuple(left_out))
    best = max(living, key=lambda pair: pair.age)
    return Selection(best, None, tuple(left_out))


def _why_not(pair: Pair, use: KeyUse, moment: datetime, refuses: Refuses) -> Why | None:
    """Return the first reason why a requested pair does not fit, or None if it fits."""
    if pair.pending:
        return Why.PENDING
    return _no_key(pair) or pair.unfit(use) or _no_time(pair, moment) or _no_way(pair, refuses)


def _no_key(pair: Pair) -> Why | None:
    if pair.key is not None:
        return Why.NO_SIGN if pair.key.can_sign is False else None
    if pair.rivals:
        return Why.AMBIGUOUS
    if pair.of_another:
        return Why.OTHER_KEY
    return Why.NO_KEY if pair.has_key is False else Why.KEY_HIDDEN


def _no_time(pair: Pair, moment: datetime) -> Why | None:
    if pair.facts.not_before > moment:
        return Why.NOT_YET_VALID
    return Why.EXPIRED if pair.facts.not_after < moment else None


def _no_way(pair: Pair, refuses: Refuses) -> Why | None:
    return Why.NO_MECHANISM if pair.facts.key is not None and refuses(pair.facts.key) is not None else None


def _nothing(left_out: Sequence[LeftOut], use: KeyUse, choice: KeyChoice, refuses: Refuses) -> UShieldError:
    """Return the error if no pair fits: that of the pair that comes closest to fitting."""
    found: dict[Why, list[Pair]] = {}
    for one in left_out:
        found.setdefault(one.why, []).append(one.pair)
    if over := found.get(Why.NOT_YET_VALID, []) + found.get(Why.EXPIRED, []):
        last = max(over, key=lambda pair: pair.facts.not_after)
        return _out_of_time(last, early=last in found.get(Why.NOT_YET_VALID, ()))
    if rivals := found.get(Why.AMBIGUOUS):
        return keys_ambiguous(rivals[0].rivals, rivals[0].subject)
    for pair in found.get(Why.NO_MECHANISM, ()):
        if pair.facts.key is not None and (error := refuses(pair.facts.key)) is not None:
            return error
    code = "KEY_USE_NOT_ALLOWED" if Why.USAGE in found else None
    if choice.certificate is not None and found.keys() <= {Why.NOT_ASKED}:
        code = "CERTIFICATE_NONE_MATCHES"
    candidates = _briefs(one.pair for one in left_out)
    return CertificateNotFound(code, use=use.value, candidates=candidates, left_out=list(left_out))


def _out_of_time(pair: Pair, *, early: bool) -> CertificateExpired:
    return CertificateExpired(
        "CERTIFICATE_NOT_YET_VALID" if early else None,
        not_before=time_text(pair.facts.not_before),
        not_after=time_text(pair.facts.not_after),
        subject=pair.subject,
        key_id=pair.key_id,
    )


def _briefs(found: Iterable[Pair]) -> list[str]:
    return [pair.brief() for pair in found]
