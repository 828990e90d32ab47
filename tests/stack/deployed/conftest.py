"""Fixtures: a soft token that can sign orders, and integrator programs that use it in separate processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.project.tree import ROOT
from tests.soft import SOFTHSM, Soft, provisioned, soft
from ushield_hw.backend.interface import Isolation
from ushield_hw.certificates.certificate import install, request
from ushield_hw.crypto.algorithms import KeySpec
from ushield_hw.testing.authority import Authority
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.session import open_session

__all__ = ["provisioned", "soft"]

Run = Callable[..., list[str]]

PRELUDE = """
import os, sys, uuid
from datetime import UTC, datetime
import ushield_hw as us
from ushield_hw.errors import UShieldError
from ushield_hw.testing.scripted import Scripted
from tests.unit.order.samples import live, payment

PIN = os.environ["TOKEN_PIN"]

def token():
    return us.find_token("pkcs11:serial={TOKEN_SERIAL}?module-path={TOKEN_MODULE}".format(**os.environ))

def order():
    return payment(**live(datetime.now(UTC)), tx_id=str(uuid.uuid4()))

def signed(session):
    return us.sign(order(), session, attendance=us.Attendance.NOBODY)

def sign():
    with token().open(Scripted(PIN)) as session:
        return "signed" if signed(session).der else "?"

def outcome(work):
    try:
        return work()
    except UShieldError as error:
        return error.code
"""


@pytest.fixture
def certified(soft: Soft, monkeypatch: pytest.MonkeyPatch) -> Soft:
    """The token with a key and a certificate; the environment variables that the programs read are set."""
    module = soft.module(Isolation.PROCESS)
    with open_session(soft.link(module), Scripted(soft.pin), "sign") as session:
        install(session, Authority().certify(request(session, KeySpec.EC_P256, "CN=张三,O=Demo Bank").pem))
    module.close()
    given = {"TOKEN_PIN": soft.pin, "TOKEN_SERIAL": soft.serial, "XDG_STATE_HOME": str(soft.state)}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TOKEN_MODULE", str(SOFTHSM))
    return soft


@pytest.fixture
def run(certified: Soft, tmp_path: Path) -> Run:
    """Run a program with warnings as errors; return its stdout lines. Any other output fails the test."""

    def ran(text: str, *flags: str, **environment: str) -> list[str]:
        program = tmp_path / "program.py"
        program.write_text(PRELUDE + text)
        done = subprocess.run(
            [sys.executable, *(flags or ("-W", "error")), str(program)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        quiet = [line for line in done.stderr.splitlines() if not line.startswith("module ")]  # other modules here
        assert (done.returncode, quiet) == (0, []), done.stderr
        return done.stdout.splitlines()

    return ran
