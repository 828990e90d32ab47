"""Plans: selection of faults, replacement while a program runs, and rejection of plans that cannot be executed."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.stack.faulty.soft_token import PIN, PIN_INCORRECT, opened
from ushield_hw.testing.faulty import (
    Action,
    Fault,
    FaultyModule,
    cant_lock,
    corrupts,
    hangs,
    late,
    mechanisms,
    passes,
    pinpad,
    returns,
    token_info,
)

pytestmark = pytest.mark.stack


def test_the_plan_changes_while_running(module: FaultyModule) -> None:
    client, session = opened(module)
    for code in [0xA0, 0xA4, 0xA3] * 10:
        module.plan([Fault("C_Login", None, returns(code))])
        assert client.login(session, PIN) == code
    module.plan([])
    assert client.login(session, PIN) == 0


def test_of_two_that_disagree_the_later_wins(module: FaultyModule) -> None:
    every = Fault("C_Login", None, returns("CKR_PIN_INCORRECT"))
    module.plan([every, Fault("C_Login", 2, returns("CKR_PIN_LOCKED")), Fault("C_Login", 3, passes())])
    client, session = opened(module)
    assert [client.login(session, PIN) for _ in range(3)] == [0xA0, 0xA4, 0]
    assert module.calls[-1].target_rv == 0
    module.plan([Fault("C_Login", 5, returns("CKR_PIN_LOCKED")), every])
    assert [client.login(session, PIN) for _ in range(2)] == [0xA0, 0xA0]


def test_clear(module: FaultyModule) -> None:
    module.plan([Fault("C_Login", 1, returns("CKR_PIN_INCORRECT"))])
    client, session = opened(module)
    assert [client.login(session, PIN) for _ in range(2)] == [PIN_INCORRECT, 0]
    module.clear()
    assert module.calls == []
    assert client.call("C_Logout", session) == 0
    assert [client.login(session, PIN) for _ in range(2)] == [PIN_INCORRECT, 0]
    assert [(call.function, call.call) for call in module.calls] == [("C_Logout", 1), ("C_Login", 1), ("C_Login", 2)]


def test_a_call_under_way_is_forgotten_by_clear(module: FaultyModule) -> None:
    module.plan([Fault("C_Login", None, late(0.3))])
    client, session = opened(module)
    thread = threading.Thread(target=client.login, args=(session, PIN))
    thread.start()
    module.wait_for("C_Login")
    module.clear()
    thread.join()
    assert module.calls == []


def test_a_plan_that_cannot_be_understood(module: FaultyModule) -> None:
    module.plan([])
    module.path.with_name(f"{module.path.name}.plan").write_text("C_Login * fails=1\n")
    client, session = opened(module)
    assert client.login(session, PIN) == 0x5
    assert module.calls[-1].error
    assert module.calls[-1].target_rv is None


@pytest.mark.parametrize(
    ("function", "call", "action"),
    [
        ("C_Signature", None, hangs()),
        ("Sign", None, hangs()),
        ("C_Sign", 0, hangs()),
        ("C_Sign", -1, hangs()),
        ("C_Sign", None, cant_lock()),
        ("C_Login", None, corrupts()),
        ("C_Sign", None, pinpad("1")),
        ("C_GetInfo", None, token_info()),
        ("C_SignInit", None, mechanisms()),
    ],
)
def test_a_fault_that_cannot_be(function: str, call: int | None, action: Action) -> None:
    with pytest.raises(ValueError):
        Fault(function, call, action)


def test_values_that_cannot_be() -> None:
    wrongs: list[Callable[[], Action]] = [
        lambda: returns("CKR_PIN_WRONG"),
        lambda: token_info(serial="0" * 17),
        lambda: token_info(label="盾" * 11),
        lambda: pinpad("1" * 256),
        lambda: mechanisms(add=range(65)),
    ]
    for wrong in wrongs:
        with pytest.raises(ValueError):
            wrong()


def test_a_plan_that_is_too_long(module: FaultyModule) -> None:
    with pytest.raises(ValueError, match="too long"):
        module.plan([Fault("C_Login", 1, pinpad("1" * 255))] * 500)


def test_an_unknown_function_is_not_counted_as_none(module: FaultyModule) -> None:
    with pytest.raises(ValueError, match="C_LogIn"):
        module.count("C_LogIn")
