"""``ushield sign``: display, confirm, sign; never twice."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from tests.cli.conftest import CHECKER, DEMO
from tests.cli.world import TIMEOUT_S, USHIELD, Bank, Home, run_openssl
from tests.unit.order.samples import live, make_login


def sign(home: Home, order: str, out: str = "signed.p7m", pin: str | None = None) -> tuple[str, ...]:
    """Return the arguments that sign with the first token; ``pin`` names another PIN file."""
    known = ("--token", home.token.uri, "--pin-source", pin or home.token.pin_file)
    return ("sign", order, *known, "--unattended", "-o", out)


def attended(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word for word in words if word != "--unattended")


# --- output -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nth", [0, 1], ids=["ec-p256", "rsa-2048"])
def test_openssl_accepts_cades(home: Home, bank: Bank, nth: int) -> None:
    made = home.sign(home.order(), "signed.p7m", token=home.tokens[nth])
    assert made["profile"] == "cades"
    assert bank.accepts(home.file("signed.p7m"))
    assert bank.accepts(home.file("signed.p7m"), "-cades")


def test_the_document(home: Home) -> None:
    order = home.order()
    made = home.sign(order, "signed.p7m")
    assert made["signed"] == "signed.p7m"
    assert made["tx_id"] == home.document(order)["tx_id"]
    assert made["canonical_sha256"] == home.json("show", order)["canonical_sha256"]
    assert made["signer"] == {"subject": DEMO, "serial": made["signer"]["serial"]}
    assert made["replayed"] is False


def test_nobody_looked_and_the_signature_says_so(home: Home, bank: Bank) -> None:
    assert home.sign(home.order(), "signed.p7m")["confirmation"] == "none"
    assert home.json("verify", "signed.p7m", "--ca", bank.ca)["confirmation"] == "none"


def test_the_content_is_the_canonical_order(home: Home, bank: Bank) -> None:
    order = home.order()
    home.sign(order, "signed.p7m")
    words = ["cms", "-verify", "-binary", "-inform", "DER", "-purpose", "any", "-CAfile", bank.ca]
    run_openssl(*words, "-in", "signed.p7m", "-out", "content", folder=home.folder)
    assert home.content("content") == rfc8785.dumps(home.document(order))


def test_for_a_person(home: Home) -> None:
    out = home.ushield(*sign(home, home.order())).out
    assert "signed.p7m" in out
    assert "Signed unattended" in out


def test_the_order_may_come_from_stdin(home: Home) -> None:
    home.ushield(*sign(home, "-"), stdin=home.content(home.order()))


# --- refused before a PIN is used -------------------------------------------------------------------------------------


def test_nobody_to_confirm(home: Home) -> None:
    home.fails(7, "NOBODY_TO_CONFIRM", *attended(sign(home, home.order(), pin=home.pin())))
    assert home.tries_left() == 6


def test_an_output_that_exists(home: Home) -> None:
    home.write("signed.p7m", "mine")
    assert home.fails(2, "OUTPUT_EXISTS", *sign(home, home.order(), pin=home.pin())) == {"file": "signed.p7m"}
    assert (home.content("signed.p7m"), home.tries_left()) == (b"mine", 6)


def test_an_output_that_is_a_link(home: Home) -> None:
    home.file("signed.p7m").symlink_to("elsewhere")
    home.fails(2, "OUTPUT_EXISTS", *sign(home, home.order(), pin=home.pin()))
    assert not home.file("elsewhere").exists()


def test_an_output_in_no_folder(home: Home) -> None:
    home.fails(2, "OUTPUT_FOLDER_MISSING", *sign(home, home.order(), "nowhere/signed.p7m", home.pin()))
    assert home.tries_left() == 6


def test_an_expired_order(home: Home) -> None:
    order = home.order(**live(datetime.now(UTC) - timedelta(minutes=10)))
    assert home.fails(2, "ORDER_EXPIRED", *sign(home, order, pin=home.pin()))["place"] == "expires"
    assert home.tries_left() == 6


@pytest.mark.parametrize(("seconds", "exits"), [(30, 0), (120, 2)])
def test_an_order_of_the_future(home: Home, seconds: int, exits: int) -> None:
    order = home.order(**live(datetime.now(UTC) + timedelta(seconds=seconds)))
    done = home.json(*sign(home, order), exits=exits)
    assert exits == 0 or done["error"]["code"] == "ORDER_NOT_YET_VALID"


def test_a_wrong_order(home: Home) -> None:
    order = home.order(amount__value="-1")
    home.json(*sign(home, order, pin=home.pin()), exits=2)
    assert home.tries_left() == 6


@pytest.mark.parametrize("missing", ["-o", "ORDER.json"])
def test_what_must_be_said(home: Home, missing: str) -> None:
    words = ("sign", "order.json") if missing == "-o" else ("sign", "-o", "signed.p7m")
    assert home.fails(2, "USAGE_MISSING", *words)["argument"] == missing.replace("-o", "--out")


# --- wrong PIN --------------------------------------------------------------------------------------------------------


def test_a_wrong_pin(home: Home) -> None:
    details = home.fails(4, "PIN_INCORRECT", *sign(home, home.order(), pin=home.pin()))
    assert details["state"]["retries_left"] == 5
    assert not home.file("signed.p7m").exists()


def test_no_pin(home: Home) -> None:
    words = ("sign", home.order(), "--token", home.token.uri, "--unattended", "-o", "signed.p7m")
    home.fails(7, "PIN_CANCELLED", *words)


# --- never twice ------------------------------------------------------------------------------------------------------


def test_the_same_order_again_is_the_same_signed_order_and_needs_no_pin(home: Home) -> None:
    order = home.order()
    home.sign(order, "signed.p7m")
    done = home.ushield("sign", order, "--token", home.token.uri, "-o", "again.p7m", "--json")
    assert home.content("again.p7m") == home.content("signed.p7m")
    assert done.document["replayed"] is True
    assert "was already signed" in done.err


def test_laid_out_otherwise_it_is_the_same_order(home: Home) -> None:
    order = home.order()
    home.sign(order, "signed.p7m")
    flat = home.write("flat.json", json.dumps(home.document(order)))
    assert home.sign(flat, "again.p7m")["replayed"] is True
    assert home.content("again.p7m") == home.content("signed.p7m")


def test_the_output_may_hold_it_already(home: Home) -> None:
    order = home.order()
    home.sign(order, "signed.p7m")
    assert home.json(*sign(home, order, pin=home.pin()))["replayed"] is True
    assert home.tries_left() == 6


def test_the_output_may_not_hold_anything_else(home: Home) -> None:
    order = home.order()
    home.sign(order, "signed.p7m")
    home.write("other.p7m", home.content("signed.p7m") + b"\n")
    home.fails(2, "OUTPUT_EXISTS", *sign(home, order, "other.p7m"))


def test_another_profile_gives_the_stored_one_and_says_so(home: Home) -> None:
    order = home.order()
    home.sign(order, "signed.p7m")
    done = home.ushield(*sign(home, order, "plain.p7m"), "--profile", "plain", "--json")
    assert done.document["profile"] == "cades"
    assert "cades" in done.err
    assert home.content("plain.p7m") == home.content("signed.p7m")


@pytest.mark.parametrize("unattended", [True, False])
def test_plain_is_not_made_by_a_token_that_does_not_show_what_it_signs(home: Home, unattended: bool) -> None:
    words = sign(home, home.order(), pin=home.pin())
    details = home.fails(
        2, "PROFILE_PLAIN_NOT_POSSIBLE", *(words if unattended else attended(words)), "--profile=plain"
    )
    assert details == {"argument": "--profile", "profile": "plain", "driver": "softhsm2"}
    assert (home.file("signed.p7m").exists(), home.tries_left()) == (False, 6)


def test_another_order_with_the_same_tx_id(home: Home) -> None:
    order = home.order()
    home.sign(order, "signed.p7m")
    other = home.document(order) | {"purpose": "学费"}
    name = home.write("other.json", json.dumps(other))
    details = home.fails(2, "TX_ID_REUSED", *sign(home, name, "other.p7m", home.pin()))
    assert details["tx_id"] == other["tx_id"]
    assert home.tries_left() == 6


def test_maker_and_checker_sign_the_same_order(home: Home) -> None:
    order = home.order()
    maker = home.sign(order, "maker.p7m", token=home.token)
    checker = home.sign(order, "checker.p7m", token=home.other_token)
    assert (maker["signer"]["subject"], checker["signer"]["subject"]) == (DEMO, CHECKER)
    assert (maker["replayed"], checker["replayed"]) == (False, False)


def at_once(home: Home, commands: Sequence[Sequence[str]]) -> list[Any]:
    """Run commands concurrently; return their documents."""
    running = [
        subprocess.Popen(
            [USHIELD, *words, "--json"],
            cwd=home.folder,
            env=home.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for words in commands
    ]
    return [json.loads(child.communicate(timeout=TIMEOUT_S)[0]) for child in running]


def test_two_at_once_sign_once(home: Home) -> None:
    order = home.order()
    documents = at_once(home, [sign(home, order, f"{n}.p7m") for n in range(3)])
    assert sorted(document["replayed"] for document in documents) == [False, True, True]
    assert len({home.content(f"{n}.p7m") for n in range(3)}) == 1


# --- obstacles --------------------------------------------------------------------------------------------------------


def journal(home: Home) -> Path:
    return home.file("state/ushield/journal/journal.log")


def left_while_signing(home: Home) -> None:
    """Leave the journal as a process leaves it that ends while the token signs."""
    *before, _ = journal(home).read_bytes().splitlines(keepends=True)
    journal(home).write_bytes(b"".join(before))
    home.file("state/ushield/journal/journal.lock").write_bytes(b"")


def test_signed_but_not_written_is_kept(home: Home) -> None:
    order = home.order()
    home.fails(12, "SIGNED_NOT_WRITTEN", *sign(home, order, "/proc/signed.p7m"))
    done = home.json("sign", order, "--token", home.token.uri, "-o", "signed.p7m")
    assert done["replayed"] is True


def test_what_may_have_been_signed_is_not_signed_again(home: Home) -> None:
    order = home.order()
    home.sign(order, "signed.p7m")
    left_while_signing(home)
    details = home.fails(9, "OUTCOME_STILL_UNKNOWN", *sign(home, order, "again.p7m"))
    assert details["tx_id"] == home.document(order)["tx_id"]
    assert not home.file("again.p7m").exists()


def test_a_journal_that_cannot_be_read_signs_nothing(home: Home) -> None:
    order = home.order()
    home.sign(order, "signed.p7m")
    journal(home).write_text('{"version": 1}')
    home.fails(12, "JOURNAL_UNUSABLE", *sign(home, order, "again.p7m", home.pin()))
    assert home.tries_left() == 6


def test_no_place_for_a_journal_signs_nothing(home: Home) -> None:
    home.write("a-file", "")
    state = str(home.file("a-file"))
    home.fails(12, "STATE_FOLDER_UNUSABLE", *sign(home, home.order()), XDG_STATE_HOME=state)


def test_a_login_needs_a_login_key(home: Home) -> None:
    name = home.write("login.json", json.dumps(make_login(**live(datetime.now(UTC)))))
    assert home.fails(6, "KEY_USE_NOT_ALLOWED", *sign(home, name))["use"] == "digitalSignature"
