"""Tries what the rows declare impossible: a reason that no longer holds must be removed.

The opposite is covered by the contract itself: a test that requires an ability is generated for every row that has it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from tests.contract.checks import call_of, self_signed, verify, write
from tests.contract.rows import ABSENT, ROWS
from tests.contract.subjects import Can, Subject
from tests.contract.witness import opens
from tests.soft import WRONG_PIN
from ushield_hw.backend.model import SignCall, TokenFlag, User
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.errors import PinIncorrect, PinLocked, UShieldError

pytestmark = pytest.mark.contract

# Each kind once, in its fastest isolation mode.
ONCE = [row for row in ROWS if row.isolation is row.kind.ways[-1]]


def generates(kind: KeyKind) -> Callable[[Subject], bool]:
    def tried(subject: Subject) -> bool:
        login = subject.login()
        made = subject.module.generate(login, kind, 2048, b"\x77", "new", always_authenticate=False)
        raw = subject.module.sign(login, call_of(subject.named("new")))
        verify(kind, made.modulus or made.point, raw)
        return True

    return tried


def signs_with(mechanism: str) -> Callable[[Subject], bool]:
    def tried(subject: Subject) -> bool:
        login = subject.login()
        call = SignCall(subject.key(KeyKind.RSA).handle, mechanism, bytes(32), digest="sha256")
        return bool(subject.module.sign(login, call))

    return tried


def cuts_a_digest(subject: Subject) -> bool:
    login = subject.login()
    return bool(subject.module.sign(login, call_of(subject.key(KeyKind.EC_P256), digest="sha384")))


def is_shared(subject: Subject) -> bool:
    """Tell whether a login survives a login and logout of another program."""
    login = subject.login()
    subject.elsewhere.login(subject.info(subject.elsewhere).slot_id, User.USER, subject.pin)
    subject.elsewhere.close()
    subject.module.slots()
    return subject.module.logged_in(login)


def signs_by_a_pin_each_time(subject: Subject) -> bool:
    """Tell whether a key with CKA_ALWAYS_AUTHENTICATE signs with the PIN and does not sign without it."""
    login = subject.login()
    subject.module.generate(login, subject.usual, 2048, b"\x77", "each time", always_authenticate=True)
    call = call_of(subject.named("each time"))
    subject.module.sign(login, replace(call, context=True, pin=subject.pin))
    try:
        subject.module.sign(login, call)
    except UShieldError:
        return True
    return False


def warns(flag: TokenFlag, tries: int) -> Callable[[Subject], bool]:
    """Tell whether a flag is set after the given number of wrong PINs."""

    def tried(subject: Subject) -> bool:
        for _ in range(tries):
            with suppress(PinIncorrect, PinLocked):
                subject.login(WRONG_PIN)
        return subject.info().has(flag)

    return tried


def sets_a_pin(subject: Subject) -> bool:
    subject.module.set_pin(subject.slot, subject.pin, "654321")
    return bool(subject.login("654321"))


def checks_the_old_pin(subject: Subject) -> bool:
    try:
        subject.module.set_pin(subject.slot, WRONG_PIN, "654321")
    except PinIncorrect:
        return True
    return False


def lets_the_so_set_a_pin(subject: Subject) -> bool:
    so = subject.module.login(subject.slot, User.SO, subject.so_pin)
    subject.module.init_pin(so, "654321")
    subject.module.logout(so)
    return bool(subject.login("654321"))


def checks_the_so(subject: Subject) -> bool:
    try:
        subject.module.login(subject.slot, User.SO, WRONG_PIN)
    except PinIncorrect:
        return True
    return False


def shows_what_others_write(subject: Subject) -> bool:
    subject.login()
    theirs = subject.elsewhere.login(subject.info(subject.elsewhere).slot_id, User.USER, subject.pin)
    subject.elsewhere.generate(theirs, subject.usual, 2048, b"\x77", "theirs", always_authenticate=False)
    return any(key.label == "theirs" for key in subject.module.keys(subject.slot))


def is_set_up(subject: Subject) -> bool:
    subject.module.init_token(subject.spare_slot(subject.module), "87654321", "new")
    subject.module.close()
    return "new" in {slot.token.label for slot in subject.module.slots() if slot.token}


def has_no_pin_when_new(subject: Subject) -> bool:
    subject.module.init_token(subject.spare_slot(subject.module), "87654321", "new")
    subject.module.close()
    made = (slot.token for slot in subject.module.slots() if slot.token and slot.token.label == "new")
    return any(not token.has(TokenFlag.USER_PIN_INITIALIZED) for token in made)


def hides_keys(subject: Subject) -> bool:
    subject.module.logout(subject.login())
    return not any(key.private for key in subject.module.keys(subject.slot))


TRIED: dict[Can, Callable[[Subject], bool]] = {
    Can.EC: generates(KeyKind.EC_P256),
    Can.P384: generates(KeyKind.EC_P384),
    Can.RSA: generates(KeyKind.RSA),
    Can.PSS: signs_with("RSA_PKCS_PSS"),
    Can.HASH: signs_with("SHA256_RSA_PKCS"),
    Can.CUT_DIGEST: cuts_a_digest,
    Can.SHOWS_OTHERS: shows_what_others_write,
    Can.SHARED: is_shared,
    Can.GENERATE: lambda subject: generates(subject.usual)(subject),
    Can.WRITE_CERTIFICATE: lambda subject: bool(write(subject, subject.login(), self_signed())),
    Can.PLAIN_PROGRAM: opens,
    Can.HIDE_KEYS: hides_keys,
    Can.CONTEXT_LOGIN: signs_by_a_pin_each_time,
    Can.PIN_LENGTHS: lambda subject: subject.info().min_pin > 0,
    Can.WRONG_PIN: lambda subject: True,
    Can.COUNT_LOW: warns(TokenFlag.USER_PIN_COUNT_LOW, 1),
    Can.LOCK: warns(TokenFlag.USER_PIN_LOCKED, 15),
    Can.SET_PIN: sets_a_pin,
    Can.CHECK_OLD_PIN: checks_the_old_pin,
    Can.INIT_PIN: lets_the_so_set_a_pin,
    Can.CHECK_SO: checks_the_so,
    Can.INIT_TOKEN: is_set_up,
    Can.PIN_UNSET: has_no_pin_when_new,
}


def does(subject: Subject, ability: Can) -> bool:
    try:
        return TRIED[ability](subject)
    except UShieldError:
        return False


@pytest.mark.parametrize(
    ("subject", "ability"),
    [pytest.param(row, one, id=f"{row.name}-{one.name}") for row in ONCE for one in row.kind.cannot],
    indirect=["subject"],
)
def test_what_a_row_says_that_its_token_cannot_do_it_cannot(subject: Subject, ability: Can) -> None:
    assert not does(subject, ability)


@pytest.mark.parametrize(
    ("subject", "ability"),
    [pytest.param(row, one, id=one.name) for row in ONCE[:1] for one in Can if one in row.kind.can],
    indirect=["subject"],
)
def test_each_trial_notices_a_token_that_can(subject: Subject, ability: Can) -> None:
    assert does(subject, ability)


def test_no_token_is_absent_where_ci_runs() -> None:
    in_ci = bool(os.environ.get("CI"))  # alone: a failure would show the whole environment
    assert not (in_ci and ABSENT)
