"""Ctrl-C, SIGTERM, SIGHUP and SIGQUIT during a signature: the command reports the true outcome."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cli.ending import Counted, counted
from tests.cli.world import AT_A_TERMINAL, TIMEOUT_S, USHIELD, Bank, Done, Home, checked
from ushield_hw.testing.faulty import Action, Fault, late

pytestmark = pytest.mark.stack

SOON: Final = late(1.0)  # within the two seconds that a token has to answer
NEVER: Final = late(120)
OTHERS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Asked:
    """A signing command whose token delays one call."""

    def __init__(self, made: Counted, function: str, action: Action, start: tuple[str, ...] = AT_A_TERMINAL) -> None:
        self.home = made.home
        self.module = made.module
        self.order = self.home.order()
        self._known = {file.name for file in self.home.folder.iterdir()}
        made.module.plan([Fault(function, None, action)])
        made.module.clear()
        words = ["sign", self.order, "--token", made.uri, "--pin-source", self.home.token.pin_file]
        self.words = ["--drivers", "drivers", *words, "--unattended", "-o", "signed.p7m", "--json"]
        self.child = subprocess.Popen(
            [*start, USHIELD, *self.words],
            cwd=self.home.folder,
            env=self.home.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def waits_after(self, function: str) -> None:
        """Wait until the token has answered a call, so that the next one has started."""
        deadline = time.monotonic() + TIMEOUT_S
        while not any(call.function == function for call in self.module.calls):
            assert time.monotonic() < deadline and self.child.poll() is None
            time.sleep(0.02)
        time.sleep(0.2)

    def gets(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    def ends(self, exits: int) -> Done:
        out, err = self.child.communicate(timeout=TIMEOUT_S)
        return checked(Done(self.child.returncode, out.decode(), err.decode()), tuple(self.words), exits)

    def again(self) -> Done:
        """Run the same command again, without the delay."""
        self.module.plan([])
        done = subprocess.run(
            [USHIELD, *self.words],
            cwd=self.home.folder,
            env=self.home.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            text=True,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    @property
    def left(self) -> list[str]:
        """The new files in the output folder."""
        return sorted({file.name for file in self.home.folder.iterdir()} - self._known - {"state"})


@pytest.fixture(params=["in-process", "process"])
def made(shared: Home, tmp_path: Path, request: pytest.FixtureRequest) -> Counted:
    return with_isolation(counted(shared, tmp_path / "counted"), request.param)


@pytest.fixture
def in_process(shared: Home, tmp_path: Path) -> Counted:
    return counted(shared, tmp_path / "counted")


def with_isolation(found: Counted, isolation: str) -> Counted:
    descriptor = found.home.file("drivers/counted.toml")
    descriptor.write_text(descriptor.read_text().replace('"in-process"', f'"{isolation}"'))
    return found


@pytest.fixture
def running() -> Iterator[list[Asked]]:
    started: list[Asked] = []
    yield started
    for asked in started:
        with asked.child:
            asked.child.kill()


def signing(running: list[Asked], made: Counted, action: Action, start: tuple[str, ...] = AT_A_TERMINAL) -> Asked:
    """Return a command that is waiting for the token's signature."""
    running.append(Asked(made, "C_Sign", action, start))
    running[-1].waits_after("C_SignInit")
    return running[-1]


def test_ctrl_c_waits_for_the_answer_and_what_was_signed_is_written(
    made: Counted, running: list[Asked], bank: Bank
) -> None:
    asked = signing(running, made, SOON)
    asked.gets(signal.SIGINT)
    done = asked.ends(0)
    assert "waiting up to 2 s" in done.err
    assert done.document["replayed"] is False
    assert bank.accepts(asked.home.file("signed.p7m"))


def test_a_token_that_does_not_answer_leaves_the_outcome_unknown(made: Counted, running: list[Asked]) -> None:
    asked = signing(running, made, NEVER)
    asked.gets(signal.SIGINT)
    unknown(asked)


def test_a_second_ctrl_c_does_not_wait(made: Counted, running: list[Asked]) -> None:
    asked = signing(running, made, NEVER)
    asked.gets(signal.SIGINT)
    time.sleep(0.2)
    began = time.monotonic()
    asked.gets(signal.SIGINT)
    asked.child.wait(TIMEOUT_S)
    assert time.monotonic() - began < 30
    unknown(asked)


@pytest.mark.parametrize("number", OTHERS)
def test_any_other_signal_does_not_wait(made: Counted, running: list[Asked], number: signal.Signals) -> None:
    asked = signing(running, made, NEVER)
    asked.gets(number)
    unknown(asked)


def unknown(asked: Asked) -> None:
    """The command and the journal report an unknown outcome and how to resolve it; no file is left behind."""
    error = asked.ends(9).document["error"]
    tx_id = asked.home.document(asked.order)["tx_id"]
    assert (error["code"], error["details"]["tx_id"]) == ("OUTCOME_UNKNOWN", tx_id)
    assert f"ushield journal resolve {tx_id}" in error["remedy"]
    assert asked.left == []
    again = asked.again()
    assert (again.code, again.document["error"]["code"]) == (9, "OUTCOME_STILL_UNKNOWN")
    assert f"ushield journal resolve {tx_id}" in again.document["error"]["remedy"]
    assert asked.left == []


@pytest.mark.parametrize("number", [signal.SIGINT, *OTHERS])
def test_before_the_token_is_asked_nothing_was_signed(
    made: Counted, running: list[Asked], number: signal.Signals
) -> None:
    asked = Asked(made, "C_Login", SOON)
    running.append(asked)
    asked.waits_after("C_OpenSession")
    asked.gets(number)
    error = asked.ends(130).document["error"]
    assert (error["code"], error["message"]) == ("INTERRUPTED", "Interrupted. Nothing was signed.")
    assert not any(call.function == "C_Sign" for call in asked.module.calls)
    assert asked.left == []
    again = asked.again()
    assert (again.code, again.document["replayed"]) == (0, False)


@pytest.mark.parametrize("name", ["INT", "HUP"])
def test_a_signal_that_was_ignored_stays_ignored(in_process: Counted, running: list[Asked], name: str) -> None:
    """As with nohup, and background jobs of a script."""
    asked = signing(running, in_process, SOON, ("env", f"--ignore-signal={name}"))
    for _ in range(2):
        asked.gets(signal.Signals[f"SIG{name}"])
    done = asked.ends(0)
    assert done.err == ""
    assert done.document["replayed"] is False
