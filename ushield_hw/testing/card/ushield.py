"""A virtual second-generation U-shield: a SmartCard-HSM that shows what it signs and asks the user to confirm.

The ``display`` model receives the complete message, parses it, shows it page by page, and hashes and signs it after OK.
It refuses digests, padded blocks and messages it cannot parse, and requires the PIN for each signature. ``button`` asks
without showing; ``none`` does not ask. Only ``none`` supports decryption and key agreement, because the others could
not show anything to confirm.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_der_x509_csr

from ushield_hw.certificates.csr import renewal_lines, request_lines
from ushield_hw.crypto.parsing import Unreadable, reading
from ushield_hw.errors import InputError
from ushield_hw.messages import Language
from ushield_hw.order import DisplayProfile, Rules, pages, screen_lines
from ushield_hw.order.lines import Line
from ushield_hw.testing.card import apdu
from ushield_hw.testing.card.apdu import Command, Refused, tlv, tlvs
from ushield_hw.testing.card.memory import Memory
from ushield_hw.testing.card.panel import Answer, Panel
from ushield_hw.testing.card.schsm import PrivateKey, SmartCardHsm, token_info

# Direct convention, T=1, historical bytes "USHIELD2" and check byte; no other vendor's card has this ATR.
ATR: Final = bytes.fromhex("3B888001") + b"USHIELD2" + bytes.fromhex("71")
LCD: Final = DisplayProfile(columns=28, rows=8)
_SHOWN: Final = frozenset({0x73, 0x74, 0x75})  # ECDSA with SHA-256, SHA-384, SHA-512 over the whole message
_ECDSA_WITH_SHA256: Final = tlv(0x30, tlv(0x06, bytes.fromhex("2A8648CE3D040302")))
_PRIVATE_KEY_INFO: Final = 0xC400
_TEST: Final = 0xF0  # the test command: last outcome and number of signatures


class Model(Enum):
    """How the token asks the user to confirm."""

    DISPLAY = "display"
    BUTTON = "button"
    NONE = "none"


class Outcome(Enum):
    """The result of the last attempt to sign, as seen by the card."""

    NEVER = "never"
    SIGNED = "signed"
    REJECTED = "rejected"
    TIMED_OUT = "timed-out"
    PULLED_OUT = "pulled-out"
    CONTENT_REFUSED = "content-refused"
    NOT_SUPPORTED = "not-supported"
    NO_PIN = "no-pin"


_ENDS: Final = {
    Answer.REFUSED: (Outcome.REJECTED, apdu.NOT_SATISFIED),
    Answer.TIMED_OUT: (Outcome.TIMED_OUT, apdu.TIMED_OUT),
    Answer.PULLED_OUT: (Outcome.PULLED_OUT, apdu.EXECUTION_ERROR),
}


@dataclass
class _Said:
    """The status word of a refused signature command, returned again if the host repeats it, without asking again."""

    command: bytes
    sw: int


class UShieldCard(SmartCardHsm):
    """The card.

    Args:
        memory: its non-volatile memory.
        panel: its screen and buttons.
        model: how it asks for confirmation.
        lang: the language of its screen.

    Attributes:
        delay_s: seconds a signature takes after OK.
    """

    atr = ATR

    def __init__(self, memory: Memory, panel: Panel, model: Model = Model.DISPLAY, lang: Language = "zh") -> None:
        super().__init__(memory)
        self.panel = panel
        self.model = model
        self.delay_s = 0.0
        self._lang = lang
        self._fresh_pin = False
        self._said: _Said | None = None
        self._out = threading.Event()
        self._commands[_TEST] = self._report

    @property
    def signatures(self) -> int:
        """The total number of signatures the card has made."""
        return self.memory.counters.get("signatures", 0)

    @property
    def outcome(self) -> Outcome:
        """The result of the last attempt to sign."""
        return Outcome(self.memory.notes.get("outcome", Outcome.NEVER.value))

    def reset(self) -> None:
        """Clear the logins."""
        super().reset()
        self._out.clear()

    def pulled_out(self) -> None:
        """End the open question, because the card was removed."""
        self._out.set()
        self.panel.pulled_out()

    def token_info(self, label: str | None) -> bytes:
        """Return EF.TokenInfo with the model in the manufacturer, which drivers use to distinguish the models."""
        return token_info(self.memory.serial, label or "U-SHIELD", f"ushield_hw {self.model.value}")

    def logged_out(self) -> None:
        """Clear the logins, the PIN for the next signature and the last refusal."""
        super().logged_out()
        self._fresh_pin, self._said = False, None

    def verified(self, name: str) -> None:
        """Record that the PIN was verified; it is valid for one signature."""
        super().verified(name)
        if name == "user":
            self._fresh_pin, self._said = True, None

    def allow(self, reference: int, key: PrivateKey, algorithm: int, data: bytes) -> None:
        """Authorize a signature if the user confirms it."""
        self.needs("user")
        command = hashlib.sha256(bytes((reference, algorithm)) + data).digest()
        if self._said is not None and self._said.command == command:
            raise Refused(self._said.sw)  # the user has already answered this request
        try:
            self._take_pin(reference)
            if self.model is not Model.NONE:
                self._ask(self._pages(key, algorithm, data))
        except Refused as refused:
            self._said = _Said(command, refused.sw)
            raise
        self._out.wait(self.delay_s)

    def allow_decipher(self, reference: int) -> None:
        """Authorize a decryption or key agreement; only the model without confirmation supports them."""
        if self.model is not Model.NONE:
            raise Refused(apdu.FUNCTION_NOT_SUPPORTED)
        super().allow_decipher(reference)
        self._take_pin(reference)

    def signed(self) -> None:
        """Count a signature."""
        self.memory.counters["signatures"] = self.signatures + 1
        self._note(Outcome.SIGNED)

    def _note(self, outcome: Outcome) -> None:
        self.memory.notes["outcome"] = outcome.value
        self.memory.save()
        self.panel.tell()

    def _refuse(self, outcome: Outcome, sw: int) -> Refused:
        self._note(outcome)
        return Refused(sw)

    def _take_pin(self, reference: int) -> None:
        fresh, self._fresh_pin = self._fresh_pin, False
        each = self.model is Model.DISPLAY or self._wants_pin_each_time(reference)
        if each and not fresh:
            raise self._refuse(Outcome.NO_PIN, apdu.SECURITY_NOT_SATISFIED)

    def _wants_pin_each_time(self, reference: int) -> bool:
        """Return userConsent of the key's PrivateKeyInfo (ISO/IEC 7816-15), as written by OpenSC."""
        for _, info in tlvs(self.memory.files.get(_PRIVATE_KEY_INFO | reference, b"")):
            for tag, common in tlvs(info):
                if tag == 0x30:
                    return any(inner == 0x02 and any(value) for inner, value in tlvs(common))
        return False

    def _ask(self, shown: tuple[tuple[str, ...], ...]) -> None:
        answer = self.panel.ask(shown)
        if answer is not Answer.OK:
            raise self._refuse(*_ENDS[answer])

    def _pages(self, key: PrivateKey, algorithm: int, data: bytes) -> tuple[tuple[str, ...], ...]:
        if self.model is Model.BUTTON:
            return ((),)
        # the card would receive a padded block or a digest
        if isinstance(key, rsa.RSAPrivateKey) or algorithm not in _SHOWN:
            raise self._refuse(Outcome.NOT_SUPPORTED, apdu.FUNCTION_NOT_SUPPORTED)
        lines = tuple(self._lines(key, data))
        if not lines:
            raise self._refuse(Outcome.CONTENT_REFUSED, apdu.WRONG_DATA)
        return pages(lines, LCD)

    def _lines(self, key: ec.EllipticCurvePrivateKey, data: bytes) -> Iterator[Line]:
        try:
            yield from screen_lines(data, self._lang, rules=Rules(demo=True))
        except InputError:
            yield from _request_lines(key, data, self._lang)
            yield from _renewal_lines(data, self._lang)

    def _report(self, command: Command) -> bytes:
        return tlv(0x80, self.signatures.to_bytes(4, "big")) + tlv(0x81, self.outcome.value.encode())


def _request_lines(key: ec.EllipticCurvePrivateKey, data: bytes, lang: Language) -> Iterator[Line]:
    """Yield the lines of a certificate request (PKCS#10, CertificationRequestInfo) for the key that is to sign it."""
    whole = tlv(0x30, data, _ECDSA_WITH_SHA256, tlv(0x03, b"\0"))  # a placeholder for the signature
    try:
        with reading():
            request = load_der_x509_csr(whole)
            public, subject = request.public_key(), request.subject.rfc4514_string()
    except Unreadable:
        return
    if public == key.public_key():
        yield from request_lines(subject, lang)


def _renewal_lines(data: bytes, lang: Language) -> Iterator[Line]:
    """Yield the lines of a complete certificate request signed with another key: a renewal that this key authorizes."""
    try:
        with reading():
            request = load_der_x509_csr(data)
            genuine, subject = request.is_signature_valid, request.subject.rfc4514_string()
            spki = request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Unreadable:
        return
    if genuine:
        yield from renewal_lines(subject, spki, lang)
