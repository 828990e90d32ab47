"""The reference bank, initialised and served by the command line, and a connection to it that can be cut."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.cli.world import USHIELD, Home, Token

_numbers: Final = itertools.count(1)


@dataclass(frozen=True)
class Server:
    """A bank with a running server.

    Attributes:
        home: the bank's own home.
        url: its address.
    """

    home: Home
    url: str

    @property
    def ca(self) -> Path:
        """The CA's certificate (PEM)."""
        return self.home.file("bank/ca.pem")

    def code(self, subject: str, profile: str = "payment") -> tuple[str, str]:
        """Return a new customer's number and one-time code."""
        customer = f"C{next(_numbers)}"
        known = ("--customer", customer, "--subject", subject, "--profile", profile, "--confirmation", "host")
        return customer, str(self.home.json("bank", "code", "--dir", "bank", *known)["code"])

    def certificates(self, customer: str) -> dict[str, str]:
        """Return the state of each certificate of a customer, by its serial number."""
        found = self.home.json("bank", "certs", "list", "--dir", "bank")["certificates"]
        return {one["serial"]: one["state"] for one in found if one["customer"] == customer}

    def enroll(self, home: Home, token: Token, subject: str) -> str:
        """Enrol a first certificate for a token; return the customer's number."""
        customer, code = self.code(subject)
        own = ("--token", token.uri, "--pin-source", token.pin_file)
        home.json("cert", "request", *own, "--subject", subject, "-o", f"{customer}.csr")
        known = ("--bank", self.url, "--customer", customer, "--code-source", home.write(f"{customer}.code", code))
        home.json("cert", "enroll", f"{customer}.csr", *own, *known)
        return customer


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    """Initialise a bank and serve it."""
    folder.mkdir(parents=True)
    home = Home(folder)
    home.json("bank", "init", "--dir", "bank")
    command = [USHIELD, "bank", "serve", "--dir", "bank", "--port", "0", "--json"]
    with subprocess.Popen(command, cwd=folder, env=home.environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(home, str(json.loads(process.stdout.readline())["url"]))
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


@dataclass
class Line:
    """A proxy that cuts the n-th connection, counted from 1, before the request is forwarded or before the answer is.

    Attributes:
        url: its address, used instead of the server's.
        at: the connection to cut; 0: none.
        after: cut after the server has answered.
        calls: the number of connections so far.
    """

    url: str
    at: int = 0
    after: bool = False
    calls: int = 0
    _ends: list[socket.socket] = field(default_factory=list)


@contextmanager
def line_to(server: Server) -> Iterator[Line]:
    """Run a proxy in front of the server."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        line = Line(f"http://127.0.0.1:{listening.getsockname()[1]}")

        def accept() -> None:
            with suppress(OSError):
                while True:
                    ours, _ = listening.accept()
                    threading.Thread(target=relay, args=(ours,), daemon=True).start()

        def relay(ours: socket.socket) -> None:
            line.calls += 1
            cut = line.calls == line.at
            with ours, suppress(OSError):
                if cut and not line.after:
                    return
                with socket.create_connection((host, int(port))) as theirs:
                    threading.Thread(target=pump, args=(ours, theirs), daemon=True).start()
                    if not cut:
                        pump(theirs, ours)
                    else:
                        theirs.recv(1)  # the server has answered
                        ours.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=accept, daemon=True).start()
        yield line


def pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
