"""The HTTP server: uvicorn, with connections that are limited and an end that is no error."""

from __future__ import annotations

import asyncio
import ipaddress
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import uvicorn
from starlette.applications import Starlette

from ushield_hw.bank.connections import HEAD_S, MOST_HEAD, Connection, Waiting
from ushield_hw.errors import InputError, StorageError

_IDLE_S: Final = 15
_END_S: Final = 10
_MOST_FILES: Final = 8192
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
        http=type("Shared", (Connection,), {"waiting": Waiting()}),
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="critical",  # what there is to say, the application says
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=MOST_HEAD,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_END_S,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError among them
        raise InputError("BANK_TLS_INVALID", file=str(tls.certificate) if tls else "", reason=str(error)) from error
    _more_files()
    asyncio.run(_Server(config, ready).serve([opened]))


def _more_files() -> None:
    """Have room for connections that are not closed yet; the usual limit of 1024 files is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(_MOST_FILES, hard)
    if soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Server(uvicorn.Server):
    """Says when it is ready, and ends without passing the signal on."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.config.ssl is not None:  # asyncio would wait 60 s for a handshake, and uvicorn has no setting for it
            loop = asyncio.get_running_loop()
            hurried = partial(loop.create_server, ssl_handshake_timeout=HEAD_S)
            loop.create_server = hurried  # type: ignore[method-assign]
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
