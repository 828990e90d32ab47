"""Signed orders as written, parsed by this project, asn1crypto and openssl."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path

import pytest
from asn1crypto import cms as asn1_cms
from asn1crypto import core, parser, tsp
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.unit.cms import pki
from tests.unit.cms.conftest import Openssl
from tests.unit.cms.people import CONTENT, P256, P384, RSA, Bank, chain
from ushield_hw import messages
from ushield_hw.cms import CONFIRMATION_OID, MOST_OCTETS, CertificateFacts, Confirmation, Profile, Template, parse
from ushield_hw.crypto.algorithms import CURVES, KeyKind, Suite
from ushield_hw.crypto.der import tlv
from ushield_hw.errors import BadSignature, CertificateError, InputError


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("extra", [[], ["-cades"]], ids=["", "with -cades"])
def test_openssl_accepts_it(bank: Bank, suite: Suite, profile: Profile, extra: list[str], openssl: Openssl) -> None:
    someone = bank.customer(suite.key)
    signed = pki.sign_order(CONTENT, someone.private, someone.certificate, suite, profile=profile)

    assert openssl(signed, *extra)


def test_openssl_needs_the_root_alone_when_the_issuing_ca_is_inside(bank: Bank, tmp_path: Path) -> None:
    someone = bank.customer()
    without = pki.sign_order(CONTENT, someone.private, someone.certificate, P256)
    inside = pki.sign_order(CONTENT, someone.private, someone.certificate, P256, intermediates=[bank.issuing.der])

    assert not pki.openssl_accepts(without, bank.root.pem, tmp_path)
    assert pki.openssl_accepts(inside, bank.root.pem, tmp_path)


@pytest.mark.parametrize("confirmation", Confirmation)
def test_reads_back_what_was_signed(bank: Bank, suite: Suite, confirmation: Confirmation) -> None:
    someone = bank.customer(suite.key)
    template = Template(someone.certificate, suite, Profile.CADES, confirmation, [bank.issuing.der])
    draft = template.draft(CONTENT, pki.NOW)
    message = draft.message

    parts = parse(draft.assemble(pki.token_sign(someone.private, suite, message)))

    assert (parts.content, parts.signed_bytes, parts.suite) == (CONTENT, message, suite)
    assert (parts.profile, parts.confirmation) == (Profile.CADES, confirmation)
    assert (parts.certificate, parts.intermediates) == (someone.certificate, (bank.issuing.der,))
    assert parts.signer == template.signer == CertificateFacts.read(someone.certificate)


def test_a_plain_one_is_signed_over_the_content_itself(bank: Bank, suite: Suite) -> None:
    someone = bank.customer(suite.key)
    template = Template(someone.certificate, suite, Profile.PLAIN, None)
    draft = template.draft(CONTENT, pki.NOW)
    assert draft.message == CONTENT

    parts = parse(draft.assemble(pki.token_sign(someone.private, suite, CONTENT)))

    assert (parts.content, parts.signed_bytes) == (CONTENT, CONTENT)
    assert (parts.profile, parts.confirmation) == (Profile.PLAIN, None)
    assert parts.signing_time is None


def test_asn1crypto_reads_the_same_container(bank: Bank, suite: Suite) -> None:
    someone = bank.customer(suite.key)
    signed = pki.sign_order(CONTENT, someone.private, someone.certificate, suite, intermediates=[bank.issuing.der])

    info = asn1_cms.ContentInfo.load(signed, strict=True)
    data = info["content"]
    (signer,) = data["signer_infos"]
    facts = CertificateFacts.read(someone.certificate)

    assert (info["content_type"].native, data["version"].native, signer["version"].native) == (
        "signed_data",
        "v1",
        "v1",
    )
    assert (data["encap_content_info"]["content_type"].native, data["encap_content_info"]["content"].native) == (
        "data",
        CONTENT,
    )
    assert [one.chosen.dump() for one in data["certificates"]] == sorted([someone.certificate, bank.issuing.der])
    assert isinstance(data["crls"], core.Void)
    assert isinstance(signer["unsigned_attrs"], core.Void)
    assert signer["sid"].name == "issuer_and_serial_number"
    assert signer["sid"].chosen["serial_number"].native == facts.serial
    assert signer["digest_algorithm"]["algorithm"].native == suite.digest
    assert [one["algorithm"].native for one in data["digest_algorithms"]] == [suite.digest]
    assert signer["signature_algorithm"].hash_algo == suite.digest
    assert signer["signature"].native == parse(signed).signature
    assert info.dump(force=True) == signed


def test_asn1crypto_reads_the_same_attributes(bank: Bank, suite: Suite) -> None:
    someone = bank.customer(suite.key)
    signed = pki.sign_order(CONTENT, someone.private, someone.certificate, suite, confirmation=Confirmation.PINPAD)

    (signer,) = asn1_cms.ContentInfo.load(signed)["content"]["signer_infos"]
    encoded = [one.dump() for one in signer["signed_attrs"]]
    values = {one["type"].dotted: one["values"] for one in signer["signed_attrs"]}

    assert encoded == sorted(encoded)
    assert list(map(len, values.values())) == [1, 1, 1, 1, 1]
    assert values["1.2.840.113549.1.9.3"][0].native == "data"
    assert values["1.2.840.113549.1.9.4"][0].native == suite.hash(CONTENT)
    assert values["1.2.840.113549.1.9.5"][0].native == pki.NOW
    assert values[CONFIRMATION_OID][0].dump() == core.UTF8String("pinpad").dump()
    stated = tsp.SigningCertificateV2.load(values["1.2.840.113549.1.9.16.2.47"][0].dump())
    (named,) = stated["certs"]
    assert named["hash_algorithm"]["algorithm"].native == "sha256"
    assert named["cert_hash"].native == sha256(someone.certificate).digest()
    assert isinstance(named["issuer_serial"], core.Void)


@pytest.mark.parametrize(("kind", "curve"), [(KeyKind.EC_P256, ec.SECP256R1()), (KeyKind.EC_P384, ec.SECP384R1())])
def test_the_curves_orders_are_right(kind: KeyKind, curve: ec.EllipticCurve) -> None:
    order = CURVES[kind].order

    assert ec.derive_private_key(order - 1, curve)
    with pytest.raises(ValueError):
        ec.derive_private_key(order, curve)


@pytest.mark.parametrize("suite", [P256, P384], ids=["p256", "p384"])
def test_ecdsa_numbers_out_of_range_are_refused(bank: Bank, suite: Suite) -> None:
    order, half = CURVES[suite.key].order, int(suite.name[7:10]) // 8
    template = Template(bank.customer(suite.key).certificate, suite, Profile.PLAIN, None)

    def assemble(r: int, s: int) -> bytes:
        return template.draft(CONTENT, pki.NOW).assemble(r.to_bytes(half, "big") + s.to_bytes(half, "big"))

    assert decode_dss_signature(parse(assemble(1, order - 1)).signature) == (1, order - 1)
    for r, s in [(0, 1), (1, 0), (order, 1), (1, order)]:
        with pytest.raises(BadSignature) as caught:
            assemble(r, s)
        assert caught.value.problem == "cms_signature_form"


@pytest.mark.parametrize("suite", [P256, RSA], ids=["ecdsa", "rsa"])
@pytest.mark.parametrize("change", [-1, 1])
def test_signatures_of_another_length_are_refused(bank: Bank, suite: Suite, change: int) -> None:
    template = Template(bank.customer(suite.key).certificate, suite, Profile.PLAIN, None)
    right = 64 if suite is P256 else 256
    assert template.draft(CONTENT, pki.NOW).assemble(b"\x01" * right)

    with pytest.raises(BadSignature) as caught:
        template.draft(CONTENT, pki.NOW).assemble(b"\x01" * (right + change))
    assert caught.value.problem == "cms_signature_form"


def test_a_suite_for_another_key_is_refused(bank: Bank) -> None:
    with pytest.raises(CertificateError) as caught:
        Template(bank.customer(KeyKind.EC_P384).certificate, P256, Profile.PLAIN, None)
    assert (caught.value.code, caught.value.problem) == ("CERTIFICATE_UNSUITABLE", "cms_key_kind")


def test_a_short_rsa_key_is_refused(bank: Bank) -> None:
    short = bank.customer(KeyKind.RSA, bits=1024)

    with pytest.raises(CertificateError) as caught:
        Template(short.certificate, RSA, Profile.PLAIN, None)
    assert caught.value.problem == "cms_key_too_short"
    assert messages.known(f"problem.{caught.value.problem}")


def test_intermediates_that_lead_elsewhere_are_refused(bank: Bank) -> None:
    someone, stranger = bank.customer(), pki.authority("CN=Other", number=103)

    with pytest.raises(CertificateError) as caught:
        Template(someone.certificate, P256, Profile.PLAIN, None, [bank.issuing.der, stranger.der])
    assert caught.value.problem == "cms_certificate_not_on_path"


def test_more_intermediates_than_a_reader_takes_are_refused(bank: Bank) -> None:
    authorities = list(chain(bank, 5))
    certificate = pki.der(authorities[-1].issue("CN=A", pki.key().public_key()))

    assert Template(certificate, P256, Profile.PLAIN, None, [one.der for one in authorities[1:]])
    with pytest.raises(CertificateError) as caught:
        Template(certificate, P256, Profile.PLAIN, None, [one.der for one in authorities])
    assert caught.value.problem == "cms_certificate_not_on_path"


def test_a_certificate_that_is_none_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        Template(b"no certificate", P256, Profile.PLAIN, None)
    assert caught.value.code == "CERTIFICATE_MALFORMED"


@pytest.mark.parametrize(("profile", "stated"), [(Profile.CADES, None), (Profile.PLAIN, Confirmation.BUTTON)])
def test_profile_and_confirmation_go_together(bank: Bank, profile: Profile, stated: Confirmation | None) -> None:
    with pytest.raises(ValueError, match="confirmation"):
        Template(bank.customer().certificate, P256, profile, stated)


def test_what_is_written_is_never_too_large_to_read(bank: Bank) -> None:
    someone = bank.customer()
    template = Template(someone.certificate, P256, Profile.CADES, Confirmation.HOST, [bank.issuing.der])
    most = MOST_OCTETS - (1 << 16)

    signed = template.draft(bytes(most), pki.NOW).assemble(b"\x01" * 64)

    assert parse(signed).content == bytes(most)
    with pytest.raises(InputError) as caught:
        template.draft(bytes(most + 1), pki.NOW)
    assert caught.value.code == "SIGNED_ORDER_TOO_LARGE"


def test_one_template_serves_many_threads(bank: Bank) -> None:
    someone = bank.customer()
    template = Template(someone.certificate, P256, Profile.CADES, Confirmation.TOUCH, [bank.issuing.der])

    def round_trip(number: int) -> bool:
        content = b"%d" % number * 50
        draft = template.draft(content, pki.NOW + timedelta(seconds=number))
        parts = parse(draft.assemble(b"\x01" * 64))
        return (parts.content, parts.signed_bytes, parts.signing_time) == (
            content,
            draft.message,
            pki.NOW + timedelta(seconds=number),
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(round_trip, range(400)))


def test_signing_and_reading_import_no_slow_library(bank: Bank) -> None:
    program = """
import sys
from datetime import UTC, datetime
from ushield_hw.cms import Confirmation, Profile, Template, parse
from ushield_hw.crypto.algorithms import SUITES
template = Template(bytes.fromhex(sys.argv[1]), SUITES[0], Profile.CADES, Confirmation.HOST)
draft = template.draft(b"content", datetime.now(UTC))
assert parse(draft.assemble(b"\\x01" * 64)).content == b"content"
slow = {"cryptography", "asn1crypto"}
print(sorted({name.partition(".")[0] for name in sys.modules} & slow))
"""
    run = [sys.executable, "-c", program, bank.customer().certificate.hex()]

    assert subprocess.run(run, capture_output=True, check=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("moment", "tag", "written"),
    [
        (datetime(1950, 1, 1, tzinfo=UTC), 0x17, b"500101000000Z"),
        (datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC), 0x17, b"991231235959Z"),
        (datetime(2026, 11, 24, 10, 0, 0, 999999, tzinfo=timezone(timedelta(hours=8))), 0x17, b"261124020000Z"),
        (datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), 0x17, b"491231235959Z"),
        (datetime(2050, 1, 1, tzinfo=UTC), 0x18, b"20500101000000Z"),
        (datetime(1949, 12, 31, 23, 59, 59, tzinfo=UTC), 0x18, b"19491231235959Z"),
    ],
)
def test_the_signing_time_has_the_form_that_its_year_asks_for(
    bank: Bank, moment: datetime, tag: int, written: bytes, openssl: Openssl
) -> None:
    """RFC 5652 section 11.3; whole seconds, UTC."""
    someone = bank.customer()
    signed = pki.sign_order(CONTENT, someone.private, someone.certificate, P256, signing_time=moment)

    assert parse(signed).signing_time == moment.replace(microsecond=0)
    assert signed.count(tlv(tag, written)) == 1
    assert openssl(signed, "-cades")


def test_every_arc_of_every_name_in_a_signed_order_fits_31_bits(bank: Bank, suite: Suite) -> None:
    """Go limits an arc to 31 bits and GnuTLS to 32; both reject a whole file with a longer one."""
    someone = bank.customer(suite.key)
    signed = pki.sign_order(CONTENT, someone.private, someone.certificate, suite, intermediates=[bank.issuing.der])

    names = object_identifiers(signed)

    assert CONFIRMATION_OID in names
    assert [name for name in names if any(int(arc) >= 1 << 31 for arc in name.split("."))] == []


def object_identifiers(der: bytes) -> set[str]:
    """Return every object identifier in constructed elements, however deep."""
    found, left = set(), [der]
    while left:
        data = left.pop()
        while data:
            (class_, method, tag, header, content, _), size = peeked(data)
            if method == 1:
                left.append(content)
            elif (class_, tag) == (0, 6):
                found.add(core.ObjectIdentifier.load(header + content).dotted)
            data = data[size:]
    return found


def peeked(data: bytes) -> tuple[tuple[int, int, int, bytes, bytes, bytes], int]:
    return parser.parse(data), parser.peek(data)
