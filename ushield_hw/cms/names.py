"""Distinguished names, without a library: text form (RFC 4514) and comparison (RFC 5280 section 7.1).

Older CAs write names that no standard allows: ``@`` or Chinese in GBK as a PrintableString, T61String. Such names are
accepted: their bytes are kept and compared, and the text form is decoded as far as possible.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

from ushield_hw.crypto.der import OID, SEQUENCE, SET, UTF8_STRING, DerError, Reader, tlv

Value = tuple[int, bytes]
"""The value of an attribute: tag and content."""

Canonical = tuple[tuple[tuple[bytes, int, bytes], ...], ...]
"""A name normalized for comparison; hashable."""

_MALFORMED: Final = "malformed"
_PRINTABLE, _T61, _BMP, _UNIVERSAL = 0x13, 0x14, 0x1E, 0x1C
_ASCII_TAGS: Final = frozenset({0x12, _PRINTABLE, 0x16, 0x1A})  # Numeric, Printable, IA5, Visible
_ENCODINGS: Final = {UTF8_STRING: "utf-8", _BMP: "utf-16-be", _UNIVERSAL: "utf-32-be"}
_TEXT: Final = 0  # replaces the tag of every string that is compared as text

_SHORT: Final = {  # RFC 4514 section 3, and UID of RFC 4519
    b"\x55\x04\x03": "CN",
    b"\x55\x04\x07": "L",
    b"\x55\x04\x08": "ST",
    b"\x55\x04\x0a": "O",
    b"\x55\x04\x0b": "OU",
    b"\x55\x04\x06": "C",
    b"\x55\x04\x09": "STREET",
    b"\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x19": "DC",
    b"\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x01": "UID",
}
_ESCAPED: Final = re.compile(r'[\\"+,;<>]')

# RFC 4518 section 2.2: characters mapped to nothing, and characters mapped to a space.
_NOTHING: Final = re.compile(
    "[\u00ad\u034f\u1806\u180b-\u180d\ufe00-\ufe0f\ufffc\u200b\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]"
)
_SPACES: Final = re.compile(r"\s+")


def text(name: bytes) -> str:
    """Return a name in RFC 4514 form. A value that is not text in a known encoding becomes ``#`` and hex.

    Args:
        name: The name, DER.

    Raises:
        DerError: ``malformed``: it is not a valid name.
    """
    return _text(name)


@lru_cache(maxsize=1024)
def _text(name: bytes) -> str:
    return ",".join(
        "+".join(f"{_label(attribute)}={_shown(tag, content)}" for attribute, tag, content in relative)
        for relative in reversed(_read(name))
    )


@lru_cache(maxsize=16384)
def canonical(name: bytes) -> Canonical:
    """Return a name normalized for comparison: letter case, spaces and string type are ignored.

    Args:
        name: The name, DER.

    Raises:
        DerError: ``malformed``: it is not a valid name.
    """
    return tuple(
        tuple(sorted((attribute, *_compared(tag, content)) for attribute, tag, content in relative))
        for relative in _read(name)
    )


def comparable(name: bytes) -> Canonical | bytes:
    """Return the value to compare names by: :func:`canonical`, or the bytes if the name is not valid.

    Args:
        name: The name, DER.
    """
    try:
        return canonical(name)
    except DerError:
        return name


def same(one: bytes, other: bytes) -> bool:
    """Tell whether two names, DER, are equal (RFC 5280 section 7.1)."""
    return one == other or comparable(one) == comparable(other)


def is_well_encoded(name: bytes) -> bool:
    """Tell whether every UTF8String, BMPString and UniversalString of a name has valid content.

    Args:
        name: The name, DER.

    Raises:
        DerError: ``malformed``: it is not a valid name.
    """
    values = [value for relative in _read(name) for value in relative]
    return all(tag not in _ENCODINGS or _decoded(tag, content) is not None for _, tag, content in values)


def _read(name: bytes) -> list[list[tuple[bytes, int, bytes]]]:
    outer = Reader(name)
    relatives = outer.enter(SEQUENCE, _MALFORMED)
    outer.close(_MALFORMED)
    found = []
    while relatives.rest():
        inside, attributes = relatives.enter(SET, _MALFORMED), []
        while inside.rest():
            attributes.append(_attribute(inside.enter(SEQUENCE, _MALFORMED)))
        if not attributes:
            raise DerError(_MALFORMED)
        found.append(attributes)
    return found


def _attribute(pair: Reader) -> tuple[bytes, int, bytes]:
    attribute = pair.content(OID, _MALFORMED)
    tag, content = pair.any(_MALFORMED)
    pair.close(_MALFORMED)
    return attribute, tag, content


def _decoded(tag: int, content: bytes) -> str | None:
    """Return a value as text if its encoding is certain, otherwise None."""
    encoding = _ENCODINGS.get(tag) or ("ascii" if tag in _ASCII_TAGS or tag == _T61 else None)
    if encoding is None:
        return None
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _compared(tag: int, content: bytes) -> Value:
    """Return a value for comparison: text prepared as in RFC 4518, everything else octet by octet."""
    value = _decoded(tag, content)
    return (tag, content) if value is None else (_TEXT, _prepared(value).encode("utf-8", "surrogatepass"))


def _prepared(value: str) -> str:
    if value.isascii() and value.isprintable():
        return " ".join(value.lower().split())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", _NOTHING.sub("", value).casefold()).casefold())
    return _SPACES.sub(" ", folded).strip()


def _shown(tag: int, content: bytes) -> str:
    value = _guessed(tag, content)
    return f"#{tlv(tag, content).hex()}" if value is None else _escaped(value)


def _guessed(tag: int, content: bytes) -> str | None:
    """Return a value as text, guessing its encoding: Latin-1 for T61String, and GBK where CAs write Chinese."""
    value = _decoded(tag, content)
    if value is not None or tag in _ENCODINGS:
        return value
    if tag == _T61:
        return content.decode("latin-1")
    for encoding in ("utf-8", "gb18030") if tag in _ASCII_TAGS else ():
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    return None


def _escaped(value: str) -> str:
    escaped = _ESCAPED.sub(lambda found: "\\" + found[0], value).replace("\0", "\\00")
    if escaped[:1] in ("#", " "):
        escaped = "\\" + escaped
    return escaped[:-1] + "\\ " if escaped.endswith(" ") and escaped != "\\ " else escaped


def _label(attribute: bytes) -> str:
    return _SHORT.get(attribute) or dotted(attribute)


def dotted(content: bytes) -> str:
    """Return the content of an OBJECT IDENTIFIER in dotted form.

    Args:
        content: The content of the element.

    Raises:
        DerError: ``malformed``: it is not valid.
    """
    if not content or content[-1] & 0x80:
        raise DerError(_MALFORMED)
    arcs, value = [], 0
    for octet in content:
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))
