"""``ushield bank serve`` on the network: malformed requests, slow clients, and overload."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cli.branch import Branch, Counter, openssl
from tests.cli.world import Home
from ushield_hw.bank.connections import MOST_OF_A_PEER

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180), pytest.mark.xdist_group("bank-server")]

ENROLL = "/.well-known/est/simpleenroll"
HOST = b"Host: x\r\n"
POST = b"POST /.well-known/est/simplereenroll HTTP/1.1\r\nHost: x\r\nContent-Type: application/pkcs7-mime\r\n"


@pytest.fixture(scope="module")
def branch(tmp_path_factory: pytest.TempPathFactory) -> Branch:
    return Branch.founded(Home(tmp_path_factory.mktemp("network")), "--origin", "http://localhost:1")


@pytest.fixture(scope="module")
def counter(branch: Branch) -> Iterator[Counter]:
    with branch.serving() as running:
        yield running


def connected(counter: Counter) -> socket.socket:
    place = urlsplit(counter.url)
    return socket.create_connection((place.hostname or "", place.port or 0), timeout=30)


def exchange(counter: Counter, sent: bytes) -> bytes:
    """Send bytes; return everything received until the server closes the connection or is silent for a while."""
    with connected(counter) as client:
        client.sendall(sent)
        client.settimeout(5)
        got = b""
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while piece := client.recv(65536):
                got += piece
        return got


def answers(got: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Parse the responses in a stream: status, headers, body."""
    found = []
    while got:
        head, _, got = got.partition(b"\r\n\r\n")
        start, *rows = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (row.split(": ", 1) for row in rows)}
        length = int(headers["content-length"])
        found.append((int(start.split()[1]), headers, got[:length]))
        got = got[length:]
    return found


def error(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body)["error"]
    assert set(found) == {"code", "message", "remedy"}
    return found


# --- malformed requests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET /crl HTTP/1.1\r\n\r\n",
        b"GET /crl HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /crl HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 20000 + b"\r\n\r\n",
        b"GET /crl HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 200 + b"\r\n",
        b"GET http://u:p@x/crl HTTP/1.1\r\n" + HOST + b"\r\n",
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /crl HTTP/1.1\r\nHost: x\r\n\r\n",
        POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nMIIBGET /crl HTTP/1.1\r\nHost: x\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
        POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
    ids=range(13),
)
def test_what_is_no_request_is_refused_as_documented_and_closed(counter: Counter, sent: bytes) -> None:
    begun = time.monotonic()
    found = answers(exchange(counter, sent if sent.endswith(b"\n") else sent + b"\r\n\r\n"))
    assert time.monotonic() - begun < 5, "it was left open"
    ((status, headers, body),) = found
    assert (status, headers["connection"], headers["content-type"]) == (400, "close", "application/json")
    assert error(body)["code"] == "REQUEST_MALFORMED"


@pytest.mark.parametrize("target", [b"/crl", b"http://bank.example/crl", b"HTTPS://bank.example:443/crl?x=1"])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_targets_in_absolute_form_are_taken(counter: Counter, target: bytes, version: bytes) -> None:
    asked = b"GET " + target + b" HTTP/" + version + b"\r\nHost: other\r\nConnection: close\r\n\r\n"
    ((status, headers, _),) = answers(exchange(counter, asked))
    assert (status, headers["content-type"]) == (200, "application/pkix-crl")


def test_two_requests_in_one_go_get_two_answers(counter: Counter) -> None:
    last = b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    found = answers(exchange(counter, b"GET /crl HTTP/1.1\r\nHost: x\r\n\r\n" + last))
    assert [status for status, _, _ in found] == [200, 404]


def test_a_body_in_chunks_is_bounded(counter: Counter) -> None:
    chunk = b"4000\r\n" + b"M" * 0x4000 + b"\r\n"
    with connected(counter) as client:
        client.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        got = b""
        with contextlib.suppress(OSError):
            for _ in range(200):
                client.sendall(chunk)
        with contextlib.suppress(OSError):
            while piece := client.recv(65536):
                got += piece
    assert not got or b" 413 " in got


@pytest.mark.parametrize("path", ["/crl/", f"{ENROLL}/", "//evil.example/crl/", "/crl/%2e%2e/"])
def test_nothing_sends_the_client_elsewhere(counter: Counter, path: str) -> None:
    asked = f"GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".encode()
    ((status, headers, body),) = answers(exchange(counter, asked))
    assert (status, "location" in headers, error(body)["code"]) == (404, False, "REQUEST_ADDRESS")
    assert b"evil" not in body


# --- overload ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [b"", b"GET /crl HTTP/1.1\r\n", POST + b"Content-Length: 1000\r\n\r\nMII"])
def test_half_requests_close_the_bank_to_nobody(counter: Counter, begun: bytes) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(300):
            client = held.enter_context(connected(counter))
            with contextlib.suppress(OSError):
                client.sendall(begun)
        for _ in range(3):
            assert counter.ask("/crl").status == 200


def test_the_oldest_of_a_peer_makes_place(counter: Counter) -> None:
    with contextlib.ExitStack() as held:
        clients = [held.enter_context(connected(counter)) for _ in range(MOST_OF_A_PEER + 10)]
        clients[0].settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert clients[0].recv(1) == b""
        clients[-1].sendall(b"GET /crl HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert clients[-1].recv(100).startswith(b"HTTP/1.1 200")


def test_handshakes_that_stall_are_ended(branch: Branch, tmp_path: Path) -> None:
    made = ["-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "tls.key", "-out", tmp_path / "tls.pem"]
    openssl("req", "-x509", *made, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2")
    files = ("--tls-cert", tmp_path / "tls.pem", "--tls-key", tmp_path / "tls.key")
    with branch.serving("--host", "localhost", *files, curl=["--cacert", str(tmp_path / "tls.pem")]) as counter:
        with contextlib.ExitStack() as held:
            clients = [held.enter_context(connected(counter)) for _ in range(300)]
            assert counter.ask("/crl").status == 200
            clients[0].settimeout(40)
            begun = time.monotonic()
            with contextlib.suppress(ConnectionResetError):
                assert clients[0].recv(1) == b""
            assert time.monotonic() - begun < 35
        context = ssl.create_default_context(cafile=str(tmp_path / "tls.pem"))
        with connected(counter) as raw, context.wrap_socket(raw, server_hostname="localhost") as wrapped:
            wrapped.sendall(b"GET /crl HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert wrapped.recv(100).startswith(b"HTTP/1.1 200")


def test_wrong_codes_do_not_fill_the_register(branch: Branch, counter: Counter) -> None:
    register = branch.home.file("bank/bank.sqlite3")
    before = register.stat().st_size
    words = ["curl", "-s", "-o", "/dev/null", "-H", "Content-Type: application/pkcs10", "--data-binary", "MAA="]
    urls = [f"{counter.url}{ENROLL}"] * 50
    for part in range(3):
        login = ["-u", f"stranger{part}:AAAA-AAAA"]
        subprocess.run([*words, *login, *urls], check=True, timeout=60)
    assert register.stat().st_size == before


# --- the log ----------------------------------------------------------------------------------------------------------


def test_a_client_cannot_write_to_the_terminal_of_who_reads_the_log(branch: Branch, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with branch.serving(log=log) as counter:
        exchange(
            counter,
            b"GET /renewals/%1b[2J%0a2026-01-01%20forged%c2%9b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )
    content = log.read_text()
    assert "/renewals/" in content
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", content)
    assert not any(row.startswith("2026-01-01 forged") for row in content.splitlines())
