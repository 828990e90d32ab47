"""Exceptions that libraries raise for untrusted input are mapped to one exception."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from hypothesis import given
from hypothesis import strategies as st

from ushield_hw.crypto import pem
from ushield_hw.crypto.parsing import Unreadable, reading
from ushield_hw.errors import InputError


class PanicException(BaseException):
    """Substitute for pyo3's PanicException, which cannot be raised at will."""


@pytest.mark.parametrize(
    "raised",
    [
        ValueError("x"),
        x509.InvalidVersion("x", 1),
        UnsupportedAlgorithm("x"),
        x509.DuplicateExtension("x", x509.ObjectIdentifier("1.2.3")),
        OverflowError(),
        RecursionError(),
        MemoryError(),
        PanicException(),
    ],
    ids=lambda raised: type(raised).__name__,
)
def test_is_one_error(raised: BaseException) -> None:
    with pytest.raises(Unreadable) as caught, reading():
        raise raised
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), SystemExit(3), InputError("ORDER_INVALID")])
def test_what_is_not_the_library_s_passes(raised: BaseException) -> None:
    with pytest.raises(type(raised)) as caught, reading():
        raise raised
    assert caught.value is raised


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=3))
def test_pem_there_and_back(contents: list[bytes]) -> None:
    written = b"text\n".join(pem.armored(one, "CERTIFICATE") for one in contents)

    assert pem.is_pem(written)
    assert pem.blocks(written.replace(b"\n", b"\r\n"), "X509 CRL", "CERTIFICATE") == contents
    assert pem.blocks(written, "X509 CRL") == []


@pytest.mark.parametrize("inside", ["MII=B", "MIIB\nA"])
def test_pem_that_is_no_base64(inside: str) -> None:
    with pytest.raises(Unreadable):
        pem.blocks(f"-----BEGIN CERTIFICATE-----\n{inside}\n-----END CERTIFICATE-----\n".encode(), "CERTIFICATE")
