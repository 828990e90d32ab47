"""Lists that grow while they are read, long lists, and objects that cannot be read."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.project.tree import ROOT
from tests.soft import DRIVER, OPTIONS, SETTINGS, SOFTHSM, Soft
from tests.stack.bench import Bench
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import ObjectClass, User
from ushield_hw.backend.module import Module
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.drivers.catalogue import Catalogue
from ushield_hw.drivers.installed import Installed
from ushield_hw.errors import TokenError, TokenRemoved
from ushield_hw.testing.faulty import Fault, returns
from ushield_hw.testing.softhsm import CONF_VARIABLE
from ushield_hw.token.choice import names
from ushield_hw.token.discovery import tokens_in

pytestmark = pytest.mark.stack

DER = b"0\3\2\1\1"
NAMES = {"subject": b"0\0", "issuer": b"0\0", "serial": b"\2\1\1"}


def make_tokens(soft: Soft, count: int) -> None:
    command = [sys.executable, "-m", "tests.stack.many", str(count)]
    subprocess.run(command, cwd=ROOT, env={CONF_VARIABLE: str(soft.conf), "PATH": "/usr/bin"}, check=True, timeout=100)


def multiply(soft: Soft, count: int) -> None:
    """Copy the file of the last object: SoftHSM2 stores one file per object and is slow to write thousands."""
    (file,) = (file for file in soft.folder.rglob("*.object") if DER in file.read_bytes())
    for number in range(count):
        copy = file.with_name(f"00000000-0000-0000-0000-{number:012}.object")
        shutil.copy(file, copy)
        copy.with_suffix(".lock").touch()


def write(bench: Bench, count: int) -> None:
    """Write certificate objects with ids from 1 and labels c1 and so on."""
    login = bench.login()
    for number in range(1, count + 1):
        bench.module.write_certificate(login, DER, key_id=bytes([number]), label=f"c{number}", **NAMES)
    bench.module.logout(login)


# --- lengths that change between two calls ----------------------------------------------------------------------------

READS: dict[str, Callable[[Bench], object]] = {
    "C_GetSlotList": lambda bench: bench.module.slots(),
    "C_GetMechanismList": lambda bench: bench.module.mechanisms(bench.slot),
    "C_GetAttributeValue": lambda bench: bench.module.contents(bench.slot),
}


@pytest.mark.parametrize("function", READS)
def test_what_grows_between_two_calls_is_asked_for_again(bench: Bench, function: str) -> None:
    write(bench, 2)
    before = READS[function](bench)
    bench.faulty.clear()
    bench.faulty.plan([Fault(function, call, returns("CKR_BUFFER_TOO_SMALL")) for call in (2, 4)])
    assert READS[function](bench) == before
    assert bench.count(function) > 4


@pytest.mark.parametrize("function", ["C_GetSlotList", "C_GetMechanismList"])
def test_what_never_stops_growing_is_an_error_that_says_so(bench: Bench, function: str) -> None:
    slot = bench.slot
    bench.plan(function, None, returns("CKR_BUFFER_TOO_SMALL"))
    with pytest.raises(TokenError) as caught:
        READS[function](bench)
    assert (caught.value.code, caught.value.function) == ("MODULE_NEVER_SETTLES", function)
    assert bench.count(function) < 40
    assert slot


def test_an_object_that_never_stops_growing_is_left_out(bench: Bench) -> None:
    write(bench, 2)
    everything = bench.module.contents(bench.slot, ObjectClass.CERTIFICATE)
    grows = [Fault("C_GetAttributeValue", call, returns("CKR_BUFFER_TOO_SMALL")) for call in range(1, 200)]
    bench.faulty.clear()
    bench.faulty.plan(grows[: 8 * 4])  # all attributes together, then each of the three
    found = bench.module.contents(bench.slot, ObjectClass.CERTIFICATE)
    assert found.certificates == everything.certificates[1:]
    assert [problem.handle for problem in found.problems] == [everything.certificates[0].handle]


# --- long lists -------------------------------------------------------------------------------------------------------


def test_257_slots_are_listed_and_the_last_token_signs(soft: Soft, tmp_path: Path) -> None:
    make_tokens(soft, 254)
    module = soft.module(deadline_s=60)
    entry = Installed(SOFTHSM, DRIVER, "test")
    found = tokens_in(entry, module, module.slots(), Catalogue(SETTINGS.drivers), SETTINGS)
    assert len(found) == 256
    assert len(module.slots()) == 257
    assert len({token.uri for token in found}) == 256
    # SoftHSM2 lists tokens by serial numbers, which are random: the two with PINs of their own may be the last ones.
    last = [token for token in found if not token.label.startswith("ushield-")][-1]
    assert found.index(last) >= len(found) - 3
    assert [token for token in found if names(last.uri, token)] == [last]
    login = module.login(last.link.slot_id, User.SO, "87654321")
    module.init_pin(login, "123456")
    module.logout(login)
    login = module.login(last.link.slot_id, User.USER, "123456")
    assert module.generate(login, KeyKind.EC_P256, 0, b"1", "pay", always_authenticate=False).point


def test_3000_certificates_are_all_read(bench: Bench) -> None:
    write(bench, 1)
    multiply(bench.soft, 2999)
    module = bench.soft.module()
    found = module.contents(bench.soft.info(module).slot_id)
    assert len({one.handle for one in found.certificates}) == 3000
    assert {one.der for one in found.certificates} == {DER}
    assert found.problems == ()


# --- objects that cannot be read --------------------------------------------------------------------------------------

BAD = [
    *("CKR_GENERAL_ERROR", "CKR_DEVICE_MEMORY", "CKR_ATTRIBUTE_VALUE_INVALID", "CKR_OBJECT_HANDLE_INVALID"),
    *("CKR_FUNCTION_NOT_SUPPORTED", "CKR_USER_NOT_LOGGED_IN", "CKR_DEVICE_ERROR", "CKR_ARGUMENTS_BAD"),
    *("CKR_VENDOR_DEFINED+0x12", "CKR_SESSION_COUNT"),
]


def number(code: str) -> str | int:
    return 0x80000012 if "VENDOR" in code else code


@pytest.mark.parametrize("code", BAD)
def test_one_bad_object_never_hides_the_others(bench: Bench, code: str) -> None:
    write(bench, 3)
    everything = bench.module.contents(bench.slot, ObjectClass.CERTIFICATE).certificates
    bench.faulty.clear()
    tries = range(3, 4 if "HANDLE" in code else 10 if code in {"CKR_GENERAL_ERROR", "CKR_DEVICE_ERROR"} else 7)
    bench.faulty.plan([Fault("C_GetAttributeValue", call, returns(number(code))) for call in tries])
    found = bench.module.contents(bench.slot, ObjectClass.CERTIFICATE)
    if code == "CKR_OBJECT_HANDLE_INVALID":  # the object exists after all
        assert set(found.certificates) == set(everything)
        return
    assert found.certificates == (everything[0], everything[2])
    assert [(problem.handle, problem.left_out) for problem in found.problems] == [(everything[1].handle, True)]
    assert found.problems[0].code
    assert bench.module.certificates(bench.slot) == everything  # the next read sees it


def test_an_object_whose_handle_stays_stale_is_named(bench: Bench) -> None:
    write(bench, 1)
    bench.plan("C_GetAttributeValue", None, returns("CKR_OBJECT_HANDLE_INVALID"))
    assert len(bench.module.contents(bench.slot, ObjectClass.CERTIFICATE).problems) == 1
    with pytest.raises(TokenError) as caught:
        bench.module.certificates(bench.slot)
    assert caught.value.ckr == "CKR_OBJECT_HANDLE_INVALID"


@pytest.mark.parametrize("code", ["CKR_GENERAL_ERROR", "CKR_DEVICE_ERROR", "CKR_ARGUMENTS_BAD"])
@pytest.mark.parametrize("read", ["certificates", "keys"])
def test_nothing_that_can_be_read_is_not_nothing(bench: Bench, code: str, read: str) -> None:
    write(bench, 2)
    bench.plan("C_GetAttributeValue", None, returns(code))
    with pytest.raises(TokenError) as caught:
        getattr(bench.module, read)(bench.slot)
    assert caught.value.ckr == code


@pytest.mark.parametrize("call", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("code", ["CKR_DEVICE_REMOVED", "CKR_SESSION_CLOSED"])
def test_a_token_that_goes_while_it_is_read_is_gone(bench: Bench, code: str, call: int) -> None:
    write(bench, 3)
    bench.plan("C_GetAttributeValue", call, returns(code))
    with pytest.raises(TokenRemoved):
        bench.module.contents(bench.slot)


def test_a_device_that_fails_for_good_is_an_error_although_something_was_read(bench: Bench) -> None:
    write(bench, 3)
    bench.faulty.clear()
    bench.faulty.plan([Fault("C_GetAttributeValue", call, returns("CKR_DEVICE_ERROR")) for call in range(3, 60)])
    with pytest.raises(TokenError) as caught:
        bench.module.contents(bench.slot, ObjectClass.CERTIFICATE)
    assert caught.value.ckr == "CKR_DEVICE_ERROR"


def test_one_attribute_that_cannot_be_read_leaves_the_rest(bench: Bench) -> None:
    write(bench, 1)
    bench.faulty.clear()  # all together, then the id alone; the other two can be read
    bench.faulty.plan([Fault("C_GetAttributeValue", call, returns("CKR_ARGUMENTS_BAD")) for call in (1, 2)])
    found = bench.module.contents(bench.slot, ObjectClass.CERTIFICATE)
    assert [(one.key_id, one.label, one.der) for one in found.certificates] == [(b"", "c1", DER)]
    assert [(problem.left_out, problem.label) for problem in found.problems] == [(False, "c1")]


def test_reading_beside_a_program_that_adds_and_removes_certificates(soft: Soft) -> None:
    """No call fails, and the certificate that is not removed is always listed.

    On a busy machine SoftHSM2 may leave a partial object when a write fails; reporting it as unreadable is correct.
    """
    reader, writer = (
        Module(SOFTHSM, Isolation.PROCESS, OPTIONS, 30, {CONF_VARIABLE: str(soft.conf)}) for _ in range(2)
    )
    slot, other = soft.info(reader).slot_id, soft.info(writer).slot_id
    login = writer.login(other, User.USER, soft.pin)
    writer.write_certificate(login, DER, key_id=b"\1", label="stays", **NAMES)
    stop, failures, bad = threading.Event(), list[str](), set[int]()

    def change() -> None:
        while not stop.is_set():
            with suppress(TokenError):  # SoftHSM2's own error: only the reader is under test
                made = [writer.write_certificate(login, DER, key_id=b"\2", label="goes", **NAMES) for _ in range(3)]
                for handle in made:
                    writer.destroy(login, handle)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        until, reads = time.monotonic() + 5, 0
        while time.monotonic() < until:
            reads += 1
            try:
                found = reader.contents(slot, ObjectClass.CERTIFICATE)
                bad.update(problem.handle for problem in found.problems)
                if "stays" not in {one.label for one in found.certificates}:
                    failures.append(f"gone: {found}")
            except TokenError as error:
                failures.append(f"{error.details}")
    finally:
        stop.set()
        thread.join()
        left = {problem.handle for problem in reader.contents(slot, ObjectClass.CERTIFICATE).problems}
        reader.close()
        writer.close()
    assert reads > 3  # a busy machine reads less often
    assert failures == []
    assert bad <= left
