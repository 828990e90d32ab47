"""A host that sends commands to a PIV card, and the card for tests without a reader."""

from __future__ import annotations

from functools import cache

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from tests.contract.checks import digest_of
from ushield_hw.testing.card.apdu import tlv, tlvs
from ushield_hw.testing.card.memory import Memory
from ushield_hw.testing.card.piv import PivCard, Slot, YubiKey, blank, hold
from ushield_hw.testing.card.piv.contents import MANAGEMENT

PIN, PUK, SERIAL = "123456", "87654321", 12345678
AID = bytes.fromhex("A000000308000010000100")
DIGEST = digest_of(b"CNY 128.50")
RSA, P256, P384 = 0x07, 0x11, 0x14
OK = 0x9000
EACH_CARD = pytest.mark.parametrize("kind", [PivCard, YubiKey])


@cache
def key(slot: Slot) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    if slot is Slot.CARD_AUTHENTICATION:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP384R1() if slot is Slot.KEY_MANAGEMENT else ec.SECP256R1())


def triple_des(management: bytes = MANAGEMENT) -> Cipher[modes.ECB]:
    return Cipher(TripleDES(management), modes.ECB())  # noqa: S305 - the standard's


def memory(**kept: bool) -> Memory:
    made = blank(SERIAL, PIN, PUK)
    for slot in Slot:
        hold(made, slot, key(slot), f"certificate {slot:02X}".encode(), **kept)
    return made


class Terminal:
    """Sends commands to a card."""

    def __init__(self, card: PivCard) -> None:
        self.card = card
        self.data = b""
        assert self.send(0xA4, 0x0400, AID) == OK

    def send(self, ins: int, p1p2: int, data: bytes = b"") -> int:
        """Send one command, chained if it is long; collect the whole response and return the status word."""
        pieces = [data[at : at + 255] for at in range(0, len(data), 255)] or [b""]
        for number, piece in enumerate(pieces, start=1):
            head = bytes((0x10 if number < len(pieces) else 0, ins)) + p1p2.to_bytes(2)
            sw = self._raw(head + (bytes((len(piece),)) + piece if piece else b"") + b"\0")
            self.data = self._got
        while sw >> 8 == 0x61:
            sw = self._raw(bytes.fromhex("00C0000000"))
            self.data += self._got
        return sw

    def _raw(self, command: bytes) -> int:
        answer = self.card.transmit(command)
        self._got = answer[:-2]
        return int.from_bytes(answer[-2:])

    def verify(self, pin: str) -> int:
        return self.send(0x20, 0x0080, pin.encode().ljust(8, b"\xff"))

    def replace(self, ins: int, reference: int, old: str, new: str) -> int:
        return self.send(ins, reference, old.encode().ljust(8, b"\xff") + new.encode().ljust(8, b"\xff"))

    def tries(self) -> int:
        return self.send(0x20, 0x0080)

    def sign(self, slot: int, algorithm: int = P256, block: bytes = DIGEST) -> int:
        return self.send(0x87, algorithm << 8 | slot, tlv(0x7C, tlv(0x82), tlv(0x81, block)))

    def signature(self) -> bytes:
        ((outer, value),) = tlvs(self.data)
        ((inner, signature),) = tlvs(value)
        assert (outer, inner) == (0x7C, 0x82)
        return signature

    def get(self, tag: int) -> int:
        return self.send(0xCB, 0x3FFF, tlv(0x5C, tag.to_bytes(3 if tag > 0xFF else 1)))

    def put(self, tag: int, content: bytes) -> int:
        return self.send(0xDB, 0x3FFF, tlv(0x5C, tag.to_bytes(3)) + tlv(0x53, content))

    def generate(self, slot: int, algorithm: int) -> int:
        return self.send(0x47, slot, tlv(0xAC, tlv(0x80, bytes((algorithm,)))))

    def manage(self, management: bytes = MANAGEMENT) -> int:
        """Authenticate mutually with the management key."""
        cipher = triple_des(management)
        assert self.send(0x87, 0x039B, tlv(0x7C, tlv(0x80))) == OK
        witness = cipher.decryptor().update(self.data[4:])
        sw = self.send(0x87, 0x039B, tlv(0x7C, tlv(0x80, witness), tlv(0x81, b"12345678")))
        if sw == OK:
            assert self.signature() == cipher.encryptor().update(b"12345678")
        return sw
