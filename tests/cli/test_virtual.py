"""``ushield virtual start``: a U-shield for another terminal, a script, or a browser."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from tests.cli.person import CTRL_C, Person
from tests.cli.world import AT_A_TERMINAL, TIMEOUT_S, USHIELD, Bank, Done, Home, checked
from ushield_hw.messages import LANGUAGES

pytestmark = pytest.mark.stack

START: Final = ("virtual", "start", "--dir", "shield")


@contextmanager
def started(home: Home, *words: str) -> Iterator[dict[str, Any]]:
    """Run it in the background; yield the document it prints."""
    process = subprocess.Popen(
        [USHIELD, *START, "--json", *words],
        cwd=home.folder,
        env=home.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, err) == (0, "")


def signing(order: str) -> str:
    """Return a shell command that signs an order with the given token."""
    return f'{USHIELD} sign {order} --token "$USHIELD_VIRTUAL_URI" --pin-source "$USHIELD_VIRTUAL_PIN_FILE" -o s.p7m'


def test_a_command_runs_with_the_token_plugged_in(bare: Home) -> None:
    order = bare.order()
    verify = f'{USHIELD} verify s.p7m --ca "$USHIELD_VIRTUAL_CA" --order {order}'
    done = bare.ushield(*START, "--answer", "ok", "--", "sh", "-c", f"{signing(order)} && {verify}")
    assert "The signature is valid." in done.out
    assert done.out.startswith("Signed: s.p7m")


@pytest.mark.parametrize("asked", ["", " --profile plain"])
def test_a_token_that_shows_what_it_signs_signs_the_message_itself(bare: Home, asked: str) -> None:
    """Without signed attributes the kind of confirmation is not stated, and none is reported."""
    verify = f'{USHIELD} verify s.p7m --ca "$USHIELD_VIRTUAL_CA"'
    steps = (
        f"{signing(bare.order())} --json{asked} > made.json",
        f"{verify} --json > verified.json",
        verify,
        'cp "$USHIELD_VIRTUAL_CA" ca.pem',
    )
    done = bare.ushield(*START, "--answer", "ok", "--", "sh", "-c", " && ".join(steps))
    for name in ("made.json", "verified.json"):
        document = bare.document(name)
        assert (document["profile"], document["confirmation"]) == ("plain", None)
    assert document["claimed_signing_time"] is None
    assert "Not stated" in done.out
    assert "Signing time" not in done.out
    assert Bank(bare.folder).accepts(bare.file("s.p7m"))


def test_cades_is_refused_where_the_message_itself_is_signed(bare: Home) -> None:
    command = f"{signing(bare.order())} --profile cades --json > failed.json"
    ended = subprocess.run(
        [USHIELD, *START, "--answer", "ok", "--", "sh", "-c", command],
        cwd=bare.folder,
        env=bare.environment,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert bare.document("failed.json")["error"]["code"] == "PROFILE_NOT_POSSIBLE"
    assert not bare.file("s.p7m").exists()


def test_the_command_s_exit_code_is_passed_on(bare: Home) -> None:
    script = signing(bare.order())
    for answer, code in (("refuse", 7), ("timeout", 8)):
        ended = subprocess.run(
            [USHIELD, *START, "--answer", answer, "--", "sh", "-c", script],
            cwd=bare.folder,
            env=bare.environment,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert ended.returncode == code, ended.stderr
    assert not bare.file("s.p7m").exists()


def test_a_command_that_is_not_there(bare: Home) -> None:
    details = bare.fails(2, "COMMAND_NOT_RUN", *START, "--", "./nonsuch")
    assert details["command"] == "./nonsuch"


def test_another_program_reaches_it_by_what_is_printed(bare: Home) -> None:
    with started(bare) as told:
        (token,) = bare.json("list", **told["env"])["tokens"]
        assert (token["serial"], token["driver"]) == (told["serial"], "ushield-virtual")
        state = bare.json("pin", "verify", "--token", told["uri"], "--pin-source", told["pin_file"], **told["env"])
        assert state["pin"]["locked"] is not True
    assert not os.path.exists(told["env"]["PCSCLITE_CSOCK_NAME"])


def test_it_is_the_same_token_the_next_time_and_remembers(bare: Home) -> None:
    with started(bare) as first:
        bare.fails(
            4,
            "PIN_INCORRECT",
            "pin",
            "verify",
            "--token",
            first["uri"],
            "--pin-source",
            bare.pin("000000"),
            **first["env"],
        )
    with started(bare) as second:
        assert (second["serial"], second["ca"]) == (first["serial"], first["ca"])
        assert bare.json("pin", "status", "--token", second["uri"], **second["env"])["pin"]["low"] is True


def test_a_model_cannot_change(bare: Home) -> None:
    with started(bare, "--model", "button") as told:
        assert told["model"] == "button"
    assert bare.fails(2, "VIRTUAL_OTHER_MODEL", *START)["model"] == "button"


def test_its_secrets_are_this_user_s_alone(bare: Home) -> None:
    with started(bare) as told:
        for name in ("pin_file", "so_pin_file"):
            assert os.stat(told[name]).st_mode & 0o077 == 0
        assert bare.file("shield").stat().st_mode & 0o077 == 0
        assert told["test_only"] is True


# --- the page ---------------------------------------------------------------------------------------------------------


def fetched(url: str, what: str = "", method: str = "GET") -> tuple[int, bytes]:
    try:
        asked = urllib.request.Request(url + what, method=method)  # noqa: S310 - on loopback
        with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


def test_the_page_shows_the_screen_and_its_buttons_work(bare: Home) -> None:
    with started(bare, "--page", "0") as told:
        url, order = told["page"], bare.order()
        status, page = fetched(url)
        assert (status, b"U-SHIELD" in page) == (200, True)
        process = subprocess.Popen(
            [USHIELD, "sign", order, "--token", told["uri"], "--pin-source", told["pin_file"], "-o", "s.p7m"],
            cwd=bare.folder,
            env=bare.environment | told["env"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        state = first_asking(url)
        assert "杭州某某网络有限公司" in state["screen"]
        assert (state["page"], state["pages"]) == (1, 3)
        assert fetched(url, "down", "POST")[0] == 204
        assert json.loads(fetched(url, "state")[1])["page"] == 2
        assert fetched(url, "ok", "POST")[0] == 204
        assert process.wait(TIMEOUT_S) == 0
        assert json.loads(fetched(url, "state")[1])["signatures"] == 1
        fetched(url, "eject", "POST")
        assert bare.json("list", **told["env"])["tokens"] == []
        fetched(url, "insert", "POST")
        assert len(bare.json("list", **told["env"])["tokens"]) == 1


def first_asking(url: str) -> Any:
    """Read the page's events until the token asks for confirmation."""
    with urllib.request.urlopen(url + "events", timeout=30) as events:  # noqa: S310 - on loopback
        for line in events:
            if line.startswith(b"data: ") and (state := json.loads(line[6:]))["asking"]:
                return state
    raise AssertionError("the stream has ended")


def test_nobody_who_does_not_know_the_address_can_look_or_press(bare: Home) -> None:
    with started(bare, "--page", "0") as told:
        root = told["page"].rsplit("/", 2)[0]
        assert root.startswith("http://127.0.0.1:")
        for what in ("/", "/state", "/ok", "/guess/ok"):
            assert fetched(root + what)[0] == 404
            assert fetched(root + what, method="POST")[0] == 404
        assert fetched(told["page"], "nonsuch", "POST")[0] == 404


def test_other_names_and_other_pages_are_refused(bare: Home) -> None:
    """Neither a DNS rebinding name nor another site's page can press a button."""
    with started(bare, "--page", "0") as told:
        url = told["page"]
        own = urlsplit(url).netloc

        def asked(method: str, what: str, **headers: str) -> int:
            known = {name.replace("_", "-"): value for name, value in headers.items()}
            request = urllib.request.Request(url + what, method=method, headers=known)  # noqa: S310 - on loopback
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code

        assert asked("GET", "state", Host="rebound.example") == 404
        assert asked("POST", "down", Host=f"rebound.example:{urlsplit(url).port}") == 404
        assert asked("POST", "down", Origin="https://evil.example") == 403
        assert asked("POST", "down", Origin="null") == 403
        assert asked("POST", "down", Sec_Fetch_Site="cross-site") == 403
        assert asked("POST", "down", Origin=f"http://{own}", Sec_Fetch_Site="same-origin") == 204


def test_silent_connections_hold_no_threads(bare: Home) -> None:
    with started(bare, "--page", "0") as told, contextlib.ExitStack() as held:
        place = urlsplit(told["page"])
        for _ in range(200):
            client = held.enter_context(socket.create_connection((place.hostname or "", place.port or 0), timeout=10))
            client.sendall(b"GET / HTTP/1.1\r\nX")
        assert fetched(told["page"], "state")[0] == 200
        (process,) = (path for path in Path("/proc").glob("[0-9]*") if _listens_for(path, place.port or 0))
        assert len(list((process / "task").iterdir())) < 60


def _listens_for(process: Path, port: int) -> bool:
    """Tell whether a process has the listening socket of a port."""
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    inodes = {row.split()[9] for row in rows if row.split()[1].endswith(f":{port:04X}") and row.split()[3] == "0A"}
    try:
        links = {os.readlink(link) for link in (process / "fd").iterdir()}
    except OSError:
        return False
    return bool(links & {f"socket:[{inode}]" for inode in inodes})


# --- at a terminal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lang", LANGUAGES)
def test_its_keys_are_the_keyboard(bare: Home, lang: str) -> None:
    ready, out = {"en": ("READY", "REMOVED"), "zh": ("就绪", "已拔出")}[lang]
    person = Person(bare, "--lang", lang, *START)
    person.sees(ready)
    person.presses(b"e")
    person.sees(out)
    person.presses(b"q")
    done = person.ends(0)
    assert done.out.startswith("export PCSCLITE_CSOCK_NAME=")


def test_ctrl_c_ends_it(bare: Home) -> None:
    person = Person(bare, *START)
    person.sees("READY")
    person.presses(CTRL_C)
    person.child.communicate(timeout=TIMEOUT_S)
    assert person.child.returncode == 130
    assert "Error" not in person.screen


def test_a_person_types_the_pin_once_and_looks_at_the_token(bare: Home) -> None:
    """The key requires the PIN for each signature, and this command makes one."""
    with started(bare, "--answer", "ok", "--after", "1") as told:
        words = ("sign", bare.order(), "--token", told["uri"], "-o", "s.p7m")
        person = Person(bare, *words, **told["env"])
        person.sees("PIN")
        person.types(bare.content("shield/pin").decode().strip())
        person.sees("press OK on the token")
        person.ends(0)
        assert person.screen.count("PIN ") == 1


def test_a_key_made_by_the_command_wants_the_pin_each_time_and_signs(bare: Home, bank: Bank) -> None:
    """Request, certificate, order: all through the command line, on a token with a display."""
    with started(bare, "--answer", "ok") as told:
        token = ("--token", told["uri"], "--pin-source", told["pin_file"])
        words = ("--key", "ec-p256", "--subject", "CN=李四,O=Demo Bank", "-o", "new.csr")
        made = bare.json("cert", "request", *token, *words, **told["env"])
        bank.certify(bare.file("new.csr"), bare.file("new.pem"))
        bare.ushield("cert", "install", "new.pem", *token, **told["env"])
        order = bare.order()
        bare.ushield("sign", order, *token, "--key-id", made["key_id"], "-o", "new.p7m", **told["env"])
        bare.ushield("verify", "new.p7m", "--ca", bank.ca, "--order", order)


# --- Ctrl-C while the token waits for confirmation --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "press", "exits", "code"),
    [
        (signal.SIGINT, "ok", 0, None),
        (signal.SIGINT, "c", 7, "CONFIRMATION_REJECTED"),
        (signal.SIGINT, None, 9, "OUTCOME_UNKNOWN"),
        (signal.SIGTERM, None, 9, "OUTCOME_UNKNOWN"),
        (signal.SIGHUP, None, 9, "OUTCOME_UNKNOWN"),
    ],
    ids=["Ctrl-C, then OK", "Ctrl-C, then C", "Ctrl-C", "SIGTERM", "SIGHUP"],
)
def test_a_signal_while_the_token_asks(
    bare: Home, number: signal.Signals, press: str | None, exits: int, code: str | None
) -> None:
    """The prompt on the token cannot be withdrawn; it may still be answered within two seconds."""
    with started(bare, "--page", "0") as told:
        order = bare.order()
        words = ("sign", order, "--token", told["uri"], "--pin-source", told["pin_file"], "-o", "s.p7m", "--json")
        process = subprocess.Popen(
            [*AT_A_TERMINAL, USHIELD, *words],
            cwd=bare.folder,
            env=bare.environment | told["env"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        first_asking(told["page"])
        process.send_signal(number)
        if press is not None:
            fetched(told["page"], press, "POST")
        out, err = process.communicate(timeout=TIMEOUT_S)
        document = checked(Done(process.returncode, out.decode(), err.decode()), words, exits).document
        assert bare.file("s.p7m").exists() is (exits == 0)
        if code is not None:
            assert document["error"]["code"] == code
            assert document["error"]["details"]["tx_id"] == bare.document(order)["tx_id"]
