"""The journal file, shared by threads and processes: locked appends, shared syncs, pruning."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from ushield_hw.errors import TokenBusy, UShieldError
from ushield_hw.signing.journal.lines import HEADER, ID, JournalFile, failed, unusable
from ushield_hw.system import storage
from ushield_hw.system.log import LOG

_NAME: Final = "journal.log"
_NOTED: Final = re.compile(rb"([0-9]{20}) ([0-9a-f]{8})\n")
_WRITER: Final = "another process that writes the journal"
_SIGNER: Final = "another process that signs this order"
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


class _Sync:
    """One disk sync, shared by all threads that waited for it to begin."""

    def __init__(self) -> None:
        self.done = False
        self.error: UShieldError | None = None


class _Locked:
    """Locks the file against all other threads and processes, and reads what they have appended."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def _take(self) -> bool:
        return storage.flocked(self._log.lock)

    def __enter__(self) -> None:
        log = self._log
        if not log.mutex.acquire(timeout=storage.LOCK_WAIT_S):
            raise TokenBusy(holder=_WRITER)
        try:
            storage.patiently(self._take, _WRITER)
            try:
                log.catch_up()
            except BaseException:
                storage.unlocked(log.lock)
                raise
        except OSError as error:
            log.mutex.release()
            raise failed(log.path, error) from error
        except BaseException:
            log.mutex.release()
            raise

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        storage.unlocked(self._log.lock)
        self._log.mutex.release()
        if isinstance(error, OSError):
            raise failed(self._log.path, error) from error


class Log:
    """The journal file in one folder, shared by all threads of this process. Make it with :meth:`of`.

    Every method raises ``StorageError`` (``JOURNAL_UNUSABLE``) if the file cannot be used, and ``TokenBusy`` if another
    process keeps it locked beyond the timeout.
    """

    _known: Final[dict[tuple[int, int], Log]] = {}  # by device and inode of the folder
    _known_lock = threading.Lock()

    def __init__(self, folder: Path) -> None:
        self.path = folder / _NAME
        self._folder = folder
        self._name, self._lock_name = str(self.path), str(folder / "journal.lock")
        self.mutex = threading.Lock()
        self._turn = threading.Condition()
        self._next = _Sync()
        self._syncing = False
        self._held: set[str] = set()
        self._held_lock = threading.Lock()
        self._file: JournalFile | None = None
        self.pruned_at: float | None = None  # monotonic
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self.lock = _private(self._lock_name, flags)
        self._orders = _private(str(folder / "orders.lock"), flags)
        about = os.fstat(self.lock)
        self._identity = about.st_dev, about.st_ino

    @classmethod
    def of(cls, folder: Path, about: os.stat_result | None = None) -> Log:
        """Return the log in an existing folder.

        Args:
            folder: The folder.
            about: The folder's stat result, if known.
        """
        with cls._known_lock:
            try:
                about = about or os.stat(folder)
                known = cls._known.get((about.st_dev, about.st_ino))
                if known is None or not known._is_there():
                    cls._drop_removed()
                    known = cls._known[about.st_dev, about.st_ino] = cls(folder)
            except OSError as error:
                raise failed(folder / _NAME, error) from error
            return known

    @classmethod
    def _drop_removed(cls) -> None:
        """Drop the logs of removed folders; their files are closed when no thread uses them any more."""
        for place, log in list(cls._known.items()):
            if not log._is_there():
                del cls._known[place]

    def __del__(self) -> None:
        for name in ("lock", "_orders"):
            with suppress(OSError, AttributeError):
                os.close(getattr(self, name))

    def _is_there(self) -> bool:
        try:
            about = os.lstat(self._lock_name)
        except OSError:
            return False
        return (about.st_dev, about.st_ino) == self._identity

    @classmethod
    def forget(cls) -> None:
        """Close all logs in a forked child: it opens its own files, and the locks belong to the parent."""
        for log in cls._known.values():
            for descriptor in (log.lock, log._orders):
                with suppress(OSError):
                    os.close(descriptor)
            log.lock = log._orders = -1
            log._file = None
        cls._known.clear()
        cls._known_lock = threading.Lock()

    @property
    def _locked(self) -> _Locked:
        return _Locked(self)  # not stored: a reference cycle would delay closing the files until a garbage collection

    # --- reading and appending ----------------------------------------------------------------------------------------

    def lines(self, key: str) -> list[dict[str, Any]]:
        """Return the records of one order, oldest first."""
        with self._locked:
            return self._file.lines(key.encode()) if self._file else []

    def keys(self) -> list[str]:
        """Return the keys of all orders with records, by their first record."""
        with self._locked:
            return [key.decode("ascii", "replace") for key in self._file.spans] if self._file else []

    def append(self, key: str, *records: Mapping[str, object]) -> None:
        """Append records of one order; they are on disk after the next :meth:`sync`.

        Args:
            key: The key of the order.
            *records: The records.
        """
        begin = ID + key.encode() + b'",'
        bodies = [begin + _encode(record)[1:].encode() for record in records]
        with self._locked:
            file = self._file or self._created()
            file.append(bodies if file.end else [HEADER, *bodies])

    def catch_up(self) -> None:
        """Read what other processes have appended. The file must be locked."""
        try:
            about = os.lstat(self._name)
        except FileNotFoundError:
            about = None
        if self._file is not None and (about is None or (about.st_dev, about.st_ino) != self._file.identity):
            self._file = None
        if about is None:
            if self._noted() != (0, 0):
                raise unusable(self.path, "missing")
            self._refuse_other_format()
            return
        if self._file is None:
            opened = self._opened(about)
            opened.read(about.st_size)  # even if it is empty: it may have been truncated
            self._file = opened
        elif about.st_size != self._file.end:
            self._file.read(about.st_size)

    def _opened(self, about: os.stat_result) -> JournalFile:
        if not stat.S_ISREG(about.st_mode):
            raise unusable(self.path, "no_file")
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return JournalFile(self.path, os.open(self.path, flags), self._noted())

    def _created(self) -> JournalFile:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = JournalFile(self.path, _private(self._name, flags), (0, 0))
        return self._file

    def _refuse_other_format(self) -> None:
        """Refuse a folder with records in the previous format: it is not an empty journal."""
        with os.scandir(self._folder) as found:
            if any(entry.name.endswith(".json") for entry in found):
                raise unusable(self._folder, "version")

    def prune(self, expendable: Callable[[list[dict[str, Any]]], bool]) -> int:
        """Rewrite the file without the orders that are expendable and not locked.

        A crash leaves either the old file or the new one.

        Args:
            expendable: Tells from an order's records whether it may be removed.

        Returns:
            The number of orders removed.
        """
        with self._locked:
            file = self._file
            if file is None:
                return 0
            gone = {key for key in file.spans if not self.is_held(key.decode()) and expendable(file.lines(key))}
            if gone:
                self._replace(file, gone)
            return len(gone)

    def _replace(self, file: JournalFile, gone: set[bytes]) -> None:
        draft = str(self._folder / "journal.new")
        with suppress(FileNotFoundError):
            os.unlink(draft)  # left by a process that ended
        made = JournalFile(
            self.path, _private(draft, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC), (0, 0)
        )
        made.append([HEADER])
        for span in sorted(span for key, spans in file.spans.items() if key not in gone for span in spans):
            made.append([file.body(*span)])
        os.fsync(made.descriptor)
        os.ftruncate(self.lock, 0)  # the mark in it describes the old file
        os.replace(draft, self._name)
        _sync_folder(self._folder)
        made.named, self._file = True, made
        os.pwrite(self.lock, b"%020d %08x\n" % (made.end, made.crc), 0)

    # --- syncing ------------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Return when everything appended before the call is on disk. Threads that wait together share one sync."""
        with self._turn:
            mine = self._next
            while self._syncing and not mine.done:
                self._turn.wait()
            leads = not mine.done
            if leads:
                self._syncing, self._next = True, _Sync()
        if leads:
            self._run(mine)
        if mine.error is not None:
            raise mine.error

    def _run(self, sync: _Sync) -> None:
        try:
            self._sync()
        except OSError as error:
            sync.error = failed(self.path, error)
        except UShieldError as error:
            sync.error = error
        except BaseException:
            sync.error = unusable(self.path, "io", reason=os.strerror(errno.EINTR))
            raise
        finally:
            with self._turn:
                sync.done, self._syncing = True, False
                self._turn.notify_all()

    def _sync(self) -> None:
        with self.mutex:
            file = self._file
            if file is None:
                raise unusable(self.path, "missing")
            mark = file.end, file.crc
        os.fdatasync(file.descriptor)
        if not file.named:
            _sync_folder(self._folder)
            file.named = True
        try:
            with self._locked:
                if self._file is file:
                    os.pwrite(self.lock, b"%020d %08x\n" % mark, 0)
        except UShieldError as error:  # only a safeguard: the data is synced
            LOG.warning("how long the journal is could not be noted: %s", error.code)

    def _noted(self) -> tuple[int, int]:
        """Return length and CRC of the file at the last sync; zeros if unknown."""
        found = _NOTED.fullmatch(os.pread(self.lock, 64, 0))
        return (int(found[1]), int(found[2], 16)) if found else (0, 0)

    # --- one order at a time ------------------------------------------------------------------------------------------

    @contextmanager
    def holding(self, key: str) -> Iterator[None]:
        """Lock one order against all other threads and processes. The lock ends with the process.

        Args:
            key: The key of the order.

        Raises:
            TokenBusy: Another process is signing the order and did not finish in time.
        """
        try:
            storage.patiently(partial(self._hold, key), _SIGNER)
        except OSError as error:
            raise failed(self.path, error) from error
        try:
            yield
        finally:
            self._let_go(key)

    def is_held(self, key: str) -> bool:
        """Tell whether an order is being signed now, by this process or another."""
        try:
            if not self._hold(key):
                return True
        except OSError as error:
            raise failed(self.path, error) from error
        self._let_go(key)
        return False

    def _hold(self, key: str) -> bool:
        # A POSIX record lock, one byte of the file for each order. Children do not inherit it. This process must
        # never close the file: that would release the locks.
        with self._held_lock:
            if key in self._held:
                return False
            try:
                fcntl.lockf(self._orders, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(key))
            except OSError as error:
                if error.errno in {errno.EACCES, errno.EAGAIN, errno.EINTR}:
                    return False
                raise
            self._held.add(key)
        return True

    def _let_go(self, key: str) -> None:
        with self._held_lock:
            self._held.discard(key)
            try:
                fcntl.lockf(self._orders, fcntl.LOCK_UN, 1, _offset(key))
            except OSError as error:
                LOG.warning("the lock of an order could not be released: %s", error.strerror)


def _private(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)  # regardless of the umask
    return descriptor


def _offset(key: str) -> int:
    return int(key[:15], 16)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


os.register_at_fork(after_in_child=Log.forget)
