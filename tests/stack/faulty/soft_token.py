"""A SoftHSM2 token for fault injection, and programs that use it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from tests.project.tree import ROOT
from tests.stack.faulty import raw_module as raw
from tests.stack.faulty.raw_module import NULL, RawModule
from ushield_hw.testing.faulty import FaultyModule

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN, SO_PIN, NEW_PIN = "123456", "87654321", "234567"
DIGEST = hashlib.sha256(b"CNY 128.50").digest()
PIN_INCORRECT, FUNCTION_CANCELED, ARGUMENTS_BAD = 0xA0, 0x50, 0x7


def configure(folder: Path) -> str:
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    return str(conf)


def make_token(module: RawModule) -> None:
    assert module.initialize() == 0
    assert module.call("C_InitToken", module.slots()[0], SO_PIN.encode(), len(SO_PIN), b"U-shield".ljust(32)) == 0
    session = module.session()
    assert module.login(session, SO_PIN, raw.SO) == 0
    assert module.call("C_InitPIN", session, PIN.encode(), len(PIN)) == 0
    assert module.call("C_Logout", session) == 0
    assert module.login(session, PIN) == 0
    assert module.generate(session) == 0
    assert module.call("C_Finalize", NULL) == 0


def opened(module: FaultyModule) -> tuple[RawModule, int]:
    client = RawModule(module.path)
    assert client.initialize() == 0
    return client, client.session()


def logged_in(module: FaultyModule) -> tuple[RawModule, int, int]:
    client, session = opened(module)
    assert client.login(session, PIN) == 0
    return client, session, client.key(session)


def start_client(module: FaultyModule, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.stack.faulty.raw_module", str(module.path), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run_client(module: FaultyModule, *arguments: str) -> tuple[int, list[int]]:
    with start_client(module, *arguments) as process:
        try:
            output, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    return process.returncode, [int(line) for line in output.split()]
