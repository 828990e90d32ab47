"""While one process has a token open: what other processes can do with it and with other tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import ushield_hw as us
from tests.project.tree import ROOT
from tests.stack.virtual.desks import SLOT
from tests.unit.order.samples import live, payment
from ushield_hw.backend.module import close_modules
from ushield_hw.config import Settings, load_settings
from ushield_hw.doctor.finding import Status
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes import card
from ushield_hw.errors import OutcomeUnknown, TokenBusy
from ushield_hw.interaction import TokenAction
from ushield_hw.testing.readers import PcscHost
from ushield_hw.testing.scripted import Scripted
from ushield_hw.testing.shield import VirtualShield

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

TIMEOUT_S = 2  # the default setting
MOMENT_S = 0.5  # 0.3 s, and the time to start a thread
SOON_S = TIMEOUT_S + 10  # a machine that runs tests may be busy; before the fix each attempt took 30 s

HOLDER = """
import sys
import ushield_hw as us
from ushield_hw.testing.scripted import Scripted
with us.find_token(sys.argv[1]).open(Scripted(sys.stdin.readline().strip())):
    print("open", flush=True)
    sys.stdin.readline()
"""


KEEPS = """
import sys
from smartcard import scard
context = scard.SCardEstablishContext(scard.SCARD_SCOPE_USER)[1]
protocols = scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1
card = scard.SCardConnect(context, sys.argv[1], scard.SCARD_SHARE_SHARED, protocols)[1]
print(scard.SCardBeginTransaction(card), flush=True)
sys.stdin.read()
"""
USES = (
    "from ushield_hw.system.pcsc import Monitor; import sys; Monitor().wait(); print(0, flush=True); sys.stdin.read()"
)
ASKS = """
import json, sys, time
import ushield_hw as us
from ushield_hw import messages
from ushield_hw.system import processes
from ushield_hw.token.discovery import survey
if "hides" in sys.argv:
    processes.users_of_pcsc = lambda *_: time.sleep(60)
started = time.monotonic()
users, took_s = processes.card_users(), time.monotonic() - started
try:
    us.find_token(sys.argv[1])
except us.errors.TokenBusy as error:
    messages.set_language("zh")
    said = {"zh": error.message, "problems": [problem.message for problem in survey().problems]}
    print(json.dumps({**error.details, **said, "users": users, "took_s": took_s}))
"""


@contextmanager
def another(script: str) -> Iterator[str]:
    """Another program that uses the first reader; yields its name and process id."""
    command = [sys.executable, "-c", script, SLOT]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        yield f"{Path(f'/proc/{process.pid}/comm').read_text().strip()} ({process.pid})"
        process.communicate("", timeout=30)


def asked_elsewhere(shield: VirtualShield, *words: str) -> dict[str, Any]:
    """Return the error that a program gets for a token that another program has locked."""
    command = [sys.executable, "-c", ASKS, shield.uri, *words]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return dict(json.loads(said.stdout))


@contextmanager
def open_elsewhere(shield: VirtualShield) -> Iterator[Callable[[], object]]:
    """Another process that keeps a session with a token open until it is released."""
    command = [sys.executable, "-c", HOLDER, shield.uri]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def release() -> None:
            process.communicate("\n", timeout=30)

        try:
            process.stdin.write(f"{shield.pin}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "open\n"
            yield release
        finally:
            process.kill()


@pytest.fixture
def shields(desk: PcscHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[VirtualShield, VirtualShield]]:
    """Two tokens in two readers."""
    with VirtualShield(host=desk) as one, VirtualShield(host=desk, reader=1) as other:
        monkeypatch.setenv("XDG_STATE_HOME", one.env["XDG_STATE_HOME"])
        close_modules()
        yield one, other
        close_modules()


@contextmanager
def soon() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SOON_S


def busy(work: Callable[[], object]) -> TokenBusy:
    with soon(), pytest.raises(TokenBusy) as caught:
        work()
    return caught.value


Shields = tuple[VirtualShield, VirtualShield]


def test_a_process_that_starts_meanwhile_is_told_at_once_and_the_free_token_works(shields: Shields) -> None:
    mine, free = shields
    with open_elsewhere(mine) as release:
        assert busy(lambda: us.find_token(mine.uri)).details["readers"] == [SLOT]
        with soon():
            assert [token.serial for token in us.find_tokens()] == [free.serial]
        with soon(), us.find_token(free.uri).open(Scripted(free.pin)) as session:
            assert session.certificates()
        release()
    with us.find_token(mine.uri).open(Scripted(mine.pin)) as session:
        assert session.certificates()


def test_the_program_that_keeps_a_card_is_named(shields: Shields) -> None:
    with another(KEEPS) as name:
        told = asked_elsewhere(shields[0])
    assert (told["holder"], told["holders"], told["users"]) == (name, [name], [name])
    assert name in told["zh"]
    assert any(name in problem for problem in told["problems"])
    assert told["took_s"] < MOMENT_S


def test_of_several_programs_that_use_cards_each_is_named(shields: Shields) -> None:
    with another(KEEPS) as keeps, another(USES) as uses:
        told = asked_elsewhere(shields[0])
    assert sorted(told["holders"]) == sorted([keeps, uses])
    assert told["holder"] == " / ".join(told["holders"])


def test_a_program_of_another_service_is_not_named(shields: Shields) -> None:
    with another(KEEPS) as name, PcscHost() as desk:
        env = {**os.environ, **desk.env}
        with subprocess.Popen(
            [sys.executable, "-c", USES], cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as stranger:
            assert stranger.stdout is not None
            stranger.stdout.readline()
            told = asked_elsewhere(shields[0])
            stranger.communicate(timeout=30)
    assert told["holders"] == [name]


def test_a_worker_of_our_own_that_is_slow_is_no_other_program(shields: Shields) -> None:
    machine = Machine(Settings(), log="")
    with another(KEEPS) as name:  # a child of this process, as a worker is
        (here,) = (one for one in card.readers(machine) if one.reader.name == SLOT)
        finding = card.held(here)
        command = [sys.executable, "-c", DIAGNOSES, SLOT]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert (finding.status, finding.evidence["reason"]) == (Status.SKIP, "own_access")
    assert finding.unchecked
    status, *holders = said.stdout.split("\n")
    assert status == "fail"  # to other processes it is one program; this process also waits for the card
    assert name in holders


DIAGNOSES = """
import sys
from ushield_hw.config import Settings
from ushield_hw.doctor.probes import card
from ushield_hw.doctor.inspect.machine import Machine
(here,) = (one for one in card.readers(Machine(Settings(), log="")) if one.reader.name == sys.argv[1])
finding = card.held(here)
print(finding.status.value, *finding.evidence["holders"], sep="\\n")
"""


def test_a_program_that_cannot_be_found_in_time_is_another_program(shields: Shields) -> None:
    with another(KEEPS):
        told = asked_elsewhere(shields[0], "hides")
    assert (told["holder"], told["holders"], told["users"]) == ("another program", [], [])
    assert "另一个程序" in told["zh"]
    assert told["took_s"] < MOMENT_S


def test_a_process_that_had_found_it_before_is_told_too_whatever_it_asks(shields: Shields) -> None:
    mine, free = shields
    token, beside = us.find_token(mine.uri), us.find_token(free.uri)
    with beside.open(Scripted(free.pin)) as session, open_elsewhere(mine) as release:
        for work in (lambda: token.open(Scripted(mine.pin)), token.pin_state, token.pairs):
            assert busy(work).details["readers"] == [SLOT]
        with soon():
            assert [found.serial for found in us.find_tokens()] == [free.serial]
        with soon():
            assert session.certificates()
        release()
        with token.open(Scripted(mine.pin)) as again:
            assert again.certificates()


def test_a_card_that_is_let_go_in_time_was_waited_for(shields: Shields) -> None:
    mine, _ = shields
    token = us.find_token(mine.uri, settings=replace(load_settings(), busy_timeout_s=60))
    with open_elsewhere(mine) as release:
        timer = threading.Timer(4.0, release)
        timer.start()
        with token.open(Scripted(mine.pin)) as session:
            assert session.certificates()
        timer.join()


def test_the_sessions_of_this_process_are_not_another_program(shields: Shields) -> None:
    mine, other = shields
    with (
        us.find_token(mine.uri).open(Scripted(mine.pin)),
        us.find_token(other.uri).open(Scripted(other.pin)) as session,
    ):
        assert {token.serial for token in us.find_tokens()} == {mine.serial, other.serial}
        assert session.pin_state()
        with us.find_token(mine.uri).open(Scripted()) as joined:
            assert joined.certificates()


class Cancels(Scripted):
    """A user who cancels as soon as the token waits for confirmation."""

    def waiting_for_token(self, action: TokenAction) -> None:
        super().waiting_for_token(action)
        action.cancel()


def test_cancelling_one_order_leaves_that_of_another_customer_alone(shields: Shields) -> None:
    mine, other = shields
    orders = [payment(**live(datetime.now(UTC)), tx_id=str(uuid.uuid4())) for _ in shields]
    people = Cancels(mine.pin, mine.pin), Scripted(other.pin, other.pin)
    sessions = [us.find_token(shield.uri).open(person) for shield, person in zip(shields, people, strict=True)]
    with ThreadPoolExecutor(2) as pool, sessions[0], sessions[1]:
        given_up = pool.submit(us.sign, orders[0], sessions[0])
        mine.wait_for_screen()
        theirs = pool.submit(us.sign, orders[1], sessions[1])
        unknown = given_up.exception(30)
        assert isinstance(unknown, OutcomeUnknown)
        assert unknown.details["tx_id"] == orders[0].tx_id
        mine.press("c")  # by its user, who still sees the prompt
        other.wait_for_screen()
        other.press("ok")
        assert theirs.result(60).tx_id == orders[1].tx_id
        with pytest.raises(OutcomeUnknown):
            us.sign(orders[0], sessions[0])  # never a second prompt for it
        assert sessions[0].certificates(), "the session is open still"
