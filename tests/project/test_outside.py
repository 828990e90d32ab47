"""An integrator's project: the wheel in a fresh virtual environment, and tests that use its fixtures."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

import pytest

pytestmark = [pytest.mark.stack, pytest.mark.xdist_group("packaging")]

THEIRS: Final = """
import json, os, subprocess, sys, uuid
from base64 import urlsafe_b64encode
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import ushield_hw as us

USHIELD = str(Path(sys.executable).parent / "ushield")


def test_it_is_the_wheel():
    assert Path(us.__file__).is_relative_to(sys.prefix)


def ushield(token, *words):
    command = [USHIELD, *map(str, words)]
    return subprocess.run(command, env={**os.environ, **token.env}, capture_output=True, text=True)


@pytest.fixture
def order(tmp_path):
    now = datetime.now(timezone.utc).replace(microsecond=0)
    times = {"created": now, "expires": now + timedelta(minutes=5)}
    made = {
        "type": "ushield.payment/1",
        "bank": {"id": "demo-bank", "origin": "https://bank.example"},
        "tx_id": str(uuid.uuid4()),
        "order_no": "TB20261124-0001",
        "payer": {"account": "6222020200012345678"},
        "payee": {
            "name": "杭州某某网络有限公司",
            "account": "1202021409900012345",
            "bank": {"name": "中国工商银行", "cnaps": "102100099996"},
        },
        "amount": {"currency": "CNY", "value": "128.50"},
        "purpose": "网上购物",
        **{name: time.strftime("%Y-%m-%dT%H:%M:%SZ") for name, time in times.items()},
        "nonce": urlsafe_b64encode(os.urandom(32)).decode().rstrip("="),
    }
    file = tmp_path / "order.json"
    file.write_text(json.dumps(made, ensure_ascii=False))
    return file


def sign(token, order, *more):
    pin = order.with_name("pin")
    pin.touch(mode=0o600)
    pin.write_text(token.pin)
    return ushield(token, "sign", order, "--pin-source", pin, "-o", order.with_name("s.p7m"), *more)


def test_a_soft_token(soft_token, order):
    done = sign(soft_token, order, "--token", soft_token.uri, "--unattended")
    assert done.returncode == 0, done.stderr
    assert ushield(soft_token, "verify", order.with_name("s.p7m"), "--ca", soft_token.ca_pem).returncode == 0
    assert us.find_token(serial=soft_token.serial).label == soft_token.label


@pytest.mark.parametrize(("answer", "code", "count"), [("ok", 0, 1), ("refuse", 7, 0), ("timeout", 8, 0)])
def test_a_shield_that_answers(virtual_shield, order, answer, code, count):
    virtual_shield.answer(answer, after_s=0.1)
    done = sign(virtual_shield, order, "--token", virtual_shield.uri)
    assert (done.returncode, virtual_shield.signatures) == (code, count), done.stderr
    if count:
        done = ushield(virtual_shield, "verify", order.with_name("s.p7m"), "--ca", virtual_shield.ca_pem)
        assert done.returncode == 0


def test_a_shield_whose_buttons_are_pressed(virtual_shield, order):
    from threading import Thread

    seen = []

    def press():
        seen.extend(virtual_shield.wait_for_screen())
        virtual_shield.press("down")
        virtual_shield.press("ok")

    person = Thread(target=press)
    person.start()
    assert sign(virtual_shield, order, "--token", virtual_shield.uri).returncode == 0
    person.join()
    assert "1202021409900012345" in seen
    assert virtual_shield.screen() == []


def test_a_shield_that_is_pulled_out(virtual_shield):
    virtual_shield.eject()
    assert json.loads(ushield(virtual_shield, "list", "--json").stdout)["tokens"] == []
    virtual_shield.insert()
    (token,) = json.loads(ushield(virtual_shield, "list", "--json").stdout)["tokens"]
    assert token["serial"] == virtual_shield.serial


def test_a_module_that_fails(soft_token, faulty_module, order):
    module = faulty_module([("C_Sign", 1, "CKR_DEVICE_REMOVED")])
    uri = soft_token.uri.partition("?")[0] + f"?module-path={module.path}"
    words = ["--drivers", module.drivers, "sign", order, "--token", uri, "--unattended", "-o", order.with_name("s.p7m")]
    pin = order.with_name("pin")
    pin.touch(mode=0o600)
    pin.write_text(soft_token.pin)
    assert ushield(soft_token, *words, "--pin-source", pin).returncode == 3
    assert [call.function for call in module.calls].count("C_Sign") == 1
"""


def test_an_integrator_s_tests_pass_with_the_wheel(wheel: Path, tmp_path: Path) -> None:
    venv, project = tmp_path / "venv", tmp_path / "project"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=60)
    python = venv / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True, timeout=60)
    # Its dependencies are those of this environment; the project itself is found first in the fresh one.
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    project.mkdir()
    (project / "test_payments.py").write_text(THEIRS, encoding="utf-8")
    done = subprocess.run(
        [str(python), "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "test_payments.py"],
        cwd=project,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed" in done.stdout
