"""PEM (RFC 7468), read and written without a library."""

from __future__ import annotations

import base64
import binascii
import re
from textwrap import wrap
from typing import Final

from ushield_hw.crypto.parsing import Unreadable

_BLOCK: Final = rb"-----BEGIN %b-----\s+([A-Za-z0-9+/=\s]*?)-----END %b-----"
_BEGIN: Final = b"-----BEGIN "
_LINE: Final = 64


def is_pem(content: bytes) -> bool:
    """Tell whether it has a PEM block of any kind."""
    return _BEGIN in content


def blocks(content: bytes, *labels: str) -> list[bytes]:
    """Return what the blocks with one of these labels hold, in their order.

    Raises:
        Unreadable: one of them is not base64.
    """
    label = b"(?:%b)" % b"|".join(re.escape(one.encode()) for one in labels)
    found = re.findall(_BLOCK.replace(b"%b", label), content)
    try:
        return [base64.b64decode(b"".join(block.split()), validate=True) for block in found]
    except binascii.Error as broken:
        raise Unreadable(str(broken)) from broken


def armored(der: bytes, label: str) -> bytes:
    """Return ``der`` as one block."""
    lines = wrap(base64.b64encode(der).decode(), _LINE)
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()
