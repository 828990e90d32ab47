"""The record of a renewal: a file that survives a crash, so that the same command resumes.

The file is on disk before any object that it names is written to the token. It is named by the token and the
certificate that is renewed. It is kept after the renewal, because it holds the certificate that was removed from the
token.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final, Self

from ushield_hw.backend.model import Identity
from ushield_hw.config import Settings
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.errors import StorageError
from ushield_hw.system import storage

_VERSION: Final = 1
_UNUSABLE: Final = "RENEWAL_RECORD_UNUSABLE"
_FOLDER: Final = "renewals"


class Step(Enum):
    """The last completed step of a renewal."""

    BEGUN = "begun"  # nothing is on the token yet
    KEY_MADE = "key-made"
    REQUESTED = "requested"  # the request is signed by both keys
    RECEIVED = "received"  # the certificate was checked
    WRITTEN = "written"  # the certificate is on the token and was read back
    PROVED = "proved"  # the new pair has signed; the bank, if involved, has acknowledged it
    ACTIVE = "active"  # the new pair is the one used to sign
    DONE = "done"  # the old pair was removed or kept, as requested
    GIVEN_UP = "given-up"  # cancelled; its objects were deleted from the token

    @property
    def open(self) -> bool:
        """Whether the renewal is still in progress."""
        return self not in {Step.DONE, Step.GIVEN_UP}

    def before(self, other: Step) -> bool:
        """Tell whether this step comes before another."""
        steps = list(Step)
        return steps.index(self) < steps.index(other)


@dataclass
class Record:
    """The record of one renewal.

    Attributes:
        token: The identity reported by the token.
        old: The certificate that is renewed, DER.
        old_key_id: The CKA_ID of its key.
        key_id: The CKA_ID of the new key; equal to ``old_key_id`` if the key is kept.
        kind: The kind of the new key.
        bits: The modulus length of the new key, for RSA.
        each: Whether the new key requires the PIN for every signature.
        label: The label of the new pair once it is active.
        step: The last completed step.
        at: When it was completed (RFC 3339, UTC).
        spki: The new key, DER; empty until it is generated.
        pkcs10: The request by the new key, DER.
        request: That request signed by the old key, CMS in DER.
        certificate: The new certificate, DER.
        acknowledged: When the bank acknowledged the activation; None if it has not.
        reason: Why the renewal was cancelled.
    """

    token: Identity
    old: bytes
    old_key_id: bytes
    key_id: bytes
    kind: KeyKind
    bits: int
    each: bool
    label: str
    step: Step = Step.BEGUN
    at: str = ""
    spki: bytes = b""
    pkcs10: bytes = b""
    request: bytes = b""
    certificate: bytes = b""
    acknowledged: str | None = None
    reason: str | None = None

    @property
    def same_key(self) -> bool:
        """Whether the key is kept and only the certificate is new."""
        return self.key_id == self.old_key_id

    def to_json(self) -> dict[str, Any]:
        """Return the record as the file's document."""
        found = {name: _written(value) for name, value in vars(self).items()}
        return {"version": _VERSION, **found}

    @classmethod
    def read(cls, document: Any) -> Self:
        """Parse a file's document.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: The document is invalid.
        """
        given = dict(document)
        if given.pop("version") != _VERSION:
            raise ValueError("version")
        for name in ("old", "old_key_id", "key_id", "spki", "pkcs10", "request", "certificate"):
            given[name] = b64decode(given[name], validate=True)
        given["token"] = _identity(given["token"])
        given["kind"], given["step"] = KeyKind(given["kind"]), Step(given["step"])
        for name, kind in ("label", str), ("at", str), ("bits", int), ("each", bool):
            if not isinstance(given[name], kind):
                raise TypeError(name)
        return cls(**given)


def _identity(said: list[str]) -> Identity:
    if not all(isinstance(text, str) for text in said):
        raise TypeError("token")
    return Identity(*said)


def _written(value: object) -> object:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return value.value if isinstance(value, Enum) else value


class Records:
    """The renewal records of one user on this host.

    Every method raises ``StorageError``: ``RENEWAL_RECORD_UNUSABLE``, or the errors of the state folder.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def of_token(self, token: Identity) -> list[Record]:
        """Return the renewals of a token, the latest first."""
        folder = storage.existing_folder(self._settings.state_dir, _FOLDER)
        files = folder.glob("*.json") if folder else ()
        found = (self._read(file) for file in sorted(files))
        return sorted((one for one in found if one.token == token), key=lambda one: one.at, reverse=True)

    @contextlib.contextmanager
    def holding(self, token: Identity, old: bytes) -> Iterator[Held]:
        """Lock the record of one certificate's renewal against all other threads and processes.

        Args:
            token: The identity of the token.
            old: The certificate that is renewed, DER.

        Raises:
            TokenBusy: Another process holds the lock and did not finish in time.
        """
        name = hashlib.sha256("\0".join(token).encode() + b"\0" + old).hexdigest()[:40]
        file = self._folder() / f"{name}.json"
        with storage.exclusive(file, _UNUSABLE, "another process that renews this certificate"):
            yield Held(file, self._read(file) if file.exists() else None)

    def _folder(self) -> Path:
        return storage.state_folder(self._settings.state_dir, _FOLDER)

    def _read(self, file: Path) -> Record:
        try:
            return Record.read(json.loads(file.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StorageError(_UNUSABLE, path=str(file), reason=str(error)) from error


class Held:
    """A locked record. ``record`` is None before the renewal begins."""

    def __init__(self, file: Path, record: Record | None) -> None:
        self._file = file
        self.record = record

    def keep(self, record: Record, step: Step | None = None) -> None:
        """Write a record to disk; it is there when this returns.

        Args:
            record: The record.
            step: The step that is completed now; None: unchanged.
        """
        before = record.step, record.at
        record.step = step or record.step
        record.at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        try:
            storage.write_atomically(self._file, json.dumps(record.to_json(), indent=1).encode())
        except OSError as error:
            record.step, record.at = before
            raise StorageError(_UNUSABLE, path=str(self._file), reason=error.strerror) from error
        self.record = record
