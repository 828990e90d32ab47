"""A daemon that a token requires ends with the test, however the test ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.tokens.daemon import running
from tests.project.tree import ROOT
from tests.stack.bench import ends

pytestmark = pytest.mark.contract

LISTENS = "import socket,sys,time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); time.sleep(60)"
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.contract.tokens.daemon import running
folder = Path(sys.argv[1])
with running([sys.executable, "-c", sys.argv[2], str(folder / "socket")], "socket", folder / "log") as daemon:
    print(daemon.pid, flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_listens_inside_the_block_and_has_ended_after_it_also_when_the_test_fails(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LISTENS, str(tmp_path / "socket")]
    with pytest.raises(ZeroDivisionError), running(command, "socket", tmp_path / "log") as daemon:
        assert daemon.poll() is None
        raise ZeroDivisionError
    assert daemon.returncode is not None


def test_one_that_ends_at_once_is_an_error_that_shows_its_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no, thank you')"]
    with pytest.raises(AssertionError, match="no, thank you"), running(command, "socket", tmp_path / "log"):
        pass


def test_it_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), LISTENS]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdin and killed.stdout
        with ends(int(killed.stdout.readline())):
            killed.stdin.close()
