"""Programs that use a token in a separate process, for tests of forks, kills and concurrent processes.

``python -m tests.stack.programs NAME MODULE SERIAL PIN …``
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.soft import DRIVER, OPTIONS, SETTINGS, key
from tests.stack.bench import DIGEST
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import SignCall, User
from ushield_hw.backend.module import Module, open_module
from ushield_hw.errors import UShieldError
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.link import Link
from ushield_hw.token.pin_operations import verify_pin


def outcome(work: Callable[[], object]) -> str:
    """Call a function; return the code of its error, if any."""
    try:
        work()
    except UShieldError as error:
        return error.code
    return "ok"


def opened(path: str, serial: str, pin: str, isolation: Isolation = Isolation.PROCESS) -> tuple[Module, int, SignCall]:
    """Log in; return the module, the login and a signing call."""
    module = open_module(Path(path), isolation, OPTIONS)
    slot_id = next(slot.slot_id for slot in module.slots() if slot.token and slot.token.serial == serial)
    login = module.login(slot_id, User.USER, pin)
    return module, login, SignCall(key(module, slot_id, "pay").handle, "ECDSA", DIGEST)


def fork(path: str, serial: str, pin: str, isolation: str) -> None:
    """Use one module in the parent and the child of a fork."""
    module, login, call = opened(path, serial, pin, Isolation(isolation))
    child = os.fork()
    if not child:
        print("child", outcome(lambda: module.sign(login, call)), flush=True)
        print("child-again", outcome(open_module(Path(path), Isolation(isolation), OPTIONS).slots), flush=True)
        module.close()
        os._exit(0)
    os.waitpid(child, 0)
    print("parent", outcome(lambda: module.sign(login, call)))


def own(path: str, serial: str, pin: str) -> None:
    """Keep a login until killed, with an idle forked child; print the child's process id."""
    opened(path, serial, pin)
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)


def sign(path: str, serial: str, pin: str) -> None:
    """Sign once."""
    module, login, call = opened(path, serial, pin)
    module.sign(login, call)


def load(path: str) -> None:
    """Load a module."""
    Module(Path(path), Isolation.PROCESS, OPTIONS, 60).info()


def guess(path: str, serial: str, state: str, *pins: str) -> None:
    """Verify one PIN per input line, with consent for the last attempt; print the result of each."""
    module = Module(Path(path), Isolation.PROCESS, OPTIONS, 30)
    slot_id = next(slot.slot_id for slot in module.slots() if slot.token and slot.token.serial == serial)
    link = Link(module, slot_id, serial, DRIVER, replace(SETTINGS, state_dir=Path(state)))
    print("ready", flush=True)
    sys.stdin.readline()
    for pin in pins:
        print(outcome(partial(verify_pin, link, Scripted(pin, consents=[True]))), flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
