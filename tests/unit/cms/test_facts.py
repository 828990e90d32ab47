"""Parsing of certificates without a library."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from asn1crypto import keys as asn1_keys
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.cms import pki
from tests.unit.cms.people import Bank
from ushield_hw.cms import CertificateFacts
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.crypto.der import SEQUENCE, integer, oid, tlv
from ushield_hw.errors import InputError

ROOT = pki.authority()
PUBLIC = pki.key().public_key()
NULL = b"\x05\x00"


def facts_of(certificate: x509.Certificate) -> CertificateFacts:
    return CertificateFacts.read(pki.der(certificate))


def refused(der: bytes) -> None:
    with pytest.raises(InputError) as caught:
        CertificateFacts.read(der)
    assert caught.value.code == "CERTIFICATE_MALFORMED"


@given(
    serial=st.integers(min_value=1, max_value=2**159 - 1),
    uses=st.sets(st.sampled_from(["digitalSignature", "nonRepudiation", "keyCertSign", "cRLSign"]), min_size=1),
    begin=st.datetimes(min_value=datetime(1950, 1, 1), max_value=datetime(2049, 12, 31)),
    end=st.datetimes(min_value=datetime(2050, 1, 1), max_value=datetime(9999, 12, 31)),
    is_ca=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_reads_what_cryptography_reads(
    serial: int, uses: set[str], begin: datetime, end: datetime, is_ca: bool
) -> None:
    begin, end = begin.replace(microsecond=0, tzinfo=UTC), end.replace(microsecond=0, tzinfo=UTC)
    issued = ROOT.issue(
        "CN=李四\\, 小,OU=个人,O=Demo Bank",
        PUBLIC,
        key_usage=uses,
        not_before=begin,
        not_after=end,
        serial=serial,
        ca=is_ca,
    )

    facts = facts_of(issued)

    assert (facts.serial, facts.serial_hex) == (serial, f"{serial:x}")
    assert (facts.not_before, facts.not_after) == (issued.not_valid_before_utc, issued.not_valid_after_utc)
    assert facts.issuer == issued.issuer.public_bytes()
    assert facts.subject == issued.subject.public_bytes()
    assert facts.spki == issued.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert (facts.key_usage, facts.is_ca) == (frozenset(uses), is_ca)
    assert facts.issuer_and_serial == tlv(SEQUENCE, facts.issuer, integer(serial))
    assert facts.der == pki.der(issued)


@pytest.mark.parametrize("kind", KeyKind)
def test_tells_the_kinds_of_keys_apart(kind: KeyKind) -> None:
    facts = facts_of(ROOT.issue("CN=A", pki.key(kind).public_key()))

    assert facts.key is kind
    assert facts.key_bits == {KeyKind.EC_P256: 256, KeyKind.EC_P384: 384, KeyKind.RSA: 2048}[kind]


@pytest.mark.parametrize(
    "make",
    [ed25519.Ed25519PrivateKey.generate, lambda: ec.generate_private_key(ec.SECP521R1())],
    ids=["ed25519", "p521"],
)
def test_other_keys_are_read_as_none(make: Callable[[], ed25519.Ed25519PrivateKey]) -> None:
    facts = facts_of(ROOT.issue("CN=A", make().public_key()))

    assert (facts.key, facts.key_bits) == (None, 0)


def test_a_compressed_point_is_no_key_for_orders() -> None:
    issued = ROOT.issue("CN=A", PUBLIC)
    whole = PUBLIC.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    packed = PUBLIC.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    assert facts_of(issued).key is KeyKind.EC_P256
    assert CertificateFacts.read(_resized(pki.der(issued), whole, packed)).key is None


def test_key_usage_that_is_not_there_is_none_and_not_empty() -> None:
    assert facts_of(ROOT.issue("CN=A", PUBLIC, key_usage=None)).key_usage is None


@pytest.mark.parametrize("name", pki.USES)
def test_reads_every_use(name: str) -> None:
    uses = {name, "keyAgreement"} if name.endswith("cipherOnly") else {name}

    assert facts_of(ROOT.issue("CN=A", PUBLIC, key_usage=uses)).key_usage == frozenset(uses)


def test_reads_the_highest_serial_number_and_not_a_higher_one() -> None:
    highest = 2**159 - 1  # cryptography cannot create higher ones
    der = pki.der(ROOT.issue("CN=A", PUBLIC, serial=highest))

    assert CertificateFacts.read(_resized(der, integer(highest), integer(2**160 - 1))).serial == 2**160 - 1
    refused(_resized(der, integer(highest), integer(2**160)))


def test_reads_a_certificate_of_version_1_without_extensions() -> None:
    der = pki.der(ROOT.issue("CN=A", PUBLIC, key_usage=None))

    facts = CertificateFacts.read(_resized(der, b"\xa0\x03\x02\x01\x02", b""))

    assert (facts.key_usage, facts.is_ca, facts.key) == (None, False, KeyKind.EC_P256)


def test_names_are_written_as_rfc_4514_does(bank: Bank) -> None:
    facts = facts_of(bank.issuing.issue("CN=王五\\,\\+,O=Demo Bank", PUBLIC))

    assert facts.subject_text() == "CN=王五\\,\\+,O=Demo Bank"
    assert facts.issuer_text() == "CN=Demo Issuing CA,O=Demo Bank"


def test_a_name_that_is_no_text_is_shown_as_octets() -> None:
    der = pki.der(ROOT.issue("CN=Alice", PUBLIC))
    facts = CertificateFacts.read(der.replace(b"\x0c\x05Alice", b"\x0c\x05\xff\xff\xff\xff\xff"))

    assert facts.subject_text() == "CN=#0c05ffffffffff"


def test_a_name_that_is_none_is_an_input_error() -> None:
    der = pki.der(ROOT.issue("CN=Alice", PUBLIC))
    facts = CertificateFacts.read(
        der.replace(b"\x06\x03\x55\x04\x03\x0c\x05Alice", b"\x06\x0a\x55\x04\x03\x0c\x05Alice")
    )

    with pytest.raises(InputError, match=r"^This is not a certificate") as caught:
        facts.subject_text()
    assert caught.value.code == "CERTIFICATE_MALFORMED"


_USAGE = oid("2.5.29.15")
_CONSTRAINTS = oid("2.5.29.19")
_TRUE = b"\x01\x01\xff"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x03", id="version 4"),
        pytest.param(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x00", id="version 1 spelt out"),
        pytest.param(b"\xa0\x03\x02\x01\x02", b"", id="version 1 with extensions"),
        pytest.param(integer(0x1234), b"\x02\x02\xff\xf0", id="negative serial number"),
        pytest.param(integer(0x1234), b"\x02\x03\x00\x12\x34", id="serial number not minimal"),
        pytest.param(b"260128020100Z", b"261328020100Z", id="month 13"),
        pytest.param(b"260128020100Z", b"26012802010Z", id="minutes cut off"),
        pytest.param(b"260128020100Z", b"2601280201+0Z", id="not a digit"),
        pytest.param(b"260128020100Z", b"260128020100+", id="time zone"),
        pytest.param(_USAGE + _TRUE, _USAGE + b"\x01\x01\x01", id="true written otherwise"),
        pytest.param(_USAGE + _TRUE, _USAGE + b"\x01\x01\x00", id="false spelt out"),
        pytest.param(_USAGE, _CONSTRAINTS, id="an extension twice"),
        pytest.param(b"\x03\x02\x06\x40", b"\x03\x02\x08\x00", id="eight unused bits"),
        pytest.param(b"\x03\x02\x06\x40", b"\x03\x02\x07\x40", id="an unused bit set"),
        pytest.param(b"\x03\x02\x06\x40", b"\x03\x01\x00", id="no bits"),
        pytest.param(b"\x03\x02\x06\x40", b"\x03\x00", id="empty bit string"),
        pytest.param(b"\x30\x03" + _TRUE, b"\x30\x03\x01\x01\x01", id="CA true written otherwise"),
        pytest.param(oid("1.2.840.10045.4.3.2"), oid("1.2.840.10045.4.3.3"), id="two signature algorithms"),
    ],
)
def test_refuses_fields_in_another_form(old: bytes, new: bytes) -> None:
    der = pki.der(ROOT.issue("CN=A", PUBLIC, serial=0x1234, ca=True))
    assert _resized(der, old, old) == der

    refused(_resized(der, old, new))


def test_refuses_anything_after_the_last_field() -> None:
    """NULL appended to each parsed element in turn, with all lengths adjusted."""
    customer = pki.der(ROOT.issue("CN=A", pki.key(KeyKind.RSA).public_key(), ca=True))
    assert CertificateFacts.read(customer).key is KeyKind.RSA
    certificate = asn1_x509.Certificate.load(customer)
    tbs = certificate["tbs_certificate"]
    dates, spki, listed = tbs["validity"].contents, tbs["subject_public_key_info"].contents, tbs["extensions"]
    values = [one["extn_value"].contents for one in listed]
    read = [dates, spki, listed[0].contents, *values, listed.untag().dump(), b"\x02\x01\x02"]

    refused(tlv(SEQUENCE, certificate.contents, NULL))
    refused(tlv(SEQUENCE, tlv(SEQUENCE, tbs.contents, NULL), customer[4 + len(tbs.dump()) :]))
    for content in read:
        assert _resized(customer, content, content) == customer
        refused(_resized(customer, content, content + NULL))


def test_refuses_a_key_in_another_form() -> None:
    public = pki.key(KeyKind.RSA).public_key()
    customer = pki.der(ROOT.issue("CN=A", public))
    numbers = public.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    inside = asn1_keys.RSAPublicKey.load(numbers).contents
    assert _resized(customer, numbers, numbers) == customer

    refused(_resized(customer, numbers, numbers + NULL))
    refused(_resized(customer, numbers, tlv(SEQUENCE, inside, NULL)))
    refused(_resized(customer, b"\x00" + numbers, b"\x01" + numbers))


@pytest.mark.parametrize(("prefix", "suffix"), [(b"\x06", b""), (b"\x04", b"\x00")], ids=["hybrid", "too long"])
def test_a_point_in_another_form_is_no_key_for_orders(prefix: bytes, suffix: bytes) -> None:
    der = pki.der(ROOT.issue("CN=A", PUBLIC))
    point = PUBLIC.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    assert CertificateFacts.read(_resized(der, point, prefix + point[1:] + suffix)).key is None


@pytest.mark.parametrize("version", [0, 1, 3])
def test_refuses_other_versions_without_extensions_too(version: int) -> None:
    der = pki.der(ROOT.issue("CN=A", PUBLIC, key_usage=None))

    refused(_resized(der, b"\xa0\x03\x02\x01\x02", b"\xa0\x03" + integer(version)))


def test_unique_identifiers_are_stepped_over_but_not_in_version_1() -> None:
    der = pki.der(ROOT.issue("CN=A", PUBLIC))
    bare = pki.der(ROOT.issue("CN=A", PUBLIC, key_usage=None))
    spki = PUBLIC.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    identifiers = b"\x81\x02\x00\x01" + b"\x82\x02\x00\x02"

    assert CertificateFacts.read(_resized(der, spki, spki + identifiers)).key_usage == frozenset({"nonRepudiation"})
    refused(_resized(_resized(bare, spki, spki + identifiers), b"\xa0\x03\x02\x01\x02", b""))


def test_empty_basic_constraints_are_no_ca_s() -> None:
    der = pki.der(ROOT.issue("CN=A", PUBLIC, ca=True))

    assert CertificateFacts.read(_resized(der, b"\x30\x03" + _TRUE, b"\x30\x00")).is_ca is False


@pytest.mark.parametrize(
    ("constraints", "is_ca"),
    [
        (_TRUE, True),
        (_TRUE + integer(0), True),
        (_TRUE + integer(3), True),
        (integer(0), False),  # encodes the default; openssl accepts it
        (integer(1), None),
        (b"\x01\x01\x01", None),
        (_TRUE + b"\x02\x01\xff", None),
        (_TRUE + b"\x05\x00", None),
        (b"\x05\x00", None),
        (b"\x30\x00" + _TRUE, None),
    ],
)
def test_basic_constraints_are_read_to_their_end(constraints: bytes, is_ca: bool | None) -> None:
    der = pki.der(ROOT.issue("CN=A", PUBLIC, ca=True))
    changed = _resized(der, b"\x30\x03" + _TRUE, tlv(SEQUENCE, constraints))

    if is_ca is None:
        refused(changed)
    else:
        assert CertificateFacts.read(changed).is_ca is is_ca


@pytest.mark.parametrize(
    "spoil", [lambda der: der + b"\x00", lambda der: der[:-1], lambda der: b"", lambda der: der[1:]]
)
def test_refuses_what_is_not_one_whole_certificate(spoil: Callable[[bytes], bytes]) -> None:
    refused(spoil(ROOT.der))


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damage_is_refused_or_reads_as_cryptography_reads_it(data: st.DataObject) -> None:
    der = bytearray(ROOT.der)
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    try:
        facts = CertificateFacts.read(bytes(der))
    except InputError as error:
        assert error.code == "CERTIFICATE_MALFORMED"
        return
    try:
        other = x509.load_der_x509_certificate(bytes(der))
        expected = (other.serial_number, other.not_valid_before_utc, other.not_valid_after_utc)
    except ValueError:
        return
    assert (facts.serial, facts.not_before, facts.not_after) == expected


def _resized(der: bytes, old: bytes, new: bytes) -> bytes:
    """Replace the first ``old`` in the signed part by ``new`` and adjust all enclosing lengths."""
    changed = _replaced(der, old, new)
    assert changed is not None
    return changed


def _replaced(element: bytes, old: bytes, new: bytes) -> bytes | None:
    """Descend through constructed elements and octet strings to ``old`` and rebuild them on the way up."""
    tag, content = element[0], _content(element)
    if content.startswith(old) and tag in {0x04, 0x30, 0xA0, 0xA3}:
        return tlv(tag, new, content[len(old) :])
    parts = _split(content) if tag & 0x20 or tag == 0x04 else None
    for n, part in enumerate(parts or ()):
        if part == old:
            return tlv(tag, *parts[:n], new, *parts[n + 1 :])  # type: ignore[index]
        changed = _replaced(part, old, new)
        if changed is not None:
            return tlv(tag, *parts[:n], changed, *parts[n + 1 :])  # type: ignore[index]
    if tag in {0x03, 0x17, 0x18} and old in content:
        return tlv(tag, content.replace(old, new, 1))
    return None


def _content(element: bytes) -> bytes:
    octets = element[1] & 0x7F if element[1] & 0x80 else 0
    return element[2 + octets :]


def _split(content: bytes) -> list[bytes] | None:
    parts = []
    while content:
        octets = content[1] & 0x7F if content[1] & 0x80 else 0
        size = int.from_bytes(content[2 : 2 + octets], "big") if octets else content[1]
        end = 2 + octets + size
        parts.append(content[:end])
        content = content[end:]
    return parts
