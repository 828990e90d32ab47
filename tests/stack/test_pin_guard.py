"""No PIN try is wasted, none is given away, and the person is asked exactly what is written here."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.project.tree import ROOT
from tests.soft import WRONG_PIN, Script, pin_driver
from tests.stack.bench import Bench, ends
from ushield_hw import state
from ushield_hw.cryptoki.model import TokenFlag, User
from ushield_hw.drivers import PinFlags, Unblock
from ushield_hw.errors import (
    LastTryNotConfirmed,
    PinCancelled,
    PinChangeRequired,
    PinError,
    PinFormatError,
    PinIncorrect,
    PinLocked,
    StorageError,
    TokenError,
    TokenNotInitialized,
)
from ushield_hw.interaction import CountSource, PinState
from ushield_hw.session import Link, change_pin, open_session, unblock_pin, verify_pin
from ushield_hw.testing.faulty import Fault, hangs, returns, token_info

pytestmark = pytest.mark.stack

NEW_PIN = "654321"
GUESS, LAST = "user PIN to verify, {} left", "use the last try?"
EACH_JOB = pytest.mark.parametrize(
    "job", [lambda link, person: open_session(link, person, "sign"), verify_pin, change_pin]
)


def fail(bench: Bench, tries: int) -> None:
    """Spend so many tries of the six."""
    for number in range(tries):
        with pytest.raises((PinIncorrect, PinLocked)):
            verify_pin(bench.link, Script(WRONG_PIN, consents=[True] if number == 5 else []))
    bench.faulty.clear()


def counter(bench: Bench) -> Path:
    (file,) = (bench.soft.state / "pin").glob("*.json")
    return file


def nothing_sent(bench: Bench) -> bool:
    return bench.names("C_Login", "C_SetPIN", "C_InitPIN") == []


@contextmanager
def program(bench: Bench, *guesses: str) -> Iterator[subprocess.Popen[str]]:
    """Start another process that verifies these PINs when it gets a line, and prints a code a line."""
    command = [sys.executable, "-m", "tests.stack.programs", "guess", str(bench.faulty.path), bench.soft.serial]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([*command, str(bench.soft.state), *guesses], cwd=ROOT, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def guess(bench: Bench, *guesses: str) -> list[str]:
    with program(bench, *guesses) as process:
        return process.communicate("go\n", timeout=60)[0].split()[1:]


# -- the count of this host ------------------------------------------------------------------------------------------


def test_a_right_pin_costs_nothing(bench: Bench) -> None:
    person = Script(bench.soft.pin)
    state = verify_pin(bench.link, person)
    assert (state.retries_left, state.source, state.low) == (6, CountSource.POLICY, False)
    assert person.prompts == [GUESS.format(6)]
    assert bench.names("C_Login", "C_Logout") == ["C_Login", "C_Logout"]


def test_a_wrong_pin_is_sent_once_and_the_error_knows_what_is_left(bench: Bench) -> None:
    with pytest.raises(PinIncorrect) as caught:
        verify_pin(bench.link, Script(WRONG_PIN))
    state = caught.value.state
    assert isinstance(state, PinState)
    assert (state.retries_left, state.final_try, state.locked, state.low) == (5, False, False, True)
    assert bench.count("C_Login") == 1


def test_each_prompt_says_how_many_tries_are_left(bench: Bench) -> None:
    prompts = []
    for _ in range(5):
        person = Script(WRONG_PIN)
        with pytest.raises(PinIncorrect):
            verify_pin(bench.link, person)
        prompts += person.prompts
    assert prompts == [GUESS.format(left) for left in (6, 5, 4, 3, 2)]


def test_success_gives_all_tries_back(bench: Bench) -> None:
    fail(bench, 4)
    assert verify_pin(bench.link, Script(bench.soft.pin)).retries_left == 6


def test_wrong_pins_are_counted_across_processes(bench: Bench) -> None:
    fail(bench, 1)
    assert guess(bench, WRONG_PIN, WRONG_PIN) == ["PIN_INCORRECT", "PIN_INCORRECT"]
    assert bench.link.pin.state().retries_left == 3


def test_a_right_pin_in_another_process_gives_the_tries_back_here(bench: Bench) -> None:
    fail(bench, 3)
    assert guess(bench, bench.soft.pin) == ["ok"]
    assert bench.link.pin.state().retries_left == 6


def test_the_count_belongs_to_one_token(bench: Bench) -> None:
    fail(bench, 2)
    bench.faulty.plan([Fault("C_GetTokenInfo", None, token_info(serial="another"))])
    other = Link(bench.module, bench.slot, "another", bench.link.driver, bench.link.settings)
    assert other.pin.state().retries_left == 6


def test_a_session_and_a_change_count_like_a_verification(bench: Bench) -> None:
    with pytest.raises(PinIncorrect):
        open_session(bench.link, Script(WRONG_PIN), "sign")
    with pytest.raises(PinIncorrect):
        change_pin(bench.link, Script(WRONG_PIN, NEW_PIN))
    assert bench.link.pin.state().retries_left == 4


# -- the last try ----------------------------------------------------------------------------------------------------


def test_the_last_try_needs_consent_and_is_not_sent_without(bench: Bench) -> None:
    fail(bench, 5)
    person = Script(bench.soft.pin, consents=[False])
    with pytest.raises(LastTryNotConfirmed) as caught:
        verify_pin(bench.link, person)
    assert person.prompts == [GUESS.format(1), LAST]
    assert nothing_sent(bench)
    assert caught.value.state == bench.link.pin.state()
    assert bench.link.pin.state().final_try


def test_a_right_last_try_gives_all_tries_back(bench: Bench) -> None:
    fail(bench, 5)
    assert verify_pin(bench.link, Script(bench.soft.pin, consents=[True])).retries_left == 6


def test_the_try_that_locks_says_locked(bench: Bench) -> None:
    fail(bench, 5)
    person = Script(WRONG_PIN, consents=[True])
    with pytest.raises(PinLocked) as caught:
        verify_pin(bench.link, person)
    assert person.prompts == [GUESS.format(1), LAST]
    assert bench.count("C_Login") == 1
    assert caught.value.unblock == "so-init-pin"
    assert caught.value.ckr == "CKR_PIN_INCORRECT"


@EACH_JOB
def test_a_locked_pin_is_neither_asked_for_nor_sent(bench: Bench, job: Callable[[Link, Script], object]) -> None:
    fail(bench, 6)
    person = Script()
    with pytest.raises(PinLocked) as caught:
        job(bench.link, person)
    assert person.prompts == []
    assert nothing_sent(bench)
    state = caught.value.state
    assert isinstance(state, PinState)
    assert (state.retries_left, state.locked, state.final_try) == (0, True, False)


def test_a_try_that_another_process_used_meanwhile_makes_the_next_one_the_last(bench: Bench) -> None:
    fail(bench, 4)

    class Slow(Script):
        def request_pin(self, ask: Any) -> str | None:
            guess(bench, WRONG_PIN)
            bench.faulty.clear()
            return super().request_pin(ask)

    with pytest.raises(LastTryNotConfirmed) as caught:
        verify_pin(bench.link, Slow(bench.soft.pin))
    assert nothing_sent(bench)
    assert caught.value.state == bench.link.pin.state()
    assert caught.value.serial == bench.soft.serial


def test_two_processes_that_guess_at_once_never_get_a_try_too_many(bench: Bench) -> None:
    guesses = [WRONG_PIN] * 8
    with program(bench, *guesses) as one, program(bench, *guesses) as other:
        for process in (one, other):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        bench.faulty.clear()
        for process in (one, other):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [code for process in (one, other) for code in process.communicate(timeout=60)[0].split()]
    assert bench.count("C_Login") == 6
    assert said.count("PIN_INCORRECT") == 5
    assert set(said) <= {"PIN_INCORRECT", "PIN_LOCKED", "LAST_TRY_NOT_CONFIRMED"}  # the last: not the one asked for


# -- crashes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("right", [True, False])
def test_a_kill_before_the_tokens_answer_costs_a_try(bench: Bench, right: bool) -> None:
    assert bench.slot
    bench.plan("C_Login", 1, hangs())
    with program(bench, bench.soft.pin if right else WRONG_PIN) as process:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        asked = bench.faulty.wait_for("C_Login")
        with ends(asked.pid):
            process.kill()
    assert bench.link.pin.state().retries_left == 5


def test_a_module_that_is_lost_while_it_checks_the_pin_costs_a_try(bench: Bench) -> None:
    link = bench.link
    bench.module.deadline_s = 1
    bench.plan("C_Login", 1, hangs())
    with pytest.raises(TokenError):
        verify_pin(link, Script(bench.soft.pin))
    bench.module.deadline_s = 30
    assert link.pin.state().retries_left == 5


# -- the counter's file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"failures": -1}', b'{"failures": true}', b'{"failures": "1"}']
)
@EACH_JOB
def test_a_count_that_makes_no_sense_stops_every_try(
    bench: Bench, job: Callable[[Link, Script], object], content: bytes
) -> None:
    fail(bench, 1)
    counter(bench).write_bytes(content)
    person = Script()
    with pytest.raises(StorageError) as caught:
        job(bench.link, person)
    assert caught.value.code == "PIN_COUNTER_UNUSABLE"
    assert person.prompts == []
    assert nothing_sent(bench)


def test_a_count_that_cannot_be_read_stops_every_try(bench: Bench) -> None:
    fail(bench, 1)
    file = counter(bench)
    file.unlink()
    file.mkdir()
    with pytest.raises(StorageError):
        verify_pin(bench.link, Script())
    assert nothing_sent(bench)


def test_a_count_that_cannot_be_written_stops_every_try(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    link = bench.link
    monkeypatch.setattr(state, "write_atomically", full)
    with pytest.raises(StorageError) as caught:
        verify_pin(link, Script(bench.soft.pin))
    assert caught.value.reason == "No space left on device"
    assert nothing_sent(bench)


def test_a_success_that_cannot_be_noted_is_no_success_and_is_logged_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, write = bench.link, state.write_atomically

    def full_later(file: Path, data: bytes) -> None:
        if json.loads(data)["failures"] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    monkeypatch.setattr(state, "write_atomically", full_later)
    with pytest.raises(StorageError):
        open_session(link, Script(bench.soft.pin), "sign")
    assert bench.names("C_Login", "C_Logout") == ["C_Login", "C_Logout"]
    assert link.pin.state().retries_left == 5


def test_a_state_folder_that_others_can_write_stops_every_try(bench: Bench) -> None:
    fail(bench, 1)
    (bench.soft.state / "pin").chmod(0o777)
    with pytest.raises(StorageError) as caught:
        verify_pin(bench.link, Script())
    assert caught.value.code == "STATE_FOLDER_UNSAFE"
    assert nothing_sent(bench)


def test_a_file_where_the_state_folder_should_be_stops_every_try(bench: Bench) -> None:
    bench.soft.state.write_text("")
    with pytest.raises(StorageError):
        verify_pin(bench.link, Script())
    assert nothing_sent(bench)


# -- the PIN itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pin", "code"),
    [
        ("123", "PIN_FORMAT"),
        ("1" * 13, "PIN_FORMAT"),
        ("一二三四五", "PIN_FORMAT"),  # 15 bytes
        ("", "PIN_FORMAT"),
        ("12345\n", "PIN_CHARACTERS"),
        ("12345\0", "PIN_CHARACTERS"),
        ("12345\x7f", "PIN_CHARACTERS"),
        ("12345\x9b", "PIN_CHARACTERS"),
        ("12345\udcff", "PIN_CHARACTERS"),
    ],
)
@EACH_JOB
def test_a_pin_that_cannot_be_right_is_refused_unsent(
    bench: Bench, job: Callable[[Link, Script], object], pin: str, code: str
) -> None:
    bench.faulty.plan([Fault("C_GetTokenInfo", None, token_info(pin_min=4, pin_max=12))])
    person = Script(pin)
    with pytest.raises(PinFormatError) as caught:
        job(bench.link, person)
    assert (caught.value.code, caught.value.min, caught.value.max) == (code, 4, 12)
    assert len(person.prompts) == 1
    assert nothing_sent(bench)
    assert bench.link.pin.state().retries_left == 6


def test_the_stricter_of_token_and_driver_says_how_long_a_pin_is(bench: Bench) -> None:
    bench.faulty.plan([Fault("C_GetTokenInfo", None, token_info(pin_min=4, pin_max=12))])
    link = bench.soft.link(bench.module, pin_driver(min_length=6, max_length=20))
    state = link.pin.state()
    assert (state.min_length, state.max_length) == (6, 12)


def test_a_prompt_that_is_cancelled_sends_nothing(bench: Bench) -> None:
    with pytest.raises(PinCancelled):
        verify_pin(bench.link, Script(None))
    assert nothing_sent(bench)


def test_a_token_whose_pin_was_never_set_is_not_asked(bench: Bench) -> None:
    bench.faulty.plan([Fault("C_GetTokenInfo", None, token_info(clear_flags=TokenFlag.USER_PIN_INITIALIZED))])
    with pytest.raises(TokenNotInitialized) as caught:
        verify_pin(bench.link, Script())
    assert caught.value.code == "PIN_NOT_SET"
    assert nothing_sent(bench)


# -- change and unblock ----------------------------------------------------------------------------------------------


def test_a_change_asks_for_the_old_and_the_new_pin_and_is_one_call(bench: Bench) -> None:
    person = Script(bench.soft.pin, NEW_PIN)
    change_pin(bench.link, person)
    assert person.prompts == ["user PIN to change, 6 left", "new PIN to change"]
    assert bench.names("C_Login", "C_SetPIN") == ["C_SetPIN"]
    verify_pin(bench.link, Script(NEW_PIN))


def test_a_new_pin_that_cannot_be_right_leaves_the_old_one_unsent(bench: Bench) -> None:
    with pytest.raises(PinFormatError):
        change_pin(bench.link, Script(bench.soft.pin, "1"))
    assert nothing_sent(bench)


def test_a_change_with_the_last_try_needs_consent(bench: Bench) -> None:
    fail(bench, 5)
    person = Script(bench.soft.pin, NEW_PIN, consents=[False])
    with pytest.raises(LastTryNotConfirmed):
        change_pin(bench.link, person)
    assert person.prompts == ["user PIN to change, 1 left", "new PIN to change", LAST]
    assert nothing_sent(bench)


def test_the_so_unblocks_with_a_new_pin(bench: Bench) -> None:
    fail(bench, 6)
    person = Script(bench.soft.so_pin, NEW_PIN)
    assert unblock_pin(bench.link, person).retries_left == 6
    assert person.prompts == ["so PIN to unblock", "new PIN to change"]
    verify_pin(bench.link, Script(NEW_PIN))


@pytest.mark.parametrize("content", [b"", b"nonsense", b'{"failures": 99}'])
def test_the_so_unblocks_whatever_is_in_the_counter(bench: Bench, content: bytes) -> None:
    fail(bench, 1)
    counter(bench).write_bytes(content)
    assert unblock_pin(bench.link, Script(bench.soft.so_pin, NEW_PIN)).retries_left == 6


def test_a_wrong_so_pin_is_sent_once_and_leaves_the_lock(bench: Bench) -> None:
    fail(bench, 6)
    with pytest.raises(PinIncorrect) as caught:
        unblock_pin(bench.link, Script(WRONG_PIN, NEW_PIN))
    assert caught.value.code == "SO_PIN_INCORRECT"
    assert bench.names("C_Login", "C_InitPIN") == ["C_Login"]
    assert bench.link.pin.state().locked


def test_a_puk_goes_into_one_c_set_pin_without_a_login(bench: Bench) -> None:
    link = bench.soft.link(bench.module, pin_driver(unblock=Unblock.SET_PIN_UNLOGGED, policy_tries=None))
    person = Script(bench.soft.pin, NEW_PIN)  # to SoftHSM2 it is the old PIN
    unblock_pin(link, person)
    assert person.prompts == ["puk PIN to unblock", "new PIN to change"]
    assert bench.names("C_Login", "C_SetPIN") == ["C_SetPIN"]


def test_a_token_that_cannot_be_unblocked_asks_nobody(bench: Bench) -> None:
    link = bench.soft.link(bench.module, pin_driver(unblock=Unblock.NONE))
    with pytest.raises(PinError) as caught:
        unblock_pin(link, Script())
    assert caught.value.code == "PIN_UNBLOCK_UNAVAILABLE"


# -- what the token's flags say --------------------------------------------------------------------------------------

LOW, FINAL, LOCKED = TokenFlag.USER_PIN_COUNT_LOW, TokenFlag.USER_PIN_FINAL_TRY, TokenFlag.USER_PIN_LOCKED
NOTHING = (None, None, None, None)


@pytest.mark.parametrize(
    ("belief", "flags", "expected"),  # (retries_left, locked, final_try, low)
    [
        (PinFlags.TRUSTED, 0, (None, False, False, False)),
        (PinFlags.TRUSTED, LOW, (None, False, False, True)),
        (PinFlags.TRUSTED, LOW | FINAL, (1, False, True, True)),
        (PinFlags.TRUSTED, LOCKED, (0, True, False, True)),
        (PinFlags.TRUSTED, LOCKED | FINAL, (0, True, False, True)),
        (PinFlags.PARTIAL, 0, NOTHING),
        (PinFlags.PARTIAL, LOW, (None, None, None, True)),
        (PinFlags.PARTIAL, FINAL, (1, False, True, True)),
        (PinFlags.PARTIAL, LOCKED, (0, True, False, True)),
        (PinFlags.NONE, 0, NOTHING),
        (PinFlags.NONE, LOW | FINAL, NOTHING),
        (PinFlags.NONE, LOCKED, NOTHING),
    ],
)
def test_a_pin_state_says_what_the_flags_say_and_no_more(
    bench: Bench, belief: PinFlags, flags: int, expected: tuple[object, ...]
) -> None:
    bench.faulty.plan([Fault("C_GetTokenInfo", None, token_info(set_flags=flags))])
    link = bench.soft.link(bench.module, pin_driver(flags=belief, policy_tries=None))
    state = link.pin.state()
    assert (state.retries_left, state.locked, state.final_try, state.low) == expected
    assert state.source is (CountSource.NONE if belief is PinFlags.NONE else CountSource.FLAGS)
    assert not bench.soft.state.exists()


def test_under_the_policy_of_this_host_the_flags_are_not_asked(bench: Bench) -> None:
    bench.faulty.plan([Fault("C_GetTokenInfo", None, token_info(set_flags=LOW | FINAL | LOCKED))])
    state = bench.link.pin.state()
    assert (state.retries_left, state.source, state.locked) == (6, CountSource.POLICY, False)


@pytest.mark.parametrize("belief", [PinFlags.TRUSTED, PinFlags.PARTIAL])
def test_the_last_try_by_the_flags_needs_consent(bench: Bench, belief: PinFlags) -> None:
    bench.faulty.plan([Fault("C_GetTokenInfo", None, token_info(set_flags=FINAL))])
    link = bench.soft.link(bench.module, pin_driver(flags=belief, policy_tries=None))
    with pytest.raises(LastTryNotConfirmed):
        verify_pin(link, Script(bench.soft.pin, consents=[False]))
    assert nothing_sent(bench)
    verify_pin(link, Script(bench.soft.pin, consents=[True]))
    assert bench.count("C_Login") == 1


@pytest.mark.parametrize("belief", [PinFlags.TRUSTED, PinFlags.PARTIAL])
def test_a_pin_locked_by_the_flags_is_neither_asked_for_nor_sent(bench: Bench, belief: PinFlags) -> None:
    bench.faulty.plan([Fault("C_GetTokenInfo", None, token_info(set_flags=LOCKED))])
    link = bench.soft.link(bench.module, pin_driver(flags=belief, policy_tries=None))
    with pytest.raises(PinLocked):
        verify_pin(link, Script())
    assert nothing_sent(bench)


def test_a_wrong_pin_on_a_token_that_says_nothing_has_no_number(bench: Bench) -> None:
    link = bench.soft.link(bench.module, pin_driver(flags=PinFlags.NONE, policy_tries=None))
    person = Script(WRONG_PIN)
    with pytest.raises(PinIncorrect) as caught:
        verify_pin(link, person)
    assert person.prompts == ["user PIN to verify"]
    assert caught.value.state == PinState(min_length=4, max_length=255)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("CKR_PIN_LOCKED", PinLocked),
        ("CKR_PIN_EXPIRED", PinChangeRequired),
        ("CKR_PIN_LEN_RANGE", PinFormatError),
        ("CKR_USER_PIN_NOT_INITIALIZED", TokenNotInitialized),
    ],
)
def test_what_the_token_answers_is_an_error_of_its_own(bench: Bench, code: str, error: type[Exception]) -> None:
    link = bench.soft.link(bench.module, pin_driver(policy_tries=None))
    bench.plan("C_Login", None, returns(code))
    with pytest.raises(error):
        verify_pin(link, Script(bench.soft.pin))
    assert bench.count("C_Login") == 1


def test_the_tokens_own_lock_says_how_to_unblock_it(bench: Bench) -> None:
    link = bench.soft.link(bench.module, pin_driver(policy_tries=None, unblock=Unblock.SET_PIN_UNLOGGED))
    bench.plan("C_Login", 1, returns("CKR_PIN_LOCKED"))
    with pytest.raises(PinLocked) as caught:
        verify_pin(link, Script(bench.soft.pin))
    assert caught.value.unblock == "set-pin-unlogged"


def test_a_login_of_the_so_gives_the_user_no_tries_back(bench: Bench) -> None:
    fail(bench, 1)
    bench.login(user=User.SO)
    assert bench.link.pin.state().retries_left == 5
