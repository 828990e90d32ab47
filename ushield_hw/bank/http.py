"""Request and response handling shared by all areas of the bank's server.

Blocking work runs in a small thread pool, so that a slow token or database does not delay reading other requests.
Request bodies are limited in size and time. Errors are returned in the language of the request.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ushield_hw import messages
from ushield_hw.bank.answers import LATER_S, error_body
from ushield_hw.errors import RequestRefused, StorageError, UShieldError
from ushield_hw.messages import Language, shown
from ushield_hw.system.log import LOG

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]

MOST_BODY: Final = 128 << 10
# A larger body is read up to this limit before it is rejected: closing a connection with unread data would discard the
# response.
_MOST_DISCARDED: Final = 2 << 20
BODY_S: Final = 10.0


_BLANKS: Final = re.compile(rb"[ \t\r\n]+")
_DER: Final = b"\x30"

STATUSES: Final = {
    "REQUEST_MALFORMED": 400,
    "REQUEST_ADDRESS": 404,
    "REQUEST_METHOD": 405,
    "REQUEST_TIMED_OUT": 408,
    "REQUEST_TOO_LARGE": 413,
    "REQUEST_MEDIA_TYPE": 415,
}
"""HTTP status of the errors that every area may return."""

_UNAUTHORIZED, _TOO_MANY, _INTERNAL, _LATER = 401, 429, 500, 503
_CHALLENGE: Final = 'Basic realm="customer number and one-time code", charset="UTF-8"'
_LONGEST_LOGGED: Final = 200


# --- requests ---------------------------------------------------------------------------------------------------------


async def read_body(request: Request, *kinds: str) -> bytes:
    """Return the request body as DER, decoding base64 if needed (RFC 7030 uses base64).

    Args:
        request: the request.
        *kinds: the accepted media types.

    Returns:
        The body, DER.

    Raises:
        RequestRefused: ``REQUEST_MEDIA_TYPE``, ``REQUEST_TIMED_OUT``, ``REQUEST_TOO_LARGE``, ``REQUEST_MALFORMED``.
    """
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


# --- responses --------------------------------------------------------------------------------------------------------


def json_response(status: int, content: dict[str, object], headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response.

    Args:
        status: the HTTP status.
        content: the JSON object.
        headers: additional headers.
    """
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, {"Content-Type": "application/json", **(headers or {})})


def route(method: str, path: str, endpoint: Endpoint) -> Route:
    """Return a route that turns the endpoint's errors into responses.

    Args:
        method: the HTTP method.
        path: the path, with Starlette's placeholders.
        endpoint: handles the request.
    """
    return Route(path, _guarded(endpoint), methods=[method])


async def waited(request: Request, work: Callable[[], T]) -> T:
    """Run ``work`` in the application's thread pool and return its result.

    Args:
        request: the request being handled.
        work: the blocking call.
    """
    return await asyncio.get_running_loop().run_in_executor(request.app.state.threads, work)


def _guarded(endpoint: Endpoint) -> Endpoint:
    """Wrap an endpoint: errors become responses and are logged.

    The log has method, path and error code, never the content of the request.
    """

    async def answer(request: Request) -> Response:
        with messages.using_language(_language(request)):
            return await _answered(endpoint, request)

    return answer


def _language(request: Request) -> Language:
    """Return the first supported language of the Accept-Language header."""
    for wanted in request.headers.get("accept-language", "").split(","):
        primary = wanted.partition(";")[0].strip().partition("-")[0].lower()
        for known in messages.LANGUAGES:
            if primary == known:
                return known
    return messages.language()


async def _answered(endpoint: Endpoint, request: Request) -> Response:
    try:
        response = await endpoint(request)
    except ClientDisconnect:
        return Response(status_code=400)  # the client has disconnected
    except UShieldError as error:
        response = _refusal(request, error)
        LOG.info("%s %s: %s", *_asked(request), error.code)
    except Exception:
        response = _refusal(request, UShieldError())
        LOG.error("%s %s: internal error", *_asked(request), exc_info=True)
    response.headers["Cache-Control"] = response.headers.get("Cache-Control", "no-store")
    return response


def _asked(request: Request) -> tuple[str, str]:
    """Return method and path escaped for the log, because a client can send terminal control characters."""
    return shown(request.method), shown(request.url.path[:_LONGEST_LOGGED])


def _refusal(request: Request, error: UShieldError) -> Response:
    if not isinstance(error, RequestRefused):
        return _not_now(error)
    status: int = request.app.state.statuses[error.code]
    headers = {}
    if status == _UNAUTHORIZED:
        headers["WWW-Authenticate"] = _CHALLENGE
    if status == _TOO_MANY:
        headers["Retry-After"] = str(error.wait_s or LATER_S)
    if status in {STATUSES["REQUEST_TOO_LARGE"], STATUSES["REQUEST_TIMED_OUT"]}:
        headers["Connection"] = "close"
    return _error(status, error, headers)


def _not_now(error: UShieldError) -> Response:
    """Return the response to a server-side error, without details of the token or the database."""
    if type(error) is UShieldError:
        return _error(_INTERNAL, error)
    if not isinstance(error, StorageError):
        LOG.warning("the CA's key: %s", error.code)
    code = "BANK_DATABASE_UNAVAILABLE" if isinstance(error, StorageError) else "BANK_KEY_UNAVAILABLE"
    return _error(_LATER, RequestRefused(code), {"Retry-After": str(LATER_S)})


def _error(status: int, error: UShieldError, headers: dict[str, str] | None = None) -> Response:
    return Response(error_body(error), status, {"Content-Type": "application/json", **(headers or {})})


async def no_route(request: Request, error: Exception) -> Response:
    """Respond to a request with an unknown path or an unsupported method."""
    with messages.using_language(_language(request)):
        return _no_route(error)


def _no_route(error: Exception) -> Response:
    known = isinstance(error, HTTPException) and error.status_code == STATUSES["REQUEST_METHOD"]
    code = "REQUEST_METHOD" if known else "REQUEST_ADDRESS"
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return _error(STATUSES[code], RequestRefused(code), headers)
