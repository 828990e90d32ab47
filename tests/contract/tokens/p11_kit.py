"""A remote token: SoftHSM2 behind p11-kit's server, as used from a sandbox or another host.

p11-kit's client gives each caller another function list and is therefore refused; a pass-through module
(``ushield_hw.testing.faulty`` without a plan) wraps it and returns a single one.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.contract.subjects import Can, Kind, Place, Subject, driver
from tests.contract.tokens.daemon import running
from tests.soft import KEYS, SOFTHSM
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.module import Module
from ushield_hw.testing.faulty import faulty_module

DRIVER: Final = driver("p11-kit")
CANNOT: Final = {Can.LOCK: "As SoftHSM 2, which is behind it: never locks."}


def client() -> Path | None:
    """Return p11-kit's client module."""
    return next((file for file in DRIVER.module_files() if file.name == "p11-kit-client.so"), None)


@contextmanager
def served(place: Place, isolation: Isolation) -> Iterator[tuple[Subject, int]]:
    """Serve a SoftHSM2 token of this test; yield it with the server's process id."""
    soft, path = place.soft, client()
    assert path is not None
    with ExitStack() as closing:
        # in /tmp, as socket paths must be short
        run = Path(closing.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        command = ["p11-kit", "server", "--foreground", "--name", str(run / "socket"), "--provider", str(SOFTHSM)]
        server = closing.enter_context(running([*command, "pkcs11:"], "socket", run / "log"))
        place.monkeypatch.setenv("P11_KIT_SERVER_ADDRESS", f"unix:path={run / 'socket'}")
        front = faulty_module(place.folder / "front", path)
        module = Module(front.path, isolation, DRIVER.module.options, 30)
        closing.callback(module.close)
        yield Subject(module, soft.module(), soft.serial, soft.pin, soft.so_pin, KEYS), server.pid


@contextmanager
def make(place: Place, isolation: Isolation) -> Iterator[Subject]:
    """Serve a SoftHSM2 token of this test."""
    with served(place, isolation) as (subject, _):
        yield subject


def absent() -> str | None:
    """Return why it is not available."""
    if client() is None:
        return "p11-kit-client.so is not installed (package p11-kit-modules)"
    return None if shutil.which("p11-kit") else "the program p11-kit is not installed (package p11-kit)"


KIND: Final = Kind("p11-kit-remote", "p11-kit 0.24.1 remote (SoftHSM 2 behind it)", make, CANNOT, absent=absent)
