"""Warnings before a certificate expires; the initial PIN is changed before the first signature; the age of a PIN."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_renew import issue, renewal, request
from tests.cli.world import Bank, Home

pytestmark = pytest.mark.stack

OTHER = "CN=王五,O=Demo Bank"


@pytest.mark.parametrize(
    ("days", "said"),
    [(40, ""), (29.5, "Note:"), (6.5, "Warning:"), (0.5, "URGENT:")],
    ids=["in time", "a month", "a week", "a day"],
)
@pytest.mark.parametrize("command", ["list", "cert list", "sign"])
def test_it_is_said_louder_and_louder_with_the_command_that_renews(
    blank: Home, bank: Bank, tmp_path: Path, command: str, days: float, said: str
) -> None:
    home = blank.copy(tmp_path / "home")
    home.enrol(bank, home.token, OTHER, days=(-1, days))
    err = run(home, command)
    warned = [row for row in err.splitlines() if OTHER in row]
    assert (warned[0].startswith(said) and "ushield cert renew --token" in warned[0]) if said else warned == []


def run(home: Home, command: str) -> str:
    if command == "sign":
        known = ("--token", home.token.uri, "--pin-source", home.token.pin_file, "--unattended")
        return home.ushield("sign", home.order(), *known, "-o", "signed.p7m").err
    words = ("cert", "list", "--token", home.token.uri) if command == "cert list" else ("list",)
    return home.ushield(*words).err


def test_from_how_many_days_on_is_a_setting_and_zh_says_it_too(home: Home, bank: Bank) -> None:
    assert run(home, "cert list") == ""
    home.write("config/ushield/config.toml", 'warn_days = 400\nlang = "zh"\n')
    assert "提示" in run(home, "cert list")


def test_from_when_on_it_is_said_louder_is_a_setting_too(home: Home) -> None:
    home.write("config/ushield/config.toml", "urgent_days = [400, 370]\n")
    assert run(home, "cert list").startswith("URGENT:")
    home.write("config/ushield/config.toml", "urgent_days = [400, 10]\n")
    assert run(home, "cert list").startswith("Warning:")
    home.write("config/ushield/config.toml", "urgent_days = []\nwarn_days = 400\n")
    assert run(home, "cert list").startswith("Note:")


def test_once_renewed_nobody_is_warned_of_the_old_one(home: Home, bank: Bank) -> None:
    home.write("config/ushield/config.toml", "warn_days = 400\n")
    request(home)
    home.json(*renewal(home, "--keep-old", "--in", issue(home, bank)))
    assert "ends on" not in run(home, "cert list")
    assert "replaced by a newer one" in home.ushield("cert", "list", "--token", home.token.uri).out


# --- the initial PIN --------------------------------------------------------------------------------------------------


def test_the_bank_may_want_the_first_pin_changed_before_the_first_signature(home: Home) -> None:
    home.write("config/ushield/config.toml", "change_first_pin = true\n")
    known = ("--token", home.token.uri, "--pin-source", home.token.pin_file)
    sign = ("sign", home.order(), *known, "--unattended", "-o", "signed.p7m")
    home.fails(4, "PIN_FIRST_USE", *sign)
    assert home.tries_left() == 6
    home.json("pin", "change", *known, "--new-pin-source", home.pin("246813", "new.pin"))
    home.json("sign", "order.json", "--token", home.token.uri, "--pin-source", "new.pin", *sign[-3:])


def test_how_old_a_pin_is_shows_where_it_is_known(home: Home) -> None:
    assert home.json("pin", "status", "--token", home.token.uri)["pin"]["changed_at"] is None
    known = ("--token", home.token.uri, "--pin-source", home.token.pin_file)
    changed = home.json("pin", "change", *known, "--new-pin-source", home.pin("246813", "new.pin"))["pin"]["changed_at"]
    assert home.json("pin", "status", "--token", home.token.uri)["pin"]["changed_at"] == changed is not None
    assert "0 days ago" in home.ushield("pin", "status", "--token", home.token.uri).out
