"""Gaps of python-pkcs11 and how this library closes them, verified by the record of calls."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.project.tree import ROOT
from tests.soft import OPTIONS, SOFTHSM, WRONG_PIN, Soft, pin_driver
from tests.stack.bench import CONTEXT, USER, Bench, open_sessions, overlapping
from ushield_hw.backend.interface import Isolation, SignOptions
from ushield_hw.backend.model import ObjectClass, TokenFlag, User
from ushield_hw.backend.pkcs11.ckr import NUMBERS, CkrError
from ushield_hw.backend.pkcs11.engine import Engine
from ushield_hw.backend.pkcs11.function_list import OS_LOCKING_OK, Functions
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.errors import CertificateNotFound, PinFormatError, PinIncorrect, TokenBusy, TokenError, UShieldError
from ushield_hw.testing.faulty import Fault, cant_lock, faulty_module, late, mechanisms, pinpad, returns, token_info
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.pin_operations import change_pin, unblock_pin, verify_pin
from ushield_hw.token.session import open_session

pytestmark = pytest.mark.stack

PINPAD = Fault("C_GetTokenInfo", None, token_info(set_flags=TokenFlag.PROTECTED_AUTHENTICATION_PATH))

PIN_FORMS = ("PIN_LEN_RANGE", "PIN_INVALID", "PIN_TOO_WEAK")  # codes about the format of a PIN


def in_threads(work: Callable[[], object], count: int = 4) -> list[object]:
    """Run a function in several threads that start together."""
    together = threading.Barrier(count)

    def run(_: int) -> object:
        together.wait(10)
        return work()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


# -- threads ---------------------------------------------------------------------------------------------------------


def test_the_module_is_told_that_threads_use_it(bench: Bench) -> None:
    bench.login()
    assert {call.flags for call in bench.faulty.calls if call.function == "C_Initialize"} == {OS_LOCKING_OK}


def test_a_module_with_locks_is_called_by_threads_at_once(bench: Bench) -> None:
    login = bench.login()
    call = bench.call()
    bench.plan("C_Sign", None, late(0.1))
    in_threads(lambda: bench.module.sign(login, call))
    assert overlapping(bench.faulty.calls)


def test_a_module_without_locks_is_called_by_one_thread_at_a_time(bench: Bench) -> None:
    bench.faulty.plan([Fault("C_Initialize", None, cant_lock()), Fault("C_Sign", None, late(0.05))])
    login = bench.login()
    call = bench.call()
    in_threads(lambda: bench.module.sign(login, call))
    initialized = [call for call in bench.faulty.calls if call.function == "C_Initialize"]
    assert [(call.flags, call.rv_name) for call in initialized[:2]] == [(2, "CKR_CANT_LOCK"), (None, "CKR_OK")]
    assert bench.count("C_Sign") == 4
    assert not overlapping(bench.faulty.calls)


def test_a_signature_that_outlives_its_login_leaves_no_dead_session_to_the_next(bench: Bench) -> None:
    login, call = bench.login(), bench.call()
    bench.plan("C_Sign", 1, late(0.5, after=True))
    with ThreadPoolExecutor(1) as pool:
        signing = pool.submit(bench.module.sign, login, call)
        bench.faulty.wait_for("C_Sign")
        bench.module.logout(login)  # closes the session that another thread uses and then returns
        again = bench.login()
        signing.exception(10)
    assert len(bench.sign(again)) == 64


# -- login -----------------------------------------------------------------------------------------------------------


def test_wrong_pins_leave_no_session_and_the_so_can_still_log_in(bench: Bench) -> None:
    for _ in range(20):
        with pytest.raises(PinIncorrect):
            bench.login(WRONG_PIN)
    assert open_sessions(bench.faulty.calls) == set()
    bench.login(user=User.SO)


def test_the_so_logs_in_although_objects_were_read_before(bench: Bench) -> None:
    bench.module.keys(bench.slot)
    bench.login(user=User.SO)


def test_a_second_open_neither_prompts_nor_checks_a_pin(bench: Bench) -> None:
    person = Scripted(bench.soft.pin)
    with open_session(bench.link, person, "sign"), open_session(bench.link, Scripted(), "sign") as second:
        bench.sign(second.login_id)
    assert person.prompts == ["user PIN to sign, 6 left"]
    assert bench.count("C_Login") == 1


def test_threads_that_open_at_once_share_one_prompt_and_one_login(bench: Bench) -> None:
    person = Scripted(bench.soft.pin)
    link = bench.link
    sessions = in_threads(lambda: open_session(link, person, "sign"))
    assert len(sessions) == 4
    assert person.prompts == ["user PIN to sign, 6 left"]
    assert bench.count("C_Login") == 1


def test_the_login_lasts_until_the_last_session_is_closed(bench: Bench) -> None:
    first = open_session(bench.link, Scripted(bench.soft.pin), "sign")
    second = open_session(bench.link, Scripted(), "sign")
    first.close()
    first.close()
    bench.sign(second.login_id)
    assert bench.count("C_Logout") == 0
    second.close()
    assert bench.count("C_Logout") == 1


def test_a_login_while_logged_in_is_busy_and_sends_no_pin(bench: Bench) -> None:
    bench.login()
    with pytest.raises(TokenBusy):
        bench.login(WRONG_PIN)
    assert bench.count("C_Login") == 1


@pytest.mark.parametrize("job", [verify_pin, change_pin, unblock_pin])
def test_pin_jobs_while_logged_in_are_busy_without_a_prompt(bench: Bench, job: Callable[..., object]) -> None:
    with open_session(bench.link, Scripted(bench.soft.pin), "sign"):
        with pytest.raises(TokenBusy) as caught:
            job(bench.link, Scripted())
    assert caught.value.holder
    assert bench.count("C_Login") == 1


def test_a_pin_verified_while_a_session_is_being_opened_costs_no_try(bench: Bench) -> None:
    link, prompted, answer = bench.link, threading.Event(), threading.Event()

    class Slow(Scripted):
        def request_pin(self, ask: object) -> str | None:
            prompted.set()
            answer.wait(10)
            return bench.soft.pin

    with ThreadPoolExecutor(2) as pool:
        opening = pool.submit(open_session, link, Slow(), "sign")
        assert prompted.wait(10)
        verifying = pool.submit(verify_pin, link, Scripted(bench.soft.pin))
        answer.set()
        opening.result(10)
        with pytest.raises(TokenBusy):
            verifying.result(10)
    assert bench.count("C_Login") == 1
    assert link.pin.state().retries_left == 6


def test_a_login_ended_by_the_token_is_made_again_with_a_prompt(bench: Bench) -> None:
    session = open_session(bench.link, Scripted(bench.soft.pin), "sign")
    call = bench.call()
    bench.plan("C_Sign", 1, returns("CKR_USER_NOT_LOGGED_IN"))
    with pytest.raises(TokenError) as caught:
        bench.module.sign(session.login_id, call)
    assert caught.value.code == "LOGIN_ENDED"
    person = Scripted(bench.soft.pin)
    with open_session(bench.link, person, "sign") as again:
        bench.sign(again.login_id)
    assert person.prompts == ["user PIN to sign, 6 left"]


# -- closing ---------------------------------------------------------------------------------------------------------


def test_a_failed_logout_still_closes_every_session(bench: Bench) -> None:
    login = bench.login()
    bench.sign(login)
    bench.faulty.plan([Fault("C_Logout", None, returns("CKR_GENERAL_ERROR"))])
    with pytest.raises(TokenError) as caught:
        bench.module.logout(login)
    assert (caught.value.ckr, caught.value.function) == ("CKR_GENERAL_ERROR", "C_Logout")
    assert open_sessions(bench.faulty.calls) == set()
    bench.login()


def test_an_error_in_closing_replaces_no_result(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.faulty.plan([Fault("C_Logout", None, returns("CKR_GENERAL_ERROR"))])
    with open_session(bench.link, Scripted(bench.soft.pin), "sign"):
        pass
    assert bench.count("C_Logout") == 1
    assert "no logout: TOKEN_FAILED" in caplog.text
    assert verify_pin(bench.link, Scripted(bench.soft.pin)).low is False


def test_an_error_in_closing_does_not_hide_the_first_error(bench: Bench) -> None:
    bench.faulty.plan([Fault("C_Logout", None, returns("CKR_GENERAL_ERROR"))])
    with pytest.raises(CertificateNotFound):
        with open_session(bench.link, Scripted(bench.soft.pin), "sign"):
            raise CertificateNotFound
    assert bench.count("C_Logout") == 1


# -- C_Sign ----------------------------------------------------------------------------------------------------------


def test_a_signature_is_one_c_sign_with_room_for_the_answer(bench: Bench) -> None:
    login = bench.login()
    call = bench.call()
    bench.faulty.clear()
    bench.module.sign(login, call)
    signing = [call for call in bench.faulty.calls if "Sign" in call.function]
    assert [(call.function, call.out_null) for call in signing] == [("C_SignInit", None), ("C_Sign", False)]


def test_a_signature_that_needs_more_room_is_asked_for_once_more(bench: Bench) -> None:
    login = bench.login()
    call = bench.call()
    bench.plan("C_Sign", 1, returns("CKR_BUFFER_TOO_SMALL"))
    assert len(bench.module.sign(login, call)) == 64
    assert bench.names("C_SignInit", "C_Sign") == ["C_SignInit", "C_Sign", "C_Sign"]


def test_a_pin_for_one_signature_comes_between_c_sign_init_and_c_sign(bench: Bench) -> None:
    login = bench.login()
    call = bench.call("each", context=True, pin=bench.soft.pin)
    bench.faulty.clear()
    bench.module.sign(login, call)
    names = ("C_SignInit", "C_Login", "C_Sign", "C_SignFinal")
    assert bench.names(*names) == ["C_SignInit", "C_Login", "C_Sign"]
    assert [call.user_type for call in bench.faulty.calls if call.function == "C_Login"] == [CONTEXT]


def test_after_a_wrong_pin_for_one_signature_the_token_is_not_asked_to_sign(bench: Bench) -> None:
    login = bench.login()
    call = bench.call("each", context=True, pin=WRONG_PIN)
    bench.faulty.clear()
    with pytest.raises(PinIncorrect):
        bench.module.sign(login, call)
    signing = ("C_Sign", "C_SignUpdate", "C_SignFinal", "C_SignRecover")
    assert bench.names("C_SignInit", "C_Login", *signing) == ["C_SignInit", "C_Login"]


def test_a_refused_signature_is_not_sent_again(bench: Bench) -> None:
    login = bench.login()
    call = bench.call()
    bench.plan("C_Sign", None, returns("CKR_FUNCTION_FAILED"))
    with pytest.raises(TokenError):
        bench.module.sign(login, call)
    assert bench.count("C_Sign") == 1


def test_after_a_refused_signature_the_next_one_starts_afresh(bench: Bench) -> None:
    login = bench.login()
    bench.plan("C_Sign", 1, returns("CKR_FUNCTION_FAILED"))  # and the operation stays active in the real module
    with pytest.raises(TokenError):
        bench.sign(login)
    assert len(bench.sign(login)) == 64


# -- PIN pad ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pad(bench: Bench) -> Bench:
    """The token has a PIN pad, accepts no PIN from the host, and the user enters the correct one."""
    typed = pinpad(bench.soft.pin, "654321", only=True)
    bench.faulty.plan([PINPAD, Fault("C_Login", None, typed), Fault("C_SetPIN", None, typed)])
    return bench


def test_a_pin_pad_gets_a_null_pin_and_nobody_is_prompted(pad: Bench) -> None:
    with open_session(pad.link, Scripted(), "sign") as session:
        pad.sign(session.login_id)
    assert [(call.pin_null, call.pin_length) for call in pad.faulty.calls if call.function == "C_Login"] == [(True, 0)]


def test_a_pin_pad_is_asked_again_for_one_signature(pad: Bench) -> None:
    login = pad.module.login(pad.slot, User.USER, None)
    pad.sign(login, label="each", context=True)
    logins = [(call.user_type, call.pin_null) for call in pad.faulty.calls if call.function == "C_Login"]
    assert logins == [(USER, True), (CONTEXT, True)]


def test_a_pin_pad_changes_the_pin_without_a_prompt(pad: Bench) -> None:
    change_pin(pad.link, Scripted())
    (call,) = (call for call in pad.faulty.calls if call.function == "C_SetPIN")
    assert (call.pin_null, call.new_pin_null) == (True, True)


def test_a_pin_pad_unblocks_the_pin_without_a_prompt(bench: Bench) -> None:
    typed = pinpad(bench.soft.so_pin, "654321", only=True)
    bench.faulty.plan([PINPAD, Fault("C_Login", None, typed), Fault("C_InitPIN", None, typed)])
    unblock_pin(bench.link, Scripted())
    asked = [(call.function, call.pin_null) for call in bench.faulty.calls if call.function in {"C_Login", "C_InitPIN"}]
    assert asked == [("C_Login", True), ("C_InitPIN", True)]


@pytest.mark.parametrize("function", ["C_Login", "C_SetPIN"])
def test_a_pin_pad_has_the_time_the_driver_gives_a_person(pad: Bench, function: str) -> None:
    link = pad.link
    pad.module.deadline_s = 0.3
    slow = late(0.6)
    pad.faulty.plan([PINPAD, Fault(function, None, pinpad(pad.soft.pin, "654321")), Fault(function, None, slow)])
    (verify_pin if function == "C_Login" else change_pin)(link, Scripted())


# -- functions that python-pkcs11 does not offer ---------------------------------------------------------------------


def test_pin_lengths_come_from_the_token(bench: Bench) -> None:
    bench.plan("C_GetTokenInfo", None, token_info(pin_min=8, pin_max=12))
    info = bench.module.token(bench.slot)
    assert (info.min_pin, info.max_pin) == (8, 12)


def test_an_unlimited_pin_length_is_no_number(bench: Bench) -> None:
    bench.plan("C_GetTokenInfo", None, token_info(pin_max=0))
    assert bench.module.token(bench.slot).max_pin == 0
    assert bench.link.pin.state().max_length is None


def test_a_vendors_mechanism_is_listed_by_its_number(bench: Bench) -> None:
    bench.plan("C_GetMechanismList", None, mechanisms(add=[0x80000001]))
    assert "0x80000001" in bench.module.mechanisms(bench.slot)


@pytest.mark.parametrize(
    ("rv", "name"),
    [(0x80000123, "CKR_VENDOR_DEFINED+0x123"), (0x1234, "CKR_0x1234"), (0x80000000, "CKR_VENDOR_DEFINED+0x0")],
)
@pytest.mark.parametrize("function", ["C_Sign", "C_OpenSession", "C_FindObjectsInit", "C_GenerateKeyPair"])
def test_a_code_nobody_knows_keeps_its_number(bench: Bench, function: str, rv: int, name: str) -> None:
    login = bench.login()
    call = bench.call()
    jobs: dict[str, Callable[[], object]] = {
        "C_Sign": lambda: bench.module.sign(login, call),
        "C_OpenSession": lambda: bench.module.destroy(login, call.handle),  # the first read-write session
        "C_FindObjectsInit": lambda: bench.module.keys(bench.slot),
        "C_GenerateKeyPair": lambda: bench.module.generate(
            login, KeyKind.EC_P256, 0, b"", "", always_authenticate=False
        ),
    }
    bench.plan(function, None, returns(rv))
    with pytest.raises(TokenError) as caught:
        jobs[function]()
    assert caught.value.ckr == name


def assert_told(error: UShieldError, name: str) -> None:
    """Assert that the error names the code and that its texts have no unfilled placeholders."""
    assert error.details["ckr"] == f"CKR_{name}"
    assert "{" not in error.message + error.remedy


@pytest.mark.parametrize("codes", [{}, {f"CKR_{name}": "unknown" for name in NUMBERS}], ids=["standard", "declared"])
def test_every_code_from_c_sign_is_an_error_of_our_own(bench: Bench, codes: dict[str, str]) -> None:
    login = bench.login()
    for name in NUMBERS.keys() - {"BUFFER_TOO_SMALL", *PIN_FORMS}:
        if not bench.module.logged_in(login):
            login = bench.login()
        bench.plan("C_Sign", None, returns(name))
        with pytest.raises(UShieldError) as caught:
            bench.sign(login, SignOptions(codes))
        assert_told(caught.value, name)


def test_every_code_from_c_open_session_keeps_its_name(bench: Bench) -> None:
    slot, told = bench.slot, {}
    for name in NUMBERS:
        bench.plan("C_OpenSession", None, returns(name))
        with pytest.raises(UShieldError) as caught:
            bench.module.certificates(slot)
        told[f"CKR_{name}"] = caught.value.details["ckr"]
    assert told == {name: name for name in told}


def test_every_code_from_c_login_is_an_error_of_our_own(bench: Bench) -> None:
    link = bench.soft.link(bench.module, pin_driver(policy_tries=None))
    for name in NUMBERS:
        bench.plan("C_Login", None, returns(name))
        with pytest.raises(UShieldError) as caught:
            verify_pin(link, Scripted(bench.soft.pin))
        assert_told(caught.value, name)


@pytest.mark.parametrize("name", PIN_FORMS)
@pytest.mark.parametrize("function", ["C_SetPIN", "C_InitPIN"])
def test_a_new_pin_that_the_token_refuses_is_an_error_of_our_own(bench: Bench, function: str, name: str) -> None:
    job, first = (change_pin, bench.soft.pin) if function == "C_SetPIN" else (unblock_pin, bench.soft.so_pin)
    link = bench.link
    bench.plan(function, None, returns(name))
    with pytest.raises(PinFormatError) as caught:
        job(link, Scripted(first, "654321"))
    assert_told(caught.value, name)
    assert (caught.value.min, caught.value.max) == (4, 255)


# -- a module that other code in this process also uses --------------------------------------------------------------


def test_a_module_that_somebody_else_initialised_is_used_and_left_alone(soft: Soft, bench: Bench) -> None:
    theirs = faulty_module(bench.faulty.path.parent / "shared", SOFTHSM)
    Functions(str(theirs.path)).call("C_Initialize", None)
    module = soft.module(Isolation.IN_PROCESS, theirs.path)
    try:
        login = module.login(soft.info(module).slot_id, User.USER, soft.pin)
        module.logout(login)
        module.close()
        assert theirs.count("C_Finalize") == 0
    finally:
        Functions(str(theirs.path)).call("C_Finalize", None)


def test_an_engine_that_was_closed_never_calls_the_module_again(bench: Bench) -> None:
    here = faulty_module(bench.faulty.path.parent / "here", SOFTHSM)
    engine = Engine(str(here.path), OPTIONS)
    slot = bench.slot
    engine.close()
    here.clear()
    for call in (engine.slots, lambda: engine.token(slot), lambda: engine.contents(slot, tuple(ObjectClass))):
        with pytest.raises(CkrError):
            call()
    assert here.calls == []


# -- fork ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", Isolation)
def test_after_a_fork_the_childs_handle_is_a_clear_error_and_both_keep_working(
    soft: Soft, isolation: Isolation
) -> None:
    command = [sys.executable, "-m", "tests.stack.programs", "fork", str(SOFTHSM), soft.serial, soft.pin]
    done = subprocess.run([*command, isolation.value], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["child USED_AFTER_FORK", "child-again ok", "parent ok"]
