"""May this file be loaded? A module runs with all our rights, so nobody else may be able to change it.

The rule is the one sshd keeps for its own files: the file, every link on the way to it and every folder above must
belong to root or to us, and be writable by nobody else. A root-owned folder with the sticky bit (``/tmp``) passes:
others can add files there but not replace ours.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ushield_hw.errors import DriverNotFound, DriverUntrusted

_MOST_LINKS: Final = 40


def trusted_module(path: Path) -> Path:
    """Return the real path of a module file that may be loaded.

    Raises:
        DriverUntrusted: the path is relative, is no regular file, or somebody else could change what it names.
        DriverNotFound: there is no such file.
    """
    if not path.is_absolute():
        raise DriverUntrusted(path=str(path), reason="relative", problem="path_relative", place=str(path))
    current = Path("/")
    for current, about in _steps(path):
        problem = _problem(about)
        if problem:
            raise DriverUntrusted(path=str(path), reason=problem, problem=f"path_{problem}", place=str(current))
    if not stat.S_ISREG(about.st_mode):
        raise DriverUntrusted(path=str(path), reason="not_a_file", problem="path_not_a_file", place=str(current))
    return current


def _steps(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Walk the path as the system would: every folder, every link, and at last the file, each with its lstat."""
    left = deque(path.parts[1:])
    current = Path("/")
    yield current, current.lstat()
    links = 0
    while left:
        step = left.popleft()
        current = current.parent if step == ".." else current / step
        try:
            about = current.lstat()
        except OSError as error:
            raise DriverNotFound(searched=[str(path)]) from error
        yield current, about
        if stat.S_ISLNK(about.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise DriverNotFound(searched=[str(path)])
            target = Path(current.readlink())
            left.extendleft(reversed(target.parts[1:] if target.is_absolute() else target.parts))
            current = Path("/") if target.is_absolute() else current.parent


def _problem(about: os.stat_result) -> str | None:
    if about.st_uid not in {0, os.geteuid()}:
        return "owner"
    if stat.S_ISLNK(about.st_mode):  # a link has no mode of its own; its folder was checked
        return None
    sticky = stat.S_ISDIR(about.st_mode) and about.st_mode & stat.S_ISVTX and about.st_uid == 0
    return None if sticky or not about.st_mode & 0o022 else "writable"
