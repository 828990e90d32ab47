"""Match certificates with private keys.

The match is proved by the key's public half: an RSA key's modulus, an EC key's point or CKA_PUBLIC_KEY_INFO if the
private object shows it, otherwise the public object that can belong only to this key. An equal CKA_ID, or being the
only key, counts only if no public half is visible; the first signature then proves the match. Labels, handles and their
order prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

from ushield_hw.backend.model import KeyRecord
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.crypto.public_key import comparable

T = TypeVar("T")

_FORM: Final = "malformed"


class Proof(Enum):
    """Why a key belongs to a certificate, strongest first."""

    OWN = "own"  # the private object shows its public half
    PUBLIC = "public"  # the only public object that can belong to the key shows it
    ID = "id"  # no public half is visible; the CKA_IDs are equal
    ONLY = "only"  # no public half is visible, and there is no other candidate


@dataclass(frozen=True, slots=True)
class Match:
    """The result of matching a certificate.

    Attributes:
        key: The private key. None if there is none, it is not visible, or it cannot be distinguished from others.
        proof: Why this key belongs to the certificate.
        rivals: The private keys that cannot be distinguished, any of which may belong to the certificate.
        of_another: Whether the key with the certificate's CKA_ID shows the public half of another key.
    """

    key: KeyRecord | None = None
    proof: Proof | None = None
    rivals: tuple[KeyRecord, ...] = ()
    of_another: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """The public key whose private key is searched for.

    Attributes:
        kind: The kind of key.
        spki: The SubjectPublicKeyInfo, DER.
        half: The public key in the form of ``KeyRecord.public``.
    """

    kind: KeyKind | None
    spki: bytes
    half: bytes | None

    @classmethod
    def by(cls, kind: KeyKind | None, spki: bytes) -> Wanted:
        """Return the search for a public key.

        Args:
            kind: The kind of key.
            spki: The SubjectPublicKeyInfo, DER.
        """
        return cls(kind, spki, comparable(spki, kind))


def with_id(records: Sequence[KeyRecord], key_id: bytes) -> list[KeyRecord]:
    """Return the keys with a CKA_ID. An empty CKA_ID matches nothing.

    Some modules append NUL octets. They are ignored only if no key has exactly this CKA_ID.
    """
    found = records if key_id else ()
    exact = [record for record in found if record.key_id == key_id]
    return exact or [record for record in found if trimmed(record.key_id) == trimmed(key_id)]


class KeyRing:
    """The keys of a token, with what is known of their public halves.

    Args:
        keys: The key objects, private and public; duplicates count once.

    Attributes:
        private: The private key objects.
        public: The public key objects.
    """

    def __init__(self, keys: Iterable[KeyRecord]) -> None:
        once = {(record.private, record.handle): record for record in keys}.values()
        self.private = tuple(record for record in once if record.private)
        self.public = tuple(record for record in once if not record.private)
        self._alike = _grouped(once, lambda record: (record.key_id, record.kind))
        self._bearers = _grouped(once, lambda record: trimmed(record.key_id))
        self._public = _grouped(self.public, lambda record: record.public)
        self._halves = {record.handle: self._half(record) for record in self.private}
        self._of_half = _grouped(self.private, lambda record: (self._halves[record.handle] or (None,))[0])

    def half(self, key: KeyRecord) -> tuple[bytes, Proof] | None:
        """Return the public half of a private key and how it is known, or None."""
        return self._halves[key.handle]

    def alike(self, key: KeyRecord) -> list[KeyRecord]:
        """Return all keys, private and public, with the same CKA_ID and kind as a key, including the key itself."""
        return self._alike.get((key.key_id, key.kind), [])

    def bearers(self, key_id: bytes) -> list[KeyRecord]:
        """Return the keys with a CKA_ID, as :func:`with_id`."""
        return with_id(self._bearers.get(trimmed(key_id), []), key_id)

    def shows(self, wanted: Wanted) -> bool:
        """Tell whether a public key object with this public key is visible."""
        return bool(self._public_of(wanted))

    def match(self, wanted: Wanted, key_id: bytes, taken: Callable[[KeyRecord], bool] = lambda key: True) -> Match:
        """Return the private key for a public key.

        Args:
            wanted: The public key.
            key_id: The CKA_ID of the certificate, or of the key.
            taken: Tells whether a key has the CKA_ID of another certificate.
        """
        if wanted.kind is None:
            return self._unsupported(wanted, key_id)
        return self._proved(wanted, key_id) or self._supposed(wanted, key_id, taken)

    def _proved(self, wanted: Wanted, key_id: bytes) -> Match | None:
        """Return the key with the wanted public half; if it has several handles, the best one to use."""
        proved = [(key, known[1]) for key in self._of_half.get(wanted.half, ()) if (known := self.half(key))]
        if not proved:
            return None
        key, proof = min(proved, key=lambda one: (one[0].can_sign is False, not with_id([one[0]], key_id)))
        return Match(key, proof)

    def _supposed(self, wanted: Wanted, key_id: bytes, taken: Callable[[KeyRecord], bool]) -> Match:
        """Return the key that may belong to the certificate, among those without a public half."""
        hidden = [key for key in self._of_half.get(None, ()) if _may_be(key, wanted.kind)]
        named = self._named(wanted, key_id, hidden)
        if not named and self._is_of_another(wanted, key_id):
            return Match(of_another=True)
        left = named or [key for key in hidden if not taken(key)]
        if len(left) == 1:
            return Match(left[0], Proof.ID if named else Proof.ONLY)
        return Match(rivals=tuple(left))

    def _unsupported(self, wanted: Wanted, key_id: bytes) -> Match:
        """Return the key for a certificate that cannot sign orders: only its presence matters."""
        own = [key for key in self.private if key.public is not None and key.public in wanted.spki]
        named = own or [key for key in with_id(self.private, key_id) if key.kind is None]
        return Match(named[0], Proof.OWN if own else Proof.ID) if named else Match()

    def _named(self, wanted: Wanted, key_id: bytes, hidden: Sequence[KeyRecord]) -> list[KeyRecord]:
        """Return the keys without a public half that have the CKA_ID of the public object or of the certificate."""
        ids = {record.key_id for record in self._public_of(wanted)}
        return [key for key in hidden if key.key_id in ids] or with_id(hidden, key_id)

    def _public_of(self, wanted: Wanted) -> list[KeyRecord]:
        if wanted.half is None:
            return [record for record in self.public if record.public is not None and record.public in wanted.spki]
        return self._public.get(wanted.half, [])

    def _is_of_another(self, wanted: Wanted, key_id: bytes) -> bool:
        alike = [record for record in self.bearers(key_id) if record.kind is wanted.kind]
        return bool(alike) and not self._public_of(wanted)

    def _half(self, key: KeyRecord) -> tuple[bytes, Proof] | None:
        if key.public is not None:
            return key.public, Proof.OWN
        if key.kind is None:
            return None
        alike = [record for record in self.alike(key) if record.private]
        shown = {record.public for record in alike}
        halves = [record.public for record in self.alike(key) if not record.private and record.public not in shown]
        hidden = sum(record.public is None for record in alike)
        known = halves[0] if halves else None
        # As many public as private objects, all with the same public half: one pair stored several times.
        certain = known is not None and set(halves) == {known} and hidden in (1, len(halves))
        return (known, Proof.PUBLIC) if certain and known is not None else None


def _grouped(records: Iterable[KeyRecord], by: Callable[[KeyRecord], T]) -> dict[T, list[KeyRecord]]:
    found: dict[T, list[KeyRecord]] = {}
    for record in records:
        found.setdefault(by(record), []).append(record)
    return found


def _may_be(key: KeyRecord, kind: KeyKind | None) -> bool:
    return key.kind is kind or not key.kind_known


def trimmed(key_id: bytes) -> bytes:
    """Return a CKA_ID without the NUL octets that some modules append, for comparison; at least one octet stays."""
    return key_id.rstrip(b"\0") or key_id[:1]
