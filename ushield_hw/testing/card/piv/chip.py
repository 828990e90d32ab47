"""What a PIV card keeps without power: its PIN and PUK with their counters, keys, data objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from hmac import compare_digest
from typing import Any, Final, Protocol

from ushield_hw.testing.card.apdu import PIN_BLOCKED, PIN_TRIES, REFERENCE_NOT_FOUND, WRONG_DATA, Refused, tlv
from ushield_hw.testing.card.piv.keys import Key, PrivateKey

APPLICATION: Final = bytes.fromhex("A000000308000010000100")
DEFAULT_MANAGEMENT: Final = bytes.fromhex("010203040506070801020304050607080102030405060708")
_SECRET: Final = 8  # bytes of a PIN or PUK, filled up with FF
_LEAST_PIN: Final = 6


class Slot(IntEnum):
    """Keys, by the number that P2 names (SP 800-73-4 part 1, table 4b)."""

    AUTHENTICATION = 0x9A
    SIGNATURE = 0x9C  # asks for the PIN each time
    KEY_MANAGEMENT = 0x9D
    CARD_AUTHENTICATION = 0x9E  # needs no PIN


class Reference(IntEnum):
    """What is presented and counted (part 1, table 4a)."""

    PIN = 0x80
    PUK = 0x81


class Object(IntEnum):
    """Data objects that this card makes itself or knows by name (part 1, table 3)."""

    DISCOVERY = 0x7E
    CHUID = 0x5FC102
    CAPABILITIES = 0x5FC107


CERTIFICATE_OF: Final[dict[int, int]] = {0x9A: 0x5FC105, 0x9C: 0x5FC10A, 0x9D: 0x5FC10B, 0x9E: 0x5FC101}


class Memory(Protocol):
    """Where it is kept, whole, as JSON."""

    def load(self) -> dict[str, Any] | None:
        """Return what was saved last; None: nothing yet."""
        ...

    def save(self, content: dict[str, Any]) -> None:
        """Keep this instead, all or nothing."""
        ...


@dataclass(frozen=True)
class Personal:
    """What a new card is given.

    Attributes:
        serial: its number, below 2**32; the card shows it in its CHUID.
        pin: 6 to 8 characters.
        puk: 8 characters at most.
        keys: private keys by slot.
        certificates: DER by slot.
        tries: of the PIN and of the PUK.
        management: the card management key, 24 bytes for triple DES.
        touch: the slots whose key is used only when somebody touches the card.
    """

    serial: int
    pin: str = field(repr=False)
    puk: str = field(repr=False)
    keys: Mapping[Slot, PrivateKey] = field(default_factory=dict, repr=False)
    certificates: Mapping[Slot, bytes] = field(default_factory=dict, repr=False)
    tries: int = 3
    management: bytes = field(default=DEFAULT_MANAGEMENT, repr=False)
    touch: frozenset[Slot] = frozenset()


class Chip:
    """The memory of one card, read once and written at every change, before the change is answered.

    Args:
        memory: where everything is kept.
        personal: what a new card is given; a memory that holds a card already keeps what it has.

    Raises:
        ValueError: the memory is empty and there is nothing to write to it.
    """

    def __init__(self, memory: Memory, personal: Personal | None = None) -> None:
        self._memory = memory
        content = memory.load()
        if content is None:
            if personal is None:
                raise ValueError("an empty memory needs a personalisation")
            content = _first(personal)
            memory.save(content)
        self._content = content
        self._keys: dict[int, Key] = {}

    @property
    def serial(self) -> int:
        """The card's number."""
        return int(self._content["serial"])

    @property
    def management(self) -> bytes:
        """The card management key."""
        return bytes.fromhex(self._content["management"])

    @management.setter
    def management(self, key: bytes) -> None:
        self._content["management"] = key.hex()
        self._save()

    # -- PIN and PUK ----------------------------------------------------------------------------------------------

    def left(self, reference: int) -> int:
        """Return how many tries are left.

        Raises:
            Refused: ``REFERENCE_NOT_FOUND``.
        """
        return int(self._secret(reference)["left"])

    def tries(self, reference: int) -> int:
        """Return how many tries there are after a success."""
        return int(self._secret(reference)["tries"])

    def check(self, reference: int, offered: bytes) -> None:
        """Compare; the try is spent before, so that power cut in between gives none.

        Raises:
            Refused: 63Cx and how many are left; ``PIN_BLOCKED``: nothing was compared.
        """
        secret = self._secret(reference)
        if not secret["left"]:
            raise Refused(PIN_BLOCKED)
        secret["left"] -= 1
        self._save()
        if not compare_digest(bytes.fromhex(secret["value"]), offered):
            raise Refused(PIN_TRIES | secret["left"] if secret["left"] else PIN_BLOCKED)
        self._refill(secret)

    def set_secret(self, reference: int, value: bytes) -> None:
        """Set a PIN or PUK, and give all its tries back."""
        secret = self._secret(reference)
        secret["value"] = value.hex()
        self._refill(secret)

    def _secret(self, reference: int) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self._content["secrets"][f"{reference:02X}"]
        except KeyError:
            raise Refused(REFERENCE_NOT_FOUND) from None
        return found

    def _refill(self, secret: dict[str, Any]) -> None:
        secret["left"] = secret["tries"]
        self._save()

    # -- keys and objects -----------------------------------------------------------------------------------------

    def key(self, slot: int) -> Key:
        """Return the key of a slot.

        Raises:
            Refused: ``REFERENCE_NOT_FOUND``: it is empty, or no slot.
        """
        saved = self._content["keys"].get(f"{slot:02X}")
        if saved is None:
            raise Refused(REFERENCE_NOT_FOUND)
        if slot not in self._keys:
            self._keys[slot] = Key.read(bytes.fromhex(saved["key"]))
        return self._keys[slot]

    def touched(self, slot: int) -> bool:
        """Tell whether the key of a slot wants the card touched."""
        return bool(self._content["keys"][f"{slot:02X}"]["touch"])

    def set_key(self, slot: int, key: Key, *, touch: bool) -> None:
        """Put a key into a slot; the one that was there is lost."""
        self._content["keys"][f"{slot:02X}"] = _kept(key, touch=touch)
        self._keys[slot] = key
        self._save()

    def object(self, tag: int) -> bytes | None:
        """Return a data object's content; None: there is none."""
        found = self._content["objects"].get(f"{tag:06X}")
        return None if found is None else bytes.fromhex(found)

    def set_object(self, tag: int, content: bytes) -> None:
        """Write a data object; nothing: remove it."""
        if content:
            self._content["objects"][f"{tag:06X}"] = content.hex()
        else:
            self._content["objects"].pop(f"{tag:06X}", None)
        self._save()

    def _save(self) -> None:
        self._memory.save(self._content)


def well_formed(reference: int, value: bytes) -> bool:
    """Tell whether this can be a PIN or PUK as it travels: filled up with FF on the right (part 2, section 2.4.3)."""
    text = value.rstrip(b"\xff")
    least = _LEAST_PIN if reference == Reference.PIN else 1
    return len(value) == _SECRET and len(text) >= least and b"\xff" not in text


def _first(personal: Personal) -> dict[str, Any]:
    certificates = {CERTIFICATE_OF[slot]: certificate(der) for slot, der in personal.certificates.items()}
    objects = {Object.CHUID: _chuid(personal.serial), Object.CAPABILITIES: _capabilities(personal.serial)}
    return {
        "serial": personal.serial,
        "management": personal.management.hex(),
        "secrets": {
            f"{Reference.PIN:02X}": _fresh(Reference.PIN, personal.pin, personal.tries),
            f"{Reference.PUK:02X}": _fresh(Reference.PUK, personal.puk, personal.tries),
        },
        "keys": {f"{slot:02X}": _kept(Key(key), touch=slot in personal.touch) for slot, key in personal.keys.items()},
        "objects": {f"{tag:06X}": content.hex() for tag, content in (objects | certificates).items()},
    }


def _fresh(reference: Reference, text: str, tries: int) -> dict[str, Any]:
    value = text.encode().ljust(_SECRET, b"\xff")
    if not well_formed(reference, value):
        raise Refused(WRONG_DATA)
    return {"value": value.hex(), "tries": tries, "left": tries}


def _kept(key: Key, *, touch: bool) -> dict[str, Any]:
    return {"key": key.saved.hex(), "touch": touch}


def certificate(der: bytes) -> bytes:
    """Return a certificate as its data object holds it (part 1, table 9): not compressed, no error code."""
    return tlv(0x70, der) + tlv(0x71, b"\0") + tlv(0xFE)


def _chuid(serial: int) -> bytes:
    # A FASC-N that begins with agency 9999 says: no federal card, go by the GUID (SP 800-73-4 part 1, section 3.1.2).
    fascn = bytes.fromhex("D4E739DA739CED39CE739DA1685A1082108CE73984108CA3FC")
    return b"".join(
        (tlv(0x30, fascn), tlv(0x34, serial.to_bytes(16)), tlv(0x35, b"20991231"), tlv(0x3E), tlv(0xFE))
    )


def _capabilities(serial: int) -> bytes:
    """Return a card capability container (part 1, table 8) without a word more than it must have."""
    card = tlv(0xF0, APPLICATION[:5] + b"\x01\x02" + serial.to_bytes(14))
    versions = (tlv(0xF1, b"\x21"), tlv(0xF2, b"\x21"), tlv(0xF3), tlv(0xF4, b"\0"), tlv(0xF5, b"\x10"))
    return b"".join((card, *versions, *map(tlv, (0xF6, 0xF7, 0xFA, 0xFB, 0xFC, 0xFD, 0xFE))))
