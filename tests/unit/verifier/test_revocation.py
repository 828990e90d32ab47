"""Revoked certificates, and CRLs that prove nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypedDict

import pytest
from asn1crypto import crl as asn1_crl
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.cms import pki
from tests.unit.cms.people import P256
from tests.unit.verifier.conftest import DAY, NOW, Scenario, make_scene
from tests.unit.verifier.test_verify import told
from ushield_hw.cms import CertificateFacts
from ushield_hw.errors import InputError, Revoked, VerificationError
from ushield_hw.verifier import Revocation, TrustStore, verify

SECOND = timedelta(seconds=1)


class Dates(TypedDict):
    this_update: datetime
    next_update: datetime


def serial_of(scenario: Scenario) -> int:
    return CertificateFacts.read(scenario.certificate).serial


def good(scenario: Scenario, crls: Sequence[bytes], at: object = NOW) -> None:
    verified = verify(scenario.sign(), trust=scenario.trust(*crls), at=at)  # type: ignore[arg-type]
    assert verified.revocation is Revocation.GOOD


def revoked(scenario: Scenario, crls: Sequence[bytes], at: object = NOW) -> Revoked:
    with pytest.raises(Revoked) as caught:
        verify(scenario.sign(), trust=scenario.trust(*crls), at=at)  # type: ignore[arg-type]
    told(caught.value)
    return caught.value


def unknown(scenario: Scenario, crls: Sequence[bytes], at: object = NOW) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(scenario.sign(), trust=scenario.trust(*crls), at=at)  # type: ignore[arg-type]
    assert (type(caught.value), caught.value.code) == (VerificationError, "REVOCATION_UNKNOWN")
    told(caught.value)
    return str(caught.value.problem)


def openssl(scenario: Scenario, crls: Sequence[bytes], folder: Path) -> bool:
    lists = b"".join(x509.load_der_x509_crl(one).public_bytes(Encoding.PEM) for one in crls)
    return pki.openssl_accepts(scenario.sign(), scenario.bank.root.pem + lists, folder, options=["-crl_check_all"])


def scope(**only: object) -> tuple[x509.ExtensionType, bool]:
    fields = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
        **only,
    }
    return x509.IssuingDistributionPoint(**fields), True  # type: ignore[arg-type]


def test_every_certificate_on_record_is_good_as_with_openssl(scenario: Scenario, tmp_path: Path) -> None:
    crls = [scenario.bank.root.crl(), scenario.bank.issuing.crl({12345: NOW - DAY})]

    good(scenario, crls)
    assert openssl(scenario, crls, tmp_path)


def test_without_crls_nothing_is_checked(scenario: Scenario) -> None:
    assert verify(scenario.sign(), trust=scenario.trust(), at=NOW).revocation is Revocation.NOT_CHECKED


@pytest.mark.parametrize(
    ("reason", "told_reason"), [(x509.ReasonFlags.key_compromise, "keyCompromise"), (None, "unspecified")]
)
def test_a_revoked_signer_is_told_with_time_and_reason(
    scenario: Scenario, reason: x509.ReasonFlags | None, told_reason: str, tmp_path: Path
) -> None:
    when = NOW - 2 * DAY
    crls = [scenario.bank.root.crl(), scenario.bank.issuing.crl({serial_of(scenario): when}, reason=reason)]

    error = revoked(scenario, crls)

    assert (error.at, error.reason, error.problem) == ("2026-11-22T02:01:00Z", told_reason, "revoked_signer")
    assert error.serial == f"{serial_of(scenario):x}"
    assert not openssl(scenario, crls, tmp_path)


def test_a_revoked_ca_is_told(scenario: Scenario, tmp_path: Path) -> None:
    issuing = scenario.bank.issuing
    crls = [scenario.bank.root.crl({issuing.certificate.serial_number: NOW - DAY}), issuing.crl()]

    assert revoked(scenario, crls).problem == "revoked_ca"
    assert not openssl(scenario, crls, tmp_path)


@pytest.mark.parametrize("reason", [x509.ReasonFlags.certificate_hold, x509.ReasonFlags.superseded])
def test_every_reason_counts(scenario: Scenario, reason: x509.ReasonFlags) -> None:
    crls = [scenario.bank.root.crl(), scenario.bank.issuing.crl({serial_of(scenario): NOW - DAY}, reason=reason)]

    assert revoked(scenario, crls).reason == reason.value


@pytest.mark.parametrize(("at", "is_revoked"), [(NOW - SECOND, False), (NOW, True), (NOW + SECOND, True)])
def test_a_certificate_is_good_up_to_the_moment_it_is_revoked(scenario: Scenario, at: object, is_revoked: bool) -> None:
    crls = [scenario.bank.root.crl(), scenario.bank.issuing.crl({serial_of(scenario): NOW})]

    if is_revoked:
        revoked(scenario, crls, at)
    else:
        good(scenario, crls, at)


def test_a_crl_may_be_younger_than_the_moment(scenario: Scenario) -> None:
    at, later = NOW - 40 * DAY, Dates(this_update=NOW - 10 * DAY, next_update=NOW - 9 * DAY)
    root = scenario.bank.root.crl(**later)

    good(scenario, [root, scenario.bank.issuing.crl(**later)], at)
    good(scenario, [root, scenario.bank.issuing.crl({serial_of(scenario): at + 5 * DAY}, **later)], at)
    revoked(scenario, [root, scenario.bank.issuing.crl({serial_of(scenario): at - 5 * DAY}, **later)], at)


@pytest.mark.parametrize("on_it", [False, True])
def test_a_crl_from_the_future_proves_nothing_as_with_openssl(scenario: Scenario, on_it: bool, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    later = Dates(this_update=now + timedelta(hours=1), next_update=now + DAY)
    listed = {serial_of(scenario): NOW - 5 * DAY} if on_it else {}
    crls = [scenario.bank.root.crl(next_update=now + DAY), scenario.bank.issuing.crl(listed, **later)]

    assert unknown(scenario, crls, None) == "revocation_future"
    assert not openssl(scenario, crls, tmp_path)
    good(scenario, [*crls, scenario.bank.issuing.crl(next_update=now + DAY)], None)


def test_a_crl_for_each_issuer_is_needed_as_with_openssl(scenario: Scenario, tmp_path: Path) -> None:
    for crls in ([scenario.bank.root.crl()], [scenario.bank.issuing.crl()]):
        assert unknown(scenario, crls) == "revocation_no_crl"
        assert not openssl(scenario, crls, tmp_path)


@pytest.mark.parametrize("which", ["root", "issuing"])
def test_a_stale_crl_proves_nothing(scenario: Scenario, which: str, tmp_path: Path) -> None:
    stale: Dates = {"this_update": NOW - 3 * DAY, "next_update": NOW - SECOND}
    crls = [
        scenario.bank.root.crl(**stale) if which == "root" else scenario.bank.root.crl(),
        scenario.bank.issuing.crl(**stale) if which == "issuing" else scenario.bank.issuing.crl(),
    ]

    assert unknown(scenario, crls) == "revocation_stale"
    assert not openssl(scenario, crls, tmp_path)


def test_a_crl_holds_up_to_its_next_update(scenario: Scenario) -> None:
    until_now: Dates = {"this_update": NOW - DAY, "next_update": NOW}

    good(scenario, [scenario.bank.root.crl(**until_now), scenario.bank.issuing.crl(**until_now)])


def test_a_revocation_on_a_stale_crl_is_not_enough_for_a_verdict(scenario: Scenario) -> None:
    stale = scenario.bank.issuing.crl(
        {serial_of(scenario): NOW - 4 * DAY}, this_update=NOW - 3 * DAY, next_update=NOW - 2 * DAY
    )

    assert unknown(scenario, [scenario.bank.root.crl(), stale]) == "revocation_stale"


@pytest.mark.parametrize("youngest_first", [True, False])
def test_the_youngest_crl_counts(scenario: Scenario, youngest_first: bool) -> None:
    """A hold that was released, and a revocation not yet listed in an old CRL."""
    on_it = {serial_of(scenario): NOW - 2 * DAY}
    old: Dates = {"this_update": NOW - 2 * DAY, "next_update": NOW + DAY}
    lifted = [
        scenario.bank.issuing.crl(on_it, reason=x509.ReasonFlags.certificate_hold, **old),
        scenario.bank.issuing.crl(),
    ]
    fresh = [scenario.bank.issuing.crl(**old), scenario.bank.issuing.crl(on_it)]

    def ordered(crls: list[bytes]) -> list[bytes]:
        return [scenario.bank.root.crl(), *(crls[::-1] if youngest_first else crls)]

    good(scenario, ordered(lifted))
    revoked(scenario, ordered(fresh))


def test_a_crl_from_after_the_certificate_s_end_proves_nothing(scenario: Scenario) -> None:
    """Revoked certificates may be removed from CRLs after their expiry."""
    short = scenario.with_certificate(not_after=NOW + 2 * DAY)
    root = scenario.bank.root.crl(next_update=NOW + 30 * DAY)
    late: Dates = {"this_update": NOW + 3 * DAY, "next_update": NOW + 30 * DAY}

    assert unknown(short, [root, scenario.bank.issuing.crl(**late)]) == "revocation_unusable"
    revoked(short, [root, scenario.bank.issuing.crl({serial_of(short): NOW - DAY}, **late)])
    good(short, [root, scenario.bank.issuing.crl(this_update=NOW + 2 * DAY, next_update=NOW + 30 * DAY)])


def test_a_crl_somebody_else_signed_proves_nothing(scenario: Scenario, tmp_path: Path) -> None:
    imitation = pki.authority("CN=Demo Issuing CA,O=Demo Bank", number=150)
    crls = [scenario.bank.root.crl(), imitation.crl()]

    assert unknown(scenario, crls) == "revocation_unusable"
    assert not openssl(scenario, crls, tmp_path)


def test_a_sister_ca_s_crl_proves_nothing(scenario: Scenario) -> None:
    sister = scenario.bank.root.subordinate("CN=Sister CA,O=Demo Bank", number=151)
    crls = [sister.crl(), scenario.bank.issuing.crl()]
    trust = TrustStore([scenario.bank.root.der], [sister.der], crls)

    with pytest.raises(VerificationError) as caught:
        verify(scenario.sign(), trust=trust, at=NOW)
    assert caught.value.problem == "revocation_no_crl"


def test_a_crl_signed_with_sha1_proves_nothing(scenario: Scenario) -> None:
    weak = pki.signed_with_sha1(scenario.bank.issuing.crl(), asn1_crl.CertificateList, scenario.bank.issuing.key)

    assert unknown(scenario, [scenario.bank.root.crl(), weak]) == "revocation_unusable"


def test_a_ca_must_be_allowed_to_sign_crls(scenario: Scenario) -> None:
    issuing = scenario.bank.root.subordinate("CN=Issuing", number=152, key_usage=("keyCertSign",))
    certificate = pki.der(issuing.issue("CN=A", scenario.private.public_key()))
    signed = pki.sign_order(scenario.order.canonical, scenario.private, certificate, P256, intermediates=[issuing.der])

    with pytest.raises(VerificationError) as caught:
        verify(signed, trust=scenario.trust(scenario.bank.root.crl(), issuing.crl()), at=NOW)
    assert caught.value.problem == "revocation_unusable"


REASON = x509.ReasonFlags.key_compromise
PART = x509.RelativeDistinguishedName([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Part 1")])
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.9"), b"\x05\x00")


@pytest.mark.parametrize(
    ("extension", "counts"),
    [
        ((x509.CRLNumber(7), False), True),
        ((UNKNOWN, False), True),
        ((UNKNOWN, True), False),
        ((x509.DeltaCRLIndicator(6), True), False),
        ((x509.DeltaCRLIndicator(6), False), False),
        (scope(only_contains_user_certs=True), True),
        (scope(only_contains_ca_certs=True), False),
        (scope(only_contains_attribute_certs=True), False),
        (scope(indirect_crl=True), False),
        (scope(relative_name=PART), False),
    ],
)
def test_only_full_crls_count(scenario: Scenario, extension: tuple[x509.ExtensionType, bool], counts: bool) -> None:
    crls = [scenario.bank.root.crl(), scenario.bank.issuing.crl(extensions=[extension])]

    if counts:
        good(scenario, crls)
    else:
        assert unknown(scenario, crls) == "revocation_unusable"


@pytest.mark.parametrize(("only", "counts"), [("only_contains_ca_certs", True), ("only_contains_user_certs", False)])
def test_a_crl_for_cas_counts_for_cas(scenario: Scenario, only: str, counts: bool) -> None:
    crls = [scenario.bank.root.crl(extensions=[scope(**{only: True})]), scenario.bank.issuing.crl()]

    if counts:
        good(scenario, crls)
    else:
        assert unknown(scenario, crls) == "revocation_unusable"


def test_of_a_crl_in_parts_the_certificate_s_own_part_counts(scenario: Scenario) -> None:
    one, two = ([x509.UniformResourceIdentifier(f"http://bank.example/{n}.crl")] for n in (1, 2))
    points = x509.CRLDistributionPoints(
        [x509.DistributionPoint(None, PART, None, None), x509.DistributionPoint(one, None, None, None)]
    )
    pointed = scenario.with_certificate(extensions=[(points, False)])
    first = scenario.bank.issuing.crl(extensions=[scope(full_name=one)])
    second = scenario.bank.issuing.crl(extensions=[scope(full_name=two)])

    good(pointed, [scenario.bank.root.crl(), first, second])
    assert unknown(pointed, [scenario.bank.root.crl(), second]) == "revocation_unusable"
    assert unknown(scenario, [scenario.bank.root.crl(), first]) == "revocation_unusable"


def test_a_trusted_signer_needs_a_crl_too(scenario: Scenario) -> None:
    both = pki.authority("CN=A", number=153, key_usage=None)
    signed = pki.sign_order(scenario.order.canonical, both.key, both.der, P256)

    assert verify(signed, trust=TrustStore([both.der], crls=[both.crl()]), at=NOW)
    with pytest.raises(VerificationError):
        verify(signed, trust=TrustStore([both.der], crls=[scenario.bank.root.crl()]), at=NOW)


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"no CRL"])
def test_what_is_no_crl_is_refused_at_once(scenario: Scenario, data: bytes) -> None:
    with pytest.raises(InputError) as caught:
        scenario.trust(scenario.bank.root.crl(), data)
    assert (caught.value.code, caught.value.file) == ("CRL_FILE_INVALID", "crls[1]")
    told(caught.value)


def test_a_crl_without_next_update_proves_nothing(scenario: Scenario) -> None:
    endless = asn1_crl.CertificateList.load(scenario.bank.issuing.crl())
    inside = endless["tbs_cert_list"]
    del inside["next_update"]
    key = scenario.bank.issuing.key
    endless["signature"] = pki.sign_der(key, inside.dump(force=True))

    assert unknown(scenario, [scenario.bank.root.crl(), endless.dump(force=True)]) == "revocation_unusable"


def test_a_crl_with_an_extension_twice_is_refused(scenario: Scenario) -> None:
    twice = asn1_crl.CertificateList.load(scenario.bank.issuing.crl(extensions=[(x509.CRLNumber(7), False)]))
    listed = twice["tbs_cert_list"]["crl_extensions"]
    listed.append(listed[0].copy())

    with pytest.raises(InputError) as caught:
        scenario.trust(twice.dump(force=True))
    assert caught.value.code == "CRL_FILE_INVALID"


FIXED = make_scene()
SIGNED = FIXED.sign()
LISTS = FIXED.bank.root.crl(), FIXED.bank.issuing.crl({1: NOW - DAY, serial_of(FIXED): NOW + DAY}, reason=REASON)


@given(at=st.floats(0, 0.999), octet=st.integers(0, 255))
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_damaged_crl_is_refused_or_proves_nothing(at: float, octet: int) -> None:
    root, issuing = LISTS
    place = int(at * len(issuing))
    damaged = issuing[:place] + bytes((octet,)) + issuing[place + 1 :]
    try:
        verify(SIGNED, trust=FIXED.trust(root, damaged), at=NOW)
    except (InputError, VerificationError) as error:
        assert error.code in {"CRL_FILE_INVALID", "REVOCATION_UNKNOWN"}
        assert damaged != issuing
    else:
        assert damaged == issuing
