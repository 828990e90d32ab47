"""Sources of a PIN, and places where it must never appear."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.world import USHIELD, Home
from ushield_hw.cli.pin_sources import CODE_FILE, PIN_FILE, Sources, read_secret
from ushield_hw.errors import InputError
from ushield_hw.interaction import PinKind, PinRequest, PinState, Silent
from ushield_hw.system import files

NEW = "24681357"


@pytest.fixture
def fresh(blank: Home, tmp_path: Path) -> Home:
    """Two tokens without keys or failed attempts, for one test."""
    return blank.copy(tmp_path / "fresh")


def pin_of(home: Home) -> str:
    return home.content(home.token.pin_file).decode().strip()


def verify(home: Home, source: str) -> tuple[str, ...]:
    return ("pin", "verify", "--token", home.token.uri, "--pin-source", source)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601, 0o610])
def test_a_file_that_others_may_open_is_refused(fresh: Home, mode: int) -> None:
    details = fresh.fails(2, "PIN_FILE_MODE", *verify(fresh, fresh.pin("99999", mode=mode)))
    assert details == {"file": "typed.pin", "mode": f"{mode:o}"}
    assert fresh.tries_left() == 6


@pytest.mark.parametrize(
    "words",
    [
        ("pin", "change", "--pin-source"),
        ("pin", "change", "--new-pin-source"),
        ("pin", "unblock", "--so-pin-source"),
        ("pin", "unblock", "--puk-source"),
        ("cert", "request", "--subject", "CN=x", "-o", "x.csr", "--pin-source"),
        ("sign", "order.json", "--unattended", "-o", "x.p7m", "--pin-source"),
    ],
    ids=" ".join,
)
def test_every_command_refuses_it(fresh: Home, words: tuple[str, ...]) -> None:
    fresh.order()
    fresh.fails(2, "PIN_FILE_MODE", *words, fresh.pin(mode=0o644), "--token", fresh.token.uri)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_ones_own(fresh: Home, mode: int) -> None:
    fresh.ushield(*verify(fresh, fresh.pin(pin_of(fresh), mode=mode)))


@pytest.mark.parametrize("layout", ["{}", "{}\n", "{}\r\n", "{}\nnot the PIN\n", "\ufeff{}\n"])
def test_the_pin_is_the_first_line(fresh: Home, layout: str) -> None:
    fresh.ushield(*verify(fresh, fresh.pin(layout.format(pin_of(fresh)))))


@pytest.mark.parametrize("content", ["", "\n", "\n123456\n"])
def test_a_file_without_a_pin(blank: Home, content: str, tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    pin.write_text(content)
    pin.chmod(0o600)
    blank.fails(2, "PIN_MISSING", *verify(blank, str(pin)))


def test_a_file_that_is_not_there(blank: Home) -> None:
    assert blank.fails(2, "PIN_FILE_UNREADABLE", *verify(blank, "nowhere"))["file"] == "nowhere"


def test_a_pin_in_another_encoding_is_not_sent(fresh: Home) -> None:
    fresh.fails(4, "PIN_CHARACTERS", *verify(fresh, fresh.pin("密码密码".encode("gbk"))))
    fresh.fails(4, "PIN_CHARACTERS", *verify(fresh, "-"), stdin="密码密码".encode("gbk"))
    assert fresh.tries_left() == 6


SERVICE = 4711


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a user's PIN file for a service user to read; when not running as root, both are the same user."""
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "geteuid", lambda: SERVICE)

    def write(owner: str, mode: int, reader: int | None = None) -> Path:
        file = tmp_path / "pin"
        file.write_text("135790\n")
        file.chmod(mode)
        real = os.stat(file)
        if reader is not None:
            entries = [(0x01, 4, -1), (0x02, 4, reader), (0x04, 0, -1), (0x10, 4, -1), (0x20, 0, -1)]
            listed = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
            os.setxattr(file, "system.posix_acl_access", listed)
            real = os.stat(file)
        uid = {"root": 0, "service": os.geteuid(), "another": 4712}[owner]
        shown = os.stat_result([*real[:4], uid, *real[5:]])
        monkeypatch.setattr(os, "fstat", lambda descriptor: shown)
        return file

    return write


@pytest.mark.parametrize(
    ("owner", "mode"), [("service", 0o600), ("service", 0o400), ("root", 0o400), ("root", 0o440), ("root", 0o640)]
)
def test_files_that_a_service_may_be_given(service: Callable[..., Path], owner: str, mode: int) -> None:
    """Group read permission is for mounted secrets: they belong to root."""
    assert read_secret(str(service(owner, mode)), PIN_FILE) == "135790"


@pytest.mark.parametrize(
    ("owner", "mode"),
    [("service", 0o640), ("service", 0o440), ("root", 0o444), ("root", 0o460), ("another", 0o600), ("another", 0o400)],
)
def test_files_that_others_can_read(service: Callable[..., Path], owner: str, mode: int) -> None:
    with pytest.raises(InputError) as caught:
        read_secret(str(service(owner, mode)), PIN_FILE)
    assert caught.value.code == "PIN_FILE_MODE"
    assert (", owner 4712" in str(caught.value)) is (owner == "another")


@pytest.mark.parametrize("owner", ["root", "service"])
def test_a_credential_of_systemd(service: Callable[..., Path], owner: str) -> None:
    """LoadCredential= sets mode 0400 and an ACL entry for the service's user: stat shows 0440."""
    file = service(owner, 0o400, reader=os.geteuid())
    assert os.stat(file).st_mode & 0o777 == 0o440
    assert read_secret(str(file), PIN_FILE) == "135790"


@pytest.mark.parametrize("owner", ["root", "service"])
def test_a_file_that_a_list_opens_to_another_user(service: Callable[..., Path], owner: str) -> None:
    with pytest.raises(InputError) as caught:
        read_secret(str(service(owner, 0o400, reader=4712)), CODE_FILE)
    assert caught.value.code == "CODE_FILE_MODE"
    assert "PIN" not in caught.value.message + caught.value.remedy


# --- pipes and devices ------------------------------------------------------------------------------------------------


def test_a_pipe_that_nobody_writes_to_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.read_opened, "__defaults__", (0.3, None))
    os.mkfifo(tmp_path / "pin", 0o600)
    with pytest.raises(InputError) as caught:
        read_secret(str(tmp_path / "pin"), PIN_FILE)
    assert caught.value.code == "INPUT_TIMED_OUT"


def test_a_pipe_of_the_shell(fresh: Home) -> None:
    """``--pin-source <(…)``; its other end may stay open after the line."""
    pipe = f"<(cat {fresh.token.pin_file}; sleep 5)"
    script = f"exec {USHIELD} pin verify --token '{fresh.token.uri}' --json --pin-source {pipe}"
    ended = subprocess.run(
        ["bash", "-c", script], cwd=fresh.folder, env=fresh.environment, capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("source", [".", "/dev/null", "socket"])
def test_what_is_no_file(fresh: Home, source: str) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(fresh.file("socket")))
        error = fresh.json(*verify(fresh, source), exits=2)["error"]
    assert error["code"] in {"PIN_FILE_UNREADABLE", "PIN_MISSING"}


# --- stdin ------------------------------------------------------------------------------------------------------------


def test_stdin(blank: Home) -> None:
    blank.ushield(*verify(blank, "-"), stdin=pin_of(blank) + "\n")


def test_two_from_stdin_are_the_old_one_and_the_new_one(fresh: Home) -> None:
    change = ("pin", "change", "--token", fresh.token.uri, "--new-pin-source", "-", "--pin-source", "-")
    fresh.ushield(*change, stdin=f"{pin_of(fresh)}\n{NEW}\n")
    fresh.ushield(*verify(fresh, "-"), stdin=NEW)


def test_the_so_pin_and_the_new_one_from_stdin(fresh: Home) -> None:
    so_pin = fresh.content(fresh.token.so_pin_file).decode().strip()
    unblock = ("pin", "unblock", "--token", fresh.token.uri, "--new-pin-source", "-", "--so-pin-source", "-")
    fresh.ushield(*unblock, stdin=f"{so_pin}\n{NEW}\n")
    fresh.ushield(*verify(fresh, "-"), stdin=NEW)


@pytest.mark.parametrize("typed", ["", "99999"])
def test_stdin_with_too_few_lines(blank: Home, typed: str) -> None:
    change = ("pin", "change", "--token", blank.token.uri, "--pin-source", "-", "--new-pin-source", "-")
    assert blank.fails(2, "PIN_MISSING", *change, stdin=typed)["n"] == 2


# --- never elsewhere --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--pin", "--new-pin", "--so-pin", "--puk", "-p"])
def test_there_is_no_option_for_a_pin(blank: Home, option: str) -> None:
    done = blank.ushield("pin", "change", "--token", blank.token.uri, option, "918273", "--json", exits=2)
    assert done.document["error"]["code"] == "USAGE_NO_SUCH_OPTION"
    assert "918273" not in done.out + done.err


@pytest.mark.parametrize("name", ["PIN", "USHIELD_PIN", "USHIELD_PIN_SOURCE", "USHIELD_PIN_VERIFY_PIN_SOURCE"])
def test_there_is_no_variable_for_a_pin(blank: Home, name: str) -> None:
    value = blank.token.pin_file if "SOURCE" in name else pin_of(blank)
    blank.fails(7, "PIN_CANCELLED", "pin", "verify", "--token", blank.token.uri, **{name: value})


# PINs that are easy to find in any output; the last one is too long to be sent.
CANARIES = {"wrong": "70717273747", "first": "80818283848", "second": "90919293949", "long": "60616263646" * 30}


def test_a_pin_is_in_no_file_and_no_output(home: Home) -> None:
    own, order, said = ("--token", home.token.uri), home.order(), []
    wrong, first, second, too_long = (home.pin(pin, f"{name}.canary") for name, pin in CANARIES.items())

    def run(*words: str, exits: int = 0, stdin: str = "") -> None:
        done = home.ushield("-vv", "--log-file", "log.txt", *words, *own, "--json", exits=exits, stdin=stdin)
        said.append(done.out + done.err)

    run("pin", "verify", "--pin-source", wrong, exits=4)
    run("pin", "verify", "--pin-source", too_long, exits=4)
    run("pin", "change", "--pin-source", home.token.pin_file, "--new-pin-source", first)
    run("sign", order, "--pin-source", "-", "--unattended", "-o", "signed.p7m", stdin=CANARIES["first"])
    run("cert", "request", "--subject", "CN=x", "--pin-source", first, "-o", "x.csr")
    run("pin", "change", "--pin-source", "-", "--new-pin-source", "-", stdin="{first}\n{second}\n".format(**CANARIES))
    run("pin", "unblock", "--so-pin-source", wrong, "--new-pin-source", second, exits=4)

    files = [path for path in home.folder.rglob("*") if path.is_file() and path.suffix != ".canary"]
    assert home.file("log.txt") in files
    for pin in CANARIES.values():
        assert [path for path in files if pin.encode() in path.read_bytes()] == []
        assert pin not in "".join(said)


# Counts the Pin objects that the command holds when it reaches a function, except in the test's own frames.
_LOOK = """
import gc, sys
from importlib import import_module
place, name, *words = sys.argv[1:]
from ushield_hw.cli.app import run
from ushield_hw.interaction import Pin
owner = import_module(place)
real = getattr(owner, name)

def call(*arguments, **options):
    gc.collect()
    held = {id(one) for holder in gc.get_objects() for one in gc.get_referents(holder) if isinstance(one, Pin)}
    print("PINs:", len(held), file=sys.stderr)
    sys.stderr.flush()
    if "serve" in words:
        raise KeyboardInterrupt
    return real(*arguments, **options)

setattr(owner, name, call)
sys.exit(run(words))
"""


def pins_held(home: Home, place: str, *words: str) -> list[str]:
    """Run a command with its PIN from stdin; return how many Pin objects it holds when it reaches a function."""
    ended = subprocess.run(
        [sys.executable, "-c", _LOOK, *place.split(":"), *words, "--pin-source", "-"],
        cwd=home.folder,
        env=home.environment,
        input=pin_of(home).encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    return [line for line in ended.stderr.decode().splitlines() if line.startswith("PINs:")]


def test_a_pin_from_a_pipe_is_dropped_after_the_last_login(home: Home) -> None:
    own = ("--token", home.token.uri)
    sign = ("sign", home.order(), *own, "--unattended", "-o")
    assert pins_held(home, "ushield_hw.cli.orders:sign", *sign, "one.p7m") == ["PINs: 1"]  # it may be needed again
    home.order()
    assert pins_held(home, "ushield_hw.cli.orders:_write", *sign, "two.p7m") == ["PINs: 0"]
    assert pins_held(home, "ushield_hw.certificates.renewal:request", "cert", "renew", *own, "--out", "r.p7m") == [
        "PINs: 0"
    ]
    home.json("bank", "init", "--dir", "bank", *own, "--pin-source", home.token.pin_file)
    assert pins_held(home, "ushield_hw.bank.server:serve", "bank", "serve", "--dir", "bank") == ["PINs: 0"]


def test_a_pipe_gives_a_pin_once(tmp_path: Path) -> None:
    """If the token of a bank's CA was removed, it is not opened again with the next line of stdin."""
    ask = PinRequest(PinKind.USER, "0", "x", PinState(), "ca")
    os.mkfifo(tmp_path / "pin", 0o600)
    (tmp_path / "kept").write_text("123456")
    (tmp_path / "kept").chmod(0o600)
    with ThreadPoolExecutor(1) as pool:
        pool.submit((tmp_path / "pin").write_text, "123456")
        sources = [Sources({PinKind.USER: str(tmp_path / name)}, Silent()) for name in ("pin", "kept")]
        assert [one.request_pin(ask) for one in sources * 2] == ["123456"] * 4
    for one in sources:
        one.forget()
    assert sources[1].request_pin(ask) == "123456"
    with pytest.raises(InputError) as caught:
        sources[0].request_pin(ask)
    assert caught.value.code == "PIN_MISSING"
