"""``ushield bank serve`` with third-party clients: curl and openssl. Also killed while requests are processed."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cli.branch import (
    EST,
    PKCS10,
    SUBJECT,
    Answer,
    Branch,
    Counter,
    Customer,
    b64,
    openssl,
    serial_of,
)
from tests.cli.world import Home

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180), pytest.mark.xdist_group("bank-server")]


@pytest.fixture(scope="module")
def branch(tmp_path_factory: pytest.TempPathFactory) -> Branch:
    """A bank with a running server; shared: each test has its own customers."""
    return Branch.founded(Home(tmp_path_factory.mktemp("branch")), "--origin", "http://localhost:1")


@pytest.fixture(scope="module")
def counter(branch: Branch) -> Iterator[Counter]:
    with branch.serving() as running:
        yield running


@pytest.fixture
def customer(tmp_path: Path) -> Customer:
    return Customer(tmp_path / "customer")


def enrolled(branch: Branch, counter: Counter, customer: Customer, name: str = "old", who: str = "C1") -> bytes:
    """Return a first certificate (PEM)."""
    return counter.enroll(customer.request(name), branch.code(who), who).certificate


def renewed(counter: Counter, customer: Customer, old: bytes, name: str = "new") -> bytes:
    return counter.reenroll(customer.cms("old", old, customer.request(name))).certificate


# --- enrolment --------------------------------------------------------------------------------------------------------


def test_cacerts_is_what_openssl_reads(branch: Branch, counter: Counter) -> None:
    assert counter.ask(f"{EST}/cacerts").certificate == branch.ca.read_bytes()
    head = counter.ask(f"{EST}/cacerts", "--include").body.decode()
    assert "content-type: application/pkcs7-mime\r\n" in head.lower()


@pytest.mark.parametrize(
    ("profile", "key", "usage"), [("payment", "ec", "Non Repudiation"), ("login", "rsa", "Digital Signature")]
)
def test_enrolled_by_openssl(
    branch: Branch, counter: Counter, customer: Customer, tmp_path: Path, profile: str, key: str, usage: str
) -> None:
    got = counter.enroll(customer.request("k", key=key), branch.code("C1", profile)).certificate
    (tmp_path / "k.pem").write_bytes(got)
    openssl("verify", "-x509_strict", "-CAfile", branch.ca, tmp_path / "k.pem")
    shown = openssl("x509", "-noout", "-text", stdin=got).decode()
    assert re.search(rf"Key Usage: critical\s+{usage}\n", shown)
    assert re.search(r"Basic Constraints: critical\s+CA:FALSE", shown)
    assert "Extended Key Usage" not in shown
    assert "URI:http://localhost:1/crl" in shown


def test_what_it_signs_is_taken_by_openssl_and_by_us(
    branch: Branch, counter: Counter, customer: Customer, tmp_path: Path
) -> None:
    order = branch.home.order("signed-order.json")
    canonical = json.dumps(
        branch.home.document(order), ensure_ascii=False, sort_keys=True, separators=(",", ":")
    ).encode()
    signed = tmp_path / "signed.p7m"
    signed.write_bytes(customer.cms("old", enrolled(branch, counter, customer), canonical))
    crl = tmp_path / "ca.crl"
    crl.write_bytes(counter.ask("/crl").body)
    words = ["-verify", "-binary", "-inform", "DER", "-purpose", "any", "-CAfile", branch.ca, "-in", signed]
    openssl("cms", *words, "-out", tmp_path / "content")
    done = branch.home.json("verify", signed, "--ca", branch.ca, "--crl", crl, "--order", order)
    assert (done["verified"], done["revocation"], done["signer"]["subject"]) == (True, "good", SUBJECT)


def test_the_same_request_gets_the_same_certificate(branch: Branch, counter: Counter, customer: Customer) -> None:
    request, code = customer.request(), branch.code()
    first = counter.enroll(request, code)
    assert counter.enroll(request, code).certificate == first.certificate
    assert counter.enroll(customer.request(), code).certificate == first.certificate  # a new signature by the same key
    refused = counter.enroll(customer.request("another"), code)
    assert (refused.status, refused.code) == (409, "CODE_USED")


@pytest.mark.parametrize(
    ("kind", "body", "status", "code"),
    [
        ("text/plain", b"x", 415, "REQUEST_MEDIA_TYPE"),
        ("", b"x", 415, "REQUEST_MEDIA_TYPE"),
        (PKCS10, b"", 400, "REQUEST_MALFORMED"),
        (PKCS10, b"!!!!", 400, "REQUEST_MALFORMED"),
        (PKCS10, b"aGVsbG8=", 400, "REQUEST_MALFORMED"),
        (PKCS10, b"\x30\x03\x02\x01\x01", 400, "REQUEST_MALFORMED"),
        (PKCS10, b"A" * 140_000, 413, "REQUEST_TOO_LARGE"),
    ],
    ids=["text", "none", "empty", "no base64", "no DER", "no PKCS10", "too large"],
)
def test_bodies_that_are_none(branch: Branch, counter: Counter, kind: str, body: bytes, status: int, code: str) -> None:
    login = ("--user", f"C1:{branch.code()}")
    got = counter.ask(f"{EST}/simpleenroll", *login, body=body, kind=kind)
    assert (got.status, got.code) == (status, code)
    assert got.document["error"]["message"]


def test_too_large_without_saying_so_first(branch: Branch, counter: Counter) -> None:
    login = ("--user", f"C1:{branch.code()}", "-H", "Transfer-Encoding: chunked")
    got = counter.ask(f"{EST}/simpleenroll", *login, body=b"A" * 1_000_000, kind=PKCS10)
    assert (got.status, got.code) == (413, "REQUEST_TOO_LARGE")


def test_codes_that_are_wrong(branch: Branch, counter: Counter, customer: Customer) -> None:
    request, place = b64(customer.request()), f"{EST}/simpleenroll"
    branch.code("C9")
    for login in ((), ("--user", "C9:nonsense"), ("--user", ":"), ("-H", "Authorization: Bearer x")):
        got = counter.ask(place, "--include", *login, body=request, kind=PKCS10)
        assert got.status == 401 and b'"CODE_WRONG"' in got.body
        assert b"www-authenticate: basic" in got.body.lower()
    for _ in range(9):
        counter.ask(place, "--user", "C9:nonsense", body=request, kind=PKCS10)
    limited = counter.ask(place, "--include", "--user", "C9:nonsense", body=request, kind=PKCS10)
    assert limited.status == 429 and b'"CODES_TOO_MANY"' in limited.body
    assert re.search(rb"retry-after: \d+", limited.body.lower())


@pytest.mark.parametrize(
    ("path", "options", "status", "code"),
    [
        ("/", (), 404, "REQUEST_ADDRESS"),
        (f"{EST}/csrattrs", (), 404, "REQUEST_ADDRESS"),
        ("/crl", ("-X", "DELETE"), 405, "REQUEST_METHOD"),
        (f"{EST}/simpleenroll", (), 405, "REQUEST_METHOD"),
        ("/renewals/" + "0" * 64, (), 404, "RENEWAL_NOT_FOUND"),
        ("/renewals/nonsense", (), 404, "RENEWAL_NOT_FOUND"),
        ("/renewals/..%2f..%2fetc", (), 404, "RENEWAL_NOT_FOUND"),
    ],
)
def test_places_that_are_none(counter: Counter, path: str, options: tuple[str, ...], status: int, code: str) -> None:
    got = counter.ask(path, "--path-as-is", *options)
    assert got.status == status
    assert got.code in {code, "REQUEST_ADDRESS"}


# --- renewal ----------------------------------------------------------------------------------------------------------


def test_renewed_by_openssl(branch: Branch, counter: Counter, customer: Customer, tmp_path: Path) -> None:
    old = enrolled(branch, counter, customer)
    request = customer.cms("old", old, customer.request("new"))
    new = counter.reenroll(request).certificate
    assert counter.reenroll(request).certificate == new
    (tmp_path / "new.pem").write_bytes(new)
    openssl("verify", "-x509_strict", "-CAfile", branch.ca, tmp_path / "new.pem")
    spki = customer.spki("new")
    document = counter.document(spki)
    assert counter.document(spki).body == document.body
    about = document.document
    assert (about["type"], about["bank"]["origin"]) == ("ushield.renewal/1", "http://localhost:1")
    assert about["certificate"]["serial"] == serial_of(new) and about["replaces"] == {"serial": serial_of(old)}
    signed = customer.cms("new", new, document.body)
    done = counter.activate(spki, signed)
    assert done.status == 200
    assert done.document == {
        "state": "active",
        "serial": serial_of(new),
        "replaces": serial_of(old),
        "activated": done.document["activated"],
    }
    assert counter.activate(spki, b64(signed)).body == done.body  # again, and as base64
    states = {one["serial"]: one["state"] for one in branch.certificates()}
    assert (states[serial_of(old)], states[serial_of(new)]) == ("superseded", "active")
    late = counter.reenroll(customer.cms("old", old, customer.request("third")))
    assert (late.status, late.code) == (409, "RENEWAL_SUPERSEDED")


def test_by_the_command(branch: Branch, counter: Counter, home: Home) -> None:
    """``ushield cert renew --bank``, with both keys on a soft token."""
    own = ("--token", home.token.uri, "--pin-source", home.token.pin_file)
    home.json("cert", "request", *own, "--subject", SUBJECT, "-o", "first.csr")
    request = openssl("req", "-in", home.file("first.csr"), "-outform", "DER")
    home.write("first.pem", counter.enroll(request, branch.code("C5"), "C5").certificate)
    installed = home.json("cert", "install", "first.pem", *own)
    done = home.json("cert", "renew", *own, "--key-id", installed["key_id"], "--bank", counter.url)["renewed"]
    assert done["acknowledged"]
    states = {one["serial"]: one["state"] for one in branch.certificates()}
    assert (states[done["replaced"]], states[done["serial"]]) == ("superseded", "active")
    home.sign(home.order(), "signed.p7m", "--key-id", done["key_id"])
    crl = home.write("ca.crl", counter.ask("/crl").body)
    assert home.json("verify", "signed.p7m", "--ca", branch.ca, "--crl", crl)["signer"]["serial"] == done["serial"]


def refusals(branch: Branch, counter: Counter, customer: Customer) -> dict[str, tuple[Callable[[], Answer], int]]:
    old = enrolled(branch, counter, customer)
    stranger = Customer(customer.folder / "stranger")
    own = openssl("req", "-x509", "-key", customer.folder / "old.key", "-subj", "/CN=x", "-days", "1")
    stranger.request("old")

    def ask(by: Customer, certificate: bytes, content: bytes) -> Callable[[], Answer]:
        return lambda: counter.reenroll(by.cms("old", certificate, content))

    good = customer.cms("old", old, customer.request("new"))
    damaged = good[:-1] + bytes([good[-1] ^ 1])
    return {
        "PROOF_WRONG": (lambda: counter.reenroll(damaged), 403),
        "REQUEST_MALFORMED": (ask(customer, old, b"hello"), 400),
        "SUBJECT_MISMATCH": (ask(customer, old, customer.request("new", "/O=Demo Bank/CN=李四")), 403),
        "KEY_REUSED": (ask(customer, old, customer.request("old")), 409),
        "CERTIFICATE_UNKNOWN": (ask(customer, own, customer.request("new")), 403),
    }


@pytest.mark.parametrize(
    "code", ["PROOF_WRONG", "REQUEST_MALFORMED", "SUBJECT_MISMATCH", "KEY_REUSED", "CERTIFICATE_UNKNOWN"]
)
def test_renewals_that_are_refused(branch: Branch, counter: Counter, customer: Customer, code: str) -> None:
    work, status = refusals(branch, counter, customer)[code]
    got = work()
    assert (got.status, got.code) == (status, code)


def test_revoked_while_the_server_runs(branch: Branch, counter: Counter, customer: Customer, tmp_path: Path) -> None:
    old = enrolled(branch, counter, customer)
    (tmp_path / "old.pem").write_bytes(old)
    check = ("verify", "-crl_check", "-CAfile", branch.ca, "-CRLfile", tmp_path / "ca.pem.crl", tmp_path / "old.pem")

    def crl() -> tuple[int, str]:
        der = counter.ask("/crl").body
        shown = openssl("crl", "-inform", "DER", "-noout", "-text", "-CAfile", branch.ca, stdin=der).decode()
        (tmp_path / "ca.pem.crl").write_bytes(openssl("crl", "-inform", "DER", stdin=der))
        found = re.search(r"CRL Number:\s+(\d+)", shown)
        assert found
        return int(found[1]), shown

    before, _ = crl()
    assert crl()[0] == before  # the cached CRL
    openssl(*check)
    branch.revoke(serial_of(old))
    after, shown = crl()
    assert after > before
    assert f"{int(serial_of(old), 16):040X}".lstrip("0") in shown and "Key Compromise" in shown
    done = subprocess.run(["openssl", *map(str, check)], capture_output=True, timeout=60, check=False)
    assert b"certificate revoked" in done.stderr and done.returncode != 0
    refused = counter.reenroll(customer.cms("old", old, customer.request("new")))
    assert (refused.status, refused.code) == (403, "RENEWAL_CERTIFICATE_REVOKED")


def test_two_servers_and_many_at_once_one_certificate(branch: Branch, counter: Counter, customer: Customer) -> None:
    old = enrolled(branch, counter, customer)
    requests = [customer.cms("old", old, customer.request("new")) for _ in range(8)]
    with branch.serving() as other, ThreadPoolExecutor(8) as pool:
        both = [counter, other]
        got = list(pool.map(lambda n: both[n % 2].reenroll(requests[n]), range(8)))
        assert len({one.certificate for one in got}) == 1
        spki = customer.spki("new")
        documents = list(pool.map(lambda n: both[n % 2].document(spki), range(8)))
        assert len({one.body for one in documents}) == 1
        signed = customer.cms("new", got[0].certificate, documents[0].body)
        done = list(pool.map(lambda n: both[n % 2].activate(spki, signed), range(8)))
        assert {(one.status, one.body) for one in done} == {(200, done[0].body)}
    mine = [one for one in branch.certificates() if one["replaces"] == serial_of(old)]
    assert [one["serial"] for one in mine] == [serial_of(got[0].certificate)]


# --- killed -----------------------------------------------------------------------------------------------------------

MOMENTS = (0.9, 1.4, 2.0, 3.0, 8.0)


def killed_while(branch: Branch, moment: float, work: Callable[[Counter], Answer]) -> Answer:
    """Kill the server while it processes a request; return the client's result.

    Args:
        branch: a bank.
        moment: when, in units of the time that curl currently takes for a simple request.
        work: sends the request.
    """
    with branch.serving() as counter, ThreadPoolExecutor(1) as pool:
        counter.ask(f"{EST}/cacerts")  # all modules are loaded
        begun = time.monotonic()
        counter.ask(f"{EST}/cacerts")
        usual_s = time.monotonic() - begun
        answer = pool.submit(work, counter)
        time.sleep(usual_s * moment)
        counter.process.send_signal(signal.SIGKILL)
        return answer.result(60)


@pytest.mark.timeout(900)  # some sixty servers are started sequentially
def test_killed_while_it_issues_and_activates_nothing_is_made_twice(tmp_path: Path) -> None:
    branch, customer = Branch.founded(Home(tmp_path)), Customer(tmp_path / "customer")
    answered = 0
    for n, moment in enumerate(MOMENTS):
        who, names = f"C{n}", (f"old{n}", f"new{n}")
        request, code = customer.request(names[0]), branch.code(who)
        first = killed_while(branch, moment, lambda c, r=request, d=code, w=who: c.enroll(r, d, w))  # type: ignore[misc]
        with branch.serving() as counter:
            old = counter.enroll(request, code, who).certificate
        wrapped = customer.cms(names[0], old, customer.request(names[1]))
        second = killed_while(branch, moment, lambda c, w=wrapped: c.reenroll(w))  # type: ignore[misc]
        with branch.serving() as counter:
            new = counter.reenroll(wrapped).certificate
            document = counter.document(customer.spki(names[1])).body
        signed, spki = customer.cms(names[1], new, document), customer.spki(names[1])
        third = killed_while(branch, moment, lambda c, p=spki, s=signed: c.activate(p, s))  # type: ignore[misc]
        with branch.serving() as counter:
            done = counter.activate(spki, signed)
        assert done.status == 200
        assert first.status == 0 or first.certificate == old
        assert second.status == 0 or second.certificate == new
        assert third.status == 0 or third.body == done.body
        answered += sum(one.status == 200 for one in (first, second, third))
        mine = {one["serial"]: one["state"] for one in branch.certificates() if one["customer"] == who}
        assert mine == {serial_of(old): "superseded", serial_of(new): "active"}
    assert 0 < answered < 3 * len(MOMENTS), "the moments are not awkward: all came too early, or all too late"


# --- the CA's token ---------------------------------------------------------------------------------------------------


def workers(pid: int) -> list[int]:
    """Return the descendants of a process."""
    found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [below for child in found for below in workers(child)]


@pytest.fixture
def in_a_worker(tmp_path: Path) -> Path:
    """Descriptors that run SoftHSM2 in a worker process."""
    text = (Path(__file__).parents[2] / "drivers/softhsm2.toml").read_text()
    changed, n = re.subn('isolation = "in-process"', 'isolation = "process"', text)
    assert n == 1
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers/softhsm2.toml").write_text(changed)
    return tmp_path / "drivers"


def test_the_module_dies_and_the_token_is_opened_again(branch: Branch, customer: Customer, in_a_worker: Path) -> None:
    request, code = customer.request(), branch.code("C6")
    with branch.serving(drivers=in_a_worker) as counter:
        counter.enroll(customer.request("before"), branch.code("C6"), "C6")
        for pid in workers(counter.process.pid):
            os.kill(pid, signal.SIGKILL)
        lost = counter.enroll(request, code, "C6")
        assert (lost.status, lost.code) == (503, "BANK_KEY_UNAVAILABLE")
        again = counter.enroll(request, code, "C6")
        assert again.status == 200
    mine = [one["serial"] for one in branch.certificates() if one["customer"] == "C6"]
    assert serial_of(again.certificate) in mine and len(mine) == 2


def test_a_pin_that_is_refused_is_tried_once(tmp_path: Path, in_a_worker: Path) -> None:
    branch, customer = Branch.founded(Home(tmp_path)), Customer(tmp_path / "customer")
    request, code, pin = customer.request(), branch.code(), branch.home.file("bank/softhsm/ushield-bank-ca.pin")
    with branch.serving(drivers=in_a_worker) as counter:
        right = pin.read_text()
        new = branch.home.pin("123456789012", "new.pin")
        own = ("--token", "ushield-bank-ca", "--pin-source", str(pin), "--new-pin-source", new)
        conf = str(branch.home.file("bank/softhsm/softhsm2.conf"))
        branch.home.json("pin", "change", *own, SOFTHSM2_CONF=conf)  # from here on the file holds the old PIN
        for pid in workers(counter.process.pid):
            os.kill(pid, signal.SIGKILL)
        answers = [counter.enroll(request, code) for _ in range(4)]
        assert {(one.status, one.code) for one in answers} == {(503, "BANK_KEY_UNAVAILABLE")}
        status = branch.home.json("pin", "status", "--token", "ushield-bank-ca", SOFTHSM2_CONF=conf)["pin"]
        assert status["retries_left"] == 5  # one of six attempts was used
    assert pin.read_text() == right


# --- the server itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly(branch: Branch, number: signal.Signals) -> None:
    with branch.serving() as counter:
        assert counter.ask("/crl").status == 200
        code, out, err = counter.end(number)
    assert (code, out) == (0, "")
    assert "Traceback" not in err
    assert not [name for name in branch.home.file("bank").iterdir() if name.name.endswith("-journal")]


def test_what_it_says_at_a_terminal(branch: Branch) -> None:
    words = ("--port", "0")
    process = subprocess.Popen(
        [*("ushield",), "--lang", "zh", "bank", "serve", "--dir", "bank", *words],
        executable=str(Path(__import__("sys").executable).with_name("ushield")),
        cwd=branch.home.folder,
        env=branch.home.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert re.search(r"http://127\.0\.0\.1:\d+$", line.strip())
    assert "仅供测试" in err and "按 Ctrl-C 结束" in err
    assert process.returncode == 0


def test_slow_clients_are_cut_off(counter: Counter) -> None:
    """Neither the head nor the body of a request is awaited indefinitely; other clients are served meanwhile."""
    heads = {
        "head": b"GET /crl HTTP/1.1\r\nHost: x\r\n",
        "nothing": b"",
        "body": b"POST /.well-known/est/simplereenroll HTTP/1.1\r\nHost: x\r\nContent-Type: application/pkcs7-mime\r\n"
        b"Content-Length: 1000\r\n\r\nMII",
        "second": b"GET /crl HTTP/1.1\r\nHost: x\r\n\r\nGET /crl HTTP/1.1\r\n",
    }
    place = urlsplit(counter.url)
    ended: dict[str, tuple[float, bytes]] = {}

    def wait(name: str) -> None:
        with socket.create_connection((place.hostname, place.port), timeout=40) as client:
            begun, got = time.monotonic(), b""
            client.sendall(heads[name])
            try:
                while piece := client.recv(4096):
                    got += piece
            except ConnectionResetError:
                pass
            ended[name] = time.monotonic() - begun, got

    threads = [threading.Thread(target=wait, args=(name,)) for name in heads]
    for thread in threads:
        thread.start()
    assert counter.ask("/crl").status == 200
    for thread in threads:
        thread.join(60)
    assert ended.keys() == heads.keys()
    assert all(waited < 30 for waited, _ in ended.values()), ended
    assert ended["head"][1] == ended["nothing"][1] == b""
    assert b" 408 " in ended["body"][1] and b"REQUEST_TIMED_OUT" in ended["body"][1]
    assert ended["second"][1].count(b" 200 OK") == 1


def test_answers_do_not_wait_for_acknowledgements(counter: Counter) -> None:
    """Nagle's algorithm would delay each response body by the 40 ms of a delayed acknowledgement."""
    place = urlsplit(counter.url)
    client, took = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30), []
    for _ in range(21):
        begun = time.monotonic()
        client.request("GET", "/crl")
        client.getresponse().read()
        took.append(time.monotonic() - begun)
    client.close()
    assert sorted(took)[10] < 0.03, took


def test_only_this_machine_without_tls(branch: Branch) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "bank.example"):  # noqa: S104 - refused
        branch.home.fails(2, "BANK_NEEDS_TLS", "bank", "serve", "--dir", "bank", "--host", host)
    branch.home.fails(2, "USAGE_MISSING", "bank", "serve", "--dir", "bank", "--tls-cert", "x.pem")


def test_with_tls(branch: Branch, tmp_path: Path) -> None:
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    made = ["-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "tls.key", "-out", tmp_path / "tls.pem"]
    openssl("req", "-x509", *made, *names)
    files = ("--tls-cert", tmp_path / "tls.pem", "--tls-key", tmp_path / "tls.key")
    with branch.serving("--host", "localhost", *files, curl=["--cacert", str(tmp_path / "tls.pem")]) as counter:
        assert counter.url.startswith("https://localhost:")
        assert counter.ask("/crl").status == 200
        port = urlsplit(counter.url).port
        context = ssl.create_default_context(cafile=str(tmp_path / "tls.pem"))
        with (
            socket.create_connection(("localhost", port or 0)) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as wrapped,
        ):
            assert wrapped.version() in {"TLSv1.2", "TLSv1.3"}
    swapped = ("--tls-cert", tmp_path / "tls.key", "--tls-key", tmp_path / "tls.pem")
    branch.home.fails(2, "BANK_TLS_INVALID", "bank", "serve", "--dir", "bank", *swapped)


def test_a_port_that_is_taken(branch: Branch, counter: Counter) -> None:
    port = urlsplit(counter.url).port
    branch.home.fails(11, "BANK_PORT_UNUSABLE", "bank", "serve", "--dir", "bank", "--port", port)


def test_neither_pin_nor_code_is_in_the_log(branch: Branch, customer: Customer, tmp_path: Path) -> None:
    log, pin = tmp_path / "log", branch.home.content("bank/softhsm/ushield-bank-ca.pin").strip()
    environment: dict[str, Any] = branch.home.environment
    branch.home.write("config/ushield/config.toml", f'log_file = "{log}"\n')
    try:
        code = branch.code("C3")
        with branch.serving() as counter:
            counter.enroll(customer.request(), code, "C3")
            counter.enroll(customer.request("second"), code, "C3")
            argv = Path(f"/proc/{counter.process.pid}/cmdline").read_bytes()
            *_, err = counter.end()
    finally:
        branch.home.file("config/ushield/config.toml").unlink()
    logged = log.read_bytes()
    assert b"simpleenroll: CODE_USED" in logged
    for secret in (pin, code.encode(), code.replace("-", "").encode()):
        assert secret not in logged + argv + err.encode()
    assert pin.decode() not in str(environment)
