"""Certification paths: which signers are trusted."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from tests.unit.cms import pki
from tests.unit.cms.people import P256, P384
from tests.unit.verifier.conftest import DAY, NOW, Scenario
from tests.unit.verifier.test_verify import told
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.errors import BadSignature, UntrustedSigner
from ushield_hw.verifier import TrustStore, verify

URL = x509.UniformResourceIdentifier("http://127.0.0.1:9/ca")
PRIVATE_USE = x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.4.1.99999.7")])


def untrusted(signed: bytes, trust: TrustStore, at: object = NOW) -> str:
    with pytest.raises(UntrustedSigner) as caught:
        verify(signed, trust=trust, at=at)  # type: ignore[arg-type]
    told(caught.value)
    assert caught.value.problem == f"signer_{caught.value.reason}"
    return str(caught.value.reason)


def signed_below(scenario: Scenario, issuer: pki.Authority, *between: pki.Authority, **fields: object) -> bytes:
    """Sign with a certificate issued by ``issuer``; ``between`` are the CA certificates included with the order."""
    certificate = pki.der(issuer.issue("CN=A", scenario.private.public_key(), **fields))  # type: ignore[arg-type]
    return pki.sign_order(
        scenario.order.canonical, scenario.private, certificate, P256, intermediates=[one.der for one in between]
    )


def test_a_ca_that_is_not_trusted(scenario: Scenario) -> None:
    stranger = pki.authority("CN=Stranger", number=130)

    assert untrusted(scenario.sign(), TrustStore([stranger.der])) == "unknown_ca"


def test_a_ca_with_the_name_of_a_trusted_one(scenario: Scenario) -> None:
    imitation = pki.authority(number=131)
    assert imitation.certificate.subject == scenario.bank.root.certificate.subject

    assert untrusted(scenario.sign(), TrustStore([imitation.der])) == "path_invalid"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("2.5.29.14", b"\x04\x14" + bytes(19)),  # subject key identifier, truncated
        ("2.5.29.30", b"\x30\x02\x05\x00"),  # name constraints
        ("2.5.29.31", b"\x30\x02\x05\x00"),  # CRL distribution points
        ("2.5.29.35", b"\x30\x02\x05\x00"),  # authority key identifier
        ("2.5.29.37", b"\x30\x02\x05\x00"),  # extended key usage
        ("2.16.840.1.113730.1.1", b"nonsense"),  # Netscape's certificate type
        ("1.3.6.1.5.5.7.1.7", b"nonsense"),  # addresses (RFC 3779)
        ("1.3.6.1.5.5.7.1.14", b"nonsense"),  # a proxy (RFC 3820)
    ],
)
def test_a_damaged_extension_is_refused_as_openssl_does(
    scenario: Scenario, name: str, value: bytes, tmp_path: Path
) -> None:
    damaged = x509.UnrecognizedExtension(x509.ObjectIdentifier(name), value)
    signed = signed_below(scenario, scenario.bank.issuing, scenario.bank.issuing, extensions=[(damaged, False)])

    assert untrusted(signed, scenario.trust()) == "path_invalid"
    assert not pki.openssl_accepts(signed, scenario.bank.root.pem, tmp_path)


@pytest.mark.parametrize("value", [b"\x03\x02\x05\xa0", b"\x03\x02\x07\x80"])
def test_netscapes_certificate_type_may_be_there(scenario: Scenario, value: bytes, tmp_path: Path) -> None:
    old = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.16.840.1.113730.1.1"), value)
    signed = signed_below(scenario, scenario.bank.issuing, scenario.bank.issuing, extensions=[(old, False)])

    assert verify(signed, trust=scenario.trust(), at=NOW)
    assert pki.openssl_accepts(signed, scenario.bank.root.pem, tmp_path)


def test_the_issuing_ca_must_be_there(scenario: Scenario) -> None:
    without = scenario.sign(intermediates=[])

    assert untrusted(without, TrustStore([scenario.bank.root.der])) == "unknown_ca"
    assert verify(without, trust=TrustStore([scenario.bank.root.der], [scenario.bank.issuing.der]), at=NOW)


def ids(own: pki.Key, issuer: pki.Key | None = None) -> list[tuple[x509.ExtensionType, bool]]:
    """Return the key identifier extensions, which distinguish keys of the same name."""
    found: list[tuple[x509.ExtensionType, bool]] = [
        (x509.SubjectKeyIdentifier.from_public_key(own.public_key()), False)
    ]
    if issuer is not None:
        found.append((x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), False))
    return found


@pytest.mark.parametrize("subject", ["CN=Demo Issuing CA,O=Demo Bank", "CN=demo  issuing CA,O=DEMO bank"])
def test_a_customer_with_the_ca_s_own_name_is_refused_as_openssl_does(
    scenario: Scenario, subject: str, tmp_path: Path
) -> None:
    signed = scenario.with_certificate(subject=subject).sign()

    assert untrusted(signed, scenario.trust()) == "path_invalid"
    assert not pki.openssl_accepts(signed, scenario.bank.root.pem, tmp_path)


@pytest.mark.parametrize("told_apart", [True, False])
def test_a_ca_s_next_key_is_told_apart_by_key_identifiers(scenario: Scenario, told_apart: bool, tmp_path: Path) -> None:
    """A CA that certifies its own new key has two certificates with the same name (RFC 5280: self-issued)."""
    first, second = pki.key(number=143), pki.key(number=144)
    old = pki.authority("CN=Root", number=143, extensions=ids(first))
    rolled = old.subordinate("CN=Root", number=144, extensions=ids(second, first) if told_apart else [])
    signed = signed_below(scenario, rolled, rolled, extensions=ids(scenario.private, second))

    assert pki.openssl_accepts(signed, old.pem, tmp_path) is told_apart
    if told_apart:
        assert verify(signed, trust=TrustStore([old.der]), at=NOW)
    else:
        assert untrusted(signed, TrustStore([old.der])) == "path_invalid"


@pytest.mark.parametrize(
    ("at", "reason"), [(NOW - 301 * DAY, "not_yet_valid"), (NOW - 300 * DAY, None), (NOW + 700 * DAY, None)]
)
def test_the_signer_s_certificate_has_its_time(scenario: Scenario, at: object, reason: str | None) -> None:
    if reason is None:
        assert verify(scenario.sign(), trust=scenario.trust(), at=at, judge_expiry=False)  # type: ignore[arg-type]
    else:
        assert untrusted(scenario.sign(), scenario.trust(), at) == reason


def test_the_signer_s_certificate_runs_out_to_the_second(scenario: Scenario) -> None:
    from datetime import timedelta

    assert untrusted(scenario.sign(), scenario.trust(), NOW + 700 * DAY + timedelta(seconds=1)) == "expired"


@pytest.mark.parametrize(
    ("dates", "reason"),
    [
        ({"not_after": NOW - DAY}, "ca_expired"),
        ({"not_before": NOW + DAY}, "ca_not_yet_valid"),
    ],
)
def test_a_ca_between_has_its_time_too(scenario: Scenario, dates: dict[str, object], reason: str) -> None:
    issuing = scenario.bank.root.subordinate("CN=Issuing", number=132, **dates)

    assert untrusted(signed_below(scenario, issuing, issuing), scenario.trust()) == reason


@pytest.mark.parametrize(
    ("dates", "reason"),
    [({"not_after": NOW - DAY}, "ca_expired"), ({"not_before": NOW + DAY}, "ca_not_yet_valid")],
)
def test_a_trusted_ca_has_its_time_too_as_with_openssl(
    scenario: Scenario, dates: dict[str, object], reason: str, tmp_path: Path
) -> None:
    root = pki.authority("CN=Root", number=133, **dates)  # type: ignore[arg-type]
    signed = signed_below(scenario, root)

    assert untrusted(signed, TrustStore([root.der])) == reason
    assert not pki.openssl_accepts(signed, root.pem, tmp_path)


@pytest.mark.parametrize("renewed_first", [True, False])
def test_a_root_that_was_renewed_with_its_key_is_trusted(scenario: Scenario, renewed_first: bool) -> None:
    old = pki.authority("CN=Root", number=134, not_after=NOW - DAY)
    renewed = pki.authority("CN=Root", number=134)
    signed = signed_below(scenario, renewed, renewed)
    both = [renewed.der, old.der] if renewed_first else [old.der, renewed.der]

    assert verify(signed, trust=TrustStore(both), at=NOW)
    assert untrusted(signed, TrustStore([old.der])) == "ca_expired"


def test_a_ca_between_that_was_renewed_is_taken_as_it_came(scenario: Scenario) -> None:
    """The bank's store still has the old certificate of the issuing CA; both are good."""
    old = scenario.bank.root.subordinate("CN=Issuing", number=135)
    renewed = scenario.bank.root.subordinate("CN=Issuing", number=135)
    assert old.der != renewed.der

    assert verify(
        signed_below(scenario, renewed, renewed), trust=TrustStore([scenario.bank.root.der], [old.der]), at=NOW
    )


def test_a_damaged_ca_certificate_is_refused_although_the_store_has_a_good_one(scenario: Scenario) -> None:
    damaged = bytearray(scenario.bank.issuing.der)
    damaged[20] ^= 1  # in the serial number
    signed = scenario.sign(intermediates=[bytes(damaged)])

    with pytest.raises(BadSignature) as caught:
        verify(signed, trust=TrustStore([scenario.bank.root.der], [scenario.bank.issuing.der]), at=NOW)
    assert caught.value.problem == "cms_certificate_not_on_path"


def test_the_trusted_ca_may_come_with_the_order(scenario: Scenario) -> None:
    signed = scenario.sign(intermediates=[scenario.bank.root.der, scenario.bank.issuing.der])

    assert verify(signed, trust=scenario.trust(), at=NOW)


def test_a_certificate_above_the_trusted_ca_is_refused(scenario: Scenario) -> None:
    signed = scenario.sign(intermediates=[scenario.bank.root.der, scenario.bank.issuing.der])

    with pytest.raises(BadSignature) as caught:
        verify(signed, trust=TrustStore([scenario.bank.issuing.der]), at=NOW)
    assert caught.value.problem == "cms_certificate_not_on_path"


def test_another_certificate_of_the_trusted_ca_may_not_come_with_the_order(scenario: Scenario) -> None:
    renewed = pki.authority(number=100)
    assert renewed.der != scenario.bank.root.der
    signed = scenario.sign(intermediates=[renewed.der, scenario.bank.issuing.der])

    assert verify(signed, trust=TrustStore([scenario.bank.root.der, renewed.der]), at=NOW)
    with pytest.raises(BadSignature) as caught:
        verify(signed, trust=scenario.trust(), at=NOW)
    assert caught.value.problem == "cms_certificate_not_on_path"


def test_a_trusted_ca_need_not_be_self_signed(scenario: Scenario) -> None:
    assert verify(scenario.sign(), trust=TrustStore([scenario.bank.issuing.der]), at=NOW)


def test_a_ca_must_be_one(scenario: Scenario) -> None:
    customer = scenario.bank.root.subordinate("CN=Customer", number=136, ca=False, key_usage=("nonRepudiation",))
    signed = signed_below(scenario, customer)

    assert untrusted(signed, TrustStore([scenario.bank.root.der], [scenario.bank.issuing.der])) == "unknown_ca"
    with pytest.raises(BadSignature):  # including it does not help
        verify(signed_below_with(scenario, customer), trust=scenario.trust(), at=NOW)


def signed_below_with(scenario: Scenario, issuer: pki.Authority) -> bytes:
    from tests.unit.cms import forge

    certificate = pki.der(issuer.issue("CN=A", scenario.private.public_key()))
    made = forge.plain(scenario.private, certificate, P256, scenario.order.canonical)
    return made.but(certificates=sorted([certificate, issuer.der])).der()


def test_a_ca_without_the_use_of_signing_certificates(scenario: Scenario) -> None:
    issuing = scenario.bank.root.subordinate("CN=Issuing", number=137, key_usage=("cRLSign",))

    assert untrusted(signed_below(scenario, issuing, issuing), scenario.trust()) == "path_invalid"


@pytest.mark.parametrize(("path_length", "passes"), [(1, True), (0, False)])
def test_a_trusted_ca_s_path_length_counts_as_with_openssl(
    scenario: Scenario, path_length: int, passes: bool, tmp_path: Path
) -> None:
    root = pki.authority("CN=Root", number=138, path_length=path_length)
    issuing = root.subordinate("CN=Issuing", number=139)
    signed = signed_below(scenario, issuing, issuing)

    assert pki.openssl_accepts(signed, root.pem, tmp_path) is passes
    if passes:
        assert verify(signed, trust=TrustStore([root.der]), at=NOW)
    else:
        assert untrusted(signed, TrustStore([root.der])) == "path_invalid"


@pytest.mark.parametrize(("subject", "passes"), [("CN=A,O=Demo Bank", True), ("CN=A,O=Other Bank", False)])
def test_a_trusted_ca_s_name_constraints_count_as_with_openssl(
    scenario: Scenario, subject: str, passes: bool, tmp_path: Path
) -> None:
    names = x509.NameConstraints([x509.DirectoryName(x509.Name.from_rfc4514_string("O=Demo Bank"))], None)
    root = pki.authority("CN=Root,O=Demo Bank", number=140, extensions=[(names, True)])
    certificate = pki.der(root.issue(subject, scenario.private.public_key()))
    signed = pki.sign_order(scenario.order.canonical, scenario.private, certificate, P256)

    assert pki.openssl_accepts(signed, root.pem, tmp_path) is passes
    if passes:
        assert verify(signed, trust=TrustStore([root.der]), at=NOW)
    else:
        assert untrusted(signed, TrustStore([root.der])) == "path_invalid"


def test_a_certificate_signed_with_sha1_is_refused(scenario: Scenario) -> None:
    weak = pki.signed_with_sha1(scenario.certificate, asn1_x509.Certificate, scenario.bank.issuing.key)
    signed = pki.sign_order(
        scenario.order.canonical, scenario.private, weak, P256, intermediates=[scenario.bank.issuing.der]
    )

    assert untrusted(signed, scenario.trust()) == "weak_algorithm"


def test_a_short_ca_key_is_refused(scenario: Scenario) -> None:
    root = pki.authority("CN=Root", number=141, kind=KeyKind.RSA, bits=1024)

    assert untrusted(signed_below(scenario, root), TrustStore([root.der])) == "weak_algorithm"


@pytest.mark.parametrize("kind", KeyKind)
def test_cas_may_have_keys_of_every_kind(scenario: Scenario, kind: KeyKind) -> None:
    root = pki.authority("CN=Root", number=142, kind=kind)

    assert verify(signed_below(scenario, root), trust=TrustStore([root.der]), at=NOW)


@pytest.mark.parametrize("critical", [True, False])
def test_a_private_extended_key_usage_is_fine(scenario: Scenario, critical: bool, tmp_path: Path) -> None:
    signed = scenario.with_certificate(extensions=[(PRIVATE_USE, critical)]).sign()

    assert verify(signed, trust=scenario.trust(), at=NOW)
    assert pki.openssl_accepts(signed, scenario.bank.root.pem, tmp_path)


@pytest.mark.parametrize("use", [ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.CLIENT_AUTH])
def test_other_extended_key_usages_are_fine(scenario: Scenario, use: x509.ObjectIdentifier) -> None:
    signed = scenario.with_certificate(extensions=[(x509.ExtendedKeyUsage([use]), False)]).sign()

    assert verify(signed, trust=scenario.trust(), at=NOW)


def test_a_critical_extension_nobody_knows_is_refused(scenario: Scenario) -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.8"), b"\x05\x00")

    assert verify(scenario.with_certificate(extensions=[(unknown, False)]).sign(), trust=scenario.trust(), at=NOW)
    assert untrusted(scenario.with_certificate(extensions=[(unknown, True)]).sign(), scenario.trust()) == "path_invalid"


@pytest.mark.parametrize(
    "extension",
    [
        x509.SubjectKeyIdentifier(bytes(20)),
        x509.AuthorityKeyIdentifier(None, None, None),
        x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.OCSP, URL)]),
        x509.FreshestCRL([x509.DistributionPoint([URL], None, None, None)]),
        x509.OCSPNoCheck(),
    ],
    ids=lambda extension: type(extension).__name__,
)
def test_what_must_never_be_critical_is_refused_if_it_is(
    scenario: Scenario, extension: x509.ExtensionType, tmp_path: Path
) -> None:
    fine = scenario.with_certificate(extensions=[(extension, False)]).sign()

    assert verify(fine, trust=scenario.trust(), at=NOW)
    assert pki.openssl_accepts(fine, scenario.bank.root.pem, tmp_path)
    assert (
        untrusted(scenario.with_certificate(extensions=[(extension, True)]).sign(), scenario.trust()) == "path_invalid"
    )


def test_nothing_is_fetched(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    points = x509.CRLDistributionPoints([x509.DistributionPoint([URL], None, None, None)])
    access = x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, URL),
            x509.AccessDescription(AuthorityInformationAccessOID.OCSP, URL),
        ]
    )
    told_where = scenario.with_certificate(extensions=[(points, False), (access, False)])
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("opened a socket"))

    assert verify(told_where.sign(), trust=scenario.trust(), at=NOW)
    assert untrusted(told_where.sign(intermediates=[]), scenario.trust()) == "unknown_ca"


def test_a_self_signed_signer_is_trusted_if_it_is_a_trusted_ca_itself(scenario: Scenario, tmp_path: Path) -> None:
    both = pki.authority("CN=A", number=143, key_usage=None)
    signed = pki.sign_order(scenario.order.canonical, both.key, both.der, P256)

    assert pki.openssl_accepts(signed, both.pem, tmp_path)
    assert verify(signed, trust=TrustStore([both.der]), at=NOW).signer.subject == "CN=A"
    assert untrusted(signed, scenario.trust()) == "unknown_ca"


def test_a_trusted_signer_has_its_time_too(scenario: Scenario) -> None:
    both = pki.authority("CN=A", number=143, key_usage=None)
    signed = pki.sign_order(scenario.order.canonical, both.key, both.der, P256)

    assert untrusted(signed, TrustStore([both.der]), NOW + 4001 * DAY) == "expired"


def test_another_certificate_with_a_trusted_ca_s_name_and_key_is_not_that_ca(scenario: Scenario) -> None:
    """Anyone can create one."""
    trusted = pki.authority("CN=A", number=144, key_usage=("keyCertSign",))
    imitation = pki.authority("CN=A", number=144, key_usage=("nonRepudiation",), ca=False)
    signed = pki.sign_order(scenario.order.canonical, imitation.key, imitation.der, P256)

    assert untrusted(signed, TrustStore([trusted.der])) == "path_invalid"


def test_a_point_that_is_not_on_its_curve_is_a_bad_signature(scenario: Scenario) -> None:
    issued = bytearray(scenario.certificate)
    point = scenario.private.public_key()
    assert isinstance(point, ec.EllipticCurvePublicKey)
    at = bytes(issued).index(point.public_numbers().y.to_bytes(32, "big"))
    issued[at + 31] ^= 1
    signed = pki.sign_order(scenario.order.canonical, scenario.private, bytes(issued), P256)

    with pytest.raises(BadSignature) as caught:
        verify(signed, trust=scenario.trust(), at=NOW)
    assert caught.value.problem == "cms_signature_wrong"


def test_a_name_that_cannot_be_written_down_is_not_trusted(scenario: Scenario) -> None:
    plain = scenario.with_certificate(subject="CN=Alice").certificate
    right = pki.signed_again(plain, b"\x0c\x05Alice", b"\x0c\x05Alicf", scenario.bank.issuing.key)
    strange = pki.signed_again(plain, b"\x0c\x05Alice", b"\x0c\x05Alic\xff", scenario.bank.issuing.key)

    for certificate, passes in ((right, True), (strange, False)):
        signed = pki.sign_order(
            scenario.order.canonical, scenario.private, certificate, P256, intermediates=[scenario.bank.issuing.der]
        )
        if passes:
            assert verify(signed, trust=scenario.trust(), at=NOW).signer.subject == "CN=Alicf"
        else:
            assert untrusted(signed, scenario.trust()) == "name_encoding"


def test_p384_customers_below_a_p256_bank_are_fine(scenario: Scenario) -> None:
    someone = scenario.bank.customer(KeyKind.EC_P384)
    signed = pki.sign_order(
        scenario.order.canonical, someone.private, someone.certificate, P384, intermediates=[scenario.bank.issuing.der]
    )

    assert verify(signed, trust=scenario.trust(), at=NOW)
