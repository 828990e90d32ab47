"""Behaviour that holds for every token, in each isolation mode."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.contract.checks import MESSAGE, call_of, sign_and_verify, verify
from tests.contract.subjects import Can, Subject, needs
from tests.contract.witness import attributes
from tests.soft import WRONG_PIN
from ushield_hw.backend.model import TokenFlag, User
from ushield_hw.backend.pkcs11.engine import _FRESH_S
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.errors import PinIncorrect, PinLocked, TokenBusy, TokenError, UShieldError

pytestmark = pytest.mark.contract

WARNINGS = TokenFlag.USER_PIN_COUNT_LOW | TokenFlag.USER_PIN_FINAL_TRY | TokenFlag.USER_PIN_LOCKED


# -- module, slots, token ------------------------------------------------------------------------------------------


def test_the_module_says_who_made_it(subject: Subject) -> None:
    info = subject.module.info()
    assert info.manufacturer
    assert info.path == str(subject.module.path.resolve())
    assert info.cryptoki_version >= (2, 11)


def test_the_token_is_found_in_its_slot_with_its_pin_lengths(subject: Subject) -> None:
    info, length = subject.info(), len(subject.pin)
    assert info.has(TokenFlag.TOKEN_INITIALIZED | TokenFlag.USER_PIN_INITIALIZED)
    assert info == subject.module.token(info.slot_id)
    assert info.min_pin <= length <= info.max_pin


@needs(Can.PIN_LENGTHS)
def test_the_token_says_that_no_pin_may_be_empty(subject: Subject) -> None:
    assert subject.info().min_pin > 0


def test_a_slot_that_does_not_exist_is_a_token_error(subject: Subject) -> None:
    with pytest.raises(TokenError) as caught:
        subject.module.token(123456789)
    assert caught.value.ckr == "CKR_SLOT_ID_INVALID"


@needs(Can.WRONG_PIN, Can.COUNT_LOW)
def test_the_flags_change_with_a_wrong_pin_and_with_the_right_one(subject: Subject) -> None:
    slot = subject.slot
    with pytest.raises(PinIncorrect):
        subject.login(WRONG_PIN)
    assert subject.module.token(slot).has(TokenFlag.USER_PIN_COUNT_LOW)
    subject.login()
    assert not subject.module.token(slot).has(TokenFlag.USER_PIN_COUNT_LOW)


@needs(Can.INIT_TOKEN)
def test_a_token_can_be_set_up_from_nothing(subject: Subject) -> None:
    subject.module.init_token(subject.spare_slot(subject.module), subject.so_pin, "新的U盾")
    subject.module.close()
    made = next(slot.token for slot in subject.module.slots() if slot.token and slot.token.label == "新的U盾")
    assert made.has(TokenFlag.TOKEN_INITIALIZED)


@needs(Can.INIT_TOKEN, Can.PIN_UNSET)
def test_a_new_token_has_no_pin(subject: Subject) -> None:
    subject.module.init_token(subject.spare_slot(subject.module), subject.so_pin, "新的U盾")
    subject.module.close()
    made = next(slot.token for slot in subject.module.slots() if slot.token and slot.token.label == "新的U盾")
    assert not made.has(TokenFlag.USER_PIN_INITIALIZED)


# -- login ---------------------------------------------------------------------------------------------------------


def test_a_login_stands_until_it_is_ended(subject: Subject) -> None:
    login = subject.login()
    assert subject.module.logged_in(login)
    subject.module.logout(login)
    assert not subject.module.logged_in(login)


def test_ending_a_login_twice_says_that_it_has_ended(subject: Subject) -> None:
    login = subject.login()
    subject.module.logout(login)
    with pytest.raises(TokenError) as caught:
        subject.module.logout(login)
    assert caught.value.code == "LOGIN_ENDED"


@needs(Can.WRONG_PIN)
def test_a_wrong_pin_is_an_error_that_says_so(subject: Subject) -> None:
    with pytest.raises(PinIncorrect) as caught:
        subject.login(WRONG_PIN)
    assert caught.value.ckr == "CKR_PIN_INCORRECT"
    assert str(caught.value)


def test_a_second_login_is_refused_as_busy_and_the_first_one_stands(subject: Subject) -> None:
    login = subject.login()
    with pytest.raises(TokenBusy):
        subject.login(WRONG_PIN)
    sign_and_verify(subject, login, MESSAGE)


@needs(Can.SHARED)
def test_another_process_may_log_in_to_the_same_token(subject: Subject) -> None:
    login = subject.login()
    subject.elsewhere.login(subject.info(subject.elsewhere).slot_id, User.USER, subject.pin)
    subject.elsewhere.close()
    sign_and_verify(subject, login, MESSAGE)


def private_keys(subject: Subject, slot: int) -> dict[str, KeyKind | None]:
    return {key.label: key.kind for key in subject.module.keys(slot) if key.private}


def test_private_keys_show_while_logged_in(subject: Subject) -> None:
    subject.login()
    assert private_keys(subject, subject.slot) == subject.keys


@needs(Can.HIDE_KEYS)
def test_private_keys_show_only_while_logged_in(subject: Subject) -> None:
    slot = subject.slot
    assert private_keys(subject, slot) == {}
    login = subject.login()
    assert private_keys(subject, slot) == subject.keys
    subject.module.logout(login)
    assert private_keys(subject, slot) == {}


def test_closing_ends_the_login_and_the_module_can_be_used_again(subject: Subject) -> None:
    login = subject.login()
    subject.module.close()
    assert not subject.module.logged_in(login)
    sign_and_verify(subject, subject.login(), MESSAGE)


def test_closing_while_threads_sign_ends_their_calls_cleanly_and_the_module_can_be_used_again(subject: Subject) -> None:
    login = subject.login()
    call, signed = call_of(subject.key(subject.usual)), threading.Event()

    def sign(_: int) -> bool:
        try:
            subject.module.sign(login, call)
        except UShieldError:
            return False
        signed.set()
        return True

    with ThreadPoolExecutor(4) as pool:
        signing = pool.map(sign, range(300))
        assert signed.wait(10)
        subject.module.close()
        assert set(signing) == {True, False}
    sign_and_verify(subject, subject.login(), MESSAGE)


# -- keys ----------------------------------------------------------------------------------------------------------


@needs(Can.GENERATE, Can.EC, Can.P384)
@pytest.mark.parametrize("kind", [KeyKind.EC_P256, KeyKind.EC_P384])
def test_a_new_ec_pair_signs_for_the_public_key_it_came_with(subject: Subject, kind: KeyKind) -> None:
    login = subject.login()
    made = subject.module.generate(login, kind, 0, b"\x77", "新", always_authenticate=False)
    private = subject.named("新")
    verify(kind, made.point, subject.module.sign(login, call_of(private)))
    assert (private.kind, private.key_id, private.can_sign) == (kind, b"\x77", True)


@needs(Can.GENERATE, Can.RSA)
def test_a_new_rsa_pair_signs_for_the_public_key_it_came_with(subject: Subject) -> None:
    login = subject.login()
    made = subject.module.generate(login, KeyKind.RSA, 2048, b"\x77", "新", always_authenticate=False)
    private = subject.named("新")
    assert int.from_bytes(made.exponent) == 65537
    verify(KeyKind.RSA, made.modulus, subject.module.sign(login, call_of(private)))
    assert (private.kind, private.key_id, private.can_sign) == (KeyKind.RSA, b"\x77", True)


FOR_SIGNING_ONLY = {
    **dict.fromkeys(("token", "private", "sensitive", "sign"), True),
    **dict.fromkeys(("extractable", "decrypt", "unwrap", "derive", "always_authenticate"), False),
    "label": "新",
}


@needs(Can.GENERATE, Can.EC, Can.PLAIN_PROGRAM)
def test_another_program_finds_that_a_new_ec_key_is_for_signing_and_never_leaves_the_token(subject: Subject) -> None:
    subject.module.generate(subject.login(), KeyKind.EC_P256, 0, b"\x77", "新", always_authenticate=False)
    assert attributes(subject, b"\x77") == FOR_SIGNING_ONLY


@needs(Can.GENERATE, Can.RSA, Can.PLAIN_PROGRAM)
def test_another_program_finds_that_a_new_rsa_key_is_for_signing_and_never_leaves_the_token(subject: Subject) -> None:
    subject.module.generate(subject.login(), KeyKind.RSA, 2048, b"\x77", "新", always_authenticate=False)
    assert attributes(subject, b"\x77") == FOR_SIGNING_ONLY


@needs(Can.GENERATE, Can.EC, Can.CONTEXT_LOGIN, Can.PLAIN_PROGRAM)
def test_a_new_key_can_ask_for_the_pin_each_time(subject: Subject) -> None:
    login = subject.login()
    subject.module.generate(login, KeyKind.EC_P256, 0, b"\x77", "新", always_authenticate=True)
    assert subject.named("新").always_authenticate
    assert attributes(subject, b"\x77")["always_authenticate"] is True


@needs(Can.GENERATE, Can.SHOWS_OTHERS)
def test_a_key_written_by_another_process_is_seen_at_once(subject: Subject) -> None:
    subject.login()
    theirs = subject.elsewhere.login(subject.info(subject.elsewhere).slot_id, User.USER, subject.pin)
    subject.elsewhere.generate(theirs, subject.usual, 2048, b"\x77", "theirs", always_authenticate=False)
    assert subject.named("theirs").key_id == b"\x77"


@needs(Can.GENERATE)
def test_a_key_that_is_destroyed_is_gone(subject: Subject) -> None:
    login = subject.login()
    gone = subject.key(subject.usual)
    subject.module.destroy(login, gone.handle)
    assert gone.label not in private_keys(subject, subject.slot)


# -- PINs ------------------------------------------------------------------------------------------------------------


@needs(Can.SET_PIN, Can.WRONG_PIN)
def test_a_changed_pin_replaces_the_old_one(subject: Subject) -> None:
    subject.module.set_pin(subject.slot, subject.pin, "654321")
    with pytest.raises(PinIncorrect):
        subject.login()
    subject.login("654321")


@needs(Can.SET_PIN, Can.CHECK_OLD_PIN, Can.WRONG_PIN)
def test_a_wrong_old_pin_changes_nothing(subject: Subject) -> None:
    with pytest.raises(PinIncorrect):
        subject.module.set_pin(subject.slot, WRONG_PIN, "654321")
    subject.login()


@needs(Can.INIT_PIN)
def test_the_so_sets_a_new_pin(subject: Subject) -> None:
    login = subject.module.login(subject.slot, User.SO, subject.so_pin)
    subject.module.init_pin(login, "654321")
    subject.module.logout(login)
    subject.login("654321")


@needs(Can.INIT_PIN, Can.CHECK_SO, Can.WRONG_PIN)
def test_the_so_pin_is_checked(subject: Subject) -> None:
    with pytest.raises(PinIncorrect):
        subject.module.login(subject.slot, User.SO, WRONG_PIN)


def lock(subject: Subject) -> list[TokenFlag]:
    """Send wrong PINs until the token reports a locked PIN; return the flags after each."""
    slot, seen = subject.slot, list[TokenFlag]()
    while len(seen) < 15 and TokenFlag.USER_PIN_LOCKED not in (seen or [TokenFlag(0)])[-1]:
        with pytest.raises((PinIncorrect, PinLocked)):
            subject.login(WRONG_PIN)
        seen.append(TokenFlag(subject.module.token(slot).flags) & WARNINGS)
    return seen


@needs(Can.LOCK, Can.WRONG_PIN)
def test_wrong_pins_lock_it_and_the_flags_warn_of_the_last_try(subject: Subject) -> None:
    seen = lock(subject)
    assert TokenFlag.USER_PIN_FINAL_TRY in seen[-2]
    assert TokenFlag.USER_PIN_LOCKED in seen[-1]
    with pytest.raises(PinLocked):
        subject.login()


@needs(Can.LOCK, Can.WRONG_PIN, Can.INIT_PIN)
def test_the_so_unlocks_it(subject: Subject) -> None:
    lock(subject)
    so = subject.module.login(subject.slot, User.SO, subject.so_pin)
    subject.module.init_pin(so, "654321")
    subject.module.logout(so)
    subject.login("654321")
    assert not subject.module.token(subject.slot).flags & WARNINGS


# -- changes by other programs ---------------------------------------------------------------------------------------


@needs(Can.SET_PIN)
@pytest.mark.parametrize("way", ["login", "set_pin"])
def test_a_pin_changed_by_another_process_is_in_force_here(subject: Subject, way: str) -> None:
    slot = subject.slot
    subject.elsewhere.set_pin(subject.info(subject.elsewhere).slot_id, subject.pin, "654321")
    time.sleep(_FRESH_S)  # a recently initialised module is not initialised again
    if way == "login":
        subject.module.login(slot, User.USER, "654321")
    else:
        subject.module.set_pin(slot, "654321", "765432")


@needs(Can.INIT_TOKEN)
def test_a_token_made_by_another_process_is_seen(subject: Subject) -> None:
    subject.module.slots()
    subject.elsewhere.init_token(subject.spare_slot(subject.elsewhere), subject.so_pin, "theirs")
    time.sleep(_FRESH_S)
    assert "theirs" in {slot.token.label for slot in subject.module.slots() if slot.token}
