"""Every way in which a command ends: one exit code, one document with ``--json``, never a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from termios import FIONREAD

import pytest

from tests.cli.world import AT_A_TERMINAL, TIMEOUT_S, USHIELD, Done, Home, checked


@pytest.fixture
def desk(tmp_path: Path) -> Home:
    """A home without tokens."""
    return Home(tmp_path)


# --- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "argument"),
    [
        (("nonsense",), "USAGE_NO_SUCH_COMMAND", "nonsense"),
        (("pin", "nonsense"), "USAGE_NO_SUCH_COMMAND", "nonsense"),
        (("list", "--colour"), "USAGE_NO_SUCH_OPTION", "--colour"),
        (("show",), "USAGE_MISSING", "ORDER.json"),
        (("verify", "x.p7m"), "USAGE_MISSING", "--ca"),
        (("cert", "request", "--subject", "CN=x"), "USAGE_MISSING", "--out"),
        (("cert", "request", "-o", "x.csr"), "USAGE_MISSING", "--subject"),
        (("cert", "request", "--key", "rsa-1024", "--subject", "CN=x", "-o", "x"), "USAGE", "--key"),
        (("cert", "list", "--expiring", "-1"), "USAGE", "--expiring"),
        (("cert", "list", "--expiring", "soon"), "USAGE", "--expiring"),
        (("sign", "x.json", "-o", "x", "--profile", "xades"), "USAGE", "--profile"),
        (("show", "a.json", "b.json"), "USAGE", ""),
        (("--lang", "fr", "list"), "USAGE", "--lang"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_usage_errors_obey_json(desk: Home, words: tuple[str, ...], code: str, argument: str) -> None:
    assert desk.fails(2, code, *words)["argument"] == argument


def test_a_person_reads_what_is_wrong_and_what_to_do(desk: Home) -> None:
    done = desk.ushield("list", "--colour", exits=2)
    assert done.out == ""
    sentence, remedy = done.err.splitlines()
    assert "--colour" in sentence
    assert "[USAGE_NO_SUCH_OPTION]" in sentence
    assert "--help" in remedy


def test_the_commands_there_are(desk: Home) -> None:
    assert {"list", "pin", "sign"} <= set(desk.fails(2, "USAGE_NO_SUCH_COMMAND", "nonsense")["known"])
    assert set(desk.fails(2, "USAGE_NO_SUCH_COMMAND", "pin", "x")["known"]) == {"status", "verify", "change", "unblock"}


# --- interrupted ------------------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(blank: Home) -> Iterator[subprocess.Popen[bytes]]:
    """A command that waits for a PIN on stdin."""
    words = ["pin", "verify", "--token", blank.token.uri, "--pin-source", "-", "--json"]
    child = subprocess.Popen(
        [*AT_A_TERMINAL, USHIELD, *words],
        env=blank.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with child:
        yield child
        child.kill()


def test_interrupted(waiting: subprocess.Popen[bytes]) -> None:
    assert waiting.stdin is not None
    waiting.stdin.write(b"1")
    waiting.stdin.flush()
    deadline = time.monotonic() + TIMEOUT_S
    while unread(waiting.stdin.fileno()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=TIMEOUT_S)
    done = checked(Done(waiting.returncode, out.decode(), err.decode()), ("--json",), 130)
    assert done.document["error"]["code"] == "INTERRUPTED"


def unread(pipe: int) -> bool:
    """Tell whether a pipe still holds unread data."""
    return ioctl(pipe, FIONREAD, bytes(4)) != bytes(4)


# --- stdout -----------------------------------------------------------------------------------------------------------


def run(home: Home, *words: str, stdout: int) -> tuple[int, str]:
    done = subprocess.run(
        [USHIELD, *words],
        cwd=home.folder,
        env=home.environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT_S,
        check=False,
        text=True,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", [("driver", "list"), ("driver", "list", "--json"), ("driver", "show", "softhsm2")])
def test_a_full_disk_behind_stdout(desk: Home, words: tuple[str, ...]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        code, err = run(desk, *words, stdout=full)
    finally:
        os.close(full)
    assert code == 12
    assert "OUTPUT_NOT_WRITTEN" in err
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "exits"), [(("driver", "list", "--json"), 0), (("driver", "show", "x", "--json"), 3)]
)
def test_nobody_reads_stdout(desk: Home, words: tuple[str, ...], exits: int) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        code, err = run(desk, *words, stdout=theirs)
    finally:
        os.close(theirs)
    assert code == exits
    assert "Traceback" not in err
    assert "Exception" not in err


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_stream_that_is_closed(desk: Home, closed: str) -> None:
    shell = ["sh", "-c", f'"$0" "$@" {closed}', USHIELD, "driver", "show", "softhsm2", "--json"]
    done = subprocess.run(shell, env=desk.environment, capture_output=True, timeout=TIMEOUT_S, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert closed == ">&-" or json.loads(done.stdout)["id"] == "softhsm2"


def test_no_stdin_to_read_a_pin_from(blank: Home) -> None:
    words = ["pin", "verify", "--token", blank.token.uri, "--pin-source", "-", "--json"]
    shell = ["sh", "-c", '"$0" "$@" <&-', USHIELD, *words]
    done = subprocess.run(shell, env=blank.environment, capture_output=True, timeout=TIMEOUT_S, check=False)
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (2, "PIN_MISSING")


# --- names that are hard to print -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"\xff.json", "\u202egnp.json".encode(), b"\x1b[31m.json"])
def test_what_is_shown_cannot_move_the_cursor(desk: Home, name: bytes) -> None:
    done = desk.ushield("show", os.fsdecode(name), exits=2)
    assert not set(done.err) & set("\x1b\u202e\udcff")
    document = json.loads(desk.ushield("show", os.fsdecode(name), "--json", exits=2).out)
    assert document["error"]["details"]["file"] == os.fsdecode(name)


def test_a_document_is_utf_8_in_every_locale(blank: Home) -> None:
    done = blank.ushield("--lang", "zh", "driver", "show", "没有", "--json", exits=3, PYTHONIOENCODING="gbk")
    assert done.document["error"]["details"]["id"] == "没有"


# --- the demo ---------------------------------------------------------------------------------------------------------


def test_the_demo_runs_and_leaves_nothing(desk: Home) -> None:
    temporary = desk.file("tmp")
    temporary.mkdir()
    done = desk.ushield("demo", TMPDIR=str(temporary))
    assert "[12/12]" in done.out
    assert list(temporary.iterdir()) == []
    assert not desk.file("state").exists()
