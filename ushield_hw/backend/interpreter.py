"""The command that starts the fork server: a Python interpreter, or a frozen program that supports it.

The executable of a frozen program (PyInstaller, Nuitka, cx_Freeze, py2exe, PyOxidizer) or of a program that embeds
Python is not a Python interpreter: started again, it would run the program again, which would start another process,
without end. Therefore ``sys.executable`` is used only if it is a Python interpreter, and a frozen program only after it
has called :func:`freeze_support`, as ``multiprocessing`` also requires. A process that the library starts has a
variable in its environment, and never starts another one.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from pathlib import Path
from typing import Final

_MARK: Final = "USHIELD_HW_WORKER"
_BOOT: Final = (
    "import sys,json,socket;sys.path[:0]=json.loads(sys.argv[1]);"
    "from ushield_hw.backend.forkserver import serve;serve(socket.socket(fileno=int(sys.argv[2])))"
)
_PYTHON: Final = re.compile(r"(python|pypy|graalpy)[\d.]*[dmtw]?(\.exe)?", re.IGNORECASE)

_entry_called = False


def freeze_support() -> None:
    """Enable worker processes in a frozen program. Call it first in the program's main module.

    Does nothing in a program that is not frozen. Does not return in a process that this library has started from the
    same bundle.
    """
    global _entry_called  # noqa: PLW0603 - a property of the program
    _entry_called = True
    descriptor = os.environ.get(_MARK)
    if descriptor is None:
        return
    try:
        control = socket.socket(fileno=int(descriptor))
    except (ValueError, OSError):
        os._exit(1)  # started by the library without its socket: it must not run the program
    from ushield_hw.backend.forkserver import serve

    serve(control)


def command(descriptor: int) -> tuple[list[str], dict[str, str]]:
    """Return the command line of the fork server and the additional environment variables that it needs.

    Args:
        descriptor: the fork server's end of the control socket, inherited.

    Raises:
        DriverError: ``WORKER_NEEDS_ENTRY``: a frozen program has not called :func:`freeze_support`;
            ``WORKER_NO_PYTHON``: Python is embedded in another program, and no interpreter was found.
    """
    from ushield_hw.errors import DriverError

    if frozen():
        if not _entry_called or _MARK in os.environ:
            raise DriverError("WORKER_NEEDS_ENTRY", program=sys.executable or "?")
        return [sys.executable], {_MARK: str(descriptor)}
    python = _python()
    if python is None or _MARK in os.environ:
        raise DriverError("WORKER_NO_PYTHON", program=sys.executable or "?", prefix=sys.base_exec_prefix)
    search = [entry for entry in sys.path if entry] + [str(Path(__file__).parents[2])]
    return [python, "-I", "-S", "-c", _BOOT, json.dumps(search), str(descriptor)], {_MARK: str(descriptor)}


def frozen() -> bool:
    """Return whether this program is frozen into an executable."""
    main = sys.modules.get("__main__")
    marks = (getattr(sys, "frozen", False), getattr(sys, "oxidized", False), getattr(sys, "_MEIPASS", False))
    return any(marks) or "__compiled__" in globals() or hasattr(main, "__compiled__")  # the last two: Nuitka


def _python() -> str | None:
    """Return a Python interpreter of this version: the running one, or if Python is embedded, that of its prefix."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    known = (sys.executable, getattr(sys, "_base_executable", None), f"{sys.base_exec_prefix}/bin/{version}")
    return next((path for path in known if path and _is_python(path)), None)


def _is_python(path: str) -> bool:
    """Return whether a file is a Python interpreter, judged by its name so that it is not executed."""
    names = (os.path.basename(path), os.path.basename(os.path.realpath(path)))
    return os.path.isabs(path) and os.access(path, os.X_OK) and any(map(_PYTHON.fullmatch, names))
