"""Persistent state: the state folder, atomic file writes, locks between processes."""

from __future__ import annotations

import fcntl
import os
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
    """Return a subfolder of the state folder, accessible by this user only; create it if it does not exist.

    Args:
        state_dir: the state folder; None: there is none.
        name: name of the subfolder.

    Raises:
        StorageError: there is no state folder, or the folder cannot be created; ``STATE_UNSAFE``: other users can write
            to it or to a parent folder.
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
    """Return a subfolder of the state folder if it exists, without creating it; None: it does not exist.

    Args:
        state_dir: the state folder; None: there is none.
        name: name of the subfolder.

    Raises:
        StorageError: as for :func:`state_folder`.
    """
    there = state_dir is not None and (state_dir / name).exists()
    return state_folder(state_dir, name) if there else None


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file atomically: after a crash either the old or the new file exists. Returns after fsync.

    Args:
        path: the file.
        data: its content.
        mode: its permissions.

    Raises:
        OSError: it could not be written; the old file is unchanged.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)  # independent of the umask
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
    """Hold an exclusive lock against other processes of this user. It is released when the process ends.

    Args:
        file: the file that the lock protects; the lock file has its name with the suffix ``.lock``.
        code: code of the StorageError.
        holder: holder named in TokenBusy.

    Raises:
        StorageError: the lock file cannot be opened or locked.
        TokenBusy: the lock was not released before the timeout.
    """
    try:
        lock = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(code, path=str(file), reason=error.strerror) from error
    try:
        try:
            os.fchmod(lock, 0o600)  # independent of the umask
            patiently(partial(flocked, lock), holder)
        except OSError as error:
            raise StorageError(code, path=str(file), reason=error.strerror) from error
        yield
    finally:
        _closed(lock)


def patiently(taken: Callable[[], bool], holder: str) -> None:
    """Call ``taken`` until it returns True.

    Args:
        taken: tries to take a lock.
        holder: holder named in TokenBusy.

    Raises:
        TokenBusy: it did not return True within ten seconds.
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
    """Try to lock an open file exclusively; return whether it is locked.

    Raises:
        OSError: the file system does not support locks (ENOTSUP, ENOSYS), or has no more locks (ENOLCK).
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, InterruptedError):
        return False
    return True


def unlocked(lock: int) -> None:
    """Unlock a file. A failure is logged and not raised, because the operation under the lock has succeeded."""
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
