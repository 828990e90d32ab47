"""gunicorn with two workers and one token: a request is signed or immediately refused because the token is in use."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ushield_hw as us
from tests.stack.deployed.conftest import PRELUDE
from tests.stack.deployed.test_servers import asked, serving
from ushield_hw.backend.module import close_modules
from ushield_hw.testing.readers import PcscHost
from ushield_hw.testing.scripted import Scripted
from ushield_hw.testing.shield import VirtualShield

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

APPLICATION = """
import time

KEPT = []

def keeping():
    if not KEPT:
        KEPT.append(token().open(Scripted(*[PIN] * 1000)))
    return "signed" if signed(KEPT[0]).der else "?"

def for_each():
    with token().open(Scripted(PIN, PIN)) as session:
        return "signed" if signed(session).der else "?"

def application(environ, start_response):
    started = time.monotonic()
    said = outcome({"/keeping": keeping, "/": for_each}[environ["PATH_INFO"]])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{said} {os.getpid()} {time.monotonic() - started}".encode()]
"""
TIMEOUT_S = 2.0  # the default setting
SOON_S = TIMEOUT_S + 8  # a machine that runs tests may be busy; before the fix it took 30 s
GUNICORN = ["gunicorn", "-w", "2", "--timeout", "100", "-b", "127.0.0.1:PORT", "teller:application"]


@pytest.fixture
def shield(desk: PcscHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualShield]:
    with VirtualShield(host=desk) as one:
        one.answer("ok")
        given = {"TOKEN_PIN": one.pin, "TOKEN_SERIAL": one.serial, "XDG_STATE_HOME": one.env["XDG_STATE_HOME"]}
        given["TOKEN_MODULE"] = str(us.find_token(one.uri).link.module.path)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        close_modules()
        yield one
        close_modules()


def test_a_session_that_one_worker_keeps_makes_the_other_say_so_at_once(shield: VirtualShield, tmp_path: Path) -> None:
    with serving(tmp_path, PRELUDE + APPLICATION, *GUNICORN) as address, ThreadPoolExecutor(4) as pool:
        before = shield.signatures
        answers = [answer.split() for answer in pool.map(asked, [f"{address}keeping"] * 16)]
        made = shield.signatures - before
    said = Counter(said for said, _, _ in answers)
    assert said.keys() == {"signed", "READER_BUSY"}
    assert said["signed"] == made > 0
    assert len({pid for said, pid, _ in answers if said == "signed"}) == 1
    assert all(float(seconds) < SOON_S for _, _, seconds in answers), answers
    with us.find_token(shield.uri).open(Scripted(shield.pin)) as session:  # the token is released when the server exits
        assert session.certificates()


def test_with_patience_every_request_is_signed(
    shield: VirtualShield, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config/ushield").mkdir(parents=True)
    (tmp_path / "config/ushield/config.toml").write_text("[timeouts]\nbusy_s = 60\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with serving(tmp_path, PRELUDE + APPLICATION, *GUNICORN) as address, ThreadPoolExecutor(4) as pool:
        before, started = shield.signatures, time.monotonic()
        answers = [answer.split() for answer in pool.map(asked, [address] * 8)]
        assert shield.signatures - before == 8
    assert Counter(said for said, _, _ in answers) == {"signed": 8}, time.monotonic() - started
