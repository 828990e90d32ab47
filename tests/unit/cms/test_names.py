"""Distinguished names: text representation and comparison."""

from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import example, given
from hypothesis import strategies as st

from ushield_hw.cms import names
from ushield_hw.crypto.der import OID, SEQUENCE, SET, DerError, tlv

CN, ORG = b"\x55\x04\x03", b"\x55\x04\x0a"
UTF8, PRINTABLE, T61, IA5, BMP, BITS = 0x0C, 0x13, 0x14, 0x16, 0x1E, 0x03


def name(*values: tuple[bytes, int, bytes]) -> bytes:
    return tlv(SEQUENCE, *(tlv(SET, tlv(SEQUENCE, tlv(OID, oid), tlv(tag, content))) for oid, tag, content in values))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["2.5.4.3", "2.5.4.10", "2.5.4.6", "0.9.2342.19200300.100.1.25", "1.2.840.113549.1.9.1"]),
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
        ),
        max_size=4,
    )
)
@example([("2.5.4.3", ' #"+,;<>\\ ')])
def test_text_is_what_cryptography_writes(values: list[tuple[str, str]]) -> None:
    attributes = [
        x509.NameAttribute(x509.ObjectIdentifier(oid), value if oid != "2.5.4.6" else "CN", _validate=False)
        for oid, value in values
    ]
    made = x509.Name(attributes)

    assert names.text(made.public_bytes()) == made.rfc4514_string()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ((CN, PRINTABLE, b"a@b.cn"), "CN=a@b.cn"),
        ((CN, PRINTABLE, "张三".encode("gbk")), "CN=张三"),
        ((CN, PRINTABLE, "张三".encode()), "CN=张三"),
        ((CN, T61, b"M\xfcller"), "CN=Müller"),
        ((CN, T61, b"Zhang San"), "CN=Zhang San"),
        ((CN, BMP, "张三".encode("utf-16-be")), "CN=张三"),
        ((CN, BMP, b"\x00"), "CN=#1e0100"),
        ((CN, UTF8, b"\xff"), "CN=#0c01ff"),
        ((CN, PRINTABLE, b"\xff"), "CN=#1301ff"),
        ((b"\x55\x04\x2d", BITS, b"\x00\xa0"), "2.5.4.45=#030200a0"),
    ],
)
def test_what_older_cas_wrote_has_a_text_too(value: tuple[bytes, int, bytes], shown: str) -> None:
    assert names.text(name(value)) == shown


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ((CN, UTF8, b"Demo  Bank "), (CN, PRINTABLE, b"demo bank"), True),
        ((CN, BMP, "张三".encode("utf-16-be")), (CN, UTF8, "张三".encode()), True),
        ((CN, UTF8, "Ａ".encode()), (CN, UTF8, b"a"), True),  # NFKC is applied in comparisons only
        ((CN, UTF8, "a\u00ad".encode()), (CN, IA5, b"A"), True),
        ((CN, UTF8, b"a b"), (CN, UTF8, b"ab"), False),
        ((CN, UTF8, b"a"), (ORG, UTF8, b"a"), False),
        ((CN, PRINTABLE, "张三".encode("gbk")), (CN, UTF8, "张三".encode()), False),  # guesses are for display only
        ((CN, PRINTABLE, "张三".encode("gbk")), (CN, PRINTABLE, "张三".encode("gbk")), True),
        ((CN, T61, b"\xfc"), (CN, T61, b"\xdc"), False),
    ],
)
def test_names_are_equal_as_rfc_5280_section_7_1_has_it(
    one: tuple[bytes, int, bytes], other: tuple[bytes, int, bytes], equal: bool
) -> None:
    assert (names.canonical(name(one)) == names.canonical(name(other))) is equal


def test_the_order_of_attributes_counts_between_rdns_only() -> None:
    first, second = (tlv(SEQUENCE, tlv(OID, oid), tlv(UTF8, b"x")) for oid in (CN, ORG))
    together = [tlv(SEQUENCE, tlv(SET, first, second)), tlv(SEQUENCE, tlv(SET, second, first))]
    apart = [tlv(SEQUENCE, tlv(SET, first), tlv(SET, second)), tlv(SEQUENCE, tlv(SET, second), tlv(SET, first))]

    assert len({names.canonical(one) for one in together}) == 1
    assert len({names.canonical(one) for one in (*together, *apart)}) == 3


@pytest.mark.parametrize(("value", "passes"), [((CN, UTF8, b"\xff"), False), ((CN, PRINTABLE, b"\xff@"), True)])
def test_a_broken_utf8string_is_told(value: tuple[bytes, int, bytes], passes: bool) -> None:
    assert names.is_well_encoded(name(value)) is passes


@pytest.mark.parametrize("wrong", [b"", b"\x05\x00", b"\x30\x02\x31\x00", b"\x30\x04\x31\x02\x30\x00", b"\x30\x00\x00"])
def test_what_is_no_name_is_an_error(wrong: bytes) -> None:
    for read in (names.text, names.canonical, names.is_well_encoded):
        with pytest.raises(DerError):
            read(wrong)


@given(st.binary(max_size=40))
def test_nothing_else_is_raised(data: bytes) -> None:
    try:
        names.text(tlv(SEQUENCE, tlv(SET, data)))
        names.canonical(data)
    except DerError:
        pass
