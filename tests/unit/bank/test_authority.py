"""Certificates and CRLs issued by the CA, as other software reads them: profiles, dates, CRLs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID

from tests.unit.bank.world import NOW, ORIGIN, SUBJECT, SoftKey
from ushield_hw.bank.ca.authority import Authority, Entry, Wanted, root
from ushield_hw.bank.ca.profiles import LOGIN, PAYMENT, PROFILES, Profile
from ushield_hw.cms import CertificateFacts
from ushield_hw.errors import CertificateError

pytestmark = pytest.mark.unit

NAME = x509.Name.from_rfc4514_string("CN=Demo Bank CA,O=Demo Bank")
KEYS: dict[str, Callable[[], SoftKey]] = {
    "p256": SoftKey,
    "p384": lambda: SoftKey(ec.generate_private_key(ec.SECP384R1())),
    "rsa": lambda: SoftKey(rsa.generate_private_key(65537, 2048)),
}


def wanted(key: SoftKey, profile: Profile = PAYMENT, serial: int = 0x5F0C) -> Wanted:
    return Wanted(serial, x509.Name.from_rfc4514_string(SUBJECT), key.spki, profile, NOW, NOW.replace(year=2027))


def authority(key: SoftKey, life: timedelta = timedelta(days=3650), crl_url: str | None = None) -> Authority:
    return Authority(root(key, NAME, NOW, life), key, crl_url)


@pytest.mark.parametrize("kind", KEYS)
def test_the_ca_s_own_certificate(kind: str) -> None:
    ca = x509.load_der_x509_certificate(authority(KEYS[kind]()).certificate)
    ca.verify_directly_issued_by(ca)
    facts = CertificateFacts.read(ca.public_bytes(Encoding.DER))
    assert facts.is_ca and facts.key_usage == frozenset({"keyCertSign", "cRLSign"})
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).critical


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize(("profile", "usage"), [(PAYMENT, "nonRepudiation"), (LOGIN, "digitalSignature")])
def test_a_certificate_says_what_its_profile_says(kind: str, profile: Profile, usage: str) -> None:
    ca_key, key = KEYS[kind](), SoftKey()
    issuer = authority(ca_key, crl_url=f"{ORIGIN}/crl")
    der = issuer.issue(wanted(key, profile))
    facts = CertificateFacts.read(der)
    assert facts.key_usage == frozenset({usage}) and not facts.is_ca
    assert (facts.spki, facts.serial, facts.subject_text()) == (key.spki, 0x5F0C, SUBJECT)
    issued = x509.load_der_x509_certificate(der)
    issued.verify_directly_issued_by(x509.load_der_x509_certificate(issuer.certificate))
    critical = {one.oid for one in issued.extensions if one.critical}
    assert critical == {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE}
    there = {one.oid for one in issued.extensions} - critical
    assert there == {
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
    }  # no extended key usage: see profiles.py
    (point,) = issued.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert [name.value for name in point.full_name or ()] == [f"{ORIGIN}/crl"]


def test_no_address_no_distribution_point() -> None:
    issued = x509.load_der_x509_certificate(authority(SoftKey()).issue(wanted(SoftKey())))
    assert not [one for one in issued.extensions if one.oid == ExtensionOID.CRL_DISTRIBUTION_POINTS]


def test_the_same_wish_once_more_is_the_same_certificate_but_for_the_signature() -> None:
    issuer, wish = authority(SoftKey()), wanted(SoftKey())
    one, two = (x509.load_der_x509_certificate(issuer.issue(wish)) for _ in range(2))
    assert one.tbs_certificate_bytes == two.tbs_certificate_bytes


def test_validity_is_within_the_ca_s() -> None:
    issuer = authority(SoftKey(), life=timedelta(days=100))
    begin, end = issuer.validity(NOW, timedelta(days=30))
    assert begin < NOW < end == NOW + timedelta(days=30)
    assert issuer.validity(NOW, timedelta(days=1000))[1] == NOW + timedelta(days=100)
    assert issuer.validity(NOW - timedelta(days=1), timedelta(days=1))[0] >= NOW - timedelta(minutes=5)


def test_another_key_than_the_certificate_s_is_refused() -> None:
    mine = root(SoftKey(), NAME, NOW, timedelta(days=1))
    with pytest.raises(CertificateError) as caught:
        Authority(mine, SoftKey())
    assert caught.value.code == "BANK_KEY_MISMATCH"


def test_another_key_that_claims_to_be_the_certificate_s_is_refused_too() -> None:
    key, other = SoftKey(), SoftKey()
    mine = root(key, NAME, NOW, timedelta(days=1))
    key.sign = other.sign  # type: ignore[method-assign]
    with pytest.raises(CertificateError) as caught:
        Authority(mine, key)
    assert caught.value.code == "BANK_KEY_MISMATCH"


def test_a_wrong_signature_does_not_get_out() -> None:
    key, other = SoftKey(), SoftKey()
    issuer = authority(key)
    key.sign = other.sign  # type: ignore[method-assign]
    with pytest.raises(CertificateError, match="token") as caught:
        issuer.issue(wanted(SoftKey()))
    assert caught.value.code == "BANK_KEY_MISMATCH"
    with pytest.raises(CertificateError) as caught:
        issuer.crl(1, NOW, NOW.replace(year=2027), [])
    assert caught.value.code == "BANK_KEY_MISMATCH"


def test_a_crl_lists_what_it_is_given() -> None:
    issuer = authority(SoftKey())
    entries = [Entry(7, NOW, "keyCompromise"), Entry(8, NOW, "unspecified")]
    crl = x509.load_der_x509_crl(issuer.crl(3, NOW, NOW.replace(year=2027), entries))
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 3
    seven, eight = (crl.get_revoked_certificate_by_serial_number(n) for n in (7, 8))
    assert seven is not None and eight is not None
    assert seven.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.key_compromise
    assert len(eight.extensions) == 0


def test_profiles_are_known_by_their_names() -> None:
    assert {name: profile.name for name, profile in PROFILES.items()} == {"payment": "payment", "login": "login"}
