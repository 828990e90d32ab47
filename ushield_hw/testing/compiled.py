"""Build the C parts of this package as shared objects, once per user, source and compiler."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Final

from ushield_hw.errors import InputError, StorageError

_HERE: Final = Path(__file__).parent
_FLAGS: Final = (
    *("-std=c99", "-fPIC", "-shared", "-O2", "-Wall", "-Wextra", "-Werror"),
    *("-fvisibility=hidden", "-pthread"),
)
_DEADLINE_S: Final = 120
_OUTPUT_SHOWN: Final = 2000


class Part(Enum):
    """The parts that can be built. The value is the source file followed by the headers it includes."""

    FAULTY_MODULE = ("faulty.c", "faulty_functions.h", "faulty_plan.h")
    READER = ("reader.c",)


def built(part: Part) -> Path:
    """Return a compiled part, built with ``$CC`` or ``cc`` unless it is in this user's cache.

    The cache is a folder (``$XDG_CACHE_HOME`` or ``~/.cache``, else the system's temporary folder) that no other user
    can write. The file name contains a hash of source, flags and compiler version. The file is renamed into place, so
    that concurrent builds never see an incomplete file.

    Args:
        part: the part to build.

    Returns:
        The shared object.

    Raises:
        InputError: ``COMPILER_MISSING``: there is no C compiler. ``COMPILER_FAILED``: compilation failed.
        StorageError: ``FAULTY_CACHE_UNTRUSTED``: other users can write the folder. ``FAULTY_CACHE_UNWRITABLE``: no
            folder is writable.
    """
    compiler = tuple(shlex.split(os.environ.get("CC", ""))) or ("cc",)
    file = _cache_folder() / f"{Path(part.value[0]).stem}-{_fingerprint(compiler, part)}.so"
    if not file.exists():
        _build(compiler, part, file)
    return file


@cache
def _fingerprint(compiler: tuple[str, ...], part: Part) -> str:
    parts = [_run(compiler, "--version"), platform.machine(), *_FLAGS]
    parts += [(_HERE / name).read_text(encoding="utf-8") for name in part.value]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def _build(compiler: tuple[str, ...], part: Part, file: Path) -> None:
    with tempfile.TemporaryDirectory(dir=file.parent, prefix="build-") as folder:
        fresh = Path(folder) / file.name
        _run(compiler, *_FLAGS, "-o", str(fresh), str(_HERE / part.value[0]), "-ldl")
        fresh.replace(file)


def _run(compiler: tuple[str, ...], *arguments: str) -> str:
    command = [*compiler, *arguments]
    try:
        # The command is the compiler named by the user's environment.
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_DEADLINE_S)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError("COMPILER_MISSING", compiler=shlex.join(compiler), reason=str(error)) from error
    if done.returncode:
        output = (done.stderr or done.stdout)[:_OUTPUT_SHOWN]
        raise InputError("COMPILER_FAILED", compiler=shlex.join(compiler), output=output)
    return done.stdout


def _cache_folder() -> Path:
    for folder in _candidates():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:  # a read-only or missing home folder, as in containers
            continue
        if os.access(folder, os.W_OK):
            return _own(folder)
    raise StorageError("FAULTY_CACHE_UNWRITABLE", path=tempfile.gettempdir())


def _candidates() -> Iterator[Path]:
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    home = os.environ.get("HOME")
    if configured.is_absolute():
        yield configured / "ushield-hw-testing"
    elif home:
        yield Path(home) / ".cache" / "ushield-hw-testing"
    yield Path(tempfile.gettempdir()) / f"ushield-hw-testing-{os.getuid()}"


def _own(folder: Path) -> Path:
    """Raise if another user can write the folder, because its files are loaded and executed."""
    state = folder.lstat()  # lstat: a symbolic link has mode 0777 and is refused
    if state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise StorageError("FAULTY_CACHE_UNTRUSTED", path=str(folder))
    return folder
