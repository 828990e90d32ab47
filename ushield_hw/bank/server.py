"""The HTTP server: uvicorn with connection limits and a clean shutdown."""

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
from ushield_hw.errors import InputError, NetworkError

_IDLE_S: Final = 15
_END_S: Final = 10
_MOST_FILES: Final = 8192
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Tls:
    """The server's certificate chain and its key, PEM."""

    certificate: Path
    key: Path


def listen(host: str, port: int, tls: Tls | None) -> socket.socket:
    """Open the server's port.

    Args:
        host: the address to listen on.
        port: the port; 0: any free port.
        tls: the server's certificate; required unless ``host`` is loopback.

    Returns:
        The listening socket.

    Raises:
        InputError: ``BANK_NEEDS_TLS``: other machines would connect without TLS.
        NetworkError: ``BANK_PORT_UNUSABLE``.
    """
    if tls is None and not is_loopback(host):
        raise InputError("BANK_NEEDS_TLS", host=host)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        opened = socket.create_server(address[:2], family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NetworkError("BANK_PORT_UNUSABLE", host=host, port=port, reason=reason) from error
    # Head and body of a response are written separately; without TCP_NODELAY the body waits 40 ms for the client's
    # acknowledgement. asyncio only sets it on sockets it creates. Connections inherit it.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


def url_of(opened: socket.socket, host: str, tls: Tls | None) -> str:
    """Return the URL of the server."""
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{shown}:{opened.getsockname()[1]}"


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is only reachable from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(site: Starlette, opened: socket.socket, tls: Tls | None, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; requests in progress are completed.

    Args:
        site: the application.
        opened: the listening socket.
        tls: the server's certificate.
        ready: called once when requests can be handled.

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
        log_level="critical",  # the application does the logging
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
    except OSError as error:  # includes ssl.SSLError
        raise InputError("BANK_TLS_INVALID", file=str(tls.certificate) if tls else "", reason=str(error)) from error
    _more_files()
    asyncio.run(_Server(config, ready).serve([opened]))


def _more_files() -> None:
    """Raise the limit on open files; the usual 1024 is reached by connections that are not closed yet."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(_MOST_FILES, hard)
    if soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Server(uvicorn.Server):
    """Calls ``ready`` after startup and does not re-raise the signal at shutdown."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # asyncio's default handshake timeout is 60 s, and uvicorn has no setting for it
        if self.config.ssl is not None:
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
