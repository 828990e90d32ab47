"""Calls a PKCS#11 module as a C program would: functions by their position in CK_FUNCTION_LIST, return codes unchanged.

Also a program, for tests that need another process::

    python -m tests.stack.faulty.raw_module MODULE login PIN
    python -m tests.stack.faulty.raw_module MODULE sign PIN HEX TIMES
    python -m tests.stack.faulty.raw_module MODULE sign-when-told PIN HEX TIMES

It prints one return code per line. ``sign-when-told`` waits for a line on stdin before it signs.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import byref, c_ubyte, c_ulong, c_void_p
from pathlib import Path

from ushield_hw.testing.faulty import functions

NULL = None
OS_LOCKING_OK = 2
RW_SESSION = 4 | 2
SO, USER = 0, 1
SHA256, EC_KEY_PAIR_GEN, ECDSA = 0x250, 0x1040, 0x1041
CLASS, TOKEN, LABEL, SIGN, EC_PARAMS = 0, 1, 3, 0x108, 0x180
PRIVATE_KEY = 3
P256 = bytes.fromhex("06082a8648ce3d030107")


class Mechanism(ctypes.Structure):
    _fields_ = (("mechanism", c_ulong), ("parameter", c_void_p), ("length", c_ulong))


class Attribute(ctypes.Structure):
    _fields_ = (("type", c_ulong), ("value", ctypes.c_char_p), ("length", c_ulong))


class InitArgs(ctypes.Structure):
    _fields_ = (("mutex", c_void_p * 4), ("flags", c_ulong), ("reserved", c_void_p))


class TokenInfo(ctypes.Structure):
    _fields_ = (
        ("label", ctypes.c_char * 32),
        ("manufacturer", ctypes.c_char * 32),
        ("model", ctypes.c_char * 16),
        ("serial", ctypes.c_char * 16),
        ("flags", c_ulong),
        ("sessions", c_ulong * 4),
        ("pin_max", c_ulong),
        ("pin_min", c_ulong),
        ("memory", c_ulong * 4),
        ("versions", c_ubyte * 4),
        ("time", ctypes.c_char * 16),
    )


class _FunctionList(ctypes.Structure):
    _fields_ = (("version", c_ubyte * 2), ("functions", c_void_p * 68))


class RawModule:
    """The functions of one module: integers in, return codes out, no exceptions."""

    def __init__(self, path: Path) -> None:
        get_list = ctypes.CDLL(str(path)).C_GetFunctionList
        get_list.restype = c_ulong
        found = ctypes.POINTER(_FunctionList)()
        self.loaded: int = get_list(byref(found))
        self.list = found.contents if self.loaded == 0 else None

    def call(self, name: str, *arguments: object) -> int:
        assert self.list is not None
        function = ctypes.CFUNCTYPE(c_ulong)(self.list.functions[functions().index(name)])
        return int(function(*(c_ulong(value) if isinstance(value, int) else value for value in arguments)))

    def initialize(self, flags: int = OS_LOCKING_OK) -> int:
        return self.call("C_Initialize", byref(InitArgs(flags=flags)))

    def slots(self) -> list[int]:
        found, count = (c_ulong * 10)(), c_ulong(10)
        assert self.call("C_GetSlotList", 1, found, byref(count)) == 0
        return list(found[: count.value])

    def token_info(self) -> TokenInfo:
        info = TokenInfo()
        assert self.call("C_GetTokenInfo", self.slots()[0], byref(info)) == 0
        return info

    def mechanisms(self) -> list[int]:
        count = c_ulong()
        assert self.call("C_GetMechanismList", self.slots()[0], NULL, byref(count)) == 0
        found = (c_ulong * count.value)()
        assert self.call("C_GetMechanismList", self.slots()[0], found, byref(count)) == 0
        return list(found[: count.value])

    def session(self) -> int:
        handle = c_ulong()
        assert self.call("C_OpenSession", self.slots()[0], RW_SESSION, NULL, NULL, byref(handle)) == 0
        return handle.value

    def login(self, session: int, pin: str | None, user_type: int = USER) -> int:
        encoded = None if pin is None else pin.encode()
        return self.call("C_Login", session, user_type, encoded, len(encoded or b""))

    def generate(self, session: int) -> int:
        true = b"\1"
        public = _template((TOKEN, true), (EC_PARAMS, P256))
        private = _template((TOKEN, true), (SIGN, true), (LABEL, b"pay"))
        return self.call(
            *("C_GenerateKeyPair", session, byref(Mechanism(EC_KEY_PAIR_GEN)), public, len(public)),
            *(private, len(private), byref(c_ulong()), byref(c_ulong())),
        )

    def key(self, session: int) -> int:
        wanted = _template((CLASS, bytes(c_ulong(PRIVATE_KEY))))
        found, count = c_ulong(), c_ulong()
        assert self.call("C_FindObjectsInit", session, wanted, len(wanted)) == 0
        assert self.call("C_FindObjects", session, byref(found), 1, byref(count)) == 0
        assert self.call("C_FindObjectsFinal", session) == 0
        assert count.value == 1
        return found.value

    def sign(self, session: int, key: int, digest: bytes) -> tuple[int, bytes]:
        begun = self.call("C_SignInit", session, byref(Mechanism(ECDSA)), key)
        out, size = (c_ubyte * 64)(), c_ulong(64)
        rv = begun or self.call("C_Sign", session, digest, len(digest), out, byref(size))
        return rv, bytes(out) if rv == 0 else b""

    def digest(self, session: int, data: bytes) -> tuple[int, bytes]:
        begun = self.call("C_DigestInit", session, byref(Mechanism(SHA256)))
        out, size = (c_ubyte * 32)(), c_ulong(32)
        return begun or self.call("C_Digest", session, data, len(data), out, byref(size)), bytes(out)


def _template(*values: tuple[int, bytes]) -> ctypes.Array[Attribute]:
    return (Attribute * len(values))(*(Attribute(kind, value, len(value)) for kind, value in values))


def main(path: str, command: str, pin: str, data: str = "", times: str = "1") -> None:
    module = RawModule(Path(path))
    module.initialize()
    session = module.session()
    rv = module.login(session, pin)
    if command == "login":
        print(rv, flush=True)
        return
    key = module.key(session)
    if command == "sign-when-told":
        sys.stdin.readline()
    for _ in range(int(times)):
        print(module.sign(session, key, bytes.fromhex(data))[0], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
