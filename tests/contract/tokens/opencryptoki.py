"""openCryptoki's soft token, with its daemon in separate namespaces.

The daemon, the module and the token's files have fixed paths (/run, /var/lib, /dev/shm, System V shared memory). So
each test's daemon has its own mount and IPC namespaces with the test's folders at those paths. Workers must start
there too: during a test the interpreter (``sys.executable``) is a script that enters the namespaces first. Root is not
required where the kernel allows unprivileged user namespaces.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.contract.subjects import Can, Kind, Place, Subject, driver, keys_of
from tests.contract.tokens.daemon import running
from tests.soft import generate_keys
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import User
from ushield_hw.backend.module import Module

DRIVER: Final = driver("opencryptoki")
_NO_EC: Final = "Debian builds it without elliptic curves: no EC mechanism is listed."
CANNOT: Final = {
    Can.EC: _NO_EC,
    Can.P384: _NO_EC,
    Can.HASH: "Lists SHA256_RSA_PKCS_PSS but not SHA256_RSA_PKCS.",
    Can.CONTEXT_LOGIN: "Notes CKA_ALWAYS_AUTHENTICATE and signs without; to log in for one signature is "
    "CKR_USER_TYPE_INVALID.",
}
_DAEMON: Final = Path("/usr/sbin/pkcsslotd")
_PIN, _SO_PIN, _SERIAL = "2468013", "87654321", "123"  # the default SO PIN of a new token
_CONF: Final = "version opencryptoki-3.1\nslot 3\n{\nstdll = libpkcs11_sw.so\n}\n"
_FOLDERS: Final = ("var/swtok/TOK_OBJ", "etc", "run/lock/opencryptoki/swtok", "shm", "log")
# The daemon assigns its files to the group pkcs11, which a user namespace cannot: there it is the current group.
_ENTER: Final = """\
set -eu
cd "$0"
mount --bind group /etc/group
mount --bind etc /etc/opencryptoki
mount --bind var /var/lib/opencryptoki
if ! test -d /var/log/opencryptoki; then mount -t tmpfs none /var/log; mkdir /var/log/opencryptoki; fi
mount --bind log /var/log/opencryptoki
mount --bind shm /dev/shm
mount --bind run /run
exec {daemon} -f
"""


def _user() -> list[str]:
    return [] if os.geteuid() == 0 else ["--map-root-user"]


def _prepare(folder: Path) -> None:
    for name in _FOLDERS:
        (folder / name).mkdir(parents=True)
    (folder / "etc" / "opencryptoki.conf").write_text(_CONF)
    groups = [line for line in Path("/etc/group").read_text().splitlines() if not line.startswith("pkcs11:")]
    (folder / "group").write_text("\n".join([*groups, f"pkcs11:x:{os.getegid() if _user() == [] else 0}:\n"]))


@contextmanager
def _inside(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the daemon on a folder; interpreters started meanwhile run in its namespaces."""
    shell = ["sh", "-c", _ENTER.format(daemon=_DAEMON), str(folder)]
    command = ["unshare", *_user(), "--mount", "--ipc", "--", *shell]
    with running(command, "pkcsslotd.socket", folder / "daemon.log") as daemon, patch.context() as now:
        user = ["--user", "--preserve-credentials"] if _user() else []
        enter = ["nsenter", "--target", str(daemon.pid), *user, "--mount", "--ipc", f"--wd={Path.cwd()}", "--"]
        python = folder / "python"
        python.write_text(f'#!/bin/sh\nexec {shlex.join([*enter, sys.executable])} "$@"\n')
        python.chmod(0o700)
        now.setattr(sys, "executable", str(python))
        yield


def _module() -> Module:
    return Module(DRIVER.module_files()[0].resolve(), Isolation.PROCESS, DRIVER.module.options, 30)


def _subject(module: Module, elsewhere: Module) -> Subject:
    return Subject(module, elsewhere, _SERIAL, _PIN, _SO_PIN, keys_of(CANNOT))


@cache
def _provisioned(folder: Path) -> Path:
    """Initialise the token once per process."""
    _prepare(folder)
    with pytest.MonkeyPatch.context() as patch, _inside(folder, patch):
        module = _module()
        slot = module.slots()[0].slot_id
        module.init_token(slot, _SO_PIN, "soft")
        so = module.login(slot, User.SO, _SO_PIN)
        module.init_pin(so, _PIN)
        module.logout(so)
        generate_keys(module, module.login(slot, User.USER, _PIN), keys_of(CANNOT))
        module.close()
    return folder


@contextmanager
def make(place: Place, isolation: Isolation) -> Iterator[Subject]:
    """Run a daemon for one test on a copy of the token's files."""
    assert isolation is Isolation.PROCESS
    kept, folder = _provisioned(place.kept / "opencryptoki"), place.folder / "opencryptoki"
    _prepare(folder)
    shutil.copytree(kept / "var", folder / "var", dirs_exist_ok=True)
    with _inside(folder, place.monkeypatch), ExitStack() as closing:
        module, elsewhere = _module(), _module()
        for one in (elsewhere, module):
            closing.callback(one.close)
        yield _subject(module, elsewhere)


@cache
def absent() -> str | None:
    """Return why it is not available."""
    if not (_DAEMON.exists() and DRIVER.module_files()):
        return "pkcsslotd or its module is not installed (package opencryptoki)"
    command = ["unshare", *_user(), "--mount", "--ipc", "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"the kernel makes no namespace for us: {done.stderr.strip()}" if done.returncode else None


KIND: Final = Kind(
    "opencryptoki",
    "openCryptoki 3.8.1, soft token",
    make,
    CANNOT,
    ways=(Isolation.PROCESS,),
    one_way="Its daemon and its files have fixed places, so the tests enter namespaces for it: only a worker can.",
    absent=absent,
)
