"""Limits on HTTP connections: number, time for a request to arrive, and validity of the request.

uvicorn waits without limit for the head of a request and answers 503 once its connection limit is reached, so a few
hundred incomplete requests would block the server. Here a connection without a complete request may be closed at any
time to admit another: the oldest one of the peer that has most of them. A connection with a complete request is never
closed.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import OrderedDict
from typing import Any, Final
from urllib.parse import urlsplit

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ushield_hw.bank.answers import error_body, unavailable
from ushield_hw.errors import RequestRefused

HEAD_S: Final = 10.0
"""Timeout in seconds for the head of a request."""

BODY_S: Final = 15.0
"""Timeout in seconds for the body; an application that reads the body answers earlier."""

MOST_OF_A_PEER: Final = 64
"""Maximum number of connections of one peer without a complete request."""

MOST_WAITING: Final = 512
"""Maximum number of connections without a complete request."""

MOST_AT_WORK: Final = 256
"""Maximum number of requests in progress; further requests get 503."""

MOST_HEAD: Final = 16 << 10
MOST_HEADERS: Final = 100

_IPV6_SITE: Final = 64
_WAITING: Final = (h11.IDLE, h11.SEND_BODY)


class Waiting:
    """Connections without a complete request, by peer."""

    def __init__(self) -> None:
        self._peers: dict[str, OrderedDict[Connection, None]] = {}
        self._count = 0

    def add(self, connection: Connection) -> None:
        """Add a connection; another one may be closed for it."""
        own = self._peers.setdefault(connection.peer, OrderedDict())
        if connection in own:
            return
        own[connection] = None
        self._count += 1
        if len(own) > MOST_OF_A_PEER:
            self._close_oldest(own)
        elif self._count > MOST_WAITING:
            self._close_oldest(max(self._peers.values(), key=len))

    def remove(self, connection: Connection) -> None:
        """Remove a connection."""
        own = self._peers.get(connection.peer)
        if own is not None and connection in own:
            del own[connection]
            self._count -= 1
            if not own:
                del self._peers[connection.peer]

    def _close_oldest(self, own: OrderedDict[Connection, None]) -> None:
        oldest = next(iter(own))
        self.remove(oldest)
        oldest.transport.abort()


class Connection(H11Protocol):
    """An HTTP connection.

    Attributes:
        waiting: the connections without a complete request, shared by the server.
        peer: the client's address; for IPv6 its /64 network, because one client may have all of its addresses.
    """

    waiting: Waiting
    peer = ""
    _timer: asyncio.TimerHandle | None = None
    _in_body = False

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn = _Strict(h11.SERVER, MOST_HEAD)

    def connection_made(self, transport: Any) -> None:
        """Register a new connection."""
        super().connection_made(transport)
        self.peer = _peer(self.client)
        self.waiting.add(self)
        self._wait(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Unregister a closed connection."""
        self._stop()
        self.waiting.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process received data, and start the timeout for the head of a further request."""
        super().data_received(data)
        if self._timer is None and self.conn.their_state is h11.IDLE:  # a further request begins on this connection
            self._wait(HEAD_S)

    def handle_events(self) -> None:
        """Process protocol events and update whether the request is complete."""
        if len(self.tasks) >= MOST_AT_WORK:
            self.app = unavailable
        elif self.app is unavailable:
            self.app = self.config.loaded_app
        super().handle_events()
        state = self.conn.their_state
        if state not in _WAITING:
            self._stop()
            self.waiting.remove(self)
            return
        self.waiting.add(self)
        if state is h11.SEND_BODY and not self._in_body:
            self._stop()
            self._in_body = True
            self._wait(BODY_S)

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request with JSON and close the connection; uvicorn would answer in plain text."""
        body = error_body(RequestRefused("REQUEST_MALFORMED", problem="bank_no_http"))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
        ]
        answer = (h11.Response(status_code=400, headers=headers, reason=b"Bad Request"), h11.Data(data=body))
        for event in (*answer, h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _wait(self, limit_s: float) -> None:
        self._timer = self.loop.call_later(limit_s, self.transport.abort)

    def _stop(self) -> None:
        self._in_body = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Strict(h11.Connection):
    """Rejects ambiguous requests and accepts targets in absolute form (RFC 9112 section 3.2.2)."""

    def next_event(self) -> Any:
        """Return the next event; raises for a request that servers could interpret differently."""
        event = super().next_event()
        if not isinstance(event, h11.Request):
            return event
        names = {name for name, _ in event.headers}
        # RFC 9112 section 6.1: possible request smuggling.
        if {b"content-length", b"transfer-encoding"} <= names:
            raise h11.RemoteProtocolError("Content-Length with Transfer-Encoding")
        if b"transfer-encoding" in names and event.http_version != b"1.1":
            raise h11.RemoteProtocolError("Transfer-Encoding in HTTP/1.0")
        size = len(event.target) + sum(len(name) + len(value) for name, value in event.headers)
        if size > MOST_HEAD or len(event.headers) > MOST_HEADERS:
            raise h11.RemoteProtocolError("the head is too long")
        target = _origin_form(event.target)
        if target == event.target:
            return event
        return h11.Request(
            method=event.method, target=target, headers=event.headers.raw_items(), http_version=event.http_version
        )


def _origin_form(target: bytes) -> bytes:
    if not target.lower().startswith((b"http://", b"https://")):
        return target
    try:
        split = urlsplit(target.decode("ascii"))
    except ValueError as error:
        raise h11.RemoteProtocolError("target") from error
    if not split.hostname or split.username is not None:
        raise h11.RemoteProtocolError("target")
    return ((split.path or "/") + (f"?{split.query}" if split.query else "")).encode("ascii")


def _peer(client: tuple[str, int] | None) -> str:
    if client is None:
        return ""
    try:
        address = ipaddress.ip_address(client[0].partition("%")[0])
    except ValueError:
        return client[0]
    if address.version == 6:  # noqa: PLR2004 - IP version
        return str(ipaddress.ip_network((address, _IPV6_SITE), strict=False))
    return str(address)
