"""The minimal DER writer and the strict reader."""

from __future__ import annotations

import pytest
from asn1crypto import core
from hypothesis import given
from hypothesis import strategies as st

from ushield_hw.crypto.der import INTEGER, OCTET_STRING, SEQUENCE, DerError, Reader, integer, oid, set_of, tlv


def octets(data: bytes) -> bytes:
    return Reader(data).content(OCTET_STRING, "wrong_tag")


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65535, 65536, 1 << 20])
def test_lengths_are_minimal_and_read_back(size: int) -> None:
    content = bytes(size)
    written = tlv(OCTET_STRING, content)

    assert written == core.OctetString(content).dump()
    assert octets(written) == content


@given(st.integers(min_value=0, max_value=2**200))
def test_integers_are_minimal_and_read_back(value: int) -> None:
    written = integer(value)

    assert written == core.Integer(value).dump()
    assert Reader(written).integer("wrong") == value


@pytest.mark.parametrize("dotted", ["1.2.840.113549.1.7.2", "2.25.319563466725128987539907167962394641551", "2.999.3"])
def test_object_identifiers_are_written(dotted: str) -> None:
    assert oid(dotted) == core.ObjectIdentifier(dotted).dump()


@given(st.lists(st.binary(max_size=5).map(lambda content: tlv(OCTET_STRING, content)), max_size=6))
def test_a_set_is_sorted(elements: list[bytes]) -> None:
    class Octets(core.SetOf):  # type: ignore[misc]
        _child_spec = core.OctetString

    expected = Octets([core.OctetString.load(element) for element in elements])

    assert set_of(elements) == expected.dump(force=True)


@pytest.mark.parametrize(
    "data",
    [
        b"\x04\x80ab\x00\x00",  # indefinite length
        b"\x04\x81\x02ab",  # the short form suffices
        b"\x04\x82\x00\x81" + bytes(0x81),  # leading zero
        b"\x04\x81",  # truncated length
    ],
)
def test_lengths_in_another_form_are_refused(data: bytes) -> None:
    with pytest.raises(DerError, match=r"^not_der$"):
        octets(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x04",
        b"\x04\x03ab",
        b"\x04\x81\x80" + bytes(127),
        b"\x04\xff" + b"\xff" * 127,
        b"\x04\x88" + b"\xff" * 8,
    ],
)
def test_lengths_beyond_the_end_are_refused(data: bytes) -> None:
    with pytest.raises(DerError, match=r"^overrun$"):
        octets(data)


@pytest.mark.parametrize("data", [b"", b"\x05\x00", b"\x24\x04\x04\x02ab"])
def test_another_tag_is_refused_with_the_problem_given(data: bytes) -> None:
    with pytest.raises(DerError, match=r"^wrong_tag$"):
        octets(data)


@pytest.mark.parametrize("content", [b"", b"\xff", b"\x80", b"\x00\x01", b"\x00\x00"])
def test_integers_that_are_negative_or_not_minimal_are_refused(content: bytes) -> None:
    with pytest.raises(DerError, match=r"^wrong$"):
        Reader(tlv(INTEGER, content)).integer("wrong")


def test_an_element_must_not_reach_beyond_the_one_around_it() -> None:
    inner = b"\x04\x05ab"  # three bytes beyond the sequence, but within the data
    reader = Reader(tlv(SEQUENCE, inner) + b"cde").enter(SEQUENCE, "wrong")

    with pytest.raises(DerError, match=r"^overrun$"):
        reader.content(OCTET_STRING, "wrong")


def test_a_constant_must_not_reach_beyond_the_end() -> None:
    reader = Reader(tlv(SEQUENCE, b"ab") + b"c").enter(SEQUENCE, "wrong")

    with pytest.raises(DerError, match=r"^wrong$"):
        reader.constant(b"abc", "wrong")


def test_what_is_left_is_refused_on_close() -> None:
    reader = Reader(b"\x04\x00\x04\x00")
    reader.content(OCTET_STRING, "wrong")

    with pytest.raises(DerError, match=r"^left$"):
        reader.close("left")
