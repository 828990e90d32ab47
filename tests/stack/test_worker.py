"""A module that crashes or hangs ends its worker, not the program, and the outcome of a signature stays correct."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.project.tree import ROOT
from tests.soft import SOFTHSM
from tests.stack.bench import Bench, ends
from ushield_hw.backend.interface import Isolation, SignOptions, Watch
from ushield_hw.backend.model import User
from ushield_hw.backend.pkcs11.function_list import Functions
from ushield_hw.errors import ConfirmationCancelled, OutcomeUnknown, TokenError, UShieldError
from ushield_hw.testing.faulty import Action, Fault, crashes, exits, faulty_module, hangs, late, returns
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.session import open_session

pytestmark = pytest.mark.stack

SOON = SignOptions(deadline_s=1)
ENDS: dict[str, tuple[Action, str, str]] = {
    "segfault": (crashes(), "crashed", "MODULE_CRASHED"),
    "abort": (crashes(signal.SIGABRT), "crashed", "MODULE_CRASHED"),
    "exit": (exits(3), "crashed", "MODULE_CRASHED"),
    "hang": (hangs(), "hung", "MODULE_HUNG"),
}
EACH_END = pytest.mark.parametrize("end", ENDS)


def file_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- crash and hang --------------------------------------------------------------------------------------------------


@EACH_END
def test_before_c_sign_it_is_a_token_error_and_nothing_was_signed(bench: Bench, end: str) -> None:
    action, _, code = ENDS[end]
    login = bench.login()
    call = bench.call()
    bench.plan("C_SignInit", 1, action)
    with pytest.raises(TokenError) as caught:
        bench.module.sign(login, call, SOON)
    assert caught.value.code == code
    assert bench.count("C_Sign") == 0


@EACH_END
def test_in_c_sign_the_outcome_is_unknown(bench: Bench, end: str) -> None:
    action, reason, _ = ENDS[end]
    login = bench.login()
    call = bench.call()
    bench.plan("C_Sign", 1, action)
    with pytest.raises(OutcomeUnknown) as caught:
        bench.module.sign(login, call, SOON)
    assert caught.value.reason == reason


def test_a_crash_after_the_token_signed_is_unknown_too(bench: Bench) -> None:
    login = bench.login()
    call = bench.call()
    bench.plan("C_Sign", 1, crashes(after=True))
    with pytest.raises(OutcomeUnknown):
        bench.module.sign(login, call)
    (signed,) = [call for call in bench.faulty.calls if call.function == "C_Sign"]
    assert signed.target_rv == 0


@EACH_END
def test_a_hung_or_crashed_login_is_a_token_error(bench: Bench, end: str) -> None:
    action, _, code = ENDS[end]
    slot = bench.slot
    bench.plan("C_Login", 1, action)
    with pytest.raises(TokenError) as caught:
        bench.module.login(slot, User.USER, bench.soft.pin, deadline_s=1)
    assert caught.value.code == code


@EACH_END
@pytest.mark.parametrize("function", ["C_SignInit", "C_Sign"])
def test_the_next_call_gets_a_new_worker(bench: Bench, function: str, end: str) -> None:
    login = bench.login()
    call, old = bench.call(), bench.worker()
    bench.plan(function, 1, ENDS[end][0])
    with ends(old), pytest.raises((TokenError, OutcomeUnknown)):
        bench.module.sign(login, call, SOON)
    assert not bench.module.logged_in(login)
    bench.sign(bench.login())
    assert bench.worker() != old


def test_the_login_of_a_lost_worker_is_not_taken_for_one_of_the_new(bench: Bench) -> None:
    login = bench.login()
    call = bench.call()
    os.kill(bench.worker(), signal.SIGKILL)
    with pytest.raises(TokenError) as caught:
        while True:  # until the loss of the worker is detected
            bench.module.sign(login, call)
    assert caught.value.code in {"MODULE_CRASHED", "LOGIN_ENDED"}
    with pytest.raises(TokenError) as caught:
        bench.module.sign(login, call)
    assert caught.value.code == "LOGIN_ENDED"


def test_a_session_whose_worker_is_lost_closes_without_an_error_and_without_a_new_worker(bench: Bench) -> None:
    session = open_session(bench.link, Scripted(bench.soft.pin), "sign")
    bench.plan("C_Sign", 1, crashes())
    with pytest.raises(OutcomeUnknown):
        bench.sign(session.login_id)
    assert not bench.module.logged_in(session.login_id)
    session.close()
    assert bench.count("C_Initialize") == 0


def test_threads_that_lose_their_worker_all_get_an_error_of_our_own_and_one_new_worker(bench: Bench) -> None:
    login = bench.login()
    call = bench.call()
    bench.plan("C_Sign", 20, crashes())

    def sign(_: int) -> str:
        try:
            bench.module.sign(login, call)
        except UShieldError as error:
            return error.code
        return "signed"

    with ThreadPoolExecutor(4) as pool:
        said = set(pool.map(sign, range(60)))
    assert (
        {"signed", "OUTCOME_UNKNOWN", "LOGIN_ENDED"}
        <= said
        <= {*("signed", "OUTCOME_UNKNOWN", "LOGIN_ENDED", "MODULE_CRASHED")}
    )
    assert bench.count("C_Initialize") == 1


def test_lost_workers_leave_no_open_files(bench: Bench) -> None:
    before = file_descriptors()
    for action in (crashes(), hangs()):
        login = bench.login()
        bench.plan("C_Sign", 1, action)
        with pytest.raises(OutcomeUnknown):
            bench.sign(login, SOON)
        bench.faulty.plan([])
    bench.module.close()
    assert file_descriptors() == before


def test_a_worker_that_died_idle_leaves_no_open_files(bench: Bench) -> None:
    before = file_descriptors()
    for _ in range(3):
        bench.module.slots()
        with ends(bench.worker()):
            os.kill(bench.worker(), signal.SIGKILL)
    bench.module.close()
    assert file_descriptors() == before


def test_a_late_answer_within_its_time_is_an_answer(bench: Bench) -> None:
    login = bench.login()
    call = bench.call()
    bench.module.deadline_s = 0.1
    bench.plan("C_Sign", 1, late(0.4))
    assert len(bench.module.sign(login, call, SignOptions(deadline_s=10))) == 64


def test_the_codes_of_a_descriptor_say_what_c_sign_means(bench: Bench) -> None:
    login = bench.login()
    call = bench.call()
    bench.plan("C_Sign", 1, returns("CKR_GENERAL_ERROR"))
    with pytest.raises(OutcomeUnknown):
        bench.module.sign(login, call, SignOptions({"CKR_GENERAL_ERROR": "unknown"}))


# -- cancelling ------------------------------------------------------------------------------------------------------


@contextmanager
def in_a_thread(work: Callable[[], object]) -> Iterator[Callable[[], BaseException | None]]:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work)
        yield lambda: running.exception(10)


@dataclass
class Cancelling:
    """Options for a signature whose wait can be cancelled, with the events that tell when."""

    begun: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def patience(self) -> SignOptions:
        return SignOptions(deadline_s=60, watch=Watch(self.begun.set, self.cancelled))


def test_cancelling_in_c_sign_is_unknown_and_the_login_stands(bench: Bench) -> None:
    login, cancelling = bench.login(), Cancelling()
    call, worker = bench.call(), bench.worker()
    bench.plan("C_Sign", 1, hangs())
    with in_a_thread(lambda: bench.module.sign(login, call, cancelling.patience)) as outcome:
        assert cancelling.begun.wait(10)
        cancelling.cancelled.set()
        assert isinstance(unknown := outcome(), OutcomeUnknown)
    assert unknown.reason == "cancelled"
    bench.faulty.plan([])
    assert len(bench.module.sign(login, call)) == 64
    assert bench.worker() == worker


def test_cancelling_before_c_sign_is_definite_and_c_sign_is_never_called(bench: Bench) -> None:
    login, cancelling = bench.login(), Cancelling()
    call = bench.call()
    bench.plan("C_SignInit", 1, late(1.0))
    with in_a_thread(lambda: bench.module.sign(login, call, cancelling.patience)) as outcome:
        bench.faulty.wait_for("C_SignInit")
        cancelling.cancelled.set()
        assert isinstance(outcome(), ConfirmationCancelled)
    assert not cancelling.begun.is_set()
    until = time.monotonic() + 10
    while bench.module.has_abandoned_call and time.monotonic() < until:
        time.sleep(0.05)
    assert bench.count("C_SignInit") == 1
    assert bench.count("C_Sign") == 0


def test_what_the_token_says_soon_after_a_cancel_counts(bench: Bench) -> None:
    login, cancelling = bench.login(), Cancelling()
    call = bench.call()
    bench.plan("C_Sign", 1, late(0.7))
    with ThreadPoolExecutor(1) as pool:
        signing = pool.submit(bench.module.sign, login, call, cancelling.patience)
        assert cancelling.begun.wait(10)
        cancelling.cancelled.set()
        assert len(signing.result(10)) == 64


def test_cancelling_one_signature_leaves_another_of_the_same_module_alone(bench: Bench) -> None:
    login, mine, theirs = bench.login(), Cancelling(), Cancelling()
    call = bench.call()
    bench.faulty.plan([Fault("C_Sign", 1, late(30.0)), Fault("C_Sign", 2, late(4.0))])
    bench.faulty.clear()
    with ThreadPoolExecutor(2) as pool:
        given_up = pool.submit(bench.module.sign, login, call, mine.patience)
        assert mine.begun.wait(10)
        other = pool.submit(bench.module.sign, login, call, theirs.patience)
        assert theirs.begun.wait(10)
        mine.cancelled.set()
        assert isinstance(given_up.exception(10), OutcomeUnknown)
        assert len(other.result(20)) == 64


def test_a_session_can_be_closed_while_the_module_is_still_in_a_signature_that_was_given_up(bench: Bench) -> None:
    session, cancelling = open_session(bench.link, Scripted(bench.soft.pin), "sign"), Cancelling()
    call = bench.call()
    bench.plan("C_Sign", 1, hangs())
    with in_a_thread(lambda: bench.module.sign(session.login_id, call, cancelling.patience)) as outcome:
        assert cancelling.begun.wait(10)
        cancelling.cancelled.set()
        assert isinstance(outcome(), OutcomeUnknown)
    started = time.monotonic()
    session.close()
    assert time.monotonic() - started < 3


def test_many_calls_that_were_given_up_leave_no_channel_behind(bench: Bench) -> None:
    login, before = bench.login(), file_descriptors()
    call = bench.call()
    for _ in range(30):
        cancelling = Cancelling()
        cancelling.cancelled.set()
        with suppress(ConfirmationCancelled, OutcomeUnknown):
            bench.module.sign(login, call, cancelling.patience)
    assert bench.module.sign(login, call)
    until = time.monotonic() + 10
    while bench.module.has_abandoned_call and time.monotonic() < until:
        time.sleep(0.05)
    assert file_descriptors() - before <= 3


def test_a_call_waits_for_its_own_answer_only(bench: Bench) -> None:
    """A slow call in one thread does not block another thread."""
    login = bench.login()
    call, slot = bench.call(), bench.slot
    bench.plan("C_Sign", 1, late(1))
    with in_a_thread(lambda: bench.module.sign(login, call)) as outcome:
        bench.faulty.wait_for("C_Sign")
        bench.module.token(slot)
        (signing,) = [call for call in bench.faulty.calls if call.function == "C_Sign"]
        assert signing.rv is None  # still running
        assert outcome() is None


# -- the parent process ----------------------------------------------------------------------------------------------


@contextmanager
def owner(bench: Bench, name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start a program that has its own worker."""
    command = [sys.executable, "-m", "tests.stack.programs", name, str(bench.faulty.path)]
    process = subprocess.Popen(
        [*command, bench.soft.serial, bench.soft.pin, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_a_worker_goes_when_its_owner_is_killed_even_with_a_forked_child_left(bench: Bench) -> None:
    with owner(bench, "own") as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            with ends(bench.worker()):
                process.kill()
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("function", ["C_Sign", "C_Finalize", "C_CloseAllSessions"])
def test_a_worker_goes_when_its_owner_is_killed_even_if_the_module_hangs(bench: Bench, function: str) -> None:
    bench.plan(function, 1, hangs())
    with owner(bench, "sign") as process:
        at_work = bench.faulty.wait_for("C_Sign")
        with ends(at_work.pid):
            process.kill()


def test_a_worker_goes_when_the_module_is_closed_even_in_the_middle_of_a_hung_call(bench: Bench) -> None:
    login = bench.login()
    call = bench.call()
    bench.plan("C_Sign", 1, hangs())
    with in_a_thread(lambda: bench.module.sign(login, call)) as outcome:
        hung = bench.faulty.wait_for("C_Sign")
        with ends(hung.pid):
            bench.module.close()
        assert isinstance(outcome(), OutcomeUnknown)


def test_closing_in_process_does_not_finalise_under_a_call(bench: Bench) -> None:
    faulty = faulty_module(bench.faulty.path.parent / "here", SOFTHSM, copy_target=True)
    module = bench.soft.module(Isolation.IN_PROCESS, faulty.path)
    here = Bench(bench.soft, faulty, module)
    login, call = here.login(), here.call()
    here.plan("C_Sign", 1, late(1.5))
    with in_a_thread(lambda: module.sign(login, call)) as outcome:
        faulty.wait_for("C_Sign")
        module.close()
        assert faulty.count("C_Finalize") == 0
        outcome()
    Functions(str(faulty.path)).call("C_Finalize", None)


def test_the_worker_gets_no_files_of_ours_and_no_core(bench: Bench, tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as ours:
        os.set_inheritable(ours.fileno(), True)
        bench.module.slots()
        theirs = {os.readlink(link) for link in Path(f"/proc/{bench.worker()}/fd").iterdir()}
        assert str(tmp_path / "secret") not in theirs
    assert resource.prlimit(bench.worker(), resource.RLIMIT_CORE) == (0, 0)
