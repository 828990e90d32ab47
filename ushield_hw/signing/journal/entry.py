"""Journal entries: an order, its signer and token, and all states of the attempt. Records are JSON objects."""

from __future__ import annotations

import binascii
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Any, Final

from ushield_hw.cms import CertificateFacts
from ushield_hw.cms.names import same
from ushield_hw.errors import InputError
from ushield_hw.order import Order


class State(Enum):
    """The state of one attempt to sign."""

    PREPARED = "prepared"
    SIGN_CALLED = "sign-called"
    SIGNED = "signed"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    RESOLVED = "resolved"


OPEN: Final = frozenset({State.SIGN_CALLED, State.UNKNOWN})
"""The states in which a signature may exist although it was not returned."""


@dataclass(frozen=True, slots=True)
class TokenName:
    """The identity reported by a token. Each value is a claim; some tokens change the label with the certificate."""

    manufacturer: str
    model: str
    serial: str
    label: str

    def same_device(self, other: TokenName) -> bool:
        """Tell whether two identities have the same manufacturer, model and serial number.

        Args:
            other: The identity to compare with.
        """
        mine, theirs = (self.manufacturer, self.model, self.serial), (other.manufacturer, other.model, other.serial)
        return mine == theirs


@dataclass(frozen=True, slots=True)
class Signatory:
    """The signer of an order.

    Attributes:
        certificate: The signer's certificate.
        token: The token with its key.
        certificates: Returns all certificates on this token, DER. Called only if the token's label has changed.
    """

    certificate: CertificateFacts
    token: TokenName
    certificates: Callable[[], Collection[bytes]]


@dataclass(frozen=True, slots=True)
class Step:
    """One state of an entry.

    Attributes:
        state: The state.
        at: When the state began, RFC 3339, UTC.
        by: The operating system user who resolved it; None for other states.
    """

    state: State
    at: str
    by: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return the step for JSON output."""
        return {"state": self.state.value, "at": self.at, **({"by": self.by} if self.by else {})}


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One attempt to sign one order.

    Attributes:
        bank_id: The bank's short name.
        tx_id: The order's transaction id.
        order_sha256: The SHA-256 of the order's canonical bytes, hex.
        order_type: The order's type, such as ``ushield.payment/1``.
        expires: When the order expires, RFC 3339.
        payee: Name and account; None if the order has none or it is masked.
        amount: Currency and value; None if the order has none or it is masked.
        subject: The signer's name, DER.
        subject_text: The signer's name in RFC 4514 form.
        certificate_sha256: The SHA-256 of the signer's certificate, hex.
        certificate_serial: The serial number of the signer's certificate, hex.
        token: The token that was used.
        steps: The states, oldest first.
        booked: The bank's answer; None if there is none.
        signed: The signed order, DER; None in states other than ``signed``. Not verified: use :meth:`Journal.signed`.
    """

    bank_id: str
    tx_id: str
    order_sha256: str
    order_type: str
    expires: str
    payee: Mapping[str, str] | None
    amount: Mapping[str, str] | None
    subject: bytes
    subject_text: str
    certificate_sha256: str
    certificate_serial: str
    token: TokenName
    steps: tuple[Step, ...]
    booked: bool | None = None
    signed: bytes | None = field(default=None, repr=False)

    @property
    def state(self) -> State:
        """The current state."""
        return self.steps[-1].state

    @property
    def at(self) -> str:
        """When the current state began, RFC 3339, UTC."""
        return self.steps[-1].at

    @property
    def is_open(self) -> bool:
        """Whether a signature may exist although it was not returned."""
        return self.state in OPEN

    def is_of(self, subject: bytes) -> bool:
        """Tell whether a name is the signer's, compared as in RFC 5280 section 7.1.

        Args:
            subject: The name, DER.
        """
        return same(subject, self.subject)

    def to_json(self) -> dict[str, object]:
        """Return the entry for JSON output."""
        token = self.token
        return {
            "state": self.state.value,
            "at": self.at,
            "bank_id": self.bank_id,
            "tx_id": self.tx_id,
            "type": self.order_type,
            "canonical_sha256": self.order_sha256,
            "expires": self.expires,
            "payee": self.payee,
            "amount": self.amount,
            "signer": {"subject": self.subject_text, "serial": self.certificate_serial},
            "certificate_sha256": self.certificate_sha256,
            "token": {
                "manufacturer": token.manufacturer,
                "model": token.model,
                "serial": token.serial,
                "label": token.label,
            },
            "booked": self.booked,
            "steps": [step.to_json() for step in self.steps],
        }


def first_record(order: Order, signatory: Signatory, number: int, *, masked: bool) -> dict[str, object]:
    """Return the first record of an entry.

    Args:
        order: The order to be signed.
        signatory: The signer.
        number: The number of the entry among those of the order.
        masked: Whether to leave out payee and amount.
    """
    return {
        "n": number,
        **next_record(State.PREPARED),
        "bank": order.bank_id,
        "tx_id": order.tx_id,
        "order": order.canonical_sha256,
        "type": order.type,
        "expires": order["expires"],
        "payee": None if masked else _part(order, "payee", ("name", "account")),
        "amount": None if masked else _part(order, "amount", ("currency", "value")),
        **_signer_part(signatory.certificate, signatory.token),
    }


@lru_cache(maxsize=4)  # one user signs many orders
def _signer_part(signer: CertificateFacts, token: TokenName) -> Mapping[str, object]:
    return {
        "subject": signer.subject.hex(),
        "name": _subject_text(signer),
        "certificate": signer.sha256.hex(),
        "serial": signer.serial_hex,
        "token": (token.manufacturer, token.model, token.serial, token.label),
    }


def next_record(state: State, **more: object) -> dict[str, object]:
    """Return the record of a state that begins now.

    Args:
        state: The state.
        **more: More fields of the record.
    """
    return {"state": state.value, "at": _moment(int(time.time())), **more}


def signed_record(der: bytes) -> dict[str, object]:
    """Return the record of a signed order.

    Args:
        der: The signed order, DER.
    """
    return next_record(State.SIGNED, signed=b64encode(der).decode())


@lru_cache(maxsize=4)  # many orders are signed in one second
def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def entries(records: Iterable[Mapping[str, Any]]) -> list[JournalEntry]:
    """Return the entries of one order from its records.

    Args:
        records: The records of one order, oldest first.

    Raises:
        ValueError, LookupError, TypeError: The records are not valid.
    """
    grouped: dict[int, list[Mapping[str, Any]]] = {}
    for record in records:
        grouped.setdefault(record["n"], []).append(record)
    return [_entry(group) for group in grouped.values()]


def _entry(records: list[Mapping[str, Any]]) -> JournalEntry:
    first, last = records[0], records[-1]
    steps = tuple(_step(record) for record in records)
    if steps[0].state is not State.PREPARED:
        raise ValueError("an entry begins when it is prepared")
    return JournalEntry(
        bank_id=_text(first, "bank"),
        tx_id=_text(first, "tx_id"),
        order_sha256=_text(first, "order"),
        order_type=_text(first, "type"),
        expires=_text(first, "expires"),
        payee=_texts(first["payee"]),
        amount=_texts(first["amount"]),
        subject=bytes.fromhex(first["subject"]),
        subject_text=_text(first, "name"),
        certificate_sha256=_text(first, "certificate"),
        certificate_serial=_text(first, "serial"),
        token=_token(first["token"]),
        steps=steps,
        booked=_answer(last) if steps[-1].state is State.RESOLVED else None,
        signed=_signed(last) if steps[-1].state is State.SIGNED else None,
    )


def _step(record: Mapping[str, Any]) -> Step:
    by = _text(record, "by") if "by" in record else None
    return Step(State(_text(record, "state")), _text(record, "at"), by)


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record[name]
    if not isinstance(value, str):
        raise TypeError(name)
    return value


def _texts(values: Any) -> dict[str, str] | None:
    return None if values is None else {name: _text(values, name) for name in values}


def _token(values: list[str]) -> TokenName:
    if not all(isinstance(value, str) for value in values):
        raise TypeError("token")
    return TokenName(*values)


def _answer(record: Mapping[str, Any]) -> bool:
    booked = record["booked"]
    if not isinstance(booked, bool):
        raise TypeError("booked")
    return booked


def _signed(record: Mapping[str, Any]) -> bytes:
    try:
        return b64decode(_text(record, "signed"), validate=True)
    except binascii.Error as error:
        raise ValueError("signed") from error


def _part(order: Order, group: str, names: tuple[str, ...]) -> dict[str, str] | None:
    found = {name: value for name in names if (value := order.get(f"{group}.{name}")) is not None}
    return found or None


def _subject_text(signer: CertificateFacts) -> str:
    try:
        return signer.subject_text()
    except InputError:  # the name cannot be displayed
        return ""
