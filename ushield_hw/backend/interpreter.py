"""How a process of our own is started: by a Python, or by a bundle that has said that it can become one of ours.

A program that was frozen (PyInstaller, Nuitka, cx_Freeze, py2exe, PyOxidizer) and a program that embeds Python are not
Python: started again, they would do again whatever they do, and start the next one. So ``sys.executable`` is only used
where it is a Python, and a frozen program only after it has called :func:`freeze_support`, as ``multiprocessing`` asks
for too. What is started by us carries a mark in its environment, and never starts another.
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
    """Let a frozen program run vendor modules in worker processes. Call it first in the program's main module.

    A program that is not frozen need not call it; there it does nothing. In a process that this library has started
    from the same bundle it does not return.
    """
    global _entry_called  # noqa: PLW0603 - said once by the program
    _entry_called = True
    descriptor = os.environ.get(_MARK)
    if descriptor is None:
        return
    try:
        control = socket.socket(fileno=int(descriptor))
    except (ValueError, OSError):
        os._exit(1)  # started by us, and cannot be what it was started for: it must not run the program
    from ushield_hw.backend.forkserver import serve

    serve(control)


def command(descriptor: int) -> tuple[list[str], dict[str, str]]:
    """Return what starts the fork server, and the variables that it needs besides.

    Args:
        descriptor: its end of the control socket, inherited.

    Raises:
        DriverError: ``WORKER_NEEDS_ENTRY``: a frozen program that has not called :func:`freeze_support`;
            ``WORKER_NO_PYTHON``: Python is embedded in another program, and there is none beside it.
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
    """Tell whether this program was made into an executable of its own."""
    main = sys.modules.get("__main__")
    marks = (getattr(sys, "frozen", False), getattr(sys, "oxidized", False), getattr(sys, "_MEIPASS", False))
    return any(marks) or "__compiled__" in globals() or hasattr(main, "__compiled__")  # the last two: Nuitka


def _python() -> str | None:
    """Return a Python of this version: the one that runs us, or where it is embedded the one that it belongs to."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    known = (sys.executable, getattr(sys, "_base_executable", None), f"{sys.base_exec_prefix}/bin/{version}")
    return next((path for path in known if path and _is_python(path)), None)


def _is_python(path: str) -> bool:
    """Tell by its name whether a file is an interpreter: to ask it would be to start it."""
    names = (os.path.basename(path), os.path.basename(os.path.realpath(path)))
    return os.path.isabs(path) and os.access(path, os.X_OK) and any(map(_PYTHON.fullmatch, names))
