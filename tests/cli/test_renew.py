"""``ushield cert renew`` with files: request out, certificate in, and the failures in between."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import CHECKER, DEMO
from tests.cli.world import Bank, Home, Token, run_openssl

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]


def renewal(home: Home, *words: object, token: Token | None = None) -> tuple[object, ...]:
    own = token or home.token
    return ("cert", "renew", "--token", own.uri, "--pin-source", own.pin_file, *words)


def request(home: Home, name: str = "request", **options: Any) -> Path:
    home.json(*renewal(home, "--out", name, **options))
    return home.file(name)


def pkcs10(home: Home, bank: Bank, name: str = "request") -> Path:
    """Return the new key's request, extracted from the request signed by the old key."""
    chain = ("-purpose", "any", "-CAfile", bank.ca)
    run_openssl(
        "cms", "-verify", "-binary", "-inform", "DER", *chain, "-in", name, "-out", "p10.der", folder=home.folder
    )
    run_openssl("req", "-inform", "DER", "-in", "p10.der", "-verify", "-noout", folder=home.folder)
    run_openssl("req", "-inform", "DER", "-in", "p10.der", "-out", "p10.pem", folder=home.folder)
    return home.file("p10.pem")


def issue(home: Home, bank: Bank, name: str = "new.pem", **options: Any) -> str:
    bank.certify(pkcs10(home, bank), home.file(name), **({"days": (-1, 730)} | options))
    return name


def certificates(home: Home, token: Token | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = home.json("cert", "list", "--token", (token or home.token).uri)["certificates"]
    return found


def active(home: Home, token: Token | None = None) -> dict[str, Any]:
    (found,) = [one for one in certificates(home, token) if one["activated"]]
    return found


# --- complete renewal -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", [False, True], ids=["ec", "rsa"])
def test_a_request_out_and_a_certificate_in(home: Home, bank: Bank, second: bool) -> None:
    token = home.other_token if second else home.token
    old = active(home, token)
    request(home, token=token)
    done = home.json(*renewal(home, "--in", issue(home, bank), token=token))["renewed"]
    (left,) = certificates(home, token)
    assert (left["key_id"], left["serial"]) == (done["key_id"], done["serial"])
    assert left["key_id"] != old["key_id"] and left["subject"] == old["subject"] and left["label"] == old["label"]
    assert (done["replaced"], done["replayed"], done["acknowledged"]) == (old["serial"], False, None)
    signed = home.sign(home.order(), "signed.p7m", token=token)
    assert bank.accepts(home.file("signed.p7m")), signed


def test_gnutls_reads_the_request_too(home: Home, bank: Bank) -> None:
    request(home)
    command = ["certtool", "--crq-info", "--infile", str(pkcs10(home, bank))]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "Self signature: verified" in said and "EC/ECDSA" in said


def test_until_the_certificate_is_there_the_old_one_signs_and_the_new_key_is_out_of_the_way(
    home: Home, bank: Bank
) -> None:
    old = active(home)
    request(home)
    assert active(home) == old
    home.sign(home.order(), "signed.p7m")
    assert bank.accepts(home.file("signed.p7m"))


def test_asked_again_the_request_is_the_same_bytes(home: Home) -> None:
    first = request(home).read_bytes()
    assert request(home, "elsewhere").read_bytes() == first
    home.json(*renewal(home, "--out", "request"))  # it exists already
    home.write("request", b"something else")
    home.fails(2, "OUTPUT_EXISTS", *renewal(home, "--out", "request"))
    assert home.content("request") == b"something else"


def test_nobody_is_asked_for_a_pin_to_be_told_that_the_request_is_there(home: Home) -> None:
    request(home)
    home.json("cert", "renew", "--token", home.token.uri, "--out", "request")


def test_a_certificate_that_is_in_use_already_is_no_error(home: Home, bank: Bank) -> None:
    request(home)
    new = issue(home, bank)
    first = home.json(*renewal(home, "--in", new))["renewed"]
    again = home.json(*renewal(home, "--in", new))["renewed"]
    assert (again["serial"], again["replayed"]) == (first["serial"], True)


def test_renewed_twice_in_a_row(home: Home, bank: Bank) -> None:
    for days in (730, 800):
        home.file("request").unlink(missing_ok=True)
        request(home)
        home.json(*renewal(home, "--in", issue(home, bank, f"{days}.pem", days=(-1, days))))
    assert len(certificates(home)) == 1


def test_the_old_pair_may_be_kept_and_signs_no_more(home: Home, bank: Bank) -> None:
    old = active(home)
    request(home)
    done = home.json(*renewal(home, "--keep-old", "--in", issue(home, bank)))["renewed"]
    assert active(home)["serial"] == done["serial"]
    assert {one["serial"] for one in certificates(home)} == {old["serial"], done["serial"]}
    home.sign(home.order(), "signed.p7m")
    verified = home.json("verify", "signed.p7m", "--ca", bank.ca)
    assert verified["signer"]["serial"] == done["serial"]
    assert home.json("cert", "list", "--token", home.token.uri, "--expiring", "400")["certificates"] == []


def test_the_steps_are_told_in_both_languages(home: Home, bank: Bank) -> None:
    said = home.ushield(*renewal(home, "--out", "request"))
    assert said.err.splitlines() == ["New key generated on the token.", "Request signed with both keys."]
    assert "--in CERT.pem" in said.out
    done = home.ushield("--lang", "zh", *renewal(home, "--in", issue(home, bank)))
    assert done.err.splitlines()[-1] == "更新完成。" and DEMO in done.out


# --- selection of the pair --------------------------------------------------------------------------------------------


def test_of_two_kinds_somebody_must_choose_and_each_is_renewed_by_itself(home: Home, bank: Bank) -> None:
    login = home.enrol(bank, home.token, DEMO, usage="digitalSignature")
    details = home.fails(6, "RENEWAL_WHICH", *renewal(home, "--out", "request"))
    assert len(details["candidates"]) == 2
    home.json(*renewal(home, "--key-id", login, "--out", "request"))
    home.fails(6, "RENEWAL_CERTIFICATE_WRONG", *renewal(home, "--in", issue(home, bank)))  # nonRepudiation
    home.json(*renewal(home, "--in", issue(home, bank, "login.pem", usage="digitalSignature")))
    assert len(certificates(home)) == 2


def test_a_token_without_a_certificate_has_nothing_to_renew(blank: Home) -> None:
    blank.fails(6, "RENEWAL_NOTHING", *renewal(blank, "--out", "nothing"))


def test_a_token_that_cannot_make_keys_says_so_and_what_to_do(home: Home) -> None:
    shipped = Path(__file__).parents[2] / "drivers" / "softhsm2.toml"
    home.write("config/ushield/drivers/softhsm2.toml", shipped.read_text() + "\n[capabilities]\ngenerate = false\n")
    before = objects(home)
    error = home.json(*renewal(home, "--out", "request"), exits=6)["error"]
    assert error["code"] == "RENEWAL_NO_KEYS" and "--same-key" in error["remedy"]
    assert objects(home) == before
    home.json(*renewal(home, "--same-key", "--out", "request"))


def test_an_expired_certificate_cannot_vouch(home: Home, bank: Bank) -> None:
    gone = home.enrol(bank, home.token, CHECKER, days=(-20, -1))
    home.fails(6, "RENEWAL_TOO_LATE", *renewal(home, "--key-id", gone, "--out", "request"))
    assert len(certificates(home)) == 2


# --- the wrong certificate --------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[str, str, dict[str, Any]]] = {
    "usage": ("RENEWAL_CERTIFICATE_WRONG", "renewal_usage", {"usage": "digitalSignature"}),
    "gap": ("RENEWAL_CERTIFICATE_WRONG", "renewal_gap", {"days": (400, 800)}),
    "not longer": ("RENEWAL_CERTIFICATE_WRONG", "renewal_not_longer", {"days": (-1, 300)}),
    "clock": ("RENEWAL_CLOCK", "", {"days": (1, 800)}),
}


@pytest.mark.parametrize("which", WRONG)
def test_a_certificate_that_is_not_the_one_is_refused_and_the_right_one_still_taken(
    home: Home, bank: Bank, which: str
) -> None:
    code, problem, options = WRONG[which]
    old = active(home)
    request(home)
    details = home.fails(6, code, *renewal(home, "--in", issue(home, bank, "wrong.pem", **options)))
    assert details.get("problem", "") == problem and details["file"] == "wrong.pem"
    assert active(home) == old and len(certificates(home)) == 1
    home.json(*renewal(home, "--in", issue(home, bank, "right.pem")))
    assert len(certificates(home)) == 1


def test_a_certificate_for_another_key_or_by_another_ca_is_refused(home: Home, bank: Bank, tmp_path: Path) -> None:
    request(home)
    wrong = home.json("cert", "export", "--token", home.other_token.uri)["certificate"]
    home.fails(6, "RENEWAL_OTHER_KEY", *renewal(home, "--in", home.write("other.pem", wrong)))
    old = home.json("cert", "export", "--token", home.token.uri)["certificate"]
    home.fails(6, "RENEWAL_OTHER_KEY", *renewal(home, "--in", home.write("old.pem", old)))
    other = Bank.opened(tmp_path / "other", "Other CA")
    other.certify(pkcs10(home, bank), home.file("foreign.pem"), days=(-1, 730))
    details = home.fails(6, "RENEWAL_CERTIFICATE_WRONG", *renewal(home, "--in", "foreign.pem"))
    assert details["problem"] == "renewal_issuer"
    home.json(*renewal(home, "--in", "foreign.pem", "--ca", other.ca))  # the bank now has another CA


def test_with_a_ca_given_its_name_alone_is_not_enough(home: Home, bank: Bank, tmp_path: Path) -> None:
    request(home)
    impostor = Bank.opened(tmp_path / "impostor")  # with the same name
    impostor.certify(pkcs10(home, bank), home.file("forged.pem"), days=(-1, 730))
    details = home.fails(6, "RENEWAL_CERTIFICATE_WRONG", *renewal(home, "--in", "forged.pem", "--ca", bank.ca))
    assert details["problem"] == "renewal_issuer"
    home.fails(2, "CA_FILE_INVALID", *renewal(home, "--in", "forged.pem", "--ca", home.order()))


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "CERTIFICATE_MALFORMED"), (b"-----BEGIN CERTIFICATE-----\nAAAA\n", "CERTIFICATE_MALFORMED")],
)
def test_what_is_no_certificate_is_refused_before_anybody_is_asked_for_a_pin(
    home: Home, content: bytes, code: str
) -> None:
    file = home.write("bad.pem", content)
    home.fails(2, code, "cert", "renew", "--token", home.token.uri, "--in", file)


def test_a_certificate_comes_where_nothing_was_begun(home: Home, bank: Bank) -> None:
    other = home.json("cert", "export", "--token", home.other_token.uri)["certificate"]
    home.fails(6, "RENEWAL_NOT_BEGUN", *renewal(home, "--in", home.write("other.pem", other)))


# --- abandoned renewals and lost objects ------------------------------------------------------------------------------


def test_given_up_nothing_is_left(home: Home) -> None:
    before = objects(home)
    request(home)
    assert objects(home) != before
    assert home.json(*renewal(home, "--abandon")) == {"abandoned": True}
    assert objects(home) == before
    assert home.json(*renewal(home, "--abandon")) == {"abandoned": False}


def test_a_new_key_that_is_gone_is_told_and_the_renewal_can_be_begun_again(home: Home, bank: Bank) -> None:
    request(home)
    new = issue(home, bank)
    remove_pending(home)
    home.fails(6, "RENEWAL_KEY_GONE", *renewal(home, "--in", new))
    home.json(*renewal(home, "--abandon"))
    home.file("request").unlink()
    request(home)
    home.json(*renewal(home, "--in", issue(home, bank, "second.pem")))


def test_while_half_a_certificate_hides_the_old_one_who_signs_hears_what_to_do(home: Home) -> None:
    told = home.ushield("cert", "list", "--token", home.token.uri)
    assert "cert renew" not in told.out + told.err
    request(home)
    told = home.ushield("cert", "list", "--token", home.token.uri)
    assert f"ushield cert renew --token '{home.token.uri}'" in told.err
    remove(home, "o[A.CLASS] == pkcs11.ObjectClass.CERTIFICATE")  # as OpenSC shows a token removed at this point
    sign = ("sign", home.order(), "--token", home.token.uri, "--pin-source", home.token.pin_file, "--unattended")
    home.fails(6, "CERTIFICATE_BEING_RENEWED", *sign, "-o", "signed.p7m")
    for record in (home.file("state") / "ushield" / "renewals").glob("*.json"):
        record.write_bytes(b"?")  # the state is unreadable
    home.fails(6, "CERTIFICATE_NOT_FOUND", *sign, "-o", "signed.p7m")


def test_another_host_leaves_what_it_did_not_begin_alone(home: Home, bank: Bank) -> None:
    request(home)
    shutil.rmtree(home.file("state") / "ushield" / "renewals")  # as another host sees it
    begun = objects(home)
    home.file("request").unlink()
    request(home)
    home.json(*renewal(home, "--in", issue(home, bank)))
    assert active(home)
    assert begun - objects(home), "the old pair went"
    pending = [one for one in objects(home) if one[1].endswith("#pending")]
    assert {one[0] for one in pending} == {"private", "public"}, "what the first host began is still there"


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"version": 9}', b"\xff" * 50])
def test_a_record_that_cannot_be_read_is_told_and_nothing_is_done(home: Home, damage: bytes) -> None:
    request(home)
    before = objects(home)
    (record,) = (home.file("state") / "ushield" / "renewals").glob("*.json")
    record.write_bytes(damage)
    details = home.fails(12, "RENEWAL_RECORD_UNUSABLE", *renewal(home, "--out", "second"))
    assert details["path"] == str(record)
    assert objects(home) == before


@pytest.mark.parametrize(
    "words", [(), ("--out", "r", "--in", "c"), ("--abandon", "--bank", "https://bank.example")], ids=str
)
def test_one_way_at_a_time(home: Home, words: tuple[str, ...]) -> None:
    home.fails(2, "USAGE_ONE_OF", *renewal(home, *words))


@pytest.mark.parametrize(
    "url",
    ["", "bank.example", "ftp://bank.example", "http://bank.example", "https://user@bank.example", "https://b/?q=1"],
)
def test_what_is_no_address_of_a_bank(home: Home, url: str) -> None:
    home.fails(2, "BANK_URL", *renewal(home, "--bank", url))


# --- same key ---------------------------------------------------------------------------------------------------------


def test_with_the_same_key_only_the_certificate_is_new(home: Home, bank: Bank) -> None:
    old = active(home)
    home.json(*renewal(home, "--same-key", "--out", "request"))
    done = home.json(*renewal(home, "--in", issue(home, bank)))["renewed"]
    (left,) = certificates(home)
    assert left["key_id"] == old["key_id"] and left["serial"] == done["serial"] != old["serial"]
    home.sign(home.order(), "signed.p7m")
    assert bank.accepts(home.file("signed.p7m"))


def objects(home: Home) -> set[tuple[str, str, str]]:
    """Return every key and certificate on the first token, as another program sees them."""
    program = (
        "import sys, pkcs11\n"
        "from pkcs11 import Attribute as A, ObjectClass as C\n"
        "lib = pkcs11.lib('/usr/lib/softhsm/libsofthsm2.so')\n"
        "(token,) = [t for t in lib.get_tokens() if t.serial.decode() == sys.argv[1]]\n"
        "with token.open(user_pin=open(sys.argv[2]).read().strip()) as s:\n"
        "    for o in s.get_objects():\n"
        "        k = {C.PRIVATE_KEY: 'private', C.PUBLIC_KEY: 'public', C.CERTIFICATE: 'certificate'}[o[A.CLASS]]\n"
        "        print(k, o[A.ID].hex(), o[A.LABEL])\n"
    )
    said = _python(home, program, home.token.serial, home.token.pin_file)
    return {(kind, label, key_id) for kind, key_id, label in (row.split(" ", 2) for row in said.splitlines())}


def remove_pending(home: Home) -> None:
    remove(home, "o[A.LABEL].endswith('#pending')")


def remove(home: Home, which: str) -> None:
    program = (
        "import sys, pkcs11\n"
        "from pkcs11 import Attribute as A\n"
        "lib = pkcs11.lib('/usr/lib/softhsm/libsofthsm2.so')\n"
        "(token,) = [t for t in lib.get_tokens() if t.serial.decode() == sys.argv[1]]\n"
        "with token.open(rw=True, user_pin=open(sys.argv[2]).read().strip()) as s:\n"
        "    for o in list(s.get_objects()):\n"
        f"        if {which}: o.destroy()\n"
    )
    _python(home, program, home.token.serial, home.token.pin_file)


def _python(home: Home, program: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=home.folder,
        env=home.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout
