"""Signers with software keys, and the data that a journal gets from them."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.unit.cms import pki
from tests.unit.cms.people import P256
from ushield_hw.cms import CertificateFacts
from ushield_hw.config import Settings
from ushield_hw.order import Order
from ushield_hw.signing.journal import Journal, Signatory, State, TokenName

AUTHORITY = pki.authority()
TOKEN = TokenName("ushield", "U1", "0001", "demo")


@dataclass(frozen=True)
class Person:
    """A signer with one certificate and one token."""

    private: pki.Key
    facts: CertificateFacts
    token: TokenName = TOKEN
    also_on_token: tuple[bytes, ...] = ()

    @property
    def signatory(self) -> Signatory:
        return Signatory(self.facts, self.token, lambda: (self.facts.der, *self.also_on_token))

    def sign(self, order: Order) -> bytes:
        return pki.sign_order(order.canonical, self.private, self.facts.der, P256)

    def renewed(self, number: int = 7) -> Person:
        """Return the same signer with a new key and certificate."""
        return replace(self, **vars(person(self.facts.subject_text(), number)) | {"token": self.token})

    def on(self, token: TokenName, *certificates: bytes) -> Person:
        return replace(self, token=token, also_on_token=certificates)


def person(subject: str = "CN=张三,O=Demo Bank", number: int = 0) -> Person:
    """Return a signer; each number has its own key."""
    private = pki.key(number=number)
    return Person(private, CertificateFacts.read(pki.der(AUTHORITY.issue(subject, private.public_key()))))


def journal_in(folder: Path, **settings: object) -> Journal:
    """Return the journal of a state folder."""
    return Journal.of(Settings(state_dir=folder, **settings))  # type: ignore[arg-type]


def move(journal: Journal, who: Person, order: Order, *states: State) -> None:
    """Move an order through states; for ``SIGNED``, with a real signed order."""
    with journal.signing(order, who.signatory) as attempt:
        for to in states:
            attempt.move(to, who.sign(order) if to is State.SIGNED else None)


def break_unlocking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every unlock of a file report an error after the lock was released."""

    def fails(real: Callable[..., None]) -> Callable[..., None]:
        def call(descriptor: int, operation: int, *more: int) -> None:
            real(descriptor, operation, *more)
            if operation == fcntl.LOCK_UN:
                raise OSError(errno.EIO, "Input/output error")

        return call

    monkeypatch.setattr(fcntl, "flock", fails(fcntl.flock))
    monkeypatch.setattr(fcntl, "lockf", fails(fcntl.lockf))
