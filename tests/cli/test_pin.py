"""``ushield pin``: no attempt is used needlessly, and the last one only with consent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.world import Home

GOOD_NEW = "24681357"


def own(home: Home, pin: str | None = None) -> tuple[str, ...]:
    """Return the options for the first token and its PIN file, or another file."""
    return ("--token", home.token.uri, "--pin-source", pin or home.token.pin_file)


def state_files(home: Home) -> list[Path]:
    return list(home.file("state/ushield/pin").glob("*.json"))


@pytest.fixture
def fresh(blank: Home, tmp_path: Path) -> Home:
    """Two tokens without keys or failed attempts, for one test."""
    return blank.copy(tmp_path / "fresh")


@pytest.fixture
def one_left(worn: Home, tmp_path: Path) -> Home:
    """One attempt remaining on the first token."""
    return worn.copy(tmp_path / "worn")


# --- status and verify ------------------------------------------------------------------------------------------------


def test_status_uses_no_try(fresh: Home) -> None:
    assert [fresh.tries_left() for _ in range(2)] == [6, 6]


def test_status_for_a_person(blank: Home) -> None:
    out = blank.ushield("pin", "status", "--token", blank.token.uri).out
    assert out.splitlines() == ["6 attempts remaining", "(counted on this machine; the token itself never locks)"]


def test_the_right_pin(fresh: Home) -> None:
    assert fresh.json("pin", "verify", *own(fresh))["pin"]["retries_left"] == 6


def test_a_wrong_pin_costs_one_try(fresh: Home) -> None:
    details = fresh.fails(4, "PIN_INCORRECT", "pin", "verify", *own(fresh, fresh.pin()))
    assert details["state"]["retries_left"] == 5
    pin = fresh.json("pin", "status", "--token", fresh.token.uri)["pin"]
    assert (pin["retries_left"], pin["low"], pin["final_try"], pin["locked"]) == (5, True, False, False)


def test_a_person_is_told_the_tries_that_are_left(fresh: Home) -> None:
    err = fresh.ushield("pin", "verify", *own(fresh, fresh.pin()), exits=4).err
    assert "5 attempts remaining" in err
    assert "PIN_INCORRECT" in err


def test_the_right_pin_gives_the_tries_back(fresh: Home) -> None:
    fresh.ushield("pin", "verify", *own(fresh, fresh.pin()), exits=4)
    assert fresh.json("pin", "verify", *own(fresh))["pin"]["retries_left"] == 6


def test_tries_are_counted_by_token_however_it_is_named(fresh: Home) -> None:
    wrong = ("--pin-source", fresh.pin())
    fresh.ushield("pin", "verify", "--token", fresh.token.label, *wrong, exits=4)
    fresh.ushield("pin", "verify", "--token", fresh.token.serial, *wrong, exits=4)
    assert (fresh.tries_left(), fresh.tries_left(fresh.other_token)) == (4, 6)


@pytest.mark.parametrize("pin", ["123", "1" * 256])
def test_a_pin_that_cannot_be_right_is_not_sent(fresh: Home, pin: str) -> None:
    details = fresh.fails(4, "PIN_FORMAT", "pin", "verify", *own(fresh, fresh.pin(pin)))
    assert (details["min"], details["max"]) == (4, 255)
    assert fresh.tries_left() == 6


def test_a_pin_with_a_control_character_is_not_sent(fresh: Home) -> None:
    fresh.fails(4, "PIN_CHARACTERS", "pin", "verify", *own(fresh, fresh.pin("123\x07456")))
    assert fresh.tries_left() == 6


def test_nobody_there_to_ask(fresh: Home) -> None:
    fresh.fails(7, "PIN_CANCELLED", "pin", "verify", "--token", fresh.token.uri)
    assert fresh.tries_left() == 6


# --- the last attempt -------------------------------------------------------------------------------------------------


def test_one_try_is_left(worn: Home) -> None:
    pin = worn.json("pin", "status", "--token", worn.token.uri)["pin"]
    assert (pin["retries_left"], pin["final_try"], pin["locked"], pin["low"]) == (1, True, False, True)


@pytest.mark.parametrize(
    "words",
    [
        ("pin", "verify"),
        ("pin", "change", "--new-pin-source", "new.pin"),
        ("cert", "request", "--subject", "CN=x", "-o", "x.csr"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_the_last_try_needs_consent(one_left: Home, words: tuple[str, ...]) -> None:
    one_left.pin(GOOD_NEW, "new.pin")
    details = one_left.fails(7, "LAST_TRY_NOT_CONFIRMED", *words, *own(one_left))
    assert details["state"]["retries_left"] == 1
    assert one_left.tries_left() == 1
    assert not one_left.file("x.csr").exists()


def test_the_right_pin_at_the_last_try(one_left: Home) -> None:
    assert one_left.json("pin", "verify", *own(one_left), "--allow-last-try")["pin"]["retries_left"] == 6


def test_a_wrong_pin_at_the_last_try_locks(one_left: Home) -> None:
    words = ("pin", "verify", *own(one_left, one_left.pin()), "--allow-last-try")
    details = one_left.fails(5, "PIN_LOCKED", *words)
    assert details["unblock"] == "so-init-pin"
    assert (details["state"]["locked"], details["state"]["retries_left"]) == (True, 0)


def test_locked_means_locked_until_the_security_officer_comes(one_left: Home) -> None:
    one_left.fails(5, "PIN_LOCKED", "pin", "verify", *own(one_left, one_left.pin()), "--allow-last-try")
    one_left.fails(5, "PIN_LOCKED", "pin", "verify", *own(one_left), "--allow-last-try")
    assert one_left.json("pin", "status", "--token", one_left.token.uri)["pin"]["locked"] is True
    new = one_left.pin(GOOD_NEW, "new.pin")
    officer = ("--so-pin-source", one_left.token.so_pin_file, "--new-pin-source", new)
    assert one_left.json("pin", "unblock", "--token", one_left.token.uri, *officer)["pin"]["retries_left"] == 6
    one_left.ushield("pin", "verify", *own(one_left, new))


# --- change -----------------------------------------------------------------------------------------------------------


def test_change(fresh: Home) -> None:
    new = fresh.pin(GOOD_NEW, "new.pin")
    assert fresh.json("pin", "change", *own(fresh), "--new-pin-source", new)["pin"]["retries_left"] == 6
    fresh.ushield("pin", "verify", *own(fresh, new))
    fresh.ushield("pin", "verify", *own(fresh), exits=4)


def test_change_with_a_wrong_old_pin(fresh: Home) -> None:
    new = fresh.pin(GOOD_NEW, "new.pin")
    details = fresh.fails(4, "PIN_INCORRECT", "pin", "change", *own(fresh, fresh.pin()), "--new-pin-source", new)
    assert details["state"]["retries_left"] == 5
    fresh.ushield("pin", "verify", *own(fresh))


def test_a_new_pin_that_is_too_short_is_seen_before_the_old_one_is_sent(fresh: Home) -> None:
    new = fresh.pin("123", "new.pin")
    fresh.fails(4, "PIN_FORMAT", "pin", "change", *own(fresh, fresh.pin()), "--new-pin-source", new)
    assert fresh.tries_left() == 6


# --- unblock ----------------------------------------------------------------------------------------------------------


def test_a_wrong_so_pin(fresh: Home) -> None:
    officer = ("--so-pin-source", fresh.pin("99999999", "so.pin"), "--new-pin-source", fresh.pin(GOOD_NEW, "new.pin"))
    fresh.fails(4, "SO_PIN_INCORRECT", "pin", "unblock", "--token", fresh.token.uri, *officer)
    fresh.ushield("pin", "verify", *own(fresh))


def test_unblock_with_nobody_to_ask(fresh: Home) -> None:
    new = fresh.pin(GOOD_NEW, "new.pin")
    fresh.fails(7, "PIN_CANCELLED", "pin", "unblock", "--token", fresh.token.uri, "--new-pin-source", new)


# --- the count --------------------------------------------------------------------------------------------------------


def test_a_count_that_cannot_be_read_sends_nothing(fresh: Home) -> None:
    fresh.ushield("pin", "verify", *own(fresh, fresh.pin()), exits=4)
    (count,) = state_files(fresh)
    count.write_text("{")
    assert fresh.fails(12, "PIN_COUNTER_UNUSABLE", "pin", "verify", *own(fresh))["path"] == str(count)
    assert count.read_text() == "{"


def test_unblocking_mends_the_count(fresh: Home) -> None:
    fresh.ushield("pin", "verify", *own(fresh, fresh.pin()), exits=4)
    state_files(fresh)[0].write_text("{")
    officer = ("--so-pin-source", fresh.token.so_pin_file, "--new-pin-source", fresh.pin(GOOD_NEW, "new.pin"))
    assert fresh.json("pin", "unblock", "--token", fresh.token.uri, *officer)["pin"]["retries_left"] == 6


def test_a_count_that_cannot_be_written_sends_nothing(fresh: Home) -> None:
    state = fresh.write("a-file", "")
    fresh.fails(12, "STATE_FOLDER_UNUSABLE", "pin", "verify", *own(fresh), XDG_STATE_HOME=str(fresh.file(state)))


def test_a_count_that_others_could_change_is_not_used(fresh: Home) -> None:
    folder = fresh.file("state/ushield/pin")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
    assert fresh.fails(12, "STATE_UNSAFE", "pin", "verify", *own(fresh))["path"] == str(folder)


def test_unblocking_by_the_other_secret_names_the_right_one(home: Home) -> None:
    before = home.tries_left()
    own = ("--token", home.token.uri, "--puk-source", home.pin(), "--new-pin-source", home.pin(name="new.pin"))
    assert home.fails(2, "PIN_UNBLOCK_OTHER", "pin", "unblock", *own)["argument"] == "--so-pin-source"
    assert home.tries_left() == before
