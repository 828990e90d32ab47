"""Soft tokens in a read-only folder: signing works, and operations that change the token report why they fail."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from tests.cli.world import Bank, Home
from tests.soft import WRONG_PIN

pytestmark = pytest.mark.stack

AS_WHOM: Final = () if os.geteuid() == 0 else ("--map-root-user",)
MOUNTED: Final = 'mount --bind "$1" "$1"; mount -o remount,ro,bind "$1" "$1"; shift; exec "$@"'
POWERLESS: Final = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ("env",)
NEW_PIN: Final = "73915846"


def without_the_right(tokens: Path) -> tuple[str, ...]:
    """Make the files read-only for the user; root bypasses file permissions, so its capabilities are dropped."""
    for path in (tokens, *tokens.rglob("*")):
        path.chmod(0o500 if path.is_dir() else 0o400)
    return POWERLESS


def on_a_read_only_disk(tokens: Path) -> tuple[str, ...]:
    return ("unshare", *AS_WHOM, "--mount", "sh", "-ec", MOUNTED, "sh", str(tokens))


@pytest.fixture(params=[without_the_right, on_a_read_only_disk], ids=lambda one: one.__name__)
def fixed(home: Home, request: pytest.FixtureRequest) -> Home:
    """A home whose tokens are read-only."""
    home.prefix = request.param(home.file("softhsm/tokens"))
    return home


def own(home: Home) -> tuple[str, ...]:
    return ("--token", home.token.uri, "--pin-source", home.token.pin_file)


def test_it_signs_and_says_what_is_on_it(fixed: Home, bank: Bank) -> None:
    assert fixed.sign(fixed.order(), "signed.p7m")["replayed"] is False
    assert bank.accepts(fixed.file("signed.p7m"))
    (certificate,) = fixed.json("cert", "list", "--token", fixed.token.uri)["certificates"]
    assert certificate["has_key"] is True
    assert fixed.json("key", "list", *own(fixed))["keys"]
    assert len(fixed.json("list")["tokens"]) == 2


def test_a_key_that_wants_the_pin_for_each_signature(home: Home, bank: Bank) -> None:
    """SoftHSM2 rejects a second login after it failed to record the first one."""
    words = ("--subject", "CN=王五", "--pin-per-signature", "-o", "a.csr")
    key_id = home.json("cert", "request", *own(home), *words)["key_id"]
    bank.certify(home.file("a.csr"), home.file("a.pem"))
    home.json("cert", "install", "a.pem", *own(home))
    order = home.order()
    home.prefix = on_a_read_only_disk(home.file("softhsm/tokens"))
    error = home.sign(order, "signed.p7m", "--key-id", key_id, exits=3)["error"]
    assert (error["code"], error["details"]["function"]) == ("SOFT_TOKEN_NOT_WRITTEN", "C_Login")
    home.prefix = ()
    home.sign(order, "signed.p7m", "--key-id", key_id)


def test_a_pin_is_right_or_wrong(fixed: Home) -> None:
    fixed.json("pin", "verify", *own(fixed))
    fixed.fails(4, "PIN_INCORRECT", "pin", "verify", "--token", fixed.token.uri, "--pin-source", fixed.pin(WRONG_PIN))
    assert fixed.tries_left() == 5
    fixed.json("pin", "verify", *own(fixed))
    assert fixed.tries_left() == 6


def test_a_pin_that_was_not_changed_is_not_said_to_be_unknown(fixed: Home) -> None:
    details = fixed.fails(
        3, "SOFT_TOKEN_NOT_WRITTEN", "pin", "change", *own(fixed), "--new-pin-source", fixed.pin(NEW_PIN, "new.pin")
    )
    assert details["function"] == "C_SetPIN"
    assert fixed.tries_left() == 6  # the old PIN was correct
    fixed.json("pin", "verify", *own(fixed))
    wrong = ("--token", fixed.token.uri, "--pin-source", fixed.pin(WRONG_PIN))
    fixed.fails(4, "PIN_INCORRECT", "pin", "change", *wrong, "--new-pin-source", "new.pin")
    assert fixed.tries_left() == 5


def test_what_would_change_the_token_says_that_it_cannot_be_written(fixed: Home) -> None:
    so_pin = ("--so-pin-source", fixed.token.so_pin_file, "--new-pin-source", fixed.pin(NEW_PIN, "new.pin"))
    (key,) = fixed.json("key", "list", "--token", fixed.token.uri)["keys"]
    for words in (
        ("pin", "unblock", "--token", fixed.token.uri, *so_pin),
        ("cert", "request", *own(fixed), "--subject", "CN=A", "-o", "a.csr"),
        ("cert", "renew", *own(fixed), "--out", "renewal.p7m"),
    ):
        fixed.fails(3, "SOFT_TOKEN_NOT_WRITTEN", *words)
    fixed.fails(6, "KEY_IN_USE", "key", "delete", *own(fixed), "--key-id", key["key_id"], "--yes")


def test_the_doctor_says_that_it_signs_and_what_it_cannot_do(fixed: Home) -> None:
    said = fixed.json("doctor", "--token", fixed.token.uri)
    (found,) = (one for one in said["findings"] if one["id"] == "F51" and one["status"] != "skip")
    assert (said["verdict"], found["status"]) == ("ok", "warn")
    assert "cannot be changed" in found["cause"] and "Signing works" in found["cause"]
