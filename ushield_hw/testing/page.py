"""A local web page that shows the virtual token: screen, lamp, buttons, removal and insertion.

It listens on loopback only, under a random path, so that no other page in the browser can press OK. It only accepts its
own host name (which prevents DNS rebinding), and button presses only from its own page.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pkgutil import get_data
from typing import Any, Final, Self

from ushield_hw.testing.card.panel import Button
from ushield_hw.testing.shield import VirtualShield

_PAGE: Final = "page.html"
_BEAT_S: Final = 1.0
_SILENT_S: Final = 5
_MOST_WAITING: Final = 32
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Page:
    """Serves the page of a virtual U-shield until :meth:`close`.

    Args:
        shield: the token to show and control.
        port: the port; 0: any free port.

    Attributes:
        url: the URL of the page.
    """

    def __init__(self, shield: VirtualShield, port: int = 0) -> None:
        self._shield = shield
        self._changed = threading.Condition()
        self._ended = False
        path = f"/{secrets.token_urlsafe(16)}/"
        handler = type("Handler", (_Handler,), {"page": self, "path_there": path})
        self._server = _Server(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}{path}"
        shield.card.panel.watch(self._wake)
        threading.Thread(target=self._server.serve_forever, name="token page", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server."""
        self._ended = True
        self._wake()
        self._server.shutdown()
        self._server.server_close()

    def state(self) -> dict[str, Any]:
        """Return the state that the page shows, as JSON."""
        shield = self._shield
        place = shield.card.panel.place()
        return {
            "serial": shield.serial,
            "model": shield.card.model.value,
            "plugged": shield.plugged,
            "asking": place is not None,
            "screen": shield.screen(),
            "page": place[0] if place else 0,
            "pages": place[1] if place else 0,
            "seconds_left": round(place[2]) if place else None,
            "outcome": shield.outcome.value,
            "signatures": shield.signatures,
        }

    def do(self, what: str) -> bool:
        """Press a button, or remove or insert the token. Return False if ``what`` is unknown."""
        if what in {"eject", "insert"}:
            getattr(self._shield, what)()
        elif what in {button.value for button in Button}:
            self._shield.card.panel.press(Button(what))
        else:
            return False
        self._wake()
        return True

    def next(self) -> dict[str, Any] | None:
        """Wait up to a second for a change and return the state; None: the page is closed."""
        with self._changed:
            self._changed.wait(_BEAT_S)
        return None if self._ended else self.state()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class _Server(ThreadingHTTPServer):
    """One thread per connection. The number of connections without a request is limited by closing the oldest."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._waiting: dict[socket.socket, None] = {}
        self._lock = threading.Lock()
        super().__init__(address, handler)
        self.names = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    def process_request(self, request: Any, client_address: Any) -> None:
        """Register a connection before its thread starts."""
        with self._lock:
            if len(self._waiting) >= _MOST_WAITING:
                oldest = next(iter(self._waiting))
                del self._waiting[oldest]
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread then reads end of file and ends
            self._waiting[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Unregister a connection."""
        self.has_asked(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that have disconnected, instead of printing a traceback on stderr."""

    def has_asked(self, request: Any) -> None:
        """Record that a request is complete, so that the connection is not closed to admit another."""
        with self._lock:
            self._waiting.pop(request, None)


class _Handler(BaseHTTPRequestHandler):
    page: Page
    path_there: str
    server: _Server
    protocol_version = "HTTP/1.0"
    timeout = _SILENT_S
    error_message_format = "%(code)d\n"
    error_content_type = "text/plain"

    def version_string(self) -> str:
        """Return a server header without the Python version."""
        return "ushield"

    def do_GET(self) -> None:
        what = self._what()
        if what == "":
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", get_data(__package__ or "", _PAGE) or b"")
        elif what == "state":
            self._send(HTTPStatus.OK, "application/json", json.dumps(self.page.state()).encode())
        elif what == "events":
            self._stream()
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"not here\n")

    def do_POST(self) -> None:
        what = self._what()
        if not self._is_own_page():
            self._send(HTTPStatus.FORBIDDEN, "text/plain", b"")
            return
        done = what is not None and self.page.do(what)
        self._send(HTTPStatus.NO_CONTENT if done else HTTPStatus.NOT_FOUND, "text/plain", b"")

    def _what(self) -> str | None:
        self.server.has_asked(self.connection)
        if self.headers.get_all("Host", []) not in [[name] for name in self.server.names]:
            return None
        there = self.path_there
        known = secrets.compare_digest(self.path[: len(there)].encode(), there.encode())
        return self.path[len(there) :] if known else None

    def _is_own_page(self) -> bool:
        """Return whether the request comes from this page according to the browser's headers.

        Clients other than browsers do not send these headers and are accepted.
        """
        origin, site = self.headers.get("Origin"), self.headers.get("Sec-Fetch-Site", "same-origin")
        own = {f"http://{name}" for name in self.server.names}
        return (origin is None or origin in own) and site == "same-origin"

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        """Send the state whenever it changes (server-sent events)."""
        self.send_response(HTTPStatus.OK)
        for name, value in {**_HEADERS, "Content-Type": "text/event-stream"}.items():
            self.send_header(name, value)
        self.end_headers()
        state: dict[str, Any] | None = self.page.state()
        try:
            while state is not None:
                self.wfile.write(f"data: {json.dumps(state)}\n\n".encode())
                self.wfile.flush()
                state = self.page.next()
        except OSError:
            return  # the browser has disconnected

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing, because the path is secret."""
