"""The command ``ushield``: parse arguments, call the library, print. Data goes to stdout, everything else to stderr.

Modules of commands are imported when the command is called, to keep startup short.
"""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NoReturn

_FEWER_COLLECTIONS: Final = 50_000, 20, 20  # most commands end before there is garbage worth collecting


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code (see ``cli.exits``).

    Args:
        argv: the arguments. None: those of the process.
    """
    if getattr(sys, "frozen", False) or "__compiled__" in globals():
        from ushield_hw.backend.interpreter import freeze_support

        freeze_support()
    gc.set_threshold(*_FEWER_COLLECTIONS)
    if not sys.warnoptions:  # warnings between libraries are not meant for the user
        warnings.simplefilter("ignore")
    try:
        from ushield_hw.cli import signals
        from ushield_hw.cli.app import run
        from ushield_hw.system.hardening import harden
    except KeyboardInterrupt:  # nothing has been done yet
        sys.exit(130)
    if argv is None:  # otherwise the process belongs to the calling program
        harden()
    _fill_closed()
    before = signals.catch()
    code = run(list(sys.argv[1:] if argv is None else argv))
    if argv is not None:
        signals.give_back(before)
        sys.exit(code)
    _end(code)


def _fill_closed() -> None:
    """Open standard streams that were closed at startup.

    Otherwise a file opened later would become stdout, and a module could print into it. A closed stdout means that no
    data is wanted.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # open() returns the lowest free descriptor, which is this one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)


def _end(code: int) -> NoReturn:
    """Flush and end the process without finalizing the interpreter, which takes a sixth of a short command's time."""
    from ushield_hw.cli import signals

    signals.ignore()
    if modules := sys.modules.get("ushield_hw.backend.module"):
        with suppress(Exception):  # the command has ended and its result stands
            modules.close_modules()
    if forks := sys.modules.get("ushield_hw.backend.spawn"):
        with suppress(Exception):
            forks.close_all()
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed by the parent process
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
