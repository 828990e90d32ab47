"""Read and write PEM (RFC 7468) without a library."""

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
    """Return whether the content has a PEM block with any label."""
    return _BEGIN in content


def blocks(content: bytes, *labels: str) -> list[bytes]:
    """Return the decoded content of the PEM blocks with one of these labels, in their order.

    Args:
        content: the text.
        *labels: the labels.

    Raises:
        Unreadable: a block is not base64.
    """
    label = b"(?:%b)" % b"|".join(re.escape(one.encode()) for one in labels)
    found = re.findall(_BLOCK.replace(b"%b", label), content)
    try:
        return [base64.b64decode(b"".join(block.split()), validate=True) for block in found]
    except binascii.Error as broken:
        raise Unreadable(str(broken)) from broken


def armored(der: bytes, label: str) -> bytes:
    """Return ``der`` as one PEM block.

    Args:
        der: the content.
        label: the label.
    """
    lines = wrap(base64.b64encode(der).decode(), _LINE)
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()
