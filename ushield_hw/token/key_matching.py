"""Which private key is a certificate's.

By its own public half: an RSA key's modulus, an EC key's point or CKA_PUBLIC_KEY_INFO where the private object shows
it, else the public object that can only be its own. An equal CKA_ID, or being the only key there is, counts only where
no public half shows, and the first signature is the proof then. Labels, handles and their order prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

from ushield_hw.backend.model import KeyRecord
from ushield_hw.cms.der import BIT_STRING, SEQUENCE, DerError, Reader
from ushield_hw.crypto.algorithms import POINT_OCTETS, KeyKind

T = TypeVar("T")

_FORM: Final = "malformed"


class Proof(Enum):
    """What makes a key the certificate's, the strongest first."""

    OWN = "own"  # the private object shows its public half
    PUBLIC = "public"  # the public object that can only be its own shows it
    ID = "id"  # no public half shows; the CKA_IDs are the same
    ONLY = "only"  # no public half shows, and no other key can be meant


@dataclass(frozen=True, slots=True)
class Match:
    """What was found for a certificate.

    Attributes:
        key: its private key; None: there is none, it does not show, or it cannot be told.
        proof: why that one.
        rivals: the private keys that cannot be told apart, each of which may be its own.
        of_another: what bears the certificate's CKA_ID shows the public half of another key.
    """

    key: KeyRecord | None = None
    proof: Proof | None = None
    rivals: tuple[KeyRecord, ...] = ()
    of_another: bool = False


def public_half(kind: KeyKind | None, spki: bytes) -> bytes | None:
    """Return a public key as :class:`KeyRecord` shows one; None: it is of a kind that no signed order may use.

    Args:
        kind: of key.
        spki: the SubjectPublicKeyInfo, DER.
    """
    if kind is None:
        return None
    if kind is not KeyKind.RSA:
        return spki[-POINT_OCTETS[kind] :]
    try:
        info = Reader(spki).enter(SEQUENCE, _FORM)
        info.element(SEQUENCE, _FORM)
        numbers = Reader(info.content(BIT_STRING, _FORM)[1:]).enter(SEQUENCE, _FORM)
        modulus = numbers.integer(_FORM)
    except DerError:
        return None
    return modulus.to_bytes((modulus.bit_length() + 7) // 8)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A public key whose private one is looked for: its kind, its SubjectPublicKeyInfo, and its half by itself."""

    kind: KeyKind | None
    spki: bytes
    half: bytes | None

    @classmethod
    def by(cls, kind: KeyKind | None, spki: bytes) -> Wanted:
        """Return a public key of a kind that is given as SubjectPublicKeyInfo, DER."""
        return cls(kind, spki, public_half(kind, spki))


def with_id(records: Sequence[KeyRecord], key_id: bytes) -> list[KeyRecord]:
    """Return the keys that bear a CKA_ID; an empty one names nothing.

    NULs at the end, which some modules add, are left out of account where no id is the same to the octet.
    """
    found = records if key_id else ()
    exact = [record for record in found if record.key_id == key_id]
    return exact or [record for record in found if trimmed(record.key_id) == trimmed(key_id)]


class KeyRing:
    """The keys of a token, each with what is known of its public half.

    Args:
        keys: the key objects, private and public; one that was listed twice counts once.

    Attributes:
        private: the private keys.
        public: the public key objects.
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
        """Return the public half of one of the private keys and what shows it; None: nothing does."""
        return self._halves[key.handle]

    def alike(self, key: KeyRecord) -> list[KeyRecord]:
        """Return the keys, private and public, that have a key's CKA_ID and are of its kind; itself among them."""
        return self._alike.get((key.key_id, key.kind), [])

    def bearers(self, key_id: bytes) -> list[KeyRecord]:
        """Return the keys that bear a CKA_ID, as :func:`with_id`."""
        return with_id(self._bearers.get(trimmed(key_id), []), key_id)

    def shows(self, wanted: Wanted) -> bool:
        """Tell whether a public key object of this key shows."""
        return bool(self._public_of(wanted))

    def match(self, wanted: Wanted, key_id: bytes, taken: Callable[[KeyRecord], bool] = lambda key: True) -> Match:
        """Return the private key of a public one.

        Args:
            wanted: the public key.
            key_id: the CKA_ID of the certificate, or of the key.
            taken: tells whether a key bears the id of another certificate.
        """
        if wanted.kind is None:
            return self._unsupported(wanted, key_id)
        return self._proved(wanted, key_id) or self._supposed(wanted, key_id, taken)

    def _proved(self, wanted: Wanted, key_id: bytes) -> Match | None:
        """Return the key whose public half is the certificate's; of one key under several handles, the best to use."""
        proved = [(key, known[1]) for key in self._of_half.get(wanted.half, ()) if (known := self.half(key))]
        if not proved:
            return None
        key, proof = min(proved, key=lambda one: (one[0].can_sign is False, not with_id([one[0]], key_id)))
        return Match(key, proof)

    def _supposed(self, wanted: Wanted, key_id: bytes, taken: Callable[[KeyRecord], bool]) -> Match:
        """Return the key that may be the certificate's, of those without a public half."""
        hidden = [key for key in self._of_half.get(None, ()) if _may_be(key, wanted.kind)]
        named = self._named(wanted, key_id, hidden)
        if not named and self._is_of_another(wanted, key_id):
            return Match(of_another=True)
        left = named or [key for key in hidden if not taken(key)]
        if len(left) == 1:
            return Match(left[0], Proof.ID if named else Proof.ONLY)
        return Match(rivals=tuple(left))

    def _unsupported(self, wanted: Wanted, key_id: bytes) -> Match:
        """Return the key of a certificate that signs nothing here anyway: whether it is there is all that matters."""
        own = [key for key in self.private if key.public is not None and key.public in wanted.spki]
        named = own or [key for key in with_id(self.private, key_id) if key.kind is None]
        return Match(named[0], Proof.OWN if own else Proof.ID) if named else Match()

    def _named(self, wanted: Wanted, key_id: bytes, hidden: Sequence[KeyRecord]) -> list[KeyRecord]:
        """Return the keys without a public half that the public object's CKA_ID, or the certificate's, names."""
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
        # As many public as private objects that all show one half: the same pair, stored more than once.
        told = known is not None and set(halves) == {known} and hidden in (1, len(halves))
        return (known, Proof.PUBLIC) if told and known is not None else None


def _grouped(records: Iterable[KeyRecord], by: Callable[[KeyRecord], T]) -> dict[T, list[KeyRecord]]:
    found: dict[T, list[KeyRecord]] = {}
    for record in records:
        found.setdefault(by(record), []).append(record)
    return found


def _may_be(key: KeyRecord, kind: KeyKind | None) -> bool:
    return key.kind is kind or not key.kind_known


def trimmed(key_id: bytes) -> bytes:
    """Return a CKA_ID without the NULs that some modules add to its end, for comparing; one octet stays."""
    return key_id.rstrip(b"\0") or key_id[:1]
