"""Module return codes as errors that callers can handle without PKCS#11 knowledge."""

from __future__ import annotations

import pickle

import pytest

from ushield_hw.backend.pkcs11.ckr import NUMBERS, CkrError, Doing, failure, to_error
from ushield_hw.errors import Detail, ModuleFailure, PinIncorrect, Step, TokenError, Trait, UShieldError
from ushield_hw.pin_state import PinState

pytestmark = pytest.mark.unit


def told(name: str, function: str = "C_GetTokenInfo") -> ModuleFailure:
    return failure(CkrError(function, NUMBERS[name]))


@pytest.mark.parametrize(
    ("name", "traits"),
    [
        ("GENERAL_ERROR", Trait.VAGUE),
        ("DEVICE_ERROR", Trait.VAGUE),
        ("FUNCTION_FAILED", Trait.VAGUE | Trait.ATTRIBUTE_FIXED),
        ("TOKEN_WRITE_PROTECTED", Trait.NOTHING_DONE),
        ("ARGUMENTS_BAD", Trait.NOTHING_DONE | Trait.ATTRIBUTE_FIXED),
        ("FUNCTION_NOT_SUPPORTED", Trait.NOTHING_DONE | Trait.NO_LOGIN | Trait.ATTRIBUTE_FIXED | Trait.UNSUPPORTED),
        ("USER_PIN_NOT_INITIALIZED", Trait.NO_LOGIN),
        ("USER_ALREADY_LOGGED_IN", Trait.LOGGED_IN),
        ("BUFFER_TOO_SMALL", Trait.LENGTH_UNSETTLED),
        ("PIN_INCORRECT", Trait.NONE),
        ("DEVICE_REMOVED", Trait.NONE),
    ],
)
def test_the_traits_of_a_code(name: str, traits: Trait) -> None:
    assert told(name).traits == traits


@pytest.mark.parametrize(
    ("function", "step"),
    [("C_Login", Step.LOGIN), ("C_SetPIN", Step.SET_PIN), ("C_Sign", Step.SIGN), ("C_SignInit", Step.OTHER)],
)
def test_the_step_of_a_function(function: str, step: Step) -> None:
    assert told("GENERAL_ERROR", function) == ModuleFailure(function, "CKR_GENERAL_ERROR", step, Trait.VAGUE)


def test_every_name_of_a_trait_is_a_code() -> None:
    known = {name for name in NUMBERS if told(name).traits}
    assert {"GENERAL_ERROR", "CANCEL", "SESSION_READ_ONLY", "OBJECT_HANDLE_INVALID"} <= known


def test_a_vendors_own_code_keeps_its_number_and_means_nothing() -> None:
    found = to_error(CkrError("C_Sign", 0x80000012), Doing.SIGNING)
    assert found.failure == ModuleFailure("C_Sign", "CKR_VENDOR_DEFINED+0x12", Step.SIGN, Trait.NONE)
    assert isinstance(found, TokenError)
    assert found.ckr == "CKR_VENDOR_DEFINED+0x12"


def test_a_failure_that_is_restated_keeps_what_the_module_said() -> None:
    first = to_error(CkrError("C_SetPIN", NUMBERS["PIN_INCORRECT"]), Doing.LOGIN)
    second = first.restated(PinIncorrect, "PUK_INCORRECT", state=PinState(retries_left=2))
    assert second.failure is first.failure
    assert (second.code, second.ckr, second.state.retries_left) == ("PUK_INCORRECT", "CKR_PIN_INCORRECT", 2)
    assert second.failed_at(Step.SET_PIN)
    assert not second.failed_as(Trait.VAGUE | Trait.NOTHING_DONE)


def test_an_error_without_a_module_has_no_failure() -> None:
    assert UShieldError().failure is None
    assert not UShieldError().failed_as(Trait.VAGUE)
    assert not UShieldError().failed_at(Step.OTHER)


def test_an_error_travels_between_processes_with_its_details() -> None:
    error = PinIncorrect(state=PinState(retries_left=1), serial="1")
    error.failure = told("PIN_INCORRECT", "C_Login")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made here
    assert (copy.code, copy.state, copy.serial, copy.failure) == ("PIN_INCORRECT", error.state, "1", error.failure)


def test_a_detail_is_one_of_its_class() -> None:
    assert isinstance(PinIncorrect.state, Detail)
