"""The faulty module's record of calls, and its call counts across threads and processes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from ctypes import byref, c_ubyte, c_ulong

import pytest

from tests.project.tree import ROOT
from tests.stack.faulty import raw_module as raw
from tests.stack.faulty.raw_module import NULL
from tests.stack.faulty.soft_token import (
    ARGUMENTS_BAD,
    DIGEST,
    NEW_PIN,
    PIN,
    SO_PIN,
    logged_in,
    opened,
    run_client,
    start_client,
)
from ushield_hw.testing.faulty import Fault, FaultyModule, late, returns

pytestmark = pytest.mark.stack


# --- the record -------------------------------------------------------------------------------------------------------


def test_arguments(module: FaultyModule) -> None:
    before_ms = time.monotonic() * 1000
    client, session, key = logged_in(module)
    assert client.sign(session, key, DIGEST)[0] == 0
    assert client.generate(session) == 0
    calls = {call.function: call for call in module.calls}
    login, init, sign = calls["C_Login"], calls["C_SignInit"], calls["C_Sign"]
    assert (login.session, login.user_type, login.pin_null, login.pin_length) == (session, 1, False, len(PIN))
    assert (init.session, init.mechanism, init.key) == (session, raw.ECDSA, key)
    assert (sign.data, sign.data_length, sign.out_null, sign.length) == (DIGEST, 32, False, 64)
    assert (sign.rv, sign.rv_name, sign.pid, sign.thread) == (0, "CKR_OK", os.getpid(), threading.get_ident())
    assert calls["C_OpenSession"].session == session
    assert calls["C_OpenSession"].flags == raw.RW_SESSION
    assert calls["C_GetSlotList"].length == 2
    assert calls["C_FindObjectsInit"].attributes == (raw.CLASS,)
    pair = calls["C_GenerateKeyPair"]
    assert (pair.public_attributes, pair.private_attributes) == (
        (raw.TOKEN, raw.EC_PARAMS),
        (raw.TOKEN, raw.SIGN, raw.LABEL),
    )
    assert pair.attributes is None
    assert before_ms - 1 <= login.t_ms <= sign.t_ms <= time.monotonic() * 1000 + 1


def test_pieces_and_a_large_input(module: FaultyModule) -> None:
    client, session = opened(module)
    data = bytes(range(256)) * 300
    assert client.digest(session, data) == (0, hashlib.sha256(data).digest())
    whole = module.calls[-1]
    assert (whole.data, whole.data_length) == (data[:65536], len(data))
    assert client.call("C_DigestInit", session, byref(raw.Mechanism(raw.SHA256))) == 0
    assert client.call("C_DigestUpdate", session, b"pay", 3) == 0
    assert client.call("C_DigestUpdate", session, NULL, 0) in {0, ARGUMENTS_BAD}
    size = c_ulong(32)
    assert client.call("C_DigestFinal", session, NULL, byref(size)) == 0
    assert client.call("C_DigestFinal", session, (c_ubyte * 32)(), byref(size)) == 0
    pieces = [call.data for call in module.calls if call.function == "C_DigestUpdate"]
    assert pieces == [b"pay", None]
    assert [call.out_null for call in module.calls if call.function == "C_DigestFinal"] == [True, False]


def test_no_pin_is_written_anywhere(module: FaultyModule) -> None:
    client, session, _ = logged_in(module)
    assert client.call("C_SetPIN", session, PIN.encode(), 6, NEW_PIN.encode(), 6) == 0
    assert client.call("C_Logout", session) == 0
    assert client.login(session, SO_PIN, raw.SO) == 0
    kept = b"".join(file.read_bytes() for file in module.path.parent.iterdir() if file != module.path)
    for pin in (PIN, NEW_PIN, SO_PIN):
        assert pin.encode() not in kept
        assert pin.encode().hex().encode() not in kept


# --- threads and processes --------------------------------------------------------------------------------------------


def in_threads(number: int, work: Callable[[], object]) -> None:
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


def test_four_threads_sign(module: FaultyModule) -> None:
    client, _, key = logged_in(module)
    codes: list[int] = []

    def work() -> None:
        own = client.session()
        codes.extend(client.sign(own, key, DIGEST)[0] for _ in range(200))

    module.plan([Fault("C_Sign", 400, returns("CKR_DEVICE_ERROR", after=True))])
    in_threads(4, work)
    assert sorted(codes) == [0] * 799 + [0x30]
    signs = [call for call in module.calls if call.function == "C_Sign"]
    assert sorted(call.call for call in signs) == list(range(1, 801))
    assert [call.call for call in signs if call.rv] == [400]
    assert len({call.thread for call in signs}) == 4
    assert {call.data for call in signs} == {DIGEST}


def test_calls_overlap(module: FaultyModule) -> None:
    client, _, key = logged_in(module)
    sessions = [client.session() for _ in range(4)]
    module.plan([Fault("C_Sign", None, late(0.6))])
    in_threads(4, lambda: client.sign(sessions.pop(), key, DIGEST))
    signs = [call for call in module.calls if call.function == "C_Sign"]
    assert max(call.t_ms for call in signs) < min(call.t_ms + (call.took_ms or 0) for call in signs)


def test_processes_count_together(module: FaultyModule) -> None:
    module.plan([Fault("C_Sign", 270, returns("CKR_DEVICE_REMOVED", after=True))])
    processes = []
    for n in range(1, 5):  # sequentially: SoftHSM2 rewrites its token in place at every login
        processes.append(start_client(module, "sign-when-told", PIN, DIGEST.hex(), "100"))
        module.wait_for("C_FindObjectsFinal", n)
    for process in processes:
        assert process.stdin
        process.stdin.write("now\n")
        process.stdin.flush()
    codes = [int(code) for process in processes for code in process.communicate(timeout=30)[0].split()]
    assert sorted(codes) == [0] * 399 + [0x32]
    signs = [call for call in module.calls if call.function == "C_Sign"]
    assert sorted(call.call for call in signs) == list(range(1, 401))
    assert {call.pid for call in signs} == {process.pid for process in processes}
    assert [call.call for call in signs if call.rv_name == "CKR_DEVICE_REMOVED"] == [270]


def test_a_wrong_pin_counts_over_processes(module: FaultyModule) -> None:
    module.plan([Fault("C_Login", 2, returns("CKR_PIN_LOCKED"))])
    codes = [run_client(module, "login", PIN)[1] for _ in range(3)]
    assert codes == [[0], [0xA4], [0]]


FORKS = """
import os, sys, threading
from pathlib import Path
from tests.stack.faulty.raw_module import RawModule
module = RawModule(Path(sys.argv[1]))
module.initialize()


def fork():
    child = os.fork()
    if not child:
        module.call("C_GetInfo", None)
        os._exit(0)
    os.waitpid(child, 0)
    return child


child = fork()
module.call("C_GetInfo", None)
print(os.getpid(), child, flush=True)
busy = threading.Event()
thread = threading.Thread(target=lambda: [module.call("C_GetInfo", None) for _ in iter(busy.is_set, True)])
thread.start()
for _ in range(100):
    fork()
busy.set()
"""


def test_forks_are_told_apart(module: FaultyModule) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, str(module.path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    parent, child = (int(pid) for pid in done.stdout.split())
    infos = [call for call in module.calls if call.function == "C_GetInfo"]
    assert [(call.call, call.pid) for call in infos[:2]] == [(1, child), (2, parent)]
    # While a thread of the parent uses the module, no forked child inherits its lock in the locked state.
    assert len({call.pid for call in infos}) == 102
