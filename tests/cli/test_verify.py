"""``ushield verify``: valid (0), invalid (10), or could not be checked (11)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import DEMO, Signed
from tests.cli.world import Bank, Home, run_openssl
from tests.unit.cms import forge, pki
from tests.unit.cms.people import P256
from tests.unit.order.samples import payment


@pytest.fixture
def desk(tmp_path: Path) -> Home:
    """The verifying bank: no token, no SoftHSM2 configuration."""
    return Home(tmp_path)


def altered(signed: Signed, desk: Home, old: bytes, new: bytes) -> str:
    content = signed.path.read_bytes()
    assert old in content
    return desk.write("altered.p7m", content.replace(old, new))


def test_the_document(desk: Home, signed: Signed, bank: Bank) -> None:
    verified = desk.json("verify", signed.path, "--ca", bank.ca)
    serial = run_openssl("x509", "-noout", "-serial", folder=signed.home.folder, stdin=exported(signed))
    claimed = datetime.fromisoformat(verified.pop("claimed_signing_time"))
    assert abs(datetime.now(UTC) - claimed) < timedelta(hours=1)
    assert verified == {
        "verified": True,
        "order": signed.home.document(signed.order),
        "signer": {"subject": DEMO, "serial": serial.strip().removeprefix("serial=").lower().lstrip("0")},
        "profile": "cades",
        "confirmation": "none",
        "revocation": "not_checked",
    }


def exported(signed: Signed) -> str:
    return signed.home.ushield("cert", "export", "--token", signed.home.token.uri).out


def test_for_a_person(desk: Home, signed: Signed, bank: Bank) -> None:
    out = desk.ushield("verify", signed.path, "--ca", bank.ca).out
    for must in (DEMO, "1202021409900012345", "not compared", "not checked", "Signed unattended", "not verified"):
        assert must in out


def test_the_first_line_says_whether_revocation_was_checked(desk: Home, signed: Signed, bank: Bank) -> None:
    words = ("verify", signed.path, "--ca", bank.ca)
    crl = ("--crl", bank.crl(desk.file("bank.crl")))
    for lang, must in (("en", "revocation not checked"), ("zh", "未检查吊销状态")):
        assert must in desk.ushield("--lang", lang, *words).out.splitlines()[0]
        assert must not in desk.ushield("--lang", lang, *words, *crl).out.splitlines()[0]
    assert desk.json(*words, *crl)["revocation"] == "good"


def test_a_signer_whose_certificate_does_not_state_its_purpose(desk: Home) -> None:
    """Version 1 has no key usage: refused. Version 3 without a key usage: a warning."""
    root, private = pki.authority(), pki.key()
    issued = pki.der(root.issue("CN=A", private.public_key(), key_usage=None))
    assert issued.count(b"\xa0\x03\x02\x01\x02") == 1
    ca, at = desk.write("ca.pem", root.pem), "2026-11-24T02:01:00Z"
    for number, certificate in enumerate((issued, pki.of_version_1(issued, root.key))):
        signed = desk.write(f"{number}.p7m", forge.cades(private, certificate, P256, payment().canonical).der())
        words = ("verify", signed, "--ca", ca, "--at", at)
        if certificate is issued:
            assert "no key usage" in desk.ushield(*words).err
            continue
        assert desk.fails(10, "SIGNER_UNTRUSTED", *words)["reason"] == "no_purpose"
        assert "keyUsage = critical,nonRepudiation" in desk.ushield(*words, exits=10).err


def test_stdin(desk: Home, signed: Signed, bank: Bank) -> None:
    desk.ushield("verify", "-", "--ca", bank.ca, stdin=signed.path.read_bytes())


def test_what_libraries_say_to_each_other_is_not_for_a_person(desk: Home) -> None:
    """A certificate with serial number zero is read, and the library's warning about it is not shown."""
    root, private = pki.authority(), pki.key()
    certificate = pki.der(root.issue("CN=A", private.public_key(), serial=77))
    old, new = b"\xa0\x03\x02\x01\x02\x02\x01\x4d", b"\xa0\x03\x02\x01\x02\x02\x01\x00"
    zero = pki.signed_again(certificate, old, new, root.key)
    signed = desk.write("signed.p7m", forge.cades(private, zero, P256, payment().canonical).der())
    done = desk.ushield("verify", signed, "--ca", desk.write("ca.pem", root.pem), "--at", "2026-11-24T02:01:00Z")
    assert "(0)" in done.out
    assert done.err == ""


# --- the signature ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [(b"128.50", b"928.50"), (b"1202021409900012345", b"1202021409900099999")])
def test_a_changed_order(desk: Home, signed: Signed, bank: Bank, old: bytes, new: bytes) -> None:
    desk.fails(10, "BAD_SIGNATURE", "verify", altered(signed, desk, old, new), "--ca", bank.ca)


def test_a_changed_signature(desk: Home, signed: Signed, bank: Bank) -> None:
    content = bytearray(signed.path.read_bytes())
    content[-1] ^= 1
    desk.fails(10, "BAD_SIGNATURE", "verify", desk.write("altered.p7m", bytes(content)), "--ca", bank.ca)


def test_bytes_after_the_end(desk: Home, signed: Signed, bank: Bank) -> None:
    longer = desk.write("longer.p7m", signed.path.read_bytes() + b"\0")
    desk.json("verify", longer, "--ca", bank.ca, exits=10)


@pytest.mark.parametrize("content", ["", "nonsense", "{}"])
def test_what_is_no_signed_order(desk: Home, bank: Bank, content: str) -> None:
    desk.fails(2, "SIGNED_ORDER_MALFORMED", "verify", desk.write("wrong.p7m", content), "--ca", bank.ca)


# --- the expected order -----------------------------------------------------------------------------------------------


def expected(signed: Signed, desk: Home, **changes: Any) -> str:
    document = signed.home.document(signed.order)
    document |= changes
    return desk.write("expected.json", json.dumps(document))


def test_the_expected_order(desk: Home, signed: Signed, bank: Bank) -> None:
    words = ("verify", signed.path, "--ca", bank.ca, "--order", expected(signed, desk))
    assert desk.json(*words)["verified"] is True
    assert "all fields match" in desk.ushield(*words).out


def test_another_payee(desk: Home, signed: Signed, bank: Bank) -> None:
    payee = signed.home.document(signed.order)["payee"] | {"account": "1202021409900099999"}
    words = ("verify", signed.path, "--ca", bank.ca, "--order", expected(signed, desk, payee=payee))
    assert desk.fails(10, "ORDER_MISMATCH", *words)["fields"] == ["payee.account"]


def test_a_wrong_expected_order(desk: Home, signed: Signed, bank: Bank) -> None:
    wrong = expected(signed, desk, purpose="")
    assert desk.json("verify", signed.path, "--ca", bank.ca, "--order", wrong, exits=2)["error"]["details"]["place"]


# --- trusted CAs ------------------------------------------------------------------------------------------------------


def test_an_unknown_ca(desk: Home, signed: Signed, tmp_path: Path) -> None:
    stranger = Bank.opened(tmp_path / "stranger", "Other CA")
    desk.fails(10, "SIGNER_UNTRUSTED", "verify", signed.path, "--ca", stranger.ca)


def test_a_ca_of_the_same_name(desk: Home, signed: Signed, tmp_path: Path) -> None:
    impostor = Bank.opened(tmp_path / "impostor")
    desk.fails(10, "SIGNER_UNTRUSTED", "verify", signed.path, "--ca", impostor.ca)


def test_one_of_several_cas(desk: Home, signed: Signed, bank: Bank, tmp_path: Path) -> None:
    stranger = Bank.opened(tmp_path / "stranger", "Other CA")
    desk.ushield("verify", signed.path, "--ca", stranger.ca, "--ca", bank.ca)


def test_a_ca_file_that_is_none(desk: Home, signed: Signed) -> None:
    assert desk.fails(2, "CA_FILE_INVALID", "verify", signed.path, "--ca", "nowhere.pem")["file"] == "nowhere.pem"


def test_no_ca(desk: Home, signed: Signed) -> None:
    assert desk.fails(2, "USAGE_MISSING", "verify", signed.path)["argument"] == "--ca"


# --- revocation -------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_bank(bank: Bank, tmp_path: Path) -> Bank:
    """A copy of the bank that may revoke certificates."""
    return bank.copy(tmp_path / "bank")


def crl(signed: Signed, bank: Bank, lists: Path) -> tuple[object, ...]:
    return ("verify", signed.path, "--ca", bank.ca, "--crl", lists)


def test_not_revoked(desk: Home, signed: Signed, own_bank: Bank) -> None:
    lists = own_bank.crl(desk.file("bank.crl"))
    assert desk.json(*crl(signed, own_bank, lists))["revocation"] == "good"


def test_revoked(desk: Home, signed: Signed, own_bank: Bank) -> None:
    desk.write("signer.pem", exported(signed))
    own_bank.revoke(desk.file("signer.pem"))
    lists = own_bank.crl(desk.file("bank.crl"))
    assert desk.fails(10, "SIGNER_REVOKED", *crl(signed, own_bank, lists))["at"].endswith("Z")


def test_a_list_that_is_out_of_date(desk: Home, signed: Signed, own_bank: Bank) -> None:
    lists = own_bank.crl(desk.file("bank.crl"), days=(-20, -10))
    desk.fails(11, "REVOCATION_UNKNOWN", *crl(signed, own_bank, lists))


def test_a_list_of_another_ca(desk: Home, signed: Signed, own_bank: Bank, tmp_path: Path) -> None:
    stranger = Bank.opened(tmp_path / "stranger", "Other CA")
    desk.fails(11, "REVOCATION_UNKNOWN", *crl(signed, own_bank, stranger.crl(desk.file("other.crl"))))


def test_a_list_that_is_none(desk: Home, signed: Signed, bank: Bank) -> None:
    assert desk.fails(2, "CRL_FILE_INVALID", *crl(signed, bank, Path("nowhere.crl")))["file"] == "nowhere.crl"


# --- the time of verification -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "code"), [(-3, "SIGNER_UNTRUSTED"), (-0.5, None), (300, "ORDER_EXPIRED"), (400, "SIGNER_UNTRUSTED")]
)
def test_at(desk: Home, signed: Signed, bank: Bank, days: float, code: str | None) -> None:
    moment = f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}"
    done = desk.json("verify", signed.path, "--ca", bank.ca, "--at", moment, exits=10 if code else 0)
    assert code is None or done["error"]["code"] == code


def test_an_order_has_expired_at_the_second_it_says(desk: Home, signed: Signed, bank: Bank) -> None:
    expires = signed.home.document(signed.order)["expires"]
    before = f"{datetime.fromisoformat(expires) - timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}"
    desk.ushield("verify", signed.path, "--ca", bank.ca, "--at", before)
    details = desk.fails(10, "ORDER_EXPIRED", "verify", signed.path, "--ca", bank.ca, "--at", expires)
    told = {"place": "expires", "expires": expires, "now": expires}
    assert {name: details[name] for name in told} == told


def test_any_zone_will_do(desk: Home, signed: Signed, bank: Bank) -> None:
    desk.ushield("verify", signed.path, "--ca", bank.ca, "--at", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}+08:00")


@pytest.mark.parametrize("moment", ["now", "2026-11-24", "2026-11-24T02:00:00", ""])
def test_a_time_without_a_zone(desk: Home, signed: Signed, bank: Bank, moment: str) -> None:
    words = ("verify", signed.path, "--ca", bank.ca, "--at", moment)
    assert desk.fails(2, "TIME_INVALID", *words) == {"argument": "--at", "value": moment}
