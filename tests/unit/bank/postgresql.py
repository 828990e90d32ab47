"""A PostgreSQL server for tests: a fresh cluster on a Unix socket, run by an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import psycopg
from sqlalchemy.engine import URL

_DEADLINE_S: Final = 60
_NUMBERS: Final = count()


def binary(name: str) -> str:
    """Return the path of a PostgreSQL program; Debian installs them outside PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name) or name


class Cluster:
    """A running PostgreSQL. ``folder`` has its socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def database(self, template: URL | None = None) -> URL:
        """Return the URL of a new database: empty, or a copy."""
        name, source = f"bank{next(_NUMBERS)}", template.database if template else "template0"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {source}".encode())
        return URL.create("postgresql+psycopg", "ushield", database=name, query={"host": str(self.folder)})

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            dbname="postgres", user="ushield", host=str(self.folder), connect_timeout=5, autocommit=True
        )

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until it accepts connections."""
        until = time.monotonic() + _DEADLINE_S
        while True:
            try:
                self._connect().close()
                return
            except psycopg.OperationalError:
                assert process.poll() is None and time.monotonic() < until, "PostgreSQL did not start"
                time.sleep(0.05)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start a cluster; it is deleted at the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="ushield-pg-"))
    try:
        who = _somebody(folder)
        made = ["--auth=trust", "--username=ushield", "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            [binary("initdb"), "-D", str(folder / "data"), *made],
            check=True,
            capture_output=True,
            timeout=_DEADLINE_S,
            cwd=folder,
            **who,
        )
        settings = {"listen_addresses": "", "unix_socket_directories": str(folder), "fsync": "off"}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            goes_with_us = ["setpriv", "--pdeathsig", "INT", "--"]  # also when this process is killed
            command = [*goes_with_us, binary("postgres"), "-D", str(folder / "data"), *words]
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **who)
        try:
            running = Cluster(folder)
            running.wait(process)
            yield running
        finally:
            process.send_signal(signal.SIGINT)  # a fast shutdown
            process.wait(_DEADLINE_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _somebody(folder: Path) -> Mapping[str, Any]:
    """Return the user to run the server as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
