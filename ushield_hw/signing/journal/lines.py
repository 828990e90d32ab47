"""The lines of the journal file: append-only, with a checksum that detects damage.

A line is ``CRC BODY``: BODY is a JSON object, CRC the CRC-32 of all bodies up to and including this one. So a line that
was changed, removed, repeated or moved is detected, and so is every line after it. Bytes after the last line feed are
an unfinished line of a process that ended: no process has acted on it, and the next append removes it. The length at
the last sync is recorded in the lock file, so that a truncated file is detected.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ushield_hw.errors import StorageError

HEADER: Final = b'{"format":"ushield-journal","version":1}'
ID: Final = b'{"id":"'
_KEY: Final = re.compile(rb'\{"id":"([0-9a-f]{32})",')
_CRC_LENGTH: Final = 9  # eight hex digits and a space
_CHUNK: Final = 1 << 20
_MOST_LINE: Final = 4 << 20  # a signed order is at most 1 MiB, a third more in base 64


def unusable(path: Path, problem: str, **details: object) -> StorageError:
    """Return the error for a journal that cannot be used.

    Args:
        path: The path of the journal.
        problem: The id of the problem.
        **details: More details of the error.
    """
    folder = path if path.suffix != ".log" else path.parent
    return StorageError("JOURNAL_UNUSABLE", path=str(path), folder=str(folder), problem=f"journal_{problem}", **details)


def failed(path: Path, error: OSError) -> StorageError:
    """Return the error for a failed system call on the journal.

    Args:
        path: The path of the journal.
        error: The error of the system call.
    """
    return unusable(path, "io", reason=error.strerror or str(error))


class JournalFile:
    """The state of the file at the last read: its length, and where the lines of each order are."""

    def __init__(self, path: Path, descriptor: int, noted: tuple[int, int]) -> None:
        self.descriptor = descriptor
        about = os.fstat(descriptor)
        self.path = path
        self.identity = about.st_dev, about.st_ino
        self.end = 0
        self.crc = 0
        self.torn = False
        self.spans: dict[bytes, list[tuple[int, int, int]]] = {}
        self.named = noted[0] > 0  # whether the folder was synced since the file was created
        self._noted = noted
        self._as_noted = not self.named

    def __del__(self) -> None:
        with suppress(OSError):
            os.close(self.descriptor)

    def read(self, size: int) -> None:
        """Read what was appended since the last read.

        Args:
            size: The current size of the file.
        """
        if size < self.end:
            raise unusable(self.path, "shortened")
        rest, at = b"", self.end
        while at < size and (chunk := os.pread(self.descriptor, min(_CHUNK, size - at), at)):
            at += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._take(line)
            if len(rest) > _MOST_LINE:
                raise unusable(self.path, "damaged", offset=self.end)
        self.torn = bool(rest)
        if not self._as_noted:
            raise unusable(self.path, "shortened" if self.end < self._noted[0] else "replaced")

    def append(self, bodies: Iterable[bytes]) -> None:
        """Append lines, all of them or none.

        Args:
            bodies: The bodies of the lines.
        """
        if self.torn:
            os.ftruncate(self.descriptor, self.end)
            self.torn = False
        crc, lines = self.crc, []
        for body in bodies:
            crc = zlib.crc32(body, crc)
            lines.append((crc, body))
        rest = b"".join([b"%08x %s\n" % line for line in lines])
        try:
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
        except OSError:
            with suppress(OSError):  # if this fails, an unfinished line remains
                os.ftruncate(self.descriptor, self.end)
            raise
        for crc, body in lines:
            self._add(body, crc)

    def lines(self, key: bytes) -> list[dict[str, Any]]:
        """Return the bodies of the lines of one order, read from the file and verified.

        Args:
            key: The key of the order.
        """
        return [self._line(*span) for span in self.spans.get(key, ())]

    def _take(self, line: bytes) -> None:
        body = line[_CRC_LENGTH:]
        crc = zlib.crc32(body, self.crc)
        if line[:_CRC_LENGTH] != b"%08x " % crc:
            raise unusable(self.path, "damaged", offset=self.end)
        self._add(body, crc)

    def _add(self, body: bytes, crc: int) -> None:
        """Register a line of the file.

        Args:
            body: The body of the line.
            crc: The CRC of all lines up to and including this one.
        """
        length = _CRC_LENGTH + len(body)
        if self.end == 0:
            self._check_header(body)
        elif (found := _KEY.match(body)) is None:
            raise unusable(self.path, "damaged", offset=self.end)
        else:
            self.spans.setdefault(found[1], []).append((self.end, length, self.crc))
        self.end += length + 1
        self.crc = crc
        self._as_noted = self._as_noted or (self.end, crc) == self._noted

    def _check_header(self, body: bytes) -> None:
        if body != HEADER:
            raise unusable(self.path, "version" if body.startswith(b'{"format":') else "damaged", offset=0)

    def _line(self, at: int, length: int, crc: int) -> dict[str, Any]:
        try:
            found = json.loads(self.body(at, length, crc))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise unusable(self.path, "damaged", offset=at)
        return found

    def body(self, at: int, length: int, crc: int) -> bytes:
        """Return the body of a line, read from the file and verified.

        Args:
            at: The offset of the line.
            length: Its length.
            crc: The CRC of all lines before it.
        """
        line = os.pread(self.descriptor, length, at)
        body = line[_CRC_LENGTH:]
        if line[:_CRC_LENGTH] != b"%08x " % zlib.crc32(body, crc):
            raise unusable(self.path, "damaged", offset=at)
        return body
