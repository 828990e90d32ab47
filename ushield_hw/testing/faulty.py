"""A PKCS#11 module that wraps another one, injects faults by plan and records every call.

It wraps any module (SoftHSM2, OpenSC, a vendor's) and makes call N of function F fail, hang, crash, return wrong data
or return late. The record shows which functions were called with what, so that a test can prove "one C_Login" or "the
digest passed to C_Sign is the one that was confirmed". It is written in C99 and built at first use; see
:mod:`ushield_hw.testing.compiled`.

::

    from ushield_hw.testing.faulty import Fault, crashes, faulty_module, returns

    module = faulty_module(tmp_path, "/usr/lib/softhsm/libsofthsm2.so")
    token = open_token(module.path, pin="123456")           # any program that loads a PKCS#11 module
    token.sign(digest)
    assert module.count("C_Login") == 1                     # the PIN was verified once
    assert module.calls[-1].data == digest                  # what was confirmed is what was signed
    module.plan([Fault("C_Sign", 2, returns("CKR_FUNCTION_CANCELED"))])
    token.sign(digest)                                      # the second signature is refused
    module.plan([Fault("C_Sign", None, crashes(after=True))])   # signed, but the result is lost

Calls are counted per function, from 1, across all threads and processes that load this module's file, until
:meth:`FaultyModule.clear`. A call with a NULL output buffer, which only queries a length, counts too (python-pkcs11
makes two C_Sign calls per signature; ``Call.out_null`` distinguishes them).

If several faults match a call, all apply (for example late *and* refused). If two of them set the same thing, the later
one in the plan wins, so a plan goes from general to specific.

Two faulty modules in one process that wrap the same file share its state, because the dynamic loader maps it once: the
second C_Initialize returns CKR_CRYPTOKI_ALREADY_INITIALIZED. ``copy_target`` gives each its own copy. Needs Linux.
"""

from __future__ import annotations

import os
import re
import shutil
import signal as signals
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from ushield_hw.backend.pkcs11.ckr import NUMBERS
from ushield_hw.config import data_dir
from ushield_hw.drivers.catalogue import GENERIC, Catalogue
from ushield_hw.errors import InputError
from ushield_hw.testing.compiled import Part, built
from ushield_hw.testing.record import Call, read_calls

__all__ = [
    "Action",
    "Call",
    "Fault",
    "FaultyModule",
    "cant_lock",
    "ckr_number",
    "corrupts",
    "crashes",
    "exits",
    "faulty_module",
    "functions",
    "hangs",
    "late",
    "mechanisms",
    "no_pinpad",
    "passes",
    "pinpad",
    "returns",
    "token_info",
]

# Limits of faulty_plan.h and faulty.c.
_PLAN_MOST: Final = 200_000
_PIN_MOST: Final = 255
_MECHANISMS_MOST: Final = 64
_TEXT_MOST: Final = {"label": 32, "manufacturer": 32, "model": 16, "serial": 16}

_STAMP_SIZE: Final = 8  # the plan's stamp and the last id precede the counters in NAME.count
_COUNTERS_AT: Final = 16


@dataclass(frozen=True, slots=True)
class Action:
    """What a fault does. Created by the functions of this module.

    Attributes:
        settings: its notation in the plan file.
        only: the functions it applies to; empty: all.
    """

    settings: str
    only: frozenset[str] = frozenset()


def passes() -> Action:
    """Let the call through: an exception to a fault for every call."""
    return Action("pass=0 after=0")


def returns(ckr: int | str, *, after: bool = False) -> Action:
    """Return a code instead of calling the real function.

    A real token that refuses C_Sign ends the operation. A wrapped module that was not called still waits for C_Sign and
    answers the session's next C_SignInit with CKR_OPERATION_ACTIVE. If the same session is to sign again after a
    refusal, use ``after``.

    Args:
        ckr: the number, or the name with or without ``CKR_``.
        after: call the real function first and then return the code: the operation is done, the result lost.

    Raises:
        ValueError: there is no code of this name.
    """
    return _end("return", ckr_number(ckr), after)


def hangs(*, after: bool = False) -> Action:
    """Never return; only killing the process ends the call."""
    return _end("hang", 0, after)


def crashes(signal: signals.Signals = signals.SIGSEGV, *, after: bool = False) -> Action:
    """End the process by a signal, like a bug in a module."""
    return _end("crash", signal, after)


def exits(code: int, *, after: bool = False) -> Action:
    """End the process with an exit status, as some modules do on errors. Nothing is flushed."""
    return _end("exit", code, after)


def late(seconds: float, *, after: bool = False) -> Action:
    """Wait before the call, or with ``after`` between the real call and its return.

    It can be combined with other actions.

    Args:
        seconds: how long to wait.
        after: wait after the real call.
    """
    return Action(f"{'late_after_ms' if after else 'late_ms'}={round(seconds * 1000)}")


def corrupts() -> Action:
    """Flip the lowest bit of the last output byte of a successful call, for example of a signature."""
    return Action("corrupt=1", _WITH_OUTPUT)


def cant_lock() -> Action:
    """Make C_Initialize return CKR_CANT_LOCK if OS locking is requested; otherwise it works."""
    return Action("cant_lock=1", frozenset({"C_Initialize"}))


def pinpad(pin: str, new_pin: str | None = None, *, only: bool = False) -> Action:
    """Simulate a token with its own PIN entry: a NULL PIN is replaced by the PIN entered at the pad.

    Args:
        pin: entered for C_Login, C_InitToken and the old PIN of C_SetPIN.
        new_pin: entered for the new PIN of C_SetPIN and for C_InitPIN; default: ``pin``.
        only: return CKR_ARGUMENTS_BAD for a PIN sent by the host.

    Set the flag PROTECTED_AUTHENTICATION_PATH with :func:`token_info`. A user who presses C is simulated with
    ``returns("CKR_FUNCTION_CANCELED")``.
    """
    settings = [f"pin={_hex(pin, _PIN_MOST)}"]
    settings += [f"new_pin={_hex(new_pin, _PIN_MOST)}"] if new_pin is not None else []
    settings += [f"host_pin_rv={ckr_number('ARGUMENTS_BAD')}"] if only else []
    return Action(" ".join(settings), _WITH_PIN)


def no_pinpad(ckr: int | str = "CKR_ARGUMENTS_BAD") -> Action:
    """Refuse a NULL PIN with this code before the real module sees it; a PIN from the host is passed on."""
    return Action(f"null_pin_rv={ckr_number(ckr)}", _WITH_PIN)


def token_info(  # noqa: PLR0913 - one for each field of CK_TOKEN_INFO that a test wants to show
    *,
    set_flags: int = 0,
    clear_flags: int = 0,
    label: str | None = None,
    manufacturer: str | None = None,
    model: str | None = None,
    serial: str | None = None,
    pin_min: int | None = None,
    pin_max: int | None = None,
) -> Action:
    """Change the result of C_GetTokenInfo.

    Args:
        set_flags: CKF_* bits to set, as in ``ushield_hw.backend.model.TokenFlag``.
        clear_flags: CKF_* bits to clear; takes precedence.
        label: replaces the label, at most 32 bytes of UTF-8.
        manufacturer: replaces manufacturerID, at most 32 bytes.
        model: replaces the model, at most 16 bytes.
        serial: replaces the serial number, at most 16 bytes.
        pin_min: replaces ulMinPinLen.
        pin_max: replaces ulMaxPinLen.

    Raises:
        ValueError: a text is too long for its field.
    """
    texts = {"label": label, "manufacturer": manufacturer, "model": model, "serial": serial}
    numbers = {"set_flags": set_flags, "clear_flags": clear_flags, "pin_min": pin_min, "pin_max": pin_max}
    settings = [f"{name}={_hex(text, _TEXT_MOST[name])}" for name, text in texts.items() if text is not None]
    settings += [f"{name}={int(number)}" for name, number in numbers.items() if number is not None]
    return Action(" ".join(settings), frozenset({"C_GetTokenInfo"}))


def mechanisms(*, hide: Iterable[int] = (), add: Iterable[int] = ()) -> Action:
    """Change the results of C_GetMechanismList and C_GetMechanismInfo. C_SignInit is not affected.

    Args:
        hide: CKM_* numbers to remove (C_GetMechanismInfo: CKR_MECHANISM_INVALID).
        add: CKM_* numbers to add (C_GetMechanismInfo: sign and verify, no key sizes).
    """
    settings = f"hide={_numbers(hide)} add={_numbers(add)}"
    return Action(settings, frozenset({"C_GetMechanismList", "C_GetMechanismInfo"}))


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of a plan.

    Args:
        function: the PKCS#11 function, with its ``C_``.
        call: the number of the call, from 1; ``None``: every call.
        action: what happens.

    Raises:
        ValueError: there is no such function or call, or the action does not apply to the function.
    """

    function: str
    call: int | None
    action: Action

    def __post_init__(self) -> None:
        """Reject a fault without effect, because a test using it would pass for the wrong reason."""
        if self.function not in functions():
            raise ValueError(f"no PKCS#11 function {self.function!r}")
        if self.call is not None and self.call < 1:
            raise ValueError(f"calls are counted from 1, not {self.call}")
        if self.action.only and self.function not in self.action.only:
            raise ValueError(f"{self.action.settings!r} is not for {self.function}")

    @classmethod
    def of(cls, short: Fault | tuple[str, int | None, str]) -> Fault:
        """Return the fault for a short form: ``("C_Sign", 1, "hang")``.

        The last part is ``hang``, ``crash``, ``late SECONDS`` or the name or number of a return value (``CKR_…``).

        Raises:
            ValueError: the short form is invalid.
        """
        if isinstance(short, Fault):
            return short
        function, call, what = short
        word, _, seconds = what.partition(" ")
        if word == "late":
            return cls(function, call, late(float(seconds)))
        plain = {"hang": hangs, "crash": crashes}.get(word)
        return cls(function, call, plain() if plain else returns(what))

    def line(self) -> str:
        """Return the line for the plan file."""
        return f"{self.function} {self.call or '*'} {self.action.settings}\n"


@dataclass(frozen=True, slots=True)
class FaultyModule:
    """A faulty module: the file to load, its plan and its record. Created by :func:`faulty_module`.

    Any process may create one from the path of an existing module, to read its record.
    """

    path: Path

    @property
    def drivers(self) -> Path:
        """A folder for ``ushield --drivers`` in which the target's own descriptor names this module instead."""
        target = Path(os.fsdecode(self._beside("target").read_bytes()))
        driver = Catalogue([data_dir("drivers")]).for_module(target) or GENERIC
        folder = self._beside("drivers")
        folder.mkdir(exist_ok=True)
        text = driver.file.read_text(encoding="utf-8")
        text = re.sub(r"(?ms)^linux = \[.*?\]", f'linux = ["{self.path}"]', text)
        (folder / driver.file.name).write_text(text.replace('"in-process"', '"process"'), encoding="utf-8")
        return folder

    @property
    def calls(self) -> list[Call]:
        """All calls since the last :meth:`clear`, in the order in which they were entered."""
        return read_calls(self._beside("record"))

    def count(self, function: str) -> int:
        """Return the number of calls of ``function`` that were entered.

        Raises:
            ValueError: there is no such function.
        """
        if function not in functions():
            raise ValueError(f"no PKCS#11 function {function!r}")
        return sum(call.function == function for call in self.calls)

    def plan(self, faults: Sequence[Fault | tuple[str, int | None, str]]) -> None:
        """Replace the plan, also for processes that have loaded the module; takes effect at their next call.

        The counters continue: ``Fault("C_Sign", 3, …)`` is the third call since :meth:`clear`, not since the plan was
        set.

        Args:
            faults: the faults; short forms as for :meth:`Fault.of`.

        Raises:
            ValueError: the plan exceeds 200,000 characters.
        """
        text = "".join(Fault.of(fault).line() for fault in faults)
        if len(text) > _PLAN_MOST:
            raise ValueError("the plan is too long")
        _replace(self._beside("plan"), text)
        self._write_counters(os.urandom(_STAMP_SIZE - 1) + b"\1", 0)

    def clear(self) -> None:
        """Delete the record and reset the counters, also for a call in progress; the plan stays."""
        size = self._beside("count").stat().st_size
        self._write_counters(bytes(max(0, size - _COUNTERS_AT)), _COUNTERS_AT)
        os.truncate(self._beside("record"), 0)

    def wait_for(self, function: str, call: int = 1, *, timeout_s: float = 10.0) -> Call:
        """Wait until a call was entered, for example one that hangs, and return it.

        Args:
            function: the PKCS#11 function.
            call: the number of the call.
            timeout_s: timeout in seconds.

        Raises:
            TimeoutError: it was not entered in time.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for found in self.calls:
                if (found.function, found.call) == (function, call):
                    return found
            time.sleep(0.005)
        raise TimeoutError(f"no call {call} of {function} within {timeout_s} s")

    def _beside(self, suffix: str) -> Path:
        return self.path.resolve().with_name(f"{self.path.resolve().name}.{suffix}")

    def _write_counters(self, data: bytes, at: int) -> None:
        with self._beside("count").open("r+b") as counters:
            counters.seek(at)
            counters.write(data)


def faulty_module(
    folder: Path,
    target: Path | str,
    plan: Sequence[Fault | tuple[str, int | None, str]] = (),
    *,
    name: str = "faulty-pkcs11.so",
    copy_target: bool = False,
) -> FaultyModule:
    """Create a faulty module in ``folder`` that wraps the module file ``target``.

    Args:
        folder: created if missing. Plan, record and counters are stored there too.
        target: the file of the real module.
        plan: the faults; empty: none.
        name: the file name, for tests that find modules by name.
        copy_target: wrap a copy, so that the real module's state is not shared within the process.

    Returns:
        The faulty module.

    Raises:
        InputError: ``COMPILER_MISSING``, ``COMPILER_FAILED``; ``FAULTY_TARGET_MISSING``: ``target`` does not exist.
        StorageError: ``FAULTY_CACHE_UNTRUSTED``, ``FAULTY_CACHE_UNWRITABLE``: no usable folder to build in.
        FileExistsError: a file of this name exists; a loaded module must not be overwritten.
        ValueError: the plan is too long.
    """
    source = Path(target).resolve()
    if not source.is_file():
        raise InputError("FAULTY_TARGET_MISSING", path=str(target))
    library = built(Part.FAULTY_MODULE)
    folder.mkdir(parents=True, exist_ok=True)
    module = FaultyModule(folder.resolve() / name)
    with module.path.open("xb") as file:
        file.write(library.read_bytes())
    module.path.chmod(0o755)
    wrapped = Path(shutil.copy(source, module.path.with_name(f"{name}.{source.name}"))) if copy_target else source
    module._beside("target").write_bytes(os.fsencode(wrapped))
    for suffix in ("record", "count"):
        module._beside(suffix).touch()
    module.plan(plan)
    return module


@cache
def functions() -> tuple[str, ...]:
    """Return the 68 functions of PKCS#11 v2.40 in the order of CK_FUNCTION_LIST, read from the C source."""
    source = Path(__file__).with_name("faulty_functions.h").read_text(encoding="utf-8")
    return tuple(dict.fromkeys(re.findall(r"\bC_[A-Z]\w+", source)))


def ckr_number(ckr: int | str) -> int:
    """Return the number of a return value given by number or name.

    Raises:
        ValueError: there is no code of this name.
    """
    if isinstance(ckr, int):
        return ckr
    name = ckr.removeprefix("CKR_")
    if name != "OK" and name not in NUMBERS:
        raise ValueError(f"no PKCS#11 return value {ckr!r}")
    return NUMBERS.get(name, 0)


_WITH_PIN: Final = frozenset({"C_Login", "C_SetPIN", "C_InitPIN", "C_InitToken"})
_WITH_OUTPUT: Final = frozenset(
    "C_GetOperationState C_Encrypt C_EncryptUpdate C_EncryptFinal C_Decrypt C_DecryptUpdate C_DecryptFinal C_Digest "
    "C_DigestFinal C_Sign C_SignFinal C_SignRecover C_VerifyRecover C_DigestEncryptUpdate C_DecryptDigestUpdate "
    "C_SignEncryptUpdate C_DecryptVerifyUpdate C_WrapKey".split()
)


def _end(kind: str, value: int, after: bool) -> Action:
    return Action(f"{kind}={int(value)} after={int(after)}")


def _hex(text: str, most: int) -> str:
    encoded = text.encode()
    if len(encoded) > most:
        raise ValueError(f"more than {most} bytes")
    return encoded.hex()


def _numbers(items: Iterable[int]) -> str:
    numbers = [str(int(item)) for item in items]
    if len(numbers) > _MECHANISMS_MOST:
        raise ValueError(f"more than {_MECHANISMS_MOST} mechanisms")
    return ",".join(numbers)


def _replace(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f"{path.name}.", delete=False) as fresh:
        fresh.write(text)
    Path(fresh.name).replace(path)
