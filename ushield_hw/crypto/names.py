"""Distinguished names as users write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ushield_hw.crypto.parsing import Unreadable, reading
from ushield_hw.errors import InputError

if TYPE_CHECKING:
    from cryptography import x509


def parse_subject(text: str) -> x509.Name:
    """Return the name that a text states.

    Args:
        text: RFC 4514, for example ``CN=张三,O=Example Ltd,C=CN``.

    Raises:
        InputError: ``SUBJECT_INVALID``: it is not a name, or an empty one.
    """
    from cryptography import x509

    try:
        with reading():
            name = x509.Name.from_rfc4514_string(text)
    except Unreadable as error:
        raise InputError("SUBJECT_INVALID", subject=text) from error
    if not list(name):
        raise InputError("SUBJECT_INVALID", subject=text)
    return name
