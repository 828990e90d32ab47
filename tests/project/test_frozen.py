"""A frozen program: it never starts itself again unless it declares that it can be a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.project.tree import ROOT
from tests.soft import SOFTHSM, Soft, provisioned, soft
from tests.unit.order.samples import live, make_payment
from ushield_hw.backend import interpreter
from ushield_hw.errors import DriverError

__all__ = ["provisioned", "soft"]

pytestmark = [pytest.mark.stack, pytest.mark.xdist_group("bundle"), pytest.mark.timeout(900)]

PROGRAM = """
import os, sys
with open(os.environ["STARTS"], "a") as starts:  # each process that runs this program
    starts.write(f"{os.getpid()}\\n")
import ushield_hw as us
if os.environ["ENTRY"] == "yes":
    us.freeze_support()
from dataclasses import replace
from pathlib import Path
from ushield_hw.certificates.certificate import install, request
from ushield_hw.crypto.algorithms import KeySpec
from ushield_hw.config import load_settings
from ushield_hw.testing.authority import Authority
from ushield_hw.testing.scripted import Scripted
from ushield_hw.verifier import TrustStore

settings = replace(load_settings(), drivers=(Path(os.environ["DRIVERS"]), *load_settings().drivers))
try:
    token = us.find_token(f"pkcs11:serial={os.environ['SERIAL']}?module-path={os.environ['MODULE']}", settings=settings)
    authority = Authority()
    with token.open(Scripted(os.environ["TOKEN_PIN"])) as session:
        authority_pem = Path(os.environ["STARTS"]).with_name("ca.pem")
        authority_pem.write_bytes(authority.pem)
        install(session, authority.certify(request(session, KeySpec.EC_P256, "CN=Li Si,O=Demo Bank").pem))
        order = us.Order.parse(Path(os.environ["ORDER"]).read_bytes())
        signed = us.sign(order, session, attendance=us.Attendance.NOBODY)
    us.verify(signed, trust=TrustStore([authority_pem]), expected=order)
    print("signed", token.link.module.isolation.value)
except us.UShieldError as error:
    print(error.code, error.remedy)
"""
NOT_NEEDED = (
    "tkinter pytest _pytest mypy pygments sqlalchemy alembic starlette uvicorn smartcard PIL numpy IPython setuptools "
    "pip pkg_resources hypothesis ushield_hw.bank ushield_hw.doctor ushield_hw.cli"
).split()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real bundle of a program that signs; it is built once, which takes half a minute on an idle machine."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "teller.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "PyInstaller", "--log-level", "ERROR", "--noconfirm", "--paths", str(ROOT)]
    hooks = ["--additional-hooks-dir", str(ROOT / "ushield_hw" / "_pyinstaller")]
    left_out = [word for name in NOT_NEEDED for word in ("--exclude-module", name)]
    subprocess.run([*command, *hooks, *left_out, "teller.py"], cwd=folder, check=True, timeout=800)
    return folder / "dist" / "teller" / "teller"


@pytest.fixture
def run(bundle: Path, soft: Soft, tmp_path: Path) -> Callable[[str], tuple[str, list[int]]]:
    """Run the bundle; return its output and the processes that ran its program."""
    drivers, order, starts = tmp_path / "drivers", tmp_path / "order.json", tmp_path / "starts"
    drivers.mkdir(mode=0o700)
    text = (ROOT / "drivers" / "softhsm2.toml").read_text().replace('"in-process"', '"process"')
    (drivers / "softhsm2.toml").write_text(text)
    order.write_text(json.dumps(make_payment(**live(datetime.now(UTC)))))
    given = {"DRIVERS": drivers, "ORDER": order, "STARTS": starts, "MODULE": SOFTHSM, "XDG_STATE_HOME": tmp_path}
    named = {name: str(value) for name, value in given.items()}

    def started(entry: str) -> tuple[str, list[int]]:
        environment = os.environ | named | {"ENTRY": entry, "SERIAL": soft.serial, "TOKEN_PIN": soft.pin}
        done = subprocess.run([bundle], env=environment, capture_output=True, text=True, timeout=120, check=False)
        return done.stdout + done.stderr, [int(line) for line in starts.read_text().split()]

    return started


def running(bundle: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "exe") == str(bundle):
                found.append(process.name)
        except OSError:
            continue
    return found


def test_a_bundle_signs_in_a_worker_and_leaves_no_process(
    bundle: Path, run: Callable[[str], tuple[str, list[int]]]
) -> None:
    said, starts = run("yes")
    assert said.splitlines()[-1] == "signed process"
    assert len(starts) == 2, "the program, and the fork server that it becomes"
    until = time.monotonic() + 10
    while (left := running(bundle)) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []


def test_a_bundle_without_the_entry_says_so_and_never_starts_itself(
    bundle: Path, run: Callable[[str], tuple[str, list[int]]]
) -> None:
    said, starts = run("no")
    assert "WORKER_NEEDS_ENTRY" in said
    assert "freeze_support" in said
    assert len(starts) == 1
    assert running(bundle) == []


# --- programs that are not frozen -------------------------------------------------------------------------------------


def started(monkeypatch: pytest.MonkeyPatch, executable: str, **more: object) -> str:
    monkeypatch.setattr(sys, "executable", executable)
    for name, value in more.items():
        monkeypatch.setattr(sys, name, value, raising=False)
    return interpreter.command(3)[0][0]


@pytest.mark.parametrize("executable", ["", "/usr/bin/uwsgi", "/opt/bank/teller", "python3", "/nowhere/python3"])
def test_a_program_that_embeds_python_starts_the_python_it_belongs_to(
    monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    python = Path(started(monkeypatch, executable))
    assert python.is_absolute()
    assert python.name.startswith("python")
    assert python.is_file()


def test_a_link_to_a_python_is_a_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    link = tmp_path / "teller"
    link.symlink_to(sys.executable)
    assert started(monkeypatch, str(link)) == str(link)


def test_without_any_python_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DriverError) as caught:
        started(monkeypatch, "/opt/bank/teller", _base_executable="/opt/bank/teller", base_exec_prefix=str(tmp_path))
    assert caught.value.code == "WORKER_NO_PYTHON"


@pytest.mark.parametrize("mark", ["frozen", "oxidized", "_MEIPASS"])
def test_every_kind_of_frozen_program_is_known(monkeypatch: pytest.MonkeyPatch, mark: str) -> None:
    with pytest.raises(DriverError) as caught:
        started(monkeypatch, "/usr/bin/python3", **{mark: True})
    assert caught.value.code == "WORKER_NEEDS_ENTRY"


def test_a_program_that_nuitka_compiled_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__compiled__", object(), raising=False)
    with pytest.raises(DriverError) as caught:
        interpreter.command(3)
    assert caught.value.code == "WORKER_NEEDS_ENTRY"


def test_what_was_started_by_us_starts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USHIELD_HW_WORKER", "3")
    with pytest.raises(DriverError):
        interpreter.command(3)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(interpreter, "_entry_called", True)
    with pytest.raises(DriverError):
        interpreter.command(3)


def test_the_entry_does_nothing_in_a_program_of_ones_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import ushield_hw as us; us.freeze_support(); print('on')"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "on\n"


def test_a_marked_program_that_cannot_serve_does_not_run_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import ushield_hw as us; us.freeze_support(); print('on')"],
        cwd=ROOT,
        env=os.environ | {"USHIELD_HW_WORKER": "77"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
