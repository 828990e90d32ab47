"""Real multi-process servers: gunicorn with and without preload, uvicorn with workers, asyncio with a thread pool."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.project.tree import ROOT
from tests.soft import Soft
from tests.stack.deployed.conftest import PRELUDE, Run

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

WSGI = (
    PRELUDE
    + """
token()  # a look while the application is loaded: with --preload that is before the workers are forked

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{outcome(sign)} {os.getpid()}".encode()]
"""
)
ASGI = (
    PRELUDE
    + """
import asyncio
token()

async def application(scope, receive, send):
    if scope["type"] != "http":
        return
    said = f"{await asyncio.to_thread(outcome, sign)} {os.getpid()}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said})
"""
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(folder: Path, application: str, *command: str) -> Iterator[str]:
    """Run a server; yield its URL."""
    (folder / "teller.py").write_text(application)
    port = free_port()
    arguments = [word.replace("PORT", str(port)) for word in command]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{folder}"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", *arguments], cwd=folder, env=environment, stderr=log)
    try:
        until = time.monotonic() + 90
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/", timeout=60).read()
                break
            except (URLError, ConnectionError):
                assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        assert process.wait(30) in {0, -15}, (folder / "log").read_text()


def asked(address: str) -> str:
    with urlopen(address, timeout=100) as answer:  # noqa: S310 - our own server
        return str(answer.read().decode())


@pytest.mark.parametrize("preload", ["--preload", "--no-sendfile"])
def test_gunicorn(certified: Soft, tmp_path: Path, preload: str) -> None:
    command = ["gunicorn", "-w", "2", "--threads", "2", "--timeout", "100", preload, "-b", "127.0.0.1:PORT"]
    with serving(tmp_path, WSGI, *command, "teller:application") as address, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(asked, [address] * 24))
    assert {answer.split()[0] for answer in answers} == {"signed"}


def test_uvicorn_with_workers(certified: Soft, tmp_path: Path) -> None:
    command = ["uvicorn", "--workers", "2", "--host", "127.0.0.1", "--port", "PORT", "--log-level", "warning"]
    with serving(tmp_path, ASGI, *command, "teller:application") as address, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(asked, [address] * 24))
    assert {answer.split()[0] for answer in answers} == {"signed"}


def test_asyncio_with_a_pool_and_one_session(run: Run) -> None:
    said = run(
        """
import asyncio
from concurrent.futures import ThreadPoolExecutor

async def main():
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(4) as pool:
        with token().open(Scripted(PIN)) as session:
            signing = [loop.run_in_executor(pool, signed, session) for _ in range(12)]
            return len({order.tx_id for order in await asyncio.gather(*signing)})

print(asyncio.run(main()))
"""
    )
    assert said == ["12"]
