"""Contents of a PIV card: slots, data objects and the memory of a new card (NIST SP 800-73-4, part 1)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from ushield_hw.testing.card.apdu import tlv
from ushield_hw.testing.card.memory import Memory, Secret
from ushield_hw.testing.card.piv.keys import Key, PrivateKey

APPLICATION: Final = bytes.fromhex("A000000308000010000100")
MANAGEMENT: Final = bytes.fromhex("010203040506070801020304050607080102030405060708")
DISCOVERY: Final = 0x7E
CHUID: Final = 0x5FC102
CAPABILITIES: Final = 0x5FC107
SECRET_LENGTH: Final = 8  # of a PIN or PUK, padded with FF

_LEAST_PIN: Final = 6


class Slot(IntEnum):
    """The key references in P2 (table 4b)."""

    AUTHENTICATION = 0x9A
    SIGNATURE = 0x9C  # requires the PIN each time
    KEY_MANAGEMENT = 0x9D
    CARD_AUTHENTICATION = 0x9E  # requires no PIN


class Reference(IntEnum):
    """The references of PIN and PUK in P2 (table 4a)."""

    PIN = 0x80
    PUK = 0x81


CERTIFICATES: Final = {
    Slot.AUTHENTICATION: 0x5FC105,
    Slot.SIGNATURE: 0x5FC10A,
    Slot.KEY_MANAGEMENT: 0x5FC10B,
    Slot.CARD_AUTHENTICATION: 0x5FC101,
}


def blank(serial: int, pin: str, puk: str, *, tries: int = 3, management: bytes = MANAGEMENT) -> Memory:
    """Return the memory of a card without keys.

    Args:
        serial: below 2**32; the card's GUID contains it.
        pin: 6 to 8 characters.
        puk: at most 8 characters.
        tries: number of attempts for each.
        management: the card management key for triple DES: 24 bytes.
    """
    memory = Memory(str(serial))
    memory.secrets["pin"] = Secret.of(padded(pin), tries)
    memory.secrets["puk"] = Secret.of(padded(puk), tries)
    memory.notes["management"] = management.hex()
    memory.files |= {CHUID: _chuid(serial), CAPABILITIES: _capabilities(serial)}
    return memory


def hold(
    memory: Memory, slot: Slot, private: PrivateKey, certificate: bytes | None = None, *, touch: bool = False
) -> None:
    """Store a key in a slot.

    Args:
        memory: the card's memory.
        slot: the slot.
        private: EC on P-256 or P-384, or RSA with 2048 bits.
        certificate: its certificate, DER.
        touch: whether using the key requires touching the card.

    Raises:
        ValueError: PIV does not support this kind of key.
    """
    memory.keys[slot] = Key(private).saved
    set_touch(memory, slot, wanted=touch)
    if certificate is not None:
        memory.files[CERTIFICATES[slot]] = tlv(0x70, certificate) + tlv(0x71, b"\0") + tlv(0xFE)  # table 9


def padded(secret: str) -> bytes:
    """Return a PIN or PUK padded for transmission (part 2, section 2.4.3)."""
    return secret.encode().ljust(SECRET_LENGTH, b"\xff")


def well_formed(reference: int, value: bytes) -> bool:
    """Return whether a value is a well-formed padded PIN or PUK."""
    text = value.rstrip(b"\xff")
    least = _LEAST_PIN if reference == Reference.PIN else 1
    return len(value) == SECRET_LENGTH and len(text) >= least and b"\xff" not in text


def wants_touch(memory: Memory, slot: int) -> bool:
    """Return whether using a slot's key requires touching the card."""
    return f"touch {slot:02X}" in memory.notes


def set_touch(memory: Memory, slot: int, *, wanted: bool) -> None:
    """Set whether using a slot's key requires touching the card."""
    memory.notes.pop(f"touch {slot:02X}", None)
    if wanted:
        memory.notes[f"touch {slot:02X}"] = "always"


def _chuid(serial: int) -> bytes:
    # A FASC-N with agency code 9999 marks a non-federal card that is identified by its GUID (section 3.1.2).
    fascn = bytes.fromhex("D4E739DA739CED39CE739DA1685A1082108CE73984108CA3FC")
    parts = (tlv(0x30, fascn), tlv(0x34, serial.to_bytes(16)), tlv(0x35, b"20991231"), tlv(0x3E), tlv(0xFE))
    return b"".join(parts)


def _capabilities(serial: int) -> bytes:
    """Return a minimal card capability container (table 8)."""
    card = tlv(0xF0, APPLICATION[:5] + b"\x01\x02" + serial.to_bytes(14))
    versions = (tlv(0xF1, b"\x21"), tlv(0xF2, b"\x21"), tlv(0xF3), tlv(0xF4, b"\0"), tlv(0xF5, b"\x10"))
    return b"".join((card, *versions, *map(tlv, (0xF6, 0xF7, 0xFA, 0xFB, 0xFC, 0xFD, 0xFE))))
