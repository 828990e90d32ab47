"""``ushield watch`` as a command: its output lines, and every way in which it ends."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import pytest

from tests.cli.person import CTRL_C, Person
from tests.cli.world import AT_A_TERMINAL, TIMEOUT_S, USHIELD, Home
from tests.stack.virtual.desks import token
from ushield_hw.testing.readers import PcscHost

pytestmark = [pytest.mark.stack, pytest.mark.xdist_group("watch")]

OPENSC = "opensc-pkcs11.so"


@pytest.fixture(scope="module")
def only_desk() -> Iterator[PcscHost]:
    with PcscHost() as desk:
        yield desk


@pytest.fixture
def desk(only_desk: PcscHost) -> PcscHost:
    """Virtual readers without cards."""
    only_desk.restart()
    return only_desk


def socket_of(desk: PcscHost) -> str:
    return desk.env["PCSCLITE_CSOCK_NAME"]


class Watching:
    """The command, running without a terminal."""

    def __init__(self, home: Home, desk: PcscHost, *words: str) -> None:
        self.child = subprocess.Popen(
            [*AT_A_TERMINAL, USHIELD, "watch", *words],
            cwd=home.folder,
            env=home.environment | desk.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def line(self) -> str:
        """Wait for the next line on stdout."""
        return next_line(self.child.stdout)

    def hint(self) -> str:
        """Wait for the next line on stderr."""
        return next_line(self.child.stderr)

    def ends(self) -> tuple[int, str, str]:
        """Wait until the command has ended; return its exit code and what was left on stdout and stderr."""
        out, err = self.child.communicate(timeout=TIMEOUT_S)
        return self.child.returncode, out.decode(), err.decode()


def next_line(pipe: IO[bytes] | None) -> str:
    assert pipe is not None
    assert select.select([pipe], [], [], TIMEOUT_S)[0], "no line"
    return pipe.readline().decode()


@pytest.fixture
def started() -> Iterator[list[Watching]]:
    """Every command that a test has started; they are ended after the test."""
    running: list[Watching] = []
    yield running
    for watching in running:
        with watching.child:
            watching.child.kill()


@pytest.fixture
def watching(bare: Home, desk: PcscHost, started: list[Watching]) -> Watching:
    """``watch --json`` with virtual readers without cards, after its first line."""
    started.append(Watching(bare, desk, "--json"))
    assert started[-1].hint() == "Waiting for tokens… Press Ctrl-C to stop.\n"
    return started[-1]


# --- lines ------------------------------------------------------------------------------------------------------------


def test_an_object_a_line(watching: Watching, desk: PcscHost) -> None:
    began = datetime.now(UTC) - timedelta(seconds=1)
    insertion = desk.insert(token())
    came = document(watching.line(), "inserted", began)
    insertion.eject()
    went = document(watching.line(), "removed", began)
    assert went["token"] == came["token"]
    assert watching.hint() == "Waiting for tokens… Press Ctrl-C to stop.\n"


def document(line: str, event: str, began: datetime) -> Any:
    """Return the object on a line; its event must match."""
    found = json.loads(line)
    assert list(found) == ["event", "at", "token"]
    assert found["event"] == event
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["at"])
    assert began < datetime.fromisoformat(found["at"]) <= datetime.now(UTC)
    assert list(found["token"]) == ["serial", "label", "uri", "driver", "module"]
    assert (found["token"]["serial"], found["token"]["driver"]) == ("WATCH1", "opensc")
    assert Path(found["token"]["module"]).name == OPENSC
    assert "serial=WATCH1" in found["token"]["uri"]
    return found


def test_a_person_sees_local_time_and_the_token(bare: Home, desk: PcscHost, people: list[Person]) -> None:
    person = Person(bare, "watch", **desk.env, TZ="Asia/Shanghai")
    people.append(person)
    person.sees("Waiting for tokens")
    insertion = desk.insert(token())
    came = next_line(person.child.stdout)
    insertion.eject()
    went = next_line(person.child.stdout)
    now = datetime.now(UTC) + timedelta(hours=8)
    assert came[:5] in {f"{now - timedelta(minutes=n):%H:%M}" for n in range(3)}
    assert re.fullmatch(r"\d\d:\d\d:\d\d  Inserted: SmartCard-HSM \(UserPIN\) \(WATCH1, opensc\)  pkcs11:\S+\n", came)
    assert "  Removed: " in went
    person.presses(CTRL_C)
    out, _ = person.child.communicate(timeout=TIMEOUT_S)
    assert (person.child.returncode, out) == (130, b"")
    assert "Error" not in person.screen


def test_in_chinese(bare: Home, desk: PcscHost) -> None:
    desk.insert(token())
    done = bare.ushield("--lang", "zh", "watch", "--count", "1", PCSCLITE_CSOCK_NAME=socket_of(desk))
    assert "已插入：SmartCard-HSM (UserPIN)（WATCH1，opensc）" in done.out


def test_soft_tokens_are_there_at_the_start(blank: Home, desk: PcscHost) -> None:
    done = blank.ushield("watch", "--count", "2", PCSCLITE_CSOCK_NAME=socket_of(desk))
    for soft in blank.tokens:
        assert soft.serial in done.out
    assert done.err == ""


# --- the end ----------------------------------------------------------------------------------------------------------


def test_ctrl_c(watching: Watching) -> None:
    watching.child.send_signal(signal.SIGINT)
    assert watching.ends() == (130, "", "")


def test_sigterm(watching: Watching) -> None:
    watching.child.send_signal(signal.SIGTERM)
    assert watching.ends() == (-signal.SIGTERM, "", "")


def test_nobody_reads_any_more(watching: Watching) -> None:
    assert watching.child.stdout is not None
    watching.child.stdout.close()  # detected without an event
    assert watching.child.wait(TIMEOUT_S) == 0
    assert watching.child.stderr is not None
    assert watching.child.stderr.read() == b""


def test_head_ends_it(blank: Home, desk: PcscHost) -> None:
    shell = f"{USHIELD} watch --json | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", shell],
        env=blank.environment | desk.env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    line, code = done.stdout.splitlines()
    assert json.loads(line)["event"] == "inserted"
    assert (code, done.stderr) == ("0", "")


def test_after_some_seconds(bare: Home, desk: PcscHost) -> None:
    began = time.monotonic()
    assert bare.ushield("watch", "--for", "0.3", PCSCLITE_CSOCK_NAME=socket_of(desk)).out == ""
    assert time.monotonic() - began >= 0.3


def test_after_so_many_events(watching: Watching, bare: Home, desk: PcscHost, started: list[Watching]) -> None:
    insertion = desk.insert(token())
    counting = Watching(bare, desk, "--count", "2", "--json")
    started.append(counting)
    assert json.loads(counting.line())["event"] == "inserted"
    insertion.eject()
    code, out, err = counting.ends()
    assert (code, json.loads(out)["event"]) == (0, "removed")
    assert err in {"", "Waiting for tokens… Press Ctrl-C to stop.\n"}  # a busy machine takes a while to see the token


def test_a_full_disk_behind_stdout(blank: Home, desk: PcscHost) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        ended = subprocess.run(
            [USHIELD, "watch", "--json"],
            env=blank.environment | desk.env,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    finally:
        os.close(full)
    assert ended.returncode == 12
    assert "OUTPUT_NOT_WRITTEN" in ended.stderr


@pytest.mark.parametrize("words", [("--count", "0"), ("--count", "x"), ("--for", "-1"), ("extra",)])
def test_wrong_words(bare: Home, words: tuple[str, ...]) -> None:
    bare.json("watch", *words, exits=2)


# --- the service ------------------------------------------------------------------------------------------------------


def test_pcscd_dies_and_comes_back(watching: Watching, desk: PcscHost) -> None:
    desk.insert(token())
    assert json.loads(watching.line())["event"] == "inserted"
    desk.stop()
    assert json.loads(watching.line())["event"] == "removed"
    desk.restart()
    desk.insert(token())
    assert json.loads(watching.line())["event"] == "inserted"
