"""``pytest -m device``, tested with a SoftHSM2 token in place of a physical one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.subjects import Can
from tests.contract.tokens.device import plugged_in
from tests.project.tree import ROOT
from tests.soft import WRONG_PIN, Soft

pytestmark = pytest.mark.contract


# A plugin: in one of the tests the login fails with the PIN among the arguments of the failing call.
REFUSING = """
import os
from ushield_hw.backend.pkcs11.ckr import CkrError
from ushield_hw.backend.pkcs11.engine import Engine

def _c_login(self, session, user_type, pin, right=Engine._c_login):
    if "nothing_is_signed" in os.environ.get("PYTEST_CURRENT_TEST", ""):
        raise CkrError("C_Login", 5)
    right(self, session, user_type, pin)

Engine._c_login = _c_login
"""


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, soft: Soft) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(soft.state.parent / "home"))


@pytest.fixture
def pin_file(soft: Soft) -> Path:
    return soft.folder / "ushield-demo.pin"


def run_pytest(soft: Soft, pin_file: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "tests/contract", "-m", "device", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, "--token-serial", soft.serial, "--token-pin-file", str(pin_file), *more],
        cwd=ROOT,
        env=os.environ | dict.fromkeys(("HOME", "PYTHONPATH"), str(soft.state.parent)),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_token_is_tested_and_no_failure_shows_its_pin(soft: Soft, pin_file: Path, tmp_path: Path) -> None:
    (tmp_path / "refusing.py").write_text(REFUSING)
    which = "who_made_it or wrong_pin_is_an_error or nothing_is_signed"
    ended = run_pytest(soft, pin_file, "-p", "refusing", "--tb=long", "--showlocals", "-k", which)
    assert f"device: {soft.label} {soft.serial}" in ended.stdout
    assert "1 failed, 2 passed" in ended.stdout
    assert "CKR_GENERAL_ERROR" in ended.stdout
    assert soft.pin not in ended.stdout + ended.stderr


def test_without_a_serial_number_nothing_is_run(soft: Soft) -> None:
    command = [sys.executable, "-m", "pytest", "tests/contract", "-m", "device"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (pytest.ExitCode.USAGE_ERROR, "")
    assert "--token-serial" in ended.stderr


@pytest.mark.parametrize("serial", ["0123456789abcdef", ""])
def test_another_token_is_never_taken_for_it(pin_file: Path, serial: str) -> None:
    with pytest.raises(pytest.UsageError, match="TOKEN_NO"):
        plugged_in(serial, pin_file, allow_lock=False)


def test_a_pin_file_that_others_can_read_is_refused(soft: Soft, pin_file: Path) -> None:
    pin_file.chmod(0o644)
    with pytest.raises(pytest.UsageError, match="PIN_FILE_MODE"):
        plugged_in(soft.serial, pin_file, allow_lock=False)


def test_a_wrong_pin_in_the_file_is_sent_once_and_a_second_run_sends_none(soft: Soft, pin_file: Path) -> None:
    right = pin_file.read_text()
    pin_file.write_text(f"{WRONG_PIN}\n")
    with pytest.raises(pytest.UsageError, match="PIN_INCORRECT"):
        plugged_in(soft.serial, pin_file, allow_lock=False)
    for _ in range(2):
        with pytest.raises(pytest.UsageError, match="5 tries left"):
            plugged_in(soft.serial, pin_file, allow_lock=False)
    pin_file.write_text(right)
    assert Can.WRONG_PIN in plugged_in(soft.serial, pin_file, allow_lock=True).kind.can


def test_nothing_is_written_to_it(soft: Soft, pin_file: Path) -> None:
    can = plugged_in(soft.serial, pin_file, allow_lock=True).kind.can
    writing = {Can.GENERATE, Can.WRITE_CERTIFICATE, Can.SET_PIN, Can.INIT_PIN, Can.INIT_TOKEN, Can.LOCK}
    assert not can & writing
    assert {Can.EC, Can.P384, Can.RSA, Can.CONTEXT_LOGIN} <= can
