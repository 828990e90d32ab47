"""The HTTP server: uvicorn, with a deadline for the head of a request, and an end that is no error."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from ushield_hw.errors import InputError, StorageError

HEAD_S: Final = 10.0
"""How long a client may take for the head of a request."""

_IDLE_S: Final = 15
_END_S: Final = 10
_MOST_CONNECTIONS: Final = 256
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Tls:
    """The server's certificate, with those that lead to its root, and its key; PEM."""

    certificate: Path
    key: Path


def listen(host: str, port: int, tls: Tls | None) -> socket.socket:
    """Open the port; 0: any that is free.

    Raises:
        InputError: ``BANK_NEEDS_TLS``: other machines would reach it in clear.
        StorageError: ``BANK_PORT_UNUSABLE``.
    """
    if tls is None and not is_loopback(host):
        raise InputError("BANK_NEEDS_TLS", host=host)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        opened = socket.create_server(address[:2], family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError("BANK_PORT_UNUSABLE", host=host, port=port, reason=reason) from error
    # Head and body of an answer are written one after the other; without this the body waits 40 ms for the client's
    # acknowledgement. asyncio sets it on sockets of its own alone. Connections inherit it.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


def url_of(opened: socket.socket, host: str, tls: Tls | None) -> str:
    """Return where the server is."""
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{shown}:{opened.getsockname()[1]}"


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a server on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(site: Starlette, opened: socket.socket, tls: Tls | None, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; what has begun by then is finished.

    Args:
        site: what is served.
        opened: the open port.
        tls: the certificate to serve it with.
        ready: called once when the first request may come.

    Raises:
        InputError: ``BANK_TLS_INVALID``.
    """
    config = uvicorn.Config(
        site,
        http=_Hurried,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="critical",  # what there is to say, the application says
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_END_S,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError among them
        raise InputError("BANK_TLS_INVALID", file=str(tls.certificate) if tls else "", reason=str(error)) from error
    asyncio.run(_Server(config, ready).serve([opened]))


class _Server(uvicorn.Server):
    """Says when it is ready, and ends without passing the signal on."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Hurried(H11Protocol):
    """Cuts off who does not send the head of a request in time: uvicorn itself waits for ever."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        if cycle is not None and not cycle.response_complete:
            self._stop()
        elif self._timer is None:  # another request begins on this connection
            self._timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
