"""The faulty module injects the planned faults and is transparent without a plan."""

from __future__ import annotations

import ctypes
import hashlib
import signal
import subprocess
import sys
import time
from ctypes import byref, c_ulong
from pathlib import Path
from typing import Any, cast

import pkcs11
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11.util.ec import encode_ec_public_key

from tests.stack.faulty import raw_module as raw
from tests.stack.faulty.raw_module import NULL, RawModule
from tests.stack.faulty.soft_token import (
    ARGUMENTS_BAD,
    DIGEST,
    FUNCTION_CANCELED,
    NEW_PIN,
    PIN,
    PIN_INCORRECT,
    SO_PIN,
    SOFTHSM,
    logged_in,
    opened,
    run_client,
    start_client,
)
from ushield_hw.backend.model import TokenFlag
from ushield_hw.testing.faulty import (
    Action,
    Fault,
    FaultyModule,
    cant_lock,
    corrupts,
    crashes,
    exits,
    faulty_module,
    functions,
    hangs,
    late,
    mechanisms,
    no_pinpad,
    pinpad,
    returns,
    token_info,
)

pytestmark = pytest.mark.stack


# --- wrapping the real module -----------------------------------------------------------------------------------------


def test_another_pkcs11_library_notices_nothing(module: FaultyModule) -> None:
    library = pkcs11.lib(str(module.path))
    with library.get_token(token_label="U-shield").open(user_pin=PIN) as session:
        key: Any = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY)  # the type stubs lack sign()
        signature = key.sign(DIGEST, mechanism=pkcs11.Mechanism.ECDSA)
        public = cast(pkcs11.PublicKey, session.get_key(object_class=pkcs11.ObjectClass.PUBLIC_KEY))
        verify(encode_ec_public_key(public), signature)
    library.unload()
    assert module.count("C_Login") == 1
    asked, signed = [call for call in module.calls if call.function == "C_Sign"]
    assert (asked.out_null, signed.out_null) == (True, False)
    assert asked.data == signed.data == DIGEST


def verify(public: bytes, signature: bytes) -> None:
    key = load_der_public_key(public)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    r, s = (int.from_bytes(half) for half in (signature[:32], signature[32:]))
    key.verify(utils.encode_dss_signature(r, s), DIGEST, ec.ECDSA(utils.Prehashed(SHA256())))


def test_every_function_is_wrapped_and_only_one_is_exported(module: FaultyModule) -> None:
    client = RawModule(module.path)
    assert client.list is not None
    assert len(functions()) == 68
    assert all(client.list.functions)
    assert len(set(client.list.functions)) == 68
    assert not hasattr(ctypes.CDLL(str(module.path)), "C_Login")


STUB = """
struct list { unsigned char version[2]; void *functions[68]; };
unsigned long C_GetFunctionList(struct list **list) {
    static struct list empty = {{2, 20}, {0}};
    *list = &empty;
    return 0;
}
"""


def test_what_the_target_lacks_is_not_supported(tmp_path: Path) -> None:
    source, stub = tmp_path / "stub.c", tmp_path / "stub.so"
    source.write_text(STUB)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(stub), str(source)], check=True)
    module = faulty_module(tmp_path / "faulty", stub)
    client = RawModule(module.path)
    assert client.list is not None
    assert tuple(client.list.version) == (2, 20)
    # Zeros for every argument: NULL for pointers. No function has more than eight parameters.
    wrapped = [name for name in functions() if name != "C_GetFunctionList"]
    assert {client.call(name, *[0] * 8) for name in wrapped} == {0x54}
    assert [call.function for call in module.calls] == ["C_GetFunctionList", *wrapped]
    assert {call.rv_name for call in module.calls[1:]} == {"CKR_FUNCTION_NOT_SUPPORTED"}


@pytest.mark.parametrize("content", [b"not a module", b""])
def test_a_target_that_cannot_be_loaded(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "target.so").write_bytes(content)
    module = faulty_module(tmp_path / "faulty", tmp_path / "target.so")
    assert RawModule(module.path).loaded == 0x1B7
    (call,) = module.calls
    assert call.rv_name == "CKR_LIBRARY_LOAD_FAILED"
    assert "target.so" in (call.error or "")


def test_a_target_that_is_no_pkcs11_module(tmp_path: Path) -> None:
    module = faulty_module(tmp_path / "faulty", Path(sys.modules["_ctypes"].__file__ or ""), copy_target=True)
    assert RawModule(module.path).loaded == 0x1B7
    assert "C_GetFunctionList" in (module.calls[0].error or "")


def test_a_target_that_refuses_to_give_its_functions(module: FaultyModule, tmp_path: Path) -> None:
    module.plan([Fault("C_GetFunctionList", 1, returns("CKR_HOST_MEMORY"))])
    outer = faulty_module(tmp_path / "outer", module.path)
    assert [RawModule(outer.path).loaded for _ in range(2)] == [0x2, 0]
    assert [(call.rv, call.target_rv, call.error) for call in outer.calls] == [(2, 2, None), (0, 0, None)]


def test_by_a_link_and_from_elsewhere(module: FaultyModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("links").mkdir()
    Path("links/module.so").symlink_to(module.path)
    client = RawModule(Path("links/module.so"))
    monkeypatch.chdir("/")
    assert client.initialize() == 0
    assert FaultyModule(tmp_path / "links/module.so").count("C_Initialize") == 1


def test_two_in_a_process(module: FaultyModule, tmp_path: Path) -> None:
    same = faulty_module(tmp_path / "same", SOFTHSM)
    own = faulty_module(tmp_path / "own", SOFTHSM, copy_target=True)
    assert [RawModule(one.path).initialize() for one in (module, same, own)] == [0, 0x191, 0]
    assert [one.count("C_Initialize") for one in (module, same, own)] == [1, 1, 1]
    assert RawModule(own.path).call("C_Finalize", NULL) == 0


def test_one_in_front_of_another(module: FaultyModule, tmp_path: Path) -> None:
    module.plan([Fault("C_Login", 1, returns("PIN_INCORRECT"))])
    outer = faulty_module(tmp_path / "outer", module.path, [Fault("C_Login", 2, returns("CKR_PIN_LOCKED"))])
    client, session = opened(outer)
    assert [client.login(session, PIN) for _ in range(3)] == [0xA0, 0xA4, 0]
    assert (outer.count("C_Login"), module.count("C_Login")) == (3, 2)


# --- faults -----------------------------------------------------------------------------------------------------------


def test_returns_a_code_without_calling(module: FaultyModule) -> None:
    module.plan([Fault("C_Sign", 2, returns("CKR_FUNCTION_CANCELED"))])
    client, session, key = logged_in(module)
    assert client.sign(session, key, DIGEST)[0] == 0
    assert client.sign(session, key, DIGEST)[0] == FUNCTION_CANCELED
    assert client.sign(session, key, DIGEST)[0] == 0x90  # the operation is still active: the real C_Sign was not called
    refused = module.calls[-2]
    assert (refused.function, refused.call, refused.rv_name) == ("C_Sign", 2, "CKR_FUNCTION_CANCELED")
    assert refused.target_rv is None


def test_signs_and_loses_the_answer(module: FaultyModule) -> None:
    module.plan([Fault("C_Sign", 1, returns(0x80000012, after=True))])
    client, session, key = logged_in(module)
    assert client.sign(session, key, DIGEST)[0] == 0x80000012
    lost = module.calls[-1]
    assert (lost.rv, lost.target_rv, lost.length) == (0x80000012, 0, 64)
    assert lost.rv_name == "CKR_VENDOR_DEFINED+0x12"
    assert client.sign(session, key, DIGEST)[0] == 0


def test_wrong_at_loading(module: FaultyModule) -> None:
    module.plan([Fault("C_GetFunctionList", 1, returns("CKR_GENERAL_ERROR"))])
    assert RawModule(module.path).loaded == 0x5
    assert RawModule(module.path).loaded == 0


def test_late(module: FaultyModule) -> None:
    module.plan([Fault("C_Login", None, late(0.15)), Fault("C_Login", 1, returns("PIN_INCORRECT"))])
    client, session = opened(module)
    assert client.login(session, PIN) == PIN_INCORRECT
    module.plan([Fault("C_Login", 2, late(0.15, after=True))])
    assert client.login(session, PIN) == 0
    first, second = (call for call in module.calls if call.function == "C_Login")
    assert [(call.took_ms or 0) >= 150 for call in (first, second)] == [True, True]
    assert second.target_rv == 0


def test_hangs_until_killed(module: FaultyModule) -> None:
    module.plan([Fault("C_Sign", 2, hangs())])
    with start_client(module, "sign", PIN, DIGEST.hex(), "2") as process:
        stuck = module.wait_for("C_Sign", 2)
        assert process.poll() is None
        time.sleep(0.1)
        assert process.poll() is None
        process.kill()
    assert stuck.pid == process.pid
    assert stuck.data == DIGEST
    assert (module.calls[-1].rv, module.calls[-1].rv_name, module.calls[-1].took_ms) == (None, None, None)


def test_hangs_with_the_signature_made(module: FaultyModule) -> None:
    module.plan([Fault("C_Sign", 1, hangs(after=True))])
    with start_client(module, "sign", PIN, DIGEST.hex()) as process:
        module.wait_for("C_Sign")
        deadline = time.monotonic() + 10
        while module.calls[-1].target_rv is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.poll() is None
        process.kill()
    assert (module.calls[-1].rv, module.calls[-1].target_rv, module.calls[-1].length) == (None, 0, 64)


@pytest.mark.parametrize(
    ("action", "status", "target_rv"),
    [
        (crashes(), -signal.SIGSEGV, None),
        (crashes(signal.SIGKILL), -signal.SIGKILL, None),
        (crashes(signal.SIGABRT, after=True), -signal.SIGABRT, 0),
        (exits(3), 3, None),
        (exits(0, after=True), 0, 0),
    ],
    ids=["segv", "kill", "abort-after", "exit", "exit-after"],
)
def test_ends_the_process(module: FaultyModule, action: Action, status: int, target_rv: int | None) -> None:
    module.plan([Fault("C_Sign", 2, action)])
    assert run_client(module, "sign", PIN, DIGEST.hex(), "3") == (status, [0])
    last = module.calls[-1]
    assert (last.function, last.call, last.data, last.rv, last.target_rv) == ("C_Sign", 2, DIGEST, None, target_rv)
    # The next process continues the count: its first C_Sign is the third.
    assert run_client(module, "sign", PIN, DIGEST.hex(), "1") == (0, [0])
    assert module.calls[-1].call == 3


def test_wait_for_gives_up(module: FaultyModule) -> None:
    with pytest.raises(TimeoutError):
        module.wait_for("C_Sign", timeout_s=0.02)


def test_corrupts_a_signature(module: FaultyModule) -> None:
    # python-pkcs11 queries the length first: call 1 has no output to corrupt.
    module.plan([Fault("C_Sign", 1, corrupts()), Fault("C_Sign", 2, corrupts()), Fault("C_Digest", 1, corrupts())])
    library = pkcs11.lib(str(module.path))
    with library.get_token(token_label="U-shield").open(user_pin=PIN) as session:
        key: Any = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY)  # the type stubs lack sign()
        public = cast(pkcs11.PublicKey, session.get_key(object_class=pkcs11.ObjectClass.PUBLIC_KEY))
        first, second = (key.sign(DIGEST, mechanism=pkcs11.Mechanism.ECDSA) for _ in range(2))
        point = encode_ec_public_key(public)
    library.unload()
    with pytest.raises(InvalidSignature):
        verify(point, first)
    verify(point, second)
    client, session_handle = opened(module)
    wrong = client.digest(session_handle, b"data")[1]
    right = hashlib.sha256(b"data").digest()
    assert wrong == right[:-1] + bytes([right[-1] ^ 1])


def test_locking_is_refused(module: FaultyModule) -> None:
    module.plan([Fault("C_Initialize", None, cant_lock())])
    client = RawModule(module.path)
    assert client.initialize(raw.OS_LOCKING_OK) == 0xA
    assert client.initialize(0) == 0
    assert client.call("C_Finalize", NULL) == 0
    assert client.call("C_Initialize", NULL) == 0
    assert [call.flags for call in module.calls if call.function == "C_Initialize"] == [2, 0, None]


# --- token information ------------------------------------------------------------------------------------------------


def test_token_info(module: FaultyModule) -> None:
    client, _ = opened(module)
    plain = client.token_info()
    state = TokenFlag.USER_PIN_FINAL_TRY | TokenFlag.PROTECTED_AUTHENTICATION_PATH
    changed = token_info(
        set_flags=state,
        clear_flags=TokenFlag.LOGIN_REQUIRED | TokenFlag.RNG,
        label="建行U盾",
        serial="0123456789ABCDEF",
        manufacturer="Feitian",
        model="K9",
        pin_min=6,
        pin_max=8,
    )
    module.plan([Fault("C_GetTokenInfo", None, changed)])
    info = client.token_info()
    assert info.flags == (plain.flags | state) & ~5
    assert info.label.decode() == "建行U盾".ljust(32 - 6)
    assert (info.serial, info.manufacturer, info.model) == (b"0123456789ABCDEF", b"Feitian".ljust(32), b"K9".ljust(16))
    assert (info.pin_min, info.pin_max) == (6, 8)
    assert bytes(info.versions) == bytes(plain.versions)
    assert info.memory[:] == plain.memory[:]


def test_token_info_a_part(module: FaultyModule) -> None:
    client, _ = opened(module)
    plain = client.token_info()
    module.plan([Fault("C_GetTokenInfo", 2, token_info(set_flags=TokenFlag.USER_PIN_LOCKED))])
    locked, after = client.token_info(), client.token_info()
    assert locked.flags == plain.flags | 0x40000
    assert (locked.label, locked.serial, locked.model) == (plain.label, plain.serial, b"SoftHSM v2".ljust(16))
    assert (locked.pin_min, locked.pin_max) == (4, 255)
    assert after.flags == plain.flags


def test_mechanisms(module: FaultyModule) -> None:
    client, _ = opened(module)
    plain = client.mechanisms()
    sm2 = 0x80000001
    edit = mechanisms(hide=[raw.ECDSA, 0x9999], add=[sm2, raw.SHA256])
    module.plan([Fault("C_GetMechanismList", None, edit), Fault("C_GetMechanismInfo", None, edit)])
    assert client.mechanisms() == [one for one in plain if one != raw.ECDSA] + [sm2]
    slot, count = client.slots()[0], c_ulong(3)
    assert client.call("C_GetMechanismList", slot, (c_ulong * 3)(), byref(count)) == 0x150
    assert count.value == len(plain)
    info = (c_ulong * 3)()
    assert client.call("C_GetMechanismInfo", slot, raw.ECDSA, info) == 0x70
    assert client.call("C_GetMechanismInfo", slot, sm2, info) == 0
    assert info[:] == [0, 0, 0x2800]
    assert client.call("C_GetMechanismInfo", slot, raw.SHA256, info) == 0
    assert info[2] == 0x400  # the real module's own flags
    assert client.call("C_GetMechanismInfo", slot, 0x9998, info) == 0x70


# --- a PIN pad --------------------------------------------------------------------------------------------------------


def test_pinpad(module: FaultyModule) -> None:
    client, session = opened(module)
    assert client.login(session, None) == ARGUMENTS_BAD  # SoftHSM2 has no PIN pad
    module.plan([Fault("C_Login", None, pinpad(PIN)), Fault("C_Login", 2, pinpad("999999"))])
    assert client.login(session, None) == PIN_INCORRECT
    assert client.login(session, None) == 0
    assert client.call("C_Logout", session) == 0
    assert client.login(session, PIN) == 0
    logins = [call for call in module.calls if call.function == "C_Login"]
    assert [call.pin_null for call in logins] == [True, True, True, False]
    assert [call.pin_length for call in logins] == [0, 0, 0, 6]


def test_pinpad_changes_the_pin(module: FaultyModule) -> None:
    client, session, _ = logged_in(module)
    module.plan([Fault("C_SetPIN", None, pinpad(PIN, NEW_PIN))])
    assert client.call("C_SetPIN", session, NULL, 0, NULL, 0) == 0
    assert client.call("C_SetPIN", session, NEW_PIN.encode(), 6, PIN.encode(), 6) == 0
    first, second = (call for call in module.calls if call.function == "C_SetPIN")
    assert (first.pin_null, first.new_pin_null, first.pin_length, first.new_pin_length) == (True, True, 0, 0)
    assert (second.pin_null, second.new_pin_null, second.pin_length, second.new_pin_length) == (False, False, 6, 6)


def test_pinpad_of_the_security_officer(module: FaultyModule) -> None:
    client, session = opened(module)
    module.plan([Fault("C_Login", 1, pinpad(SO_PIN)), Fault("C_InitPIN", 1, pinpad(NEW_PIN))])
    assert client.login(session, None, raw.SO) == 0
    assert client.call("C_InitPIN", session, NULL, 0) == 0
    assert client.call("C_Logout", session) == 0
    assert client.login(session, NEW_PIN) == 0
    assert [call.user_type for call in module.calls if call.function == "C_Login"] == [0, 1]


def test_pinpad_that_takes_no_pin_from_the_host(module: FaultyModule) -> None:
    module.plan([Fault("C_Login", None, pinpad(PIN, only=True))])
    client, session = opened(module)
    assert client.login(session, PIN) == ARGUMENTS_BAD
    assert module.calls[-1].target_rv is None
    assert client.login(session, None) == 0


def test_no_pinpad(module: FaultyModule) -> None:
    module.plan([Fault("C_Login", None, no_pinpad("CKR_PIN_LEN_RANGE"))])
    client, session = opened(module)
    assert client.login(session, None) == 0xA2
    assert module.calls[-1].target_rv is None
    assert client.login(session, PIN) == 0


def test_the_person_at_the_pinpad_cancels(module: FaultyModule) -> None:
    module.plan([Fault("C_Login", None, pinpad(PIN)), Fault("C_Login", 1, returns("CKR_FUNCTION_CANCELED"))])
    client, session = opened(module)
    assert [client.login(session, None) for _ in range(2)] == [FUNCTION_CANCELED, 0]
