"""A result is kept when stdout, stderr, the log or the end of the session fails."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.cli.conftest import Signed
from tests.cli.ending import counted
from tests.cli.world import TIMEOUT_S, USHIELD, Bank, Done, Home
from ushield_hw.cli.options import write_new
from ushield_hw.errors import StorageError
from ushield_hw.testing.faulty import Fault, returns

pytestmark = pytest.mark.stack

FULL: Final = ">/dev/full"
CLOSED: Final = ">&-"
NOBODY_READS: Final = "| true"  # with pipefail the pipeline's exit code is the command's


def run(home: Home, redirection: str, *words: object) -> Done:
    """Run the command with its streams redirected by a shell."""
    command = f"{shlex.join([USHIELD, *map(str, words)])} {redirection}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=home.folder,
        env=home.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        start_new_session=True,
        check=False,
        text=True,
    )
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def sign(home: Home, *more: str) -> tuple[str, ...]:
    known = ("--token", home.token.uri, "--pin-source", home.token.pin_file, "--unattended")
    return ("sign", home.order(), *known, "-o", "signed.p7m", *more)


# --- completed operations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["", "json"])
@pytest.mark.parametrize("redirection", [FULL, CLOSED, NOBODY_READS, "2>/dev/full", "2>&-", f"{FULL} 2>/dev/full"])
def test_a_signed_order_that_was_written_is_a_success(
    home: Home, bank: Bank, redirection: str, form: tuple[str, ...]
) -> None:
    done = run(home, redirection, *sign(home, *form))
    assert done.code == 0, done
    assert bank.accepts(home.file("signed.p7m"))
    assert (FULL == redirection) == ("its result is valid" in done.err), done.err


def test_other_jobs(home: Home) -> None:
    own = ("--token", home.token.uri, "--pin-source", home.token.pin_file)
    jobs: list[tuple[object, ...]] = [
        ("cert", "export", "--token", home.token.uri, "-o", "c.pem"),
        ("cert", "request", *own, "--subject", "CN=A", "-o", "r.csr"),
        ("softhsm", "init", "--dir", "more"),
        ("pin", "change", *own, "--new-pin-source", home.pin("24681357", "new.pin")),
    ]
    for words in jobs:
        done = run(home, FULL, *words, "--json")
        assert (done.code, "its result is valid" in done.err) == (0, True), (words, done)
    for name in ("c.pem", "r.csr", "more/softhsm2.conf"):
        assert home.file(name).stat().st_size, name
    home.ushield("pin", "verify", "--token", home.token.uri, "--pin-source", "new.pin")


# --- requested data ---------------------------------------------------------------------------------------------------


def questions(home: Home, signed: Signed, bank: Bank) -> list[tuple[object, ...]]:
    token = ("--token", home.token.uri)
    return [
        ("list",),
        ("info", *token),
        ("pin", "status", *token),
        ("cert", "list", *token),
        ("cert", "export", *token),
        ("show", signed.home.file(signed.order)),
        ("verify", signed.path, "--ca", bank.ca),
        ("driver", "list"),
        ("config", "show", "--origin"),
        ("journal", "list"),
    ]


def test_data_that_cannot_be_written_is_an_error(signed: Signed, bank: Bank) -> None:
    home = signed.home
    for words in questions(home, signed, bank):
        done = run(home, FULL, *words)
        assert (done.code, "[OUTPUT_NOT_WRITTEN]" in done.err) == (12, True), (words, done)


@pytest.mark.parametrize("redirection", [CLOSED, NOBODY_READS])
def test_nobody_wants_the_data(signed: Signed, bank: Bank, redirection: str) -> None:
    for words in questions(signed.home, signed, bank):
        done = run(signed.home, redirection, *words)
        assert (done.code, "OUTPUT_NOT_WRITTEN" in done.err) == (0, False), (words, done)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_what_goes_to_stderr_changes_nothing(signed: Signed, bank: Bank, redirection: str) -> None:
    for words in questions(signed.home, signed, bank):
        done = run(signed.home, redirection, *words)
        assert done.code == 0 and done.out, (words, done)
    refused = run(signed.home, redirection, "show", "nowhere.json", "--json")
    assert (refused.code, json.loads(refused.out)["error"]["code"]) == (2, "FILE_UNREADABLE")
    assert run(signed.home, redirection, "show", "nowhere.json").code == 2


def test_a_file_of_ours_never_becomes_stdout(home: Home, bank: Bank) -> None:
    """Started with all three closed, the first files opened would become stdin, stdout and stderr."""
    done = run(home, "<&- >&- 2>&-", *sign(home))
    assert done.code == 0
    assert bank.accepts(home.file("signed.p7m"))
    assert home.json("journal", "list")["entries"]


# --- the last steps ---------------------------------------------------------------------------------------------------


def test_a_log_that_cannot_be_written_changes_nothing(home: Home) -> None:
    done = run(home, "", "--log-file", "/dev/full", *sign(home, "--json"))
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["replayed"] is False


def test_a_logout_that_fails_changes_nothing(shared: Home, bank: Bank, tmp_path: Path) -> None:
    made = counted(shared, tmp_path / "counted")
    made.module.plan([Fault("C_Logout", None, returns("CKR_GENERAL_ERROR"))])
    words = ("--token", made.uri, "--pin-source", made.home.token.pin_file)
    signed = made.run("sign", made.home.order(), *words, "--unattended", "-o", "signed.p7m", "--json")
    assert (signed.code, signed.document["replayed"]) == (0, False), signed
    assert bank.accepts(made.home.file("signed.p7m"))
    assert made.run("pin", "verify", *words).code == 0


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=["full", "Ctrl-C"])
@pytest.mark.parametrize("links", [True, False], ids=["links", "a FAT stick"])
def test_half_an_output_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, links: bool
) -> None:
    syncs = iter([None, failure] if not links else [failure])

    def fsync(_: int) -> None:
        if (found := next(syncs)) is not None:
            raise found

    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "fsync", fsync)
    if not links:
        monkeypatch.setattr(os, "link", link)
    with pytest.raises((StorageError, KeyboardInterrupt)):
        write_new(tmp_path / "signed.p7m", bytes(9))
    assert list(tmp_path.iterdir()) == []
