"""What this program keeps on the disk between runs: the state folder, files written whole, locks between processes."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from ushield_hw.errors import StorageError, TokenBusy
from ushield_hw.system import trust
from ushield_hw.system.log import LOG

LOCK_WAIT_S: Final = 10.0


def state_folder(state_dir: Path | None, name: str) -> Path:
    """Return a folder of our own under the state folder, made if missing, for this user only.

    Raises:
        StorageError: there is no state folder, or it cannot be made; ``STATE_UNSAFE``: others may write to it or to a
            folder above it.
    """
    if state_dir is None:
        raise StorageError("STATE_FOLDER_UNKNOWN", path=None)
    folder = state_dir / name
    try:
        trust.make_folder(folder.absolute())
    except trust.Unsafe as error:
        raise StorageError("STATE_UNSAFE", path=str(folder), **error.details) from error
    except OSError as error:
        raise StorageError("STATE_FOLDER_UNUSABLE", path=str(folder), reason=error.strerror) from error
    return folder


def existing_folder(state_dir: Path | None, name: str) -> Path | None:
    """Return that folder if there is one: who only wants to know makes none.

    Raises:
        StorageError: as :func:`state_folder`.
    """
    there = state_dir is not None and (state_dir / name).exists()
    return state_folder(state_dir, name) if there else None


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a whole file so that a crash leaves the old one or the new one, and the new one is on the disk.

    Raises:
        OSError: it could not be written; the old file is untouched.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)  # whatever the umask is
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(draft, path)
    except OSError:
        with suppress(OSError):
            os.unlink(draft)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def exclusive(file: Path, code: str, holder: str) -> Iterator[None]:
    """Hold a lock beside ``file`` against every other process of this user; it ends with the process.

    Args:
        file: what the lock guards; the lock file has its name with ``.lock``.
        code: of the StorageError when the lock file cannot be opened or locked.
        holder: who is named in TokenBusy when the lock does not come free in time.

    Raises:
        StorageError, TokenBusy: as said.
    """
    try:
        lock = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(code, path=str(file), reason=error.strerror) from error
    try:
        try:
            os.fchmod(lock, 0o600)  # whatever the umask is
            patiently(partial(flocked, lock), holder)
        except OSError as error:
            raise StorageError(code, path=str(file), reason=error.strerror) from error
        yield
    finally:
        _closed(lock)


def patiently(taken: Callable[[], bool], holder: str) -> None:
    """Call ``taken`` until it returns True.

    Raises:
        TokenBusy: not in ten seconds; names ``holder``.
    """
    if taken():
        return
    deadline, pause_s = time.monotonic() + LOCK_WAIT_S, 0.0005
    while not taken():
        if time.monotonic() > deadline:
            raise TokenBusy(holder=holder)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.02)


def flocked(lock: int) -> bool:
    """Try to lock an open file for this process alone.

    Raises:
        OSError: the file system has no locks (ENOTSUP, ENOSYS), or none left (ENOLCK).
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, InterruptedError):
        return False
    return True


def unlocked(lock: int) -> None:
    """Unlock a file. A failure is logged: what was done under the lock is done."""
    try:
        fcntl.flock(lock, fcntl.LOCK_UN)
    except OSError as error:
        LOG.warning("a lock could not be released: %s", error.strerror)


def _closed(lock: int) -> None:
    unlocked(lock)  # a child process may have inherited the file
    try:
        os.close(lock)
    except OSError as error:
        LOG.warning("a lock file could not be closed: %s", error.strerror)
