"""``ushield cert``: generate a key on the token, create its request, install its certificate."""

from __future__ import annotations

import re
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import DEMO
from tests.cli.world import TIMEOUT_S, Bank, Home, run_openssl

SUBJECT = ("-noout", "-subject", "-nameopt", "RFC2253,-esc_msb")


def own(home: Home, pin: str | None = None) -> tuple[str, ...]:
    """Return the options for the first token and its PIN file, or another file."""
    return ("--token", home.token.uri, "--pin-source", pin or home.token.pin_file)


def request(home: Home, *words: str, subject: str = DEMO, out: str = "new.csr") -> tuple[str, ...]:
    return ("cert", "request", *own(home), "--subject", subject, "-o", out, *words)


def certificates(home: Home) -> list[dict[str, object]]:
    found: list[dict[str, object]] = home.json("cert", "list", "--token", home.token.uri)["certificates"]
    return found


def public_keys(home: Home) -> int:
    """Return the number of public keys that another program finds on the tokens."""
    module = home.token.uri.partition("module-path=")[2]
    seen = subprocess.run(
        ["pkcs11-tool", "--module", module, "--token-label", home.token.label, "-O", "--type", "pubkey"],
        env=home.environment,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    return seen.stdout.count(b"Public Key Object")


# --- request ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "described"),
    [("ec-p256", "prime256v1"), ("ec-p384", "secp384r1"), ("rsa-2048", "Public-Key: (2048 bit)")],
)
def test_a_request_for_each_kind_of_key(home: Home, key: str, described: str) -> None:
    made = home.json(*request(home, "--key", key))
    assert made["csr"] == "new.csr"
    assert re.fullmatch("[0-9a-f]{40}", made["key_id"])
    text = run_openssl("req", "-in", "new.csr", "-verify", "-noout", "-text", folder=home.folder)
    assert described in text


@pytest.mark.parametrize("subject", ["CN=张三,O=Demo Bank", "CN=Smith\\, John,OU=Payments,O=Demo Bank,C=DE"])
def test_the_subject_is_rfc_4514(home: Home, subject: str) -> None:
    home.ushield(*request(home, subject=subject))
    shown = run_openssl("req", "-in", "new.csr", *SUBJECT, folder=home.folder)
    assert shown.strip() == f"subject={subject}"


@pytest.mark.parametrize("subject", ["", "张三", "CN", "XX=1", "CN=a,,O=b", "C=Germany"])
def test_a_subject_that_is_no_name(home: Home, subject: str) -> None:
    home.fails(2, "SUBJECT_INVALID", *request(home, subject=subject))
    assert public_keys(home) == 1


def test_nothing_is_overwritten(home: Home) -> None:
    home.write("new.csr", "mine")
    words = ("cert", "request", *own(home, home.pin()), "--subject", DEMO, "-o", "new.csr")
    assert home.fails(2, "OUTPUT_EXISTS", *words) == {"file": "new.csr"}
    assert (home.content("new.csr"), home.tries_left()) == (b"mine", 6)


def test_a_folder_that_is_not_there(home: Home) -> None:
    home.fails(2, "OUTPUT_FOLDER_MISSING", *request(home, out="nowhere/new.csr"))


def test_a_request_that_cannot_be_written_leaves_no_key(home: Home) -> None:
    home.fails(12, "OUTPUT_NOT_WRITTEN", *request(home, out="/proc/new.csr"))
    assert public_keys(home) == 1


def test_for_a_person(home: Home) -> None:
    done = home.ushield(*request(home))
    assert "new.csr" in done.out


# --- install ----------------------------------------------------------------------------------------------------------


def test_install(home: Home, bank: Bank) -> None:
    key_id = home.json(*request(home))["key_id"]
    bank.certify(home.file("new.csr"), home.file("new.pem"))
    installed = home.json("cert", "install", "new.pem", *own(home))
    assert installed["key_id"] == key_id
    listed = {one["key_id"]: one for one in certificates(home)}
    assert listed[key_id]["subject"] == DEMO
    assert listed[key_id]["has_key"] is True
    assert listed[key_id]["key_usage"] == ["nonRepudiation"]


def certified(home: Home, bank: Bank, *words: str) -> bytes:
    """Request a key and have openssl certify it; return the certificate (PEM)."""
    home.ushield(*request(home))
    known = ("-CA", bank.ca, "-CAkey", bank.folder / "ca.key", "-days", "10")
    run_openssl("x509", "-req", "-in", "new.csr", *known, *words, "-out", "new.pem", folder=home.folder)
    return home.content("new.pem")


def test_a_certificate_of_version_1_is_not_installed(home: Home, bank: Bank) -> None:
    """Version 1 has no key usage extension; `openssl x509 -req` without options makes such certificates."""
    der = ssl.PEM_cert_to_DER_cert(certified(home, bank).decode())
    assert b"\xa0\x03\x02\x01" not in der[:20]
    with_no_try = home.pin()
    assert home.fails(6, "CERTIFICATE_WITHOUT_PURPOSE", "cert", "install", "new.pem", *own(home, with_no_try))["serial"]
    assert home.tries_left() == 6
    told = home.ushield("cert", "install", "new.pem", *own(home), exits=6).err
    assert "keyUsage = critical,nonRepudiation" in told and "-extfile" in told


def test_a_certificate_that_spells_its_curve_out_is_not_installed(home: Home, bank: Bank) -> None:
    """RFC 5480 section 2.1.1; the verifier rejects such keys too."""
    explicit = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit -nodes".split()
    run_openssl("req", *explicit, "-keyout", "x.key", "-out", "x.csr", "-subj", "/CN=x", folder=home.folder)
    bank.certify(home.file("x.csr"), home.file("x.pem"))
    fails = home.fails(6, "CERTIFICATE_EXPLICIT_CURVE", "cert", "install", "x.pem", *own(home, home.pin()))
    assert fails["serial"] and home.tries_left() == 6


def test_a_certificate_without_a_key_usage_is_installed_with_a_warning(home: Home, bank: Bank) -> None:
    certified(home, bank, "-extfile", home.write("leaf.ext", "basicConstraints = CA:FALSE\n"))
    assert "no key usage" in home.ushield("cert", "install", "new.pem", *own(home)).err
    assert None in [one["key_usage"] for one in certificates(home)]


@pytest.mark.parametrize("octet", [1, 3, 9])
def test_a_certificate_of_a_version_that_there_is_not(home: Home, bank: Bank, octet: int) -> None:
    home.ushield(*request(home))
    pem = bank.certify(home.file("new.csr"), home.file("new.pem")).read_text()
    bent = ssl.PEM_cert_to_DER_cert(pem).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01%c" % octet)
    for content in (bent, ssl.DER_cert_to_PEM_cert(bent)):
        home.file("new.pem").unlink(missing_ok=True)
        home.write("new.pem", content)
        home.fails(2, "CERTIFICATE_MALFORMED", "cert", "install", "new.pem", *own(home))


def test_install_der(home: Home, bank: Bank) -> None:
    home.ushield(*request(home))
    pem = bank.certify(home.file("new.csr"), home.file("new.pem")).read_text()
    home.write("new.der", ssl.PEM_cert_to_DER_cert(pem))
    assert DEMO in home.ushield("cert", "install", "new.der", *own(home)).out


def test_install_twice_is_once(home: Home) -> None:
    (before,) = certificates(home)
    home.ushield("cert", "export", "--token", home.token.uri, "-o", "again.pem")
    assert home.json("cert", "install", "again.pem", *own(home))["key_id"] == before["key_id"]
    assert certificates(home) == [before]


def test_a_certificate_for_another_key(home: Home) -> None:
    home.ushield("cert", "export", "--token", home.other_token.uri, "-o", "other.pem")
    details = home.fails(6, "KEY_MISMATCH", "cert", "install", "other.pem", *own(home))
    assert details["subject"] == "CN=李四,O=Demo Bank"
    assert len(certificates(home)) == 1


@pytest.mark.parametrize("content", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_seen_before_the_pin_is_used(home: Home, content: str) -> None:
    name = home.write("wrong.pem", content)
    home.fails(2, "CERTIFICATE_MALFORMED", "cert", "install", name, *own(home, home.pin()))
    assert home.tries_left() == 6


def test_one_certificate_at_a_time(home: Home, bank: Bank) -> None:
    name = home.write("two.pem", bank.ca.read_bytes() * 2)
    assert home.fails(2, "CERTIFICATE_SEVERAL", "cert", "install", name, *own(home)) == {"n": 2, "file": name}


def test_a_file_that_is_not_there(home: Home) -> None:
    assert home.fails(2, "FILE_UNREADABLE", "cert", "install", "nowhere.pem", *own(home))["file"] == "nowhere.pem"


# --- list -------------------------------------------------------------------------------------------------------------


def test_list_names_subject_issuer_and_time(shared: Home) -> None:
    (one,) = certificates(shared)
    assert (one["subject"], one["issuer"], one["activated"]) == (DEMO, "CN=Demo CA", True)
    assert str(one["not_before"]) < str(one["not_after"])


def test_list_for_a_person(shared: Home, blank: Home) -> None:
    (one,) = certificates(shared)
    out = shared.ushield("cert", "list", "--token", shared.token.uri).out
    assert str(one["key_id"]) in out
    assert DEMO in out
    empty = blank.ushield("cert", "list", "--token", blank.token.uri)
    assert empty.out == ""
    none, hint = empty.err.splitlines()
    assert none == "No certificates."
    assert "before login" in hint
    assert blank.json("cert", "list", "--token", blank.token.uri)["may_hide"] is True
    assert shared.json("cert", "list", "--token", shared.token.uri)["may_hide"] is False


@pytest.mark.parametrize(("days", "exits"), [(0, 0), (364, 0), (366, 6), (3000, 6)])
def test_expiring(shared: Home, days: int, exits: int) -> None:
    words = ("cert", "list", "--token", shared.token.uri, "--expiring", days)
    found = shared.json(*words, exits=exits)["certificates"]
    assert [one["subject"] for one in found] == ([DEMO] if exits else [])


def test_what_has_expired_is_expiring(home: Home, bank: Bank) -> None:
    key_id = home.enrol(bank, home.token, "CN=李四", days=(-20, -10))
    found = home.json("cert", "list", "--token", home.token.uri, "--expiring", "0", exits=6)["certificates"]
    assert [one["key_id"] for one in found] == [key_id]
    assert "expired on" in home.ushield("cert", "list", "--token", home.token.uri).out


def test_what_a_newer_certificate_has_replaced_is_not_expiring(home: Home, bank: Bank) -> None:
    old = home.enrol(bank, home.token, DEMO, days=(-20, -10))
    assert home.json("cert", "list", "--token", home.token.uri, "--expiring", "0")["certificates"] == []
    found = home.json("cert", "list", "--token", home.token.uri)["certificates"]
    assert [one["key_id"] for one in found if not one["activated"]] == [old]


# --- export -----------------------------------------------------------------------------------------------------------


def test_export(shared: Home, tmp_path: Path) -> None:
    pem = shared.ushield("cert", "export", "--token", shared.token.uri).out
    assert run_openssl("x509", *SUBJECT, folder=tmp_path, stdin=pem).strip() == f"subject={DEMO}"
    shared.ushield("cert", "export", "--token", shared.token.uri, "-o", tmp_path / "out.pem")
    assert (tmp_path / "out.pem").read_text() == pem
    assert shared.json("cert", "export", "--token", shared.token.uri)["certificate"] == pem


def test_export_overwrites_nothing(shared: Home, tmp_path: Path) -> None:
    (tmp_path / "out.pem").write_text("mine")
    shared.fails(2, "OUTPUT_EXISTS", "cert", "export", "--token", shared.token.uri, "-o", tmp_path / "out.pem")
    assert (tmp_path / "out.pem").read_text() == "mine"


def test_export_of_nothing(blank: Home) -> None:
    assert blank.fails(6, "CERTIFICATE_NONE_MATCHES", "cert", "export", "--token", blank.token.uri)["candidates"] == []


def test_export_one_of_several(home: Home, bank: Bank) -> None:
    key_id = home.enrol(bank, home.token, "CN=王五,O=Demo Bank")
    words = ("cert", "export", "--token", home.token.uri)
    assert len(home.fails(6, "CERTIFICATE_SEVERAL_MATCH", *words)["candidates"]) == 2
    home.ushield(*words, "--key-id", key_id, "-o", "one.pem")
    uri = home.token.uri.replace("?", f";id={escaped(key_id)}?")
    home.ushield("cert", "export", "--token", uri, "-o", "same.pem")
    assert home.content("one.pem") == home.content("same.pem")


def escaped(key_id: str) -> str:
    return "".join(f"%{key_id[n : n + 2]}" for n in range(0, len(key_id), 2))
