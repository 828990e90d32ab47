"""The ASGI application without a server: internal errors are answered without disclosing details."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.bank.world import Bank, SoftKey
from ushield_hw.bank.app import application
from ushield_hw.bank.ca.routes import CaRoutes
from ushield_hw.bank.http import STATUSES
from ushield_hw.errors import StorageError, TokenRemoved
from ushield_hw.messages import LANGUAGES, known

pytestmark = pytest.mark.unit

EST = "/.well-known/est"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.body)["error"]
        return found


STATUS = STATUSES | dict(CaRoutes.statuses)


def ask(bank: Bank, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    """Send one request to the application as an ASGI server does."""
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": raw, "http_version": "1.1"}
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(application([CaRoutes(bank.service)])(scope, receive, send))  # type: ignore[arg-type]
    start, *rest = sent
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], found, b"".join(one.get("body", b"") for one in rest))


def login(customer: str, code: str) -> str:
    return "Basic " + base64.b64encode(f"{customer}:{code}".encode()).decode()


def enroll(bank: Bank, key: SoftKey, code: str) -> Answer:
    kinds = {"content_type": "application/pkcs10", "authorization": login("C1", code)}
    return ask(bank, "POST", f"{EST}/simpleenroll", key.pkcs10(), **kinds)


def test_a_token_that_is_gone_is_said_without_saying_which(bank: Bank, new: SoftKey) -> None:
    code, service = bank.code(), bank.service
    good = bank.key.sign

    def gone(message: bytes) -> bytes:
        raise TokenRemoved(serial="S3CRET-SERIAL")

    bank.key.sign = gone  # type: ignore[method-assign]
    got = enroll(bank, new, code)
    assert (got.status, got.error["code"]) == (503, "BANK_KEY_UNAVAILABLE")
    assert got.headers["retry-after"].isdigit() and b"S3CRET" not in got.body
    bank.key.sign = good  # type: ignore[method-assign]
    assert service is bank.service
    assert enroll(bank, new, code).status == 200


def test_a_database_that_is_held_is_said_without_saying_where(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    _ = bank.service

    def held(*_: object) -> None:
        raise StorageError("BANK_DATABASE_BUSY", path="/s3cret/bank.sqlite3")

    monkeypatch.setattr(bank.database, "reading", held)
    got = ask(bank, "GET", "/crl")
    assert (got.status, got.error["code"]) == (503, "BANK_DATABASE_UNAVAILABLE")
    assert b"s3cret" not in got.body


def test_a_bug_is_answered_and_logged(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("s3cret")

    monkeypatch.setattr("ushield_hw.bank.ca.revocation.crl", broken)
    with caplog.at_level(logging.ERROR, "ushield_hw"):
        got = ask(bank, "GET", "/crl")
    assert (got.status, got.error["code"]) == (500, "INTERNAL")
    assert b"s3cret" not in got.body and "ZeroDivisionError" in caplog.text


def test_every_refusal_has_a_status_and_a_text() -> None:
    for code in STATUS:
        assert all(known(code, lang) and known(f"{code}.remedy", lang) for lang in LANGUAGES), code


def test_every_code_of_the_room_has_a_status() -> None:
    """A code missing from the table would raise KeyError during a request."""
    from tests.unit.test_errors import USES

    server = ("bank/http.py", "bank/ca/routes.py")
    room = [use for use in USES if use.place.startswith("bank/") and not use.place.startswith(server)]
    codes = {use.code for use in room if known(use.code) and not use.code.startswith(("BANK_", "CONFIG_", "STATE_"))}
    elsewhere = {"CA_FILE_INVALID", "SUBJECT_INVALID"}  # raised by the command line only
    assert codes - elsewhere - STATUS.keys() == set()


@pytest.mark.parametrize(
    "header", ["", "Basic", "Basic !!!", "Basic " + base64.b64encode(b"\xff:\xff").decode(), "Digest x", login("", "")]
)
def test_odd_logins(bank: Bank, new: SoftKey, header: str) -> None:
    kinds = {"content_type": "application/pkcs10", "authorization": header}
    got = ask(bank, "POST", f"{EST}/simpleenroll", new.pkcs10(), **kinds)
    assert (got.status, got.error["code"]) == (401, "CODE_WRONG")


def test_a_customer_number_with_a_colon(bank: Bank, new: SoftKey) -> None:
    code = bank.code(customer="A:1")
    kinds = {"content_type": "Application/PKCS10; charset=x", "authorization": login("A:1", code)}
    assert ask(bank, "POST", f"{EST}/simpleenroll", base64.encodebytes(new.pkcs10()), **kinds).status == 200


POSTED: dict[str, Callable[[Bank], dict[str, str]]] = {
    f"{EST}/simpleenroll": lambda bank: {
        "content_type": "application/pkcs10",
        "authorization": login("C1", bank.code()),
    },
    f"{EST}/simplereenroll": lambda _: {"content_type": "application/pkcs7-mime"},
    "/renewals/SPKI/activation": lambda _: {"content_type": "application/pkcs7-mime"},
}


@pytest.mark.parametrize("path", POSTED)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(noise=st.binary(max_size=300), der=st.booleans())
def test_noise_is_refused_and_breaks_nothing(bank: Bank, path: str, noise: bytes, der: bool) -> None:
    body = b"\x30" + noise if der else noise
    place = path.replace("SPKI", waiting(bank))
    got = ask(bank, "POST", place, body, **POSTED[path](bank))
    assert (got.status, got.error["code"]) == (400, "REQUEST_MALFORMED")


def waiting(bank: Bank) -> str:
    """Return the key of a renewal that is pending activation; created once."""
    found = bank.__dict__.get("waiting")
    if found is None:
        old, new = SoftKey(), SoftKey()
        bank.renewed(old, bank.enrolled(old, customer="C2"), new)
        bank.__dict__["waiting"] = found = new.spki_sha256
    return str(found)


@pytest.mark.parametrize("path", ["/renewals/none", "/nowhere"])
def test_two_customers_are_answered_in_their_own_languages(bank: Bank, path: str) -> None:
    said = {
        wanted: ask(bank, "GET", path, accept_language=wanted).error["message"]
        for wanted in ("zh-CN,zh;q=0.9", "en-GB, zh;q=0.5", "fr, zh;q=0.7", "fr")
    }
    assert not said["zh-CN,zh;q=0.9"].isascii()
    assert said["en-GB, zh;q=0.5"].isascii()
    assert said["fr, zh;q=0.7"] == said["zh-CN,zh;q=0.9"]
    assert said["fr"] == said["en-GB, zh;q=0.5"]
