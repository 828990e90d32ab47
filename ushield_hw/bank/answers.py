"""Error responses of the bank: one JSON document for every error."""

from __future__ import annotations

import json
from typing import Any, Final

from ushield_hw.errors import RequestRefused, UShieldError

LATER_S: Final = 5
"""Seconds after which a client may retry a request that failed temporarily."""


def error_body(error: UShieldError) -> bytes:
    """Return the JSON document of an error."""
    found = {"code": error.code, "message": error.message, "remedy": error.remedy}
    return json.dumps({"error": found}, ensure_ascii=False, separators=(",", ":")).encode()


async def unavailable(scope: Any, receive: Any, send: Any) -> None:
    """Respond with 503 because too many requests are in progress. An ASGI application."""
    body = error_body(RequestRefused("BANK_BUSY"))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"retry-after", str(LATER_S).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
