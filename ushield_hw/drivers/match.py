"""How a token family is recognised: USB ids, ATRs, and the token information.

None of them is proof. A chip maker's vendor id is used by thousands of products, one ATR may belong to several
families, and a token may report any information.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Final

from ushield_hw.backend.model import TokenInfo
from ushield_hw.schema import Table

FAMILY_ID: Final = "[a-z0-9][a-z0-9-]{0,62}"
CONFIDENCE: Final = "high|medium|low"
_HEX4: Final = "[0-9a-f]{4}"
_ATR: Final = "([0-9a-f]{2}){2,33}"

CHIP_MAKERS: Final = {"03eb": "Atmel", "0403": "FTDI", "04b4": "Cypress", "1fc9": "NXP"}
"""Vendor ids of chip makers, used unchanged by products of all kinds: such an id alone does not identify a token."""


class Binding(Enum):
    """USB class through which the device is accessed."""

    CCID = "ccid"  # appears as a PC/SC reader
    NO_CCID = "no-ccid"  # its CCID interface is disabled, and can be enabled
    HID = "hid"
    MASS_STORAGE = "mass-storage"
    VENDOR = "vendor"  # vendor-specific class
    HID_OR_VENDOR = "hid-or-vendor"  # the source does not state which
    MASS_STORAGE_OR_HID = "mass-storage-or-hid"
    VENDOR_OR_BLUETOOTH = "vendor-or-bluetooth"

    @property
    def past_pcsc(self) -> bool:
        """Whether the device never appears as a PC/SC reader, so that a missing reader is not an error."""
        return self not in (Binding.CCID, Binding.NO_CCID)


@dataclass(frozen=True, slots=True)
class UsbId:
    """A USB id, lower-case hex.

    Attributes:
        vid, pid: vendor and product id.
        name: name of the device in the source.
        binding: USB class through which it is accessed.
        pinpad: whether its CCID descriptor declares PIN entry on the device; None: not known.
        reader: it is a reader for any card, not a token of this family.
        source: source of the entry.
        confidence: how reliable the source is.
    """

    vid: str
    pid: str
    name: str = ""
    binding: Binding = Binding.CCID
    pinpad: bool | None = None
    reader: bool = False
    source: str = ""
    confidence: str = ""

    def __str__(self) -> str:
        return f"{self.vid}:{self.pid}"


@dataclass(frozen=True, slots=True)
class Atr:
    """An answer to reset, lower-case hex.

    Attributes:
        atr: an observed ATR, or the value for ``mask``.
        mask: the bits that are compared.
        regex: instead of a mask: a regular expression that the hex digits must match in full.
        name: name of the card in the source.
        also_in: other families with the same ATR.
        source: source of the entry.
        confidence: how reliable the source is.
    """

    atr: str
    mask: str | None = None
    regex: str | None = None
    name: str = ""
    also_in: tuple[str, ...] = ()
    source: str = ""
    confidence: str = ""

    def matches(self, atr: bytes) -> bool:
        """Return whether a card's ATR matches."""
        if self.regex is not None:
            return re.fullmatch(self.regex, atr.hex()) is not None
        ours, mask = bytes.fromhex(self.atr), bytes.fromhex(self.mask or "ff" * (len(self.atr) // 2))
        return len(atr) == len(ours) and all(a & m == b & m for a, b, m in zip(atr, ours, mask, strict=True))


@dataclass(frozen=True, slots=True)
class TokenPattern:
    """Patterns for the token information, which may contain ``*`` and ``?``; None: any value. Not proof of identity."""

    manufacturer: str | None = None
    model: str | None = None
    label: str | None = None

    def matches(self, info: TokenInfo) -> bool:
        """Return whether a token's information matches."""
        pairs = ((self.manufacturer, info.manufacturer), (self.model, info.model), (self.label, info.label))
        return all(pattern is None or fnmatchcase(said, pattern) for pattern, said in pairs)


def read_usb(match: Table) -> tuple[UsbId, ...]:
    """Parse the rows of ``[[match.usb]]``."""
    found: dict[str, UsbId] = {}
    for row in match.tables("usb"):
        usb = UsbId(
            vid=row.text("vid", pattern=_HEX4),
            pid=row.text("pid", pattern=_HEX4),
            name=row.text("name", ""),
            binding=row.choice("binding", Binding, Binding.CCID),
            pinpad=row.boolean("pinpad", None),
            reader=row.boolean("reader", False),
            source=row.text("source", ""),
            confidence=row.text("confidence", "", pattern=CONFIDENCE),
        )
        if found.setdefault(str(usb), usb) is not usb:
            row.fail("pid", "repeated")
        row.close()
    return tuple(found.values())


def read_atrs(match: Table) -> tuple[Atr, ...]:
    """Parse the rows of ``[[match.atr]]``."""
    found: dict[tuple[str, str | None], Atr] = {}
    for row in match.tables("atr"):
        atr = _atr(row)
        if found.setdefault((atr.atr, atr.mask), atr) is not atr:
            row.fail("atr", "repeated")
        row.close()
    return tuple(found.values())


def _atr(row: Table) -> Atr:
    found = Atr(
        atr=row.text("atr", pattern=_ATR),
        mask=row.text("mask", None, pattern=_ATR),
        regex=row.regular("regex"),
        name=row.text("name", ""),
        also_in=row.texts("also_in", (), pattern=FAMILY_ID),
        source=row.text("source", ""),
        confidence=row.text("confidence", "", pattern=CONFIDENCE),
    )
    if found.mask is not None and len(found.mask) != len(found.atr):
        row.fail("mask", "length_differs")
    if found.regex is not None and found.mask is not None:
        row.fail("regex", "mask_and_regex")
    if not found.matches(bytes.fromhex(found.atr)):
        row.fail("regex", "misses_its_atr")
    return found


def read_tokens(match: Table) -> tuple[TokenPattern, ...]:
    """Parse the rows of ``[[match.token]]``."""
    found = []
    for row in match.tables("token"):
        pattern = TokenPattern(**{name: row.text(name, None) for name in ("manufacturer", "model", "label")})
        if pattern == TokenPattern():
            row.fail("manufacturer", "matches_everything")
        row.close()
        found.append(pattern)
    return tuple(found)
