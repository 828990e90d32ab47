"""One entry: an order, who signs it with which token, and every state it has been in. Its records are JSON objects."""

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
    """How far one signature has come."""

    PREPARED = "prepared"
    SIGN_CALLED = "sign-called"
    SIGNED = "signed"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    RESOLVED = "resolved"


OPEN: Final = frozenset({State.SIGN_CALLED, State.UNKNOWN})
"""The states in which a signature may exist that nobody has seen."""


@dataclass(frozen=True, slots=True)
class TokenName:
    """What a token says of itself. Each is a claim; the label may change with the certificate on some tokens."""

    manufacturer: str
    model: str
    serial: str
    label: str

    def same_device(self, other: TokenName) -> bool:
        """Tell whether both are one device as far as manufacturer, model and serial number say."""
        mine, theirs = (self.manufacturer, self.model, self.serial), (other.manufacturer, other.model, other.serial)
        return mine == theirs


@dataclass(frozen=True, slots=True)
class Signatory:
    """Who is about to sign.

    Attributes:
        certificate: the signer's.
        token: the token with its key.
        certificates: returns every certificate on that token, DER; asked only where the token's label has changed.
    """

    certificate: CertificateFacts
    token: TokenName
    certificates: Callable[[], Collection[bytes]]


@dataclass(frozen=True, slots=True)
class Step:
    """One state of an entry.

    Attributes:
        state: the state.
        at: since when, RFC 3339, UTC.
        by: the operating system's user who resolved it; None for other states.
    """

    state: State
    at: str
    by: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return it for documents."""
        return {"state": self.state.value, "at": self.at, **({"by": self.by} if self.by else {})}


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One attempt to sign one order.

    Attributes:
        bank_id: the bank's short name.
        tx_id: the order's transaction number.
        order_sha256: SHA-256 of the order's canonical bytes, hex.
        order_type: such as ``ushield.payment/1``.
        expires: until when the order may be signed, RFC 3339.
        payee: name and account, or None: the order has none, or it is masked.
        amount: currency and value, or None likewise.
        subject: the signer's name, DER.
        subject_text: the same as RFC 4514 writes it.
        certificate_sha256: of the signer's certificate, hex.
        certificate_serial: its serial number, hex.
        token: the token that was asked.
        steps: its states, oldest first.
        booked: the bank's answer; None: it was not asked.
        signed: the signed order, DER; None in other states than ``signed``. Not verified: :meth:`Journal.signed` does.
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
        """The last state."""
        return self.steps[-1].state

    @property
    def at(self) -> str:
        """Since when it is in that state, RFC 3339, UTC."""
        return self.steps[-1].at

    @property
    def is_open(self) -> bool:
        """Whether a signature may exist that nobody has seen."""
        return self.state in OPEN

    def is_of(self, subject: bytes) -> bool:
        """Tell whether a name, DER, is the signer's, compared as RFC 5280 section 7.1 has it."""
        return same(subject, self.subject)

    def to_json(self) -> dict[str, object]:
        """Return it for documents."""
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
    """Return the record that begins an entry.

    Args:
        order: what is to be signed.
        signatory: by whom.
        number: of the entry among those of its order.
        masked: leave out payee and amount.
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


@lru_cache(maxsize=4)  # one person signs many orders
def _signer_part(signer: CertificateFacts, token: TokenName) -> Mapping[str, object]:
    return {
        "subject": signer.subject.hex(),
        "name": _subject_text(signer),
        "certificate": signer.sha256.hex(),
        "serial": signer.serial_hex,
        "token": (token.manufacturer, token.model, token.serial, token.label),
    }


def next_record(state: State, **more: object) -> dict[str, object]:
    """Return what a record says of a state that begins now."""
    return {"state": state.value, "at": _moment(int(time.time())), **more}


def signed_record(der: bytes) -> dict[str, object]:
    """Return the record of a signed order."""
    return next_record(State.SIGNED, signed=b64encode(der).decode())


@lru_cache(maxsize=4)  # many orders are signed in one second
def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def entries(records: Iterable[Mapping[str, Any]]) -> list[JournalEntry]:
    """Return the entries of one order from its records.

    Raises:
        ValueError, LookupError, TypeError: they are not such records.
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
    except InputError:  # no name that can be shown
        return ""
