"""The bank over HTTP: enrolment in the shape of EST (RFC 7030), the two calls that activate a renewal, and the CRL.

What is waited for runs in a few threads of its own, so a slow token or database holds up nobody else's reading. Every
body is bounded, and must be there in time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import serialize_certificates
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ushield_hw.bank.answers import LATER_S, error_body
from ushield_hw.bank.ca import enrolment, renewal, revocation
from ushield_hw.bank.ca.issuer import Desk
from ushield_hw.bank.database import CONNECTIONS
from ushield_hw.errors import RequestRefused, StorageError, UShieldError
from ushield_hw.messages import shown
from ushield_hw.system.log import LOG

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]

MOST_BODY: Final = 128 << 10
# Read past the limit before a body is refused: a connection that is closed over unread data loses the answer.
_MOST_DISCARDED: Final = 2 << 20
BODY_S: Final = 10.0


_PKCS10: Final = "application/pkcs10"
_PKCS7: Final = "application/pkcs7-mime"
_BLANKS: Final = re.compile(rb"[ \t\r\n]+")
_DER: Final = b"\x30"
_DIGEST: Final = re.compile("[0-9a-f]{64}")

# What each refusal is in HTTP. What is not here is not the client's doing: 503, and the request may be sent again.
STATUS: Final = {
    "REQUEST_MALFORMED": 400,
    "CODE_WRONG": 401,
    "PROOF_WRONG": 403,
    "SUBJECT_MISMATCH": 403,
    "KEY_TOO_WEAK": 403,
    "CERTIFICATE_UNKNOWN": 403,
    "RENEWAL_CERTIFICATE_EXPIRED": 403,
    "RENEWAL_CERTIFICATE_REVOKED": 403,
    "RENEWAL_NOT_ACTIVE": 403,
    "AUTHORITY_ENDS": 403,
    "REQUEST_ADDRESS": 404,
    "RENEWAL_NOT_FOUND": 404,
    "REQUEST_METHOD": 405,
    "REQUEST_TIMED_OUT": 408,
    "KEY_REUSED": 409,
    "CODE_USED": 409,
    "RENEWAL_SUPERSEDED": 409,
    "DOCUMENT_MISMATCH": 409,
    "CODE_EXPIRED": 410,
    "DOCUMENT_EXPIRED": 410,
    "REQUEST_TOO_LARGE": 413,
    "REQUEST_MEDIA_TYPE": 415,
    "CODES_TOO_MANY": 429,
    "RENEWAL_TOO_MANY": 429,
}
_INTERNAL, _LATER = 500, 503
_LONGEST_LOGGED: Final = 200


def application(desk: Desk) -> Starlette:
    """Return the server's application.

    Args:
        desk: the CA at work.
    """
    site = _Site(desk)
    est = "/.well-known/est"
    routes = [
        Route(f"{est}/cacerts", _guarded(site.cacerts), methods=["GET"]),
        Route(f"{est}/simpleenroll", _guarded(site.enroll), methods=["POST"]),
        Route(f"{est}/simplereenroll", _guarded(site.reenroll), methods=["POST"]),
        Route("/renewals/{spki}", _guarded(site.document), methods=["GET"]),
        Route("/renewals/{spki}/activation", _guarded(site.activation), methods=["POST"]),
        Route("/crl", _guarded(site.crl), methods=["GET"]),
    ]
    made = Starlette(routes=routes, exception_handlers={HTTPException: _no_route})
    made.router.redirect_slashes = False  # it would send the client to whatever host it has named
    return made


class _Site:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._threads = ThreadPoolExecutor(CONNECTIONS, "bank")

    async def cacerts(self, request: Request) -> Response:
        return _pkcs7(_PKCS7, self._desk.authority.certificate)

    async def enroll(self, request: Request) -> Response:
        customer, code = _login(request)
        der = await _body(request, _PKCS10)
        found = await self._wait(lambda: enrolment.enrol(self._desk, der, customer, code))
        return _pkcs7(f"{_PKCS7}; smime-type=certs-only", found.signed)

    async def reenroll(self, request: Request) -> Response:
        der = await _body(request, _PKCS7, _PKCS10)  # the latter is what RFC 7030 has here
        found = await self._wait(lambda: renewal.renew(self._desk, der))
        return _pkcs7(f"{_PKCS7}; smime-type=certs-only", found.signed)

    async def document(self, request: Request) -> Response:
        spki = _spki(request)
        canonical = await self._wait(lambda: renewal.document(self._desk, spki))
        return Response(canonical, media_type="application/json")

    async def activation(self, request: Request) -> Response:
        spki = _spki(request)
        signed = await _body(request, _PKCS7)
        done = await self._wait(lambda: renewal.activate(self._desk, spki, signed))
        return _json(200, done.to_json())

    async def crl(self, request: Request) -> Response:
        der = await self._wait(lambda: revocation.crl(self._desk))
        return Response(der, media_type="application/pkix-crl", headers={"Cache-Control": "no-cache"})

    async def _wait(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


# --- what comes in ----------------------------------------------------------------------------------------------------


async def _body(request: Request, *kinds: str) -> bytes:
    """Return what was sent, DER; it may come as base64, as RFC 7030 has it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in kinds:
        raise RequestRefused("REQUEST_MEDIA_TYPE", wanted=kinds)
    try:
        async with asyncio.timeout(BODY_S):
            body = await _read(request)
    except TimeoutError as error:
        raise RequestRefused("REQUEST_TIMED_OUT") from error
    if body.startswith(_DER):
        return body
    try:
        der = base64.b64decode(_BLANKS.sub(b"", body), validate=True)
    except binascii.Error as error:
        raise RequestRefused("REQUEST_MALFORMED", problem="bank_no_base64") from error
    if not der.startswith(_DER):
        raise RequestRefused("REQUEST_MALFORMED", problem="bank_no_base64")
    return der


async def _read(request: Request) -> bytes:
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length[:12]) > MOST_BODY:
        raise RequestRefused("REQUEST_TOO_LARGE", most=MOST_BODY)
    body, size = bytearray(), 0
    async for piece in request.stream():
        size += len(piece)
        if size > _MOST_DISCARDED:
            break
        if size <= MOST_BODY:
            body += piece
    if size > MOST_BODY:
        raise RequestRefused("REQUEST_TOO_LARGE", most=MOST_BODY)
    return bytes(body)


def _login(request: Request) -> tuple[str, str]:
    """Return customer number and code (RFC 7617). A number may have a colon in it; a code has none."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    try:
        customer, colon, code = base64.b64decode(encoded.strip(), validate=True).decode().rpartition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise RequestRefused("CODE_WRONG") from error
    if scheme.lower() != "basic" or not colon:
        raise RequestRefused("CODE_WRONG")
    return customer, code


def _spki(request: Request) -> str:
    spki: str = request.path_params["spki"]
    if not _DIGEST.fullmatch(spki):
        raise RequestRefused("RENEWAL_NOT_FOUND")
    return spki


# --- what goes out ----------------------------------------------------------------------------------------------------


def _pkcs7(kind: str, certificate: bytes) -> Response:
    der = serialize_certificates([x509.load_der_x509_certificate(certificate)], Encoding.DER)
    headers = {"Content-Type": kind, "Content-Transfer-Encoding": "base64"}
    return Response(base64.encodebytes(der), headers=headers)


def _json(status: int, content: dict[str, object], headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, {"Content-Type": "application/json", **(headers or {})})


def _guarded(endpoint: Endpoint) -> Endpoint:
    """Turn every error into an answer, and note it: method, place and code, never what was sent."""

    async def answer(request: Request) -> Response:
        try:
            response = await endpoint(request)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except UShieldError as error:
            response = _refusal(error)
            LOG.info("%s %s: %s", *_asked(request), error.code)
        except Exception:
            response = _refusal(UShieldError())
            LOG.error("%s %s: internal error", *_asked(request), exc_info=True)
        response.headers["Cache-Control"] = response.headers.get("Cache-Control", "no-store")
        return response

    return answer


def _asked(request: Request) -> tuple[str, str]:
    """Return method and path as a log may hold them: what a client sends can move a terminal's cursor."""
    return shown(request.method), shown(request.url.path[:_LONGEST_LOGGED])


def _refusal(error: UShieldError) -> Response:
    if not isinstance(error, RequestRefused):
        return _not_now(error)
    status = STATUS[error.code]
    headers = {}
    if error.code == "CODE_WRONG":
        headers["WWW-Authenticate"] = 'Basic realm="customer number and one-time code", charset="UTF-8"'
    if status == STATUS["CODES_TOO_MANY"]:
        headers["Retry-After"] = str(error.wait_s or LATER_S)
    if status in {STATUS["REQUEST_TOO_LARGE"], STATUS["REQUEST_TIMED_OUT"]}:
        headers["Connection"] = "close"
    return _error(status, error, headers)


def _not_now(error: UShieldError) -> Response:
    """Answer for what went wrong on this side; which token, and where the database is, is nobody's business."""
    if type(error) is UShieldError:
        return _error(_INTERNAL, error)
    if not isinstance(error, StorageError):
        LOG.warning("the CA's key: %s", error.code)
    code = "BANK_DATABASE_UNAVAILABLE" if isinstance(error, StorageError) else "BANK_KEY_UNAVAILABLE"
    return _error(_LATER, RequestRefused(code), {"Retry-After": str(LATER_S)})


def _error(status: int, error: UShieldError, headers: dict[str, str] | None = None) -> Response:
    return Response(error_body(error), status, {"Content-Type": "application/json", **(headers or {})})


async def _no_route(request: Request, error: Exception) -> Response:
    known = isinstance(error, HTTPException) and error.status_code == STATUS["REQUEST_METHOD"]
    code = "REQUEST_METHOD" if known else "REQUEST_ADDRESS"
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return _error(STATUS[code], RequestRefused(code), headers)
