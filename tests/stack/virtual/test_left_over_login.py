"""A login that the module has kept although the token was removed: it is ended without using a PIN attempt."""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.project.tree import ROOT
from tests.soft import OPTIONS, SOFTHSM, Soft
from ushield_hw.backend.model import ModuleOptions, ObjectClass, SignCall, User
from ushield_hw.backend.module import close_modules
from ushield_hw.backend.pkcs11.ckr import CkrError
from ushield_hw.backend.pkcs11.engine import Engine
from ushield_hw.errors import UShieldError
from ushield_hw.testing.readers import PcscHost, reader
from ushield_hw.testing.scripted import Scripted
from ushield_hw.testing.shield import TRIES, Model, VirtualShield
from ushield_hw.token.choice import find_token

pytestmark = pytest.mark.stack

WRONG: Final = "0000000"
DIGEST: Final = hashlib.sha256(b"CNY 128.50").digest()


@pytest.fixture
def shield(desk: PcscHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualShield]:
    with VirtualShield(model=Model.NONE, host=desk) as made:
        monkeypatch.setenv("XDG_STATE_HOME", made.env["XDG_STATE_HOME"])
        close_modules()
        yield made
        close_modules()


def open_behind(engine: Engine, slot_id: int, pin: str) -> int:
    """Log in without the engine's knowledge; return the session."""
    session = ctypes.c_ulong()
    engine._functions.call("C_OpenSession", slot_id, 4, None, None, ctypes.byref(session))
    engine._functions.call("C_Login", session.value, 1, pin.encode(), len(pin))
    return session.value


def slot_with_a_token(engine: Engine, within_s: float = 10) -> int:
    until = time.monotonic() + within_s
    while not (found := [slot.slot_id for slot in engine.slots() if slot.token is not None]):
        assert time.monotonic() < until, "OpenSC sees no card"
        time.sleep(0.1)
    return found[0]


def tries(shield: VirtualShield) -> int:
    return shield.card.memory.secrets["user"].left


def log_in_beside(module: str, pin: str, given: str) -> None:
    """Log in while OpenSC holds a login that the engine does not know, and sign; print the result."""
    engine = Engine(module, ModuleOptions(one_at_a_time=True), alone=True)
    slot_id = slot_with_a_token(engine)
    open_behind(engine, slot_id, pin)
    try:
        login = engine.login(slot_id, User.USER, given)
    except CkrError as error:
        print(error.name)
        return
    (key, *_) = (one for one in engine.contents(slot_id, tuple(ObjectClass)).keys if one.private)
    print(len(engine.sign(login, SignCall(key.handle, "ECDSA", DIGEST))))


def test_a_login_that_nobody_holds_is_ended_and_no_try_is_spent_on_it(shield: VirtualShield) -> None:
    """In a separate program: a process looks for pcscd only once."""

    def said(given: str) -> str:
        program = f"from {__name__} import log_in_beside; log_in_beside(*(input() for _ in range(3)))"
        typed = "\n".join((str(Path(shield._module).resolve()), shield.pin, given))
        command = [sys.executable, "-c", program]
        return subprocess.run(
            command, cwd=ROOT, input=typed, capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()

    assert said(WRONG) == "CKR_PIN_INCORRECT"
    assert tries(shield) == TRIES - 1  # it was sent twice and checked once
    assert said(shield.pin) == "64"
    assert tries(shield) == TRIES


@pytest.mark.parametrize("alone", [True, False])
def test_a_login_of_another_part_of_this_program_is_left_alone(
    soft: Soft, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    monkeypatch.setenv("SOFTHSM2_CONF", str(soft.conf))
    engine = Engine(str(SOFTHSM), OPTIONS, alone=alone)
    try:
        slot_id = next(one.slot_id for one in engine.slots() if one.token and one.token.serial == soft.serial)
        theirs = open_behind(engine, slot_id, soft.pin)
        if alone:
            assert engine.logged_in(engine.login(slot_id, User.USER, soft.pin))
            return
        with pytest.raises(CkrError) as caught:
            engine.login(slot_id, User.USER, soft.pin)
        assert caught.value.name == "CKR_USER_ALREADY_LOGGED_IN"
        engine._functions.call("C_Logout", theirs)  # the other login was kept
    finally:
        engine.close()


# --- a quick swap -----------------------------------------------------------------------------------------------------


def test_after_a_quick_swap_nothing_is_signed_with_the_login_of_the_earlier_card(
    shield: VirtualShield, desk: PcscHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other card is inserted within a tenth of a second, possibly before OpenSC polls the reader."""
    monkeypatch.setattr(reader, "_OUT_S", 0.0)
    shield.eject()
    with VirtualShield(model=Model.NONE, host=desk) as spare:
        spare.eject()
        shield.insert()
        settled(shield)
        for wait_s in (0.0, 0.02, 0.05, 0.1):
            with find_token(shield.uri).open(Scripted(shield.pin)) as session:
                key = next(key for key in session.keys() if key.private)
                call = SignCall(key.handle, "ECDSA", DIGEST)
                assert session.link.module.sign(session.login_id, call)
                made = shield.signatures
                shield.eject()
                time.sleep(wait_s)
                spare.insert()
                for _ in range(3):
                    with pytest.raises(UShieldError):
                        session.link.module.sign(session.login_id, call)
            assert (spare.signatures, shield.signatures, tries(spare), tries(shield)) == (0, made, TRIES, TRIES)
            spare.eject()
            shield.insert()
            settled(shield)


def settled(shield: VirtualShield, within_s: float = 10) -> None:
    """Wait until the library finds the token again."""
    until = time.monotonic() + within_s
    while True:
        try:
            find_token(shield.uri)
            return
        except UShieldError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
