"""Non-volatile memory of a virtual card: files, keys, PIN counters. Stored in a JSON file, or not at all.

PINs are stored as salted hashes. Keys are stored unencrypted: they are test keys, and the file has mode 0600.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from ushield_hw.testing.card.apdu import MEMORY_FULL, Refused

_ROUNDS: Final = 1000  # sufficient for a test PIN


@dataclass
class Secret:
    """A PIN, PUK or SO PIN with its attempt counter.

    Attributes:
        most: attempts after a success.
        left: attempts remaining; 0: locked.
        length: length in bytes; 0 while none was ever set.
        salt: salt of the hash, hex.
        digest: the hash, hex.
    """

    most: int
    left: int
    length: int = 0
    salt: str = ""
    digest: str = ""

    @classmethod
    def of(cls, value: bytes, tries: int) -> Self:
        """Return a secret with a full attempt counter."""
        made = cls(tries, tries)
        made.set(value)
        return made

    def set(self, value: bytes) -> None:
        """Set a new value and reset the attempt counter."""
        self.salt = secrets.token_hex(16)
        self.length, self.digest, self.left = len(value), self._hash(value), self.most

    def check(self, value: bytes) -> bool:
        """Compare a value. As on a real card, the counter is decremented before the comparison."""
        if self.left == 0:
            return False
        self.left -= 1
        if not hmac.compare_digest(self.digest, self._hash(value)):
            return False
        self.left = self.most
        return True

    def _hash(self, value: bytes) -> str:
        return hashlib.pbkdf2_hmac("sha256", value, bytes.fromhex(self.salt), _ROUNDS).hex()


@dataclass
class Memory:
    """The non-volatile memory of a card.

    Attributes:
        serial: the card's serial number.
        secrets: by name.
        files: content by file identifier.
        keys: private keys, PKCS#8 DER, by key reference.
        counters: permanent counters by name.
        notes: other values of a card type by name.
        capacity: maximum size of files and keys together in bytes; None: unlimited.
        path: the file it is stored in; None: not stored.
    """

    serial: str
    secrets: dict[str, Secret] = field(default_factory=dict)
    files: dict[int, bytes] = field(default_factory=dict)
    keys: dict[int, bytes] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    capacity: int | None = None
    path: Path | None = None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load a memory written by :meth:`save`."""
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            data["serial"],
            {name: Secret(**kept) for name, kept in data["secrets"].items()},
            {int(name): bytes.fromhex(kept) for name, kept in data["files"].items()},
            {int(name): bytes.fromhex(kept) for name, kept in data["keys"].items()},
            data["counters"],
            data["notes"],
            data["capacity"],
            path,
        )

    def save(self) -> None:
        """Write the memory to its file, atomically."""
        if self.path is None:
            return
        data = {
            "serial": self.serial,
            "secrets": {name: asdict(kept) for name, kept in self.secrets.items()},
            "files": {name: kept.hex() for name, kept in self.files.items()},
            "keys": {name: kept.hex() for name, kept in self.keys.items()},
            "counters": self.counters,
            "notes": self.notes,
            "capacity": self.capacity,
        }
        fresh = self.path.with_suffix(".new")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(data, file)
        fresh.replace(self.path)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let the block change files and keys, then save; rolled back if they exceed the capacity.

        Raises:
            Refused: ``MEMORY_FULL``.
        """
        files, keys = dict(self.files), dict(self.keys)
        try:
            yield
            if self.capacity is not None and self.used > self.capacity:
                raise Refused(MEMORY_FULL)
        except BaseException:
            self.files, self.keys = files, keys
            raise
        self.save()

    @property
    def used(self) -> int:
        """The size of files and keys in bytes."""
        return sum(map(len, self.files.values())) + sum(map(len, self.keys.values()))
