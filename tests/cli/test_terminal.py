"""At a terminal: the PIN is typed without echo, the order is shown and confirmed, and no prompt waits for ever."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.person import CTRL_BACKSLASH, CTRL_C, CTRL_D, CTRL_Z, Person
from tests.cli.world import TIMEOUT_S, USHIELD, Bank, Home

ROOT = Path(__file__).parents[2]
NEW = "24681357"

SitsDown = Callable[..., Person]


@pytest.fixture
def sits_down(people: list[Person]) -> SitsDown:
    """Start a user who runs a command at a terminal."""

    def start(home: Home, *words: object, **environment: str) -> Person:
        people.append(Person(home, *words, **environment))
        return people[-1]

    return start


def pin_of(home: Home) -> str:
    return home.content(home.token.pin_file).decode().strip()


def verify(home: Home) -> tuple[str, ...]:
    return ("pin", "verify", "--token", home.token.uri)


def sign(home: Home, order: str, *words: str) -> tuple[str, ...]:
    return ("sign", order, "--token", home.token.uri, "-o", "signed.p7m", *words)


# --- the PIN ----------------------------------------------------------------------------------------------------------


def test_the_pin_is_asked_for_and_never_shown(home: Home, sits_down: SitsDown) -> None:
    person = sits_down(home, *verify(home))
    person.sees("PIN of ushield-demo")
    assert not person.echo
    person.types(pin_of(home))
    done = person.ends(0)
    assert done.out.startswith("The PIN is correct.")
    assert pin_of(home) not in person.screen
    assert person.echo


def test_the_prompt_names_the_token_and_the_tries_that_are_left(home: Home, sits_down: SitsDown) -> None:
    home.ushield(*verify(home), "--pin-source", home.pin(), exits=4)
    person = sits_down(home, "--lang", "zh", *verify(home))
    person.sees("PIN 还可尝试 5 次")
    assert home.token.serial in person.screen


def test_what_was_typed_ahead_is_not_the_pin(home: Home, sits_down: SitsDown) -> None:
    person = sits_down(home, *verify(home))
    person.types("99999")
    person.sees("PIN of")
    person.types(pin_of(home))
    person.ends(0)


def test_a_wrong_pin_is_asked_for_once(home: Home, sits_down: SitsDown) -> None:
    person = sits_down(home, *verify(home))
    person.sees("PIN of")
    person.types("999999")
    done = person.ends(4)
    assert done.err.count("PIN of") == 1
    assert "5 attempts remaining" in done.err


@pytest.mark.parametrize("key", [b"\n", CTRL_D], ids=["nothing", "end of file"])
def test_no_pin(home: Home, sits_down: SitsDown, key: bytes) -> None:
    person = sits_down(home, *verify(home), "--json")
    person.sees("PIN of")
    person.presses(key)
    assert person.ends(7).document["error"]["code"] == "PIN_CANCELLED"


def test_ctrl_c_at_the_prompt(home: Home, sits_down: SitsDown) -> None:
    person = sits_down(home, *verify(home), "--json")
    person.sees("PIN of")
    assert not person.echo
    person.presses(CTRL_C)
    assert person.ends(130).document["error"]["code"] == "INTERRUPTED"
    assert person.echo
    assert home.tries_left() == 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_stop_from_outside_gives_the_echo_back(home: Home, sits_down: SitsDown, number: signal.Signals) -> None:
    person = sits_down(home, *verify(home))
    person.sees("PIN of")
    assert not person.echo
    person.child.send_signal(number)
    person.ends(130)
    assert person.echo


def test_ctrl_z_gives_the_echo_back_and_the_question_is_asked_again(home: Home, people: list[Person]) -> None:
    """In a shell with job control, and in one that does not restore the terminal settings itself."""
    person = Person(home, command=["sh", "-i"], PS1="$ ")
    people.append(person)
    person.types(" ".join([USHIELD, *map(shlex.quote, verify(home))]) + "; echo ended $?")
    for asked in (1, 2):
        person.sees("PIN of", asked)
        person.waits_for(lambda: not person.echo)
        if asked == 1:
            person.presses(pin_of(home)[:3].encode())
            person.presses(CTRL_Z)
            person.sees("Stopped")
            person.waits_for(lambda: person.echo)
            person.types("fg")
    person.types(pin_of(home))
    person.sees("The PIN is correct.")
    person.types("exit 0")
    person.child.communicate(timeout=TIMEOUT_S)
    assert pin_of(home)[:3] not in person.screen


def test_ctrl_backslash_leaves_no_core_and_gives_the_echo_back(home: Home, sits_down: SitsDown) -> None:
    person = sits_down(home, *verify(home))
    person.sees("PIN of")
    person.presses(CTRL_BACKSLASH)
    person.ends(130)
    assert person.echo
    assert not list(home.folder.glob("core*"))


def test_nobody_types(home: Home, sits_down: SitsDown) -> None:
    home.write("config/ushield/config.toml", "[timeouts]\npin_s = 5\n")
    person = sits_down(home, *verify(home), "--json")
    person.sees("PIN of")
    assert person.ends(7).document["error"]["code"] == "PIN_CANCELLED"
    assert person.echo


def test_a_new_pin_is_asked_for_twice(home: Home, sits_down: SitsDown) -> None:
    person = sits_down(home, "pin", "change", "--token", home.token.uri)
    person.sees("PIN of")
    person.types(pin_of(home))
    person.sees("New PIN for")
    person.types(NEW)
    person.sees("Repeat the new PIN")
    person.types(NEW)
    assert person.ends(0).out.startswith("The PIN was changed.")
    assert NEW not in person.screen
    home.ushield(*verify(home), "--pin-source", "-", stdin=NEW)


def test_two_new_pins_that_differ(home: Home, sits_down: SitsDown) -> None:
    person = sits_down(home, "pin", "change", "--token", home.token.uri, "--pin-source", home.token.pin_file)
    for typed in (NEW, "13572468"):
        person.sees("New PIN for" if typed == NEW else "Repeat the new PIN")
        person.types(typed)
    person.sees("The two PINs differ")
    person.presses(CTRL_C)
    person.ends(130)
    home.ushield(*verify(home), "--pin-source", home.token.pin_file)


def test_the_security_officer_types(home: Home, sits_down: SitsDown) -> None:
    person = sits_down(home, "pin", "unblock", "--token", home.token.uri, "--new-pin-source", home.pin(NEW))
    person.sees("Security officer's PIN")
    person.types(home.content(home.token.so_pin_file).decode().strip())
    assert person.ends(0).out.startswith("The PIN was unblocked.")


# --- the last attempt -------------------------------------------------------------------------------------------------


@pytest.fixture
def one_left(worn: Home, tmp_path: Path) -> Home:
    """One attempt remaining on the first token."""
    return worn.copy(tmp_path / "worn")


@pytest.mark.parametrize("answer", ["n", ""])
def test_the_last_try_is_not_used_without_a_yes(one_left: Home, sits_down: SitsDown, answer: str) -> None:
    person = sits_down(one_left, *verify(one_left), "--json")
    person.sees("one attempt remaining")
    person.types("999999")
    person.sees("Use it? [y/N]")
    person.types(answer)
    assert person.ends(7).document["error"]["code"] == "LAST_TRY_NOT_CONFIRMED"
    assert one_left.tries_left() == 1


def test_a_yes_uses_the_last_try(one_left: Home, sits_down: SitsDown) -> None:
    person = sits_down(one_left, *verify(one_left))
    person.sees("PIN of")
    person.types(pin_of(one_left))
    person.sees("Use it? [y/N]")
    person.types("y")
    person.ends(0)
    assert one_left.tries_left() == 6


# --- the order --------------------------------------------------------------------------------------------------------


def test_the_order_is_shown_and_a_yes_signs_it(home: Home, bank: Bank, sits_down: SitsDown) -> None:
    person = sits_down(home, *sign(home, home.order(), "--json"))
    person.sees("PIN of")
    person.types(pin_of(home))
    person.sees("Sign it? [y/N]")
    for must in ("PAYMENT", "杭州某某网络有限公司", "1202021409900012345", "128.50", "网上购物"):
        assert must in person.screen
    person.types("y")
    assert person.ends(0).document["confirmation"] == "host"
    assert home.json("verify", "signed.p7m", "--ca", bank.ca)["confirmation"] == "host"
    assert pin_of(home) not in person.screen


@pytest.mark.parametrize("answer", ["n", "", "yeah", "1"])
def test_anything_but_a_yes_does_not_sign(home: Home, sits_down: SitsDown, answer: str) -> None:
    order = home.order()
    person = sits_down(home, *sign(home, order, "--pin-source", home.token.pin_file, "--json"))
    person.sees("Sign it? [y/N]")
    person.types(answer)
    assert person.ends(7).document["error"]["code"] == "CONFIRMATION_REJECTED_ON_HOST"
    assert not home.file("signed.p7m").exists()
    assert home.sign(order, "signed.p7m")["replayed"] is False  # the user may still change their mind


@pytest.mark.parametrize("answer", ["是", "确认", "Y"])
def test_yes_in_chinese_too(home: Home, sits_down: SitsDown, answer: str) -> None:
    person = sits_down(home, "--lang", "zh", *sign(home, home.order(), "--pin-source", home.token.pin_file))
    person.sees("[y/N]")
    assert "收款" in person.screen
    person.types(answer)
    person.ends(0)


def test_nobody_answers(home: Home, sits_down: SitsDown) -> None:
    home.write("config/ushield/config.toml", "[timeouts]\nconfirm_s = 5\n")
    person = sits_down(home, *sign(home, home.order(), "--pin-source", home.token.pin_file, "--json"))
    person.sees("Sign it? [y/N]")
    error = person.ends(8).document["error"]
    assert (error["code"], error["details"]["waited_s"]) == ("CONFIRMATION_TIMED_OUT_ON_HOST", 5)
    assert not home.file("signed.p7m").exists()


def test_ctrl_c_at_the_question(home: Home, sits_down: SitsDown) -> None:
    order = home.order()
    person = sits_down(home, *sign(home, order, "--pin-source", home.token.pin_file))
    person.sees("Sign it? [y/N]")
    person.presses(CTRL_C)
    assert "Nothing was signed." in person.ends(130).err
    assert home.sign(order, "signed.p7m")["replayed"] is False


def test_unattended_asks_nobody(home: Home, sits_down: SitsDown) -> None:
    words = sign(home, home.order(), "--pin-source", home.token.pin_file, "--unattended", "--json")
    person = sits_down(home, *words)
    assert person.ends(0).document["confirmation"] == "none"
    assert "[y/N]" not in person.screen


def test_what_was_signed_is_handed_out_without_a_question(home: Home, sits_down: SitsDown) -> None:
    order = home.order()
    home.sign(order, "first.p7m")
    person = sits_down(home, *sign(home, order, "--json"))
    assert person.ends(0).document["replayed"] is True
    assert "PIN of" not in person.screen


# --- input typed before the prompt ------------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", ["y\n", "y", "y\ny\ny\n", "\n\ny\n"])
def test_a_yes_typed_before_the_question_is_no_answer(home: Home, sits_down: SitsDown, typed: str) -> None:
    order = home.order()
    person = sits_down(home, *sign(home, order, "--pin-source", home.token.pin_file, "--json"))
    person.presses(typed.encode())  # at process start
    person.sees("Sign it? [y/N]")
    time.sleep(0.5)
    assert person.child.poll() is None, "it waits for an answer to the question"
    person.types("")  # a "y" left in the buffer would make this a yes
    assert person.ends(7).document["error"]["code"] == "CONFIRMATION_REJECTED_ON_HOST"
    assert not home.file("signed.p7m").exists()


def test_a_yes_typed_after_the_pin_is_no_answer_to_what_comes_next(one_left: Home, sits_down: SitsDown) -> None:
    person = sits_down(one_left, *verify(one_left), "--json")
    person.sees("one attempt remaining")
    person.presses(b"999999\ny\n")
    person.sees("Use it? [y/N]")
    person.types("n")
    assert person.ends(7).document["error"]["code"] == "LAST_TRY_NOT_CONFIRMED"
    assert one_left.tries_left() == 1


def test_a_yes_on_stdin_is_no_answer(home: Home, people: list[Person]) -> None:
    """The question is asked and answered at the terminal only."""
    words = [USHIELD, *sign(home, home.order(), "--pin-source", home.token.pin_file, "--json")]
    person = Person(home, command=["sh", "-c", f"yes | {shlex.join(words)}"])
    people.append(person)
    person.sees("Sign it? [y/N]")
    time.sleep(0.5)
    assert person.child.poll() is None
    person.types("n")
    out, _ = person.child.communicate(timeout=TIMEOUT_S)
    assert (person.child.returncode, json.loads(out)["error"]["code"]) == (7, "CONFIRMATION_REJECTED_ON_HOST")


def test_without_a_terminal_nothing_on_stdin_is_consent(home: Home) -> None:
    words = sign(home, home.order(), "--pin-source", home.token.pin_file)
    home.fails(7, "NOBODY_TO_CONFIRM", *words, stdin="y\n" * 9)
    home.fails(7, "PIN_CANCELLED", *sign(home, home.order(), "--unattended"), stdin="y\n" * 9)
    assert home.tries_left() == 6


def test_the_end_of_input_is_a_no(home: Home, sits_down: SitsDown) -> None:
    person = sits_down(home, *sign(home, home.order(), "--pin-source", home.token.pin_file, "--json"))
    person.sees("Sign it? [y/N]")
    person.presses(CTRL_D)
    assert person.ends(7).document["error"]["code"] == "CONFIRMATION_REJECTED_ON_HOST"


# --- the processes ----------------------------------------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def test_no_process_carries_the_pin_where_others_see_it(home: Home, sits_down: SitsDown) -> None:
    shipped = (ROOT / "drivers/softhsm2.toml").read_text()
    home.write("drivers/softhsm2.toml", shipped.replace('isolation = "in-process"', 'isolation = "process"'))
    person = sits_down(home, "--drivers", "drivers", *sign(home, home.order(), "--json"))
    person.sees("PIN of")
    person.types(pin_of(home))
    person.sees("Sign it? [y/N]")
    processes = family(person.child.pid)
    assert len(processes) == 3, "the command, what workers are forked from, and the worker"
    for process in processes:
        for place in ("cmdline", "environ"):
            assert pin_of(home).encode() not in Path(f"/proc/{process}/{place}").read_bytes()
    person.types("y")
    assert json.loads(person.ends(0).out)["confirmation"] == "host"
    until = time.monotonic() + 5
    while any(os.path.exists(f"/proc/{process}") for process in processes):
        assert time.monotonic() < until, "the last one goes when it hears that the command has ended"
        time.sleep(0.01)
