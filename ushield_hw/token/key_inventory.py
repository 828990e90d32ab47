"""List the key pairs on a token, including those without a certificate, and delete one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ushield_hw.backend.model import KeyRecord
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.crypto.public_key import comparable
from ushield_hw.errors import CertificateError, CertificateMultiple, CertificateNotFound, TokenError
from ushield_hw.token.key_matching import KeyRing, trimmed
from ushield_hw.token.key_pairs import KeyChoice, Pair, keys_ambiguous, pairs
from ushield_hw.token.session import Session


@dataclass(frozen=True, slots=True)
class Entry:
    """A key pair, or the visible half of one.

    Attributes:
        objects: The key objects, private ones first.
        pairs: The certificates of this key.
        unclear: The certificates that may belong to this key: the token does not tell it apart from another key.
    """

    objects: tuple[KeyRecord, ...]
    pairs: tuple[Pair, ...]
    unclear: tuple[Pair, ...] = ()

    @property
    def key_id(self) -> str:
        """The CKA_ID in lower-case hex."""
        return self.objects[0].key_id.hex()

    @property
    def label(self) -> str:
        """The label of the private key, otherwise of the public key."""
        return next((one.label for one in self.objects if one.label), "")

    @property
    def has_private(self) -> bool:
        """Whether the private key is visible."""
        return self.objects[0].private

    @property
    def kind(self) -> str:
        """The kind of key, as in ``cert request --key``; ``other`` if it is not allowed in signed orders."""
        first = self.objects[0]
        if first.kind is KeyKind.RSA and first.public:
            return f"rsa-{int.from_bytes(first.public).bit_length()}"
        return first.kind.value if first.kind else "other"

    def brief(self) -> str:
        """Return one line for lists of candidates: key id, label and kind."""
        return f"{self.key_id or '-'} {self.label or '-'} {self.kind}"

    def to_json(self) -> dict[str, object]:
        """Return the key pair for JSON output."""
        return {
            "key_id": self.key_id,
            "label": self.label,
            "kind": self.kind,
            "has_certificate": bool(self.pairs or self.unclear),
            "has_private": self.has_private,
            "certificates": [pair.to_json() for pair in (*self.pairs, *self.unclear)],
        }


def entries(found: Sequence[Pair], keys: Iterable[KeyRecord]) -> tuple[Entry, ...]:
    """Return the key pairs of a token.

    Args:
        found: The token's certificates, as paired by :func:`ushield_hw.token.key_pairs.pairs` with the same keys.
        keys: The token's key objects.
    """
    ring, certified = KeyRing(keys), _Certified(found)
    made: list[Entry] = []
    taken: set[int] = set()
    for objects in _private(ring):
        own = _public_of(objects[0], ring)
        taken.update(one.handle for one in own)
        made.append(certified.entry((*objects, *own)))
    hidden = {(one.key_id, one.kind) for one in ring.private if ring.half(one) is None}
    left = [one for one in ring.public if one.handle not in taken and (one.key_id, one.kind) not in hidden]
    return (*made, *(certified.entry(objects) for objects in _alike(left)))


def of_session(session: Session) -> tuple[Entry, ...]:
    """Return the key pairs of an open token.

    Args:
        session: An open session.
    """
    keys = session.keys()
    return entries(pairs(session.certificates(), keys, logged_in=session.shows_all), keys)


def pick(found: Sequence[Entry], choice: KeyChoice) -> Entry:
    """Return the requested key pair.

    Args:
        found: The key pairs on the token.
        choice: The requested key.

    Raises:
        CertificateNotFound: ``KEY_NONE_MATCHES``.
        CertificateMultiple: ``KEY_SEVERAL_MATCH``.
    """
    matching = [entry for entry in found if _takes(choice, entry)]
    if not matching:
        raise CertificateNotFound("KEY_NONE_MATCHES", candidates=[entry.brief() for entry in found])
    if len(matching) > 1:
        raise CertificateMultiple("KEY_SEVERAL_MATCH", candidates=[entry.brief() for entry in matching])
    return matching[0]


def check_not_in_use(entry: Entry, now: datetime | None = None) -> None:
    """Refuse a key that has a valid, activated certificate.

    Args:
        entry: The key pair.
        now: A timezone-aware time; default: the current time.

    Raises:
        CertificateError: ``KEY_IN_USE``: the key has a valid, activated certificate.
        CertificateMultiple: ``KEYS_AMBIGUOUS``: the key may belong to one.
    """
    moment = now or datetime.now(UTC)
    for pair in entry.pairs:
        if pair.activated and pair.valid_at(moment):
            raise CertificateError(
                "KEY_IN_USE", key_id=entry.key_id, candidates=[f"{pair.subject} ({pair.fingerprint})"]
            )
    for pair in entry.unclear:
        if not pair.pending and pair.valid_at(moment):
            raise keys_ambiguous(pair.rivals, pair.subject)


def delete(session: Session, entry: Entry) -> None:
    """Delete both halves of a key pair and no object of another one. Its certificates are kept.

    Args:
        session: An open session.
        entry: The key pair.

    Raises:
        CertificateError: As for :func:`check_not_in_use`; nothing was deleted.
        TokenError: The error reported by the token. ``KEY_DELETED_IN_PART``: some objects are deleted; the next call
            deletes the rest.
    """
    check_not_in_use(entry)
    deleted = 0
    try:
        for one in entry.objects:
            session.destroy([one])
            deleted += 1
    except TokenError as error:
        if not deleted:
            raise
        raise error.restated(type(error), "KEY_DELETED_IN_PART", key=entry.brief()) from error


class _Certified:
    """The certificates of a token, indexed by the keys that they may belong to."""

    def __init__(self, found: Iterable[Pair]) -> None:
        self._by_key: dict[int, list[Pair]] = {}
        self._by_half: dict[bytes | None, list[Pair]] = {}
        self._by_rival: dict[int, list[Pair]] = {}
        for pair in found:
            if pair.key is not None:
                self._by_key.setdefault(pair.key.handle, []).append(pair)
            else:
                self._by_half.setdefault(comparable(pair.facts.spki, pair.facts.key), []).append(pair)
            for rival in pair.rivals:
                self._by_rival.setdefault(rival.handle, []).append(pair)

    def entry(self, objects: tuple[KeyRecord, ...]) -> Entry:
        """Return a key pair with its certificates."""
        handles = [one.handle for one in objects if one.private]
        halves = {one.public for one in objects if one.public is not None}
        own = [pair for handle in handles for pair in self._by_key.get(handle, ())]
        own += [pair for half in halves for pair in self._by_half.get(half, ())]
        unclear = [] if halves else [pair for handle in handles for pair in self._by_rival.get(handle, ())]
        return Entry(objects, tuple(own), tuple(unclear))


def _private(ring: KeyRing) -> list[tuple[KeyRecord, ...]]:
    """Return the private keys, with the objects of one key grouped."""
    made: dict[object, list[KeyRecord]] = {}
    for one in ring.private:
        half = ring.half(one)
        made.setdefault((one.key_id, half[0]) if half else one.handle, []).append(one)
    return [tuple(objects) for objects in made.values()]


def _public_of(key: KeyRecord, ring: KeyRing) -> tuple[KeyRecord, ...]:
    """Return the public objects of a private key: with its public half, or the only one with its id and label.

    Matching by label is sufficient here, because the user has selected the key and confirms what is deleted.
    """
    half = ring.half(key)
    alike = [one for one in ring.alike(key) if not one.private]
    if half is not None:
        return tuple(one for one in alike if one.public == half[0])
    rivals = [one for one in ring.alike(key) if one.private and one.label == key.label]
    named = [one for one in alike if one.label == key.label]
    return tuple(named) if len(named) == len(rivals) == 1 and key.label else ()


def _alike(public: Iterable[KeyRecord]) -> list[tuple[KeyRecord, ...]]:
    made: dict[tuple[bytes, bytes | None], list[KeyRecord]] = {}
    for one in public:
        made.setdefault((one.key_id, one.public), []).append(one)
    return [tuple(objects) for objects in made.values()]


def _takes(choice: KeyChoice, entry: Entry) -> bool:
    labels = {one.label for one in entry.objects}
    return (
        (choice.key_id is None or any(trimmed(one.key_id) == trimmed(choice.key_id) for one in entry.objects))
        and (choice.label is None or choice.label in labels)
        and (choice.certificate is None or any(choice.names(pair.facts) for pair in (*entry.pairs, *entry.unclear)))
    )
