"""Responses of a bank other than a certificate."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import serialize_certificates
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.cms import pki
from ushield_hw.certificates.renewal.est_client import EstBank, certificate_in
from ushield_hw.crypto.parsing import Unreadable
from ushield_hw.errors import NetworkError, RenewalRejected

ROOT = pki.authority()
CERTIFICATE = ROOT.issue("CN=A", pki.key().public_key())
GOOD = serialize_certificates([CERTIFICATE], Encoding.DER)
VERSION_2 = GOOD.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01")
VERSION_9 = GOOD.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x08")


def answers(status: int, body: bytes, head: bytes = b"") -> bytes:
    size = b"" if b"ncoding" in head else b"Content-Length: %d\r\n" % len(body)
    return b"HTTP/1.1 %d Any\r\n%b%b\r\n%b" % (status, size, head, body)


@contextmanager
def bank(answer: bytes) -> Iterator[EstBank]:
    """A bank that answers every request with these bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(answer)

        do_GET = do_POST  # noqa: N815 - likewise

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield EstBank(f"http://127.0.0.1:{server.server_port}", deadline_s=20)
        finally:
            server.shutdown()
            thread.join()


def test_a_certificate() -> None:
    with bank(answers(200, base64.encodebytes(GOOD))) as there:
        assert there.certify(b"x") == pki.der(CERTIFICATE)


def test_an_answer_in_ber_is_read_without_a_word() -> None:
    """As Bouncy Castle writes it; a warning would fail this test."""
    assert GOOD[:2] == b"\x30\x82" and GOOD[4:15] == b"\x06\x09*\x86H\x86\xf7\r\x01\x07\x02"
    in_ber = b"\x30\x80" + GOOD[4:] + b"\x00\x00"

    assert certificate_in(base64.b64encode(in_ber)) == pki.der(CERTIFICATE)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\x00",
        base64.b64encode(b"nothing"),
        base64.b64encode(VERSION_2),
        base64.b64encode(VERSION_9),
        base64.b64encode(GOOD[:-40]),
        base64.b64encode(b"\x30\x80" * 50_000),
        base64.b64encode(serialize_certificates([CERTIFICATE, CERTIFICATE], Encoding.DER)),
        base64.b64encode(serialize_certificates([ROOT.certificate], Encoding.DER)),
    ],
    ids=["empty", "noise", "no CMS", "version 2", "version 9", "cut off", "deep", "two", "a CA"],
)
def test_an_answer_that_holds_no_certificate(body: bytes) -> None:
    with bank(answers(200, body)) as there, pytest.raises(NetworkError) as caught:
        there.certify(b"x")
    assert caught.value.code == "BANK_ANSWER"


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        answers(200, b"zz\r\n", b"Transfer-Encoding: chunked\r\n"),
        answers(200, b"x", b"Y" * 70_000 + b": 1\r\n"),
        answers(200, b"x" * (1 << 21)),
    ],
    ids=["no HTTP", "no status", "no chunk", "long head", "long body"],
)
def test_an_answer_that_is_no_http(answer: bytes) -> None:
    with bank(answer) as there, pytest.raises(NetworkError):
        there.document(b"x")


@pytest.mark.parametrize(
    "body", [b"", b"[" * 100_000, b"null", b'{"state": 1}', b"\xff", b'{"state"' + b":{" * 9000], ids=range(6)
)
def test_an_activation_that_is_none(body: bytes) -> None:
    with bank(answers(200, body)) as there, pytest.raises(NetworkError) as caught:
        there.activate(b"x", b"y")
    assert caught.value.code == "BANK_ANSWER"


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"error": []}', b'{"error": {"code": {}}}', b"\xff"], ids=range(4))
def test_a_refusal_that_says_nothing(body: bytes) -> None:
    with bank(answers(403, body)) as there, pytest.raises(RenewalRejected):
        there.certify(b"x")


@given(at=st.integers(0, len(GOOD) - 1), octet=st.integers(0, 255), gone=st.integers(0, 2))
def test_nothing_else_is_raised_whatever_is_damaged(at: int, octet: int, gone: int) -> None:
    damaged = GOOD[:at] + bytes((octet,)) + GOOD[at + gone :]
    try:
        certificate_in(base64.b64encode(damaged))
    except Unreadable:
        pass
