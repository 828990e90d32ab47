"""PIN attempts: none is used needlessly, none is uncounted, and the prompts are exactly those expected here."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.project.tree import ROOT
from tests.soft import WRONG_PIN
from tests.stack.bench import EACH_JOB, LAST_TRY, Bench, Job, ends
from ushield_hw.errors import LastTryNotConfirmed, PinIncorrect, PinLocked, StorageError, TokenError
from ushield_hw.interaction import CountSource, PinKind, PinState
from ushield_hw.system import storage as state
from ushield_hw.testing.faulty import Fault, hangs, token_info
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.pin_operations import change_pin, verify_pin
from ushield_hw.token.session import open_session

pytestmark = pytest.mark.stack

GUESS = "user PIN to verify, {} left"
NEW_PIN = "654321"


@contextmanager
def program(bench: Bench, *guesses: str) -> Iterator[subprocess.Popen[str]]:
    """Start another process that verifies these PINs, one per input line, and prints a code for each."""
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


# -- the counter of this host ----------------------------------------------------------------------------------------


def test_a_right_pin_costs_nothing(bench: Bench) -> None:
    person = Scripted(bench.soft.pin)
    state = verify_pin(bench.link, person)
    assert (state.retries_left, state.source, state.low) == (6, CountSource.POLICY, False)
    assert person.prompts == [GUESS.format(6)]
    assert bench.names("C_Login", "C_Logout") == ["C_Login", "C_Logout"]


def test_a_wrong_pin_is_sent_once_and_the_error_knows_what_is_left(bench: Bench) -> None:
    with pytest.raises(PinIncorrect) as caught:
        verify_pin(bench.link, Scripted(WRONG_PIN))
    state = caught.value.state
    assert isinstance(state, PinState)
    assert (state.retries_left, state.final_try, state.locked, state.low) == (5, False, False, True)
    assert bench.count("C_Login") == 1


def test_each_prompt_says_how_many_tries_are_left(bench: Bench) -> None:
    prompts = []
    for _ in range(5):
        person = Scripted(WRONG_PIN)
        with pytest.raises(PinIncorrect):
            verify_pin(bench.link, person)
        prompts += person.prompts
    assert prompts == [GUESS.format(left) for left in (6, 5, 4, 3, 2)]


def test_success_gives_all_tries_back(bench: Bench) -> None:
    bench.fail(4)
    assert verify_pin(bench.link, Scripted(bench.soft.pin)).retries_left == 6


def test_wrong_pins_are_counted_across_processes(bench: Bench) -> None:
    bench.fail(1)
    assert guess(bench, WRONG_PIN, WRONG_PIN) == ["PIN_INCORRECT", "PIN_INCORRECT"]
    assert bench.link.pin.state().retries_left == 3


def test_a_right_pin_in_another_process_gives_the_tries_back_here(bench: Bench) -> None:
    bench.fail(3)
    assert guess(bench, bench.soft.pin) == ["ok"]
    assert bench.link.pin.state().retries_left == 6


@pytest.mark.parametrize("claim", ["serial", "label", "model", "manufacturer"])
def test_the_count_belongs_to_one_token(bench: Bench, claim: str) -> None:
    bench.fail(2)
    bench.faulty.plan([Fault("C_GetTokenInfo", None, token_info(**{claim: "another"}))])  # type: ignore[arg-type]
    info = bench.module.token(bench.slot)
    other = replace(bench.link, serial=info.serial, identity=info.identity)
    assert other.pin.state().retries_left == 6


def test_a_session_and_a_change_count_like_a_verification(bench: Bench) -> None:
    with pytest.raises(PinIncorrect):
        open_session(bench.link, Scripted(WRONG_PIN), "sign")
    with pytest.raises(PinIncorrect):
        change_pin(bench.link, Scripted(WRONG_PIN, NEW_PIN))
    assert bench.link.pin.state().retries_left == 4


# -- the last attempt ------------------------------------------------------------------------------------------------


def test_the_last_try_needs_consent_and_is_not_sent_without(bench: Bench) -> None:
    bench.fail(5)
    person = Scripted(bench.soft.pin, consents=[False])
    with pytest.raises(LastTryNotConfirmed) as caught:
        verify_pin(bench.link, person)
    assert person.prompts == [GUESS.format(1), LAST_TRY]
    assert bench.pins_sent() == []
    assert caught.value.state == bench.link.pin.state()
    assert bench.link.pin.state().final_try


def test_a_right_last_try_gives_all_tries_back(bench: Bench) -> None:
    bench.fail(5)
    assert verify_pin(bench.link, Scripted(bench.soft.pin, consents=[True])).retries_left == 6


def test_the_try_that_locks_says_locked(bench: Bench) -> None:
    bench.fail(5)
    person = Scripted(WRONG_PIN, consents=[True])
    with pytest.raises(PinLocked) as caught:
        verify_pin(bench.link, person)
    assert person.prompts == [GUESS.format(1), LAST_TRY]
    assert bench.count("C_Login") == 1
    assert caught.value.unblock == "so-init-pin"
    assert caught.value.ckr == "CKR_PIN_INCORRECT"


@EACH_JOB
def test_a_locked_pin_is_neither_asked_for_nor_sent(bench: Bench, job: Job) -> None:
    bench.fail(6)
    person = Scripted()
    with pytest.raises(PinLocked) as caught:
        job(bench.link, person)
    assert person.prompts == []
    assert bench.pins_sent() == []
    state = caught.value.state
    assert isinstance(state, PinState)
    assert (state.retries_left, state.locked, state.final_try) == (0, True, False)


def test_a_try_that_another_process_used_meanwhile_makes_the_next_one_the_last(bench: Bench) -> None:
    bench.fail(4)

    class Slow(Scripted):
        def request_pin(self, ask: Any) -> str | None:
            guess(bench, WRONG_PIN)
            bench.faulty.clear()
            return super().request_pin(ask)

    with pytest.raises(LastTryNotConfirmed) as caught:
        verify_pin(bench.link, Slow(bench.soft.pin))
    assert bench.pins_sent() == []
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
    assert set(said) <= {"PIN_INCORRECT", "PIN_LOCKED", "LAST_TRY_NOT_CONFIRMED"}
    assert bench.link.pin.state().locked


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
        verify_pin(link, Scripted(bench.soft.pin))
    bench.module.deadline_s = 30
    assert link.pin.state().retries_left == 5


# -- the counter's file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        pytest.param(b"[" * 100_000, id="nested"),
        b'{"failures": -1}',
        b'{"failures": true}',
        b'{"failures": "1"}',
    ],
)
@EACH_JOB
def test_a_count_that_makes_no_sense_stops_every_try(bench: Bench, job: Job, content: bytes) -> None:
    bench.fail(1)
    bench.counter().write_bytes(content)
    person = Scripted()
    with pytest.raises(StorageError) as caught:
        job(bench.link, person)
    assert caught.value.code == "PIN_COUNTER_UNUSABLE"
    assert person.prompts == []
    assert bench.pins_sent() == []


def test_a_count_that_cannot_be_read_stops_every_try(bench: Bench) -> None:
    bench.fail(1)
    file = bench.counter()
    file.unlink()
    file.mkdir()
    with pytest.raises(StorageError):
        verify_pin(bench.link, Scripted())
    assert bench.pins_sent() == []


def test_a_count_that_cannot_be_written_stops_every_try(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    link = bench.link
    monkeypatch.setattr(state, "write_atomically", full)
    with pytest.raises(StorageError) as caught:
        verify_pin(link, Scripted(bench.soft.pin))
    assert caught.value.reason == "No space left on device"
    assert bench.pins_sent() == []


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
        open_session(link, Scripted(bench.soft.pin), "sign")
    assert bench.names("C_Login", "C_Logout") == ["C_Login", "C_Logout"]
    assert link.pin.state().retries_left == 5


def test_a_state_folder_that_others_can_write_stops_every_try(bench: Bench) -> None:
    bench.fail(1)
    (bench.soft.state / "pin").chmod(0o777)
    with pytest.raises(StorageError) as caught:
        verify_pin(bench.link, Scripted())
    assert caught.value.code == "STATE_UNSAFE"
    assert bench.pins_sent() == []


def test_a_file_where_the_state_folder_should_be_stops_every_try(bench: Bench) -> None:
    bench.soft.state.write_text("")
    with pytest.raises(StorageError):
        verify_pin(bench.link, Scripted())
    assert bench.pins_sent() == []


@pytest.mark.parametrize("kind", [PinKind.USER, PinKind.CONTEXT])
def test_a_pin_on_its_way_shows_in_no_frame(bench: Bench, kind: PinKind) -> None:
    sent: list[str | None] = []
    bench.link.pin.use(Scripted(bench.soft.pin), kind, "sign", sent.append)
    assert sent == [bench.soft.pin]
    assert bench.soft.pin not in repr(sent)
