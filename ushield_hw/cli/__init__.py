"""The command ``ushield``: parse, call the library, print. Data goes to stdout; everything else to stderr.

Commands are imported when they are called: a person waits.
"""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NoReturn

_FEWER_COLLECTIONS: Final = 50_000, 20, 20  # most commands have ended before there is anything to collect


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code (see ``cli.exits``)."""
    if getattr(sys, "frozen", False) or "__compiled__" in globals():
        from ushield_hw.backend.interpreter import freeze_support

        freeze_support()
    gc.set_threshold(*_FEWER_COLLECTIONS)
    if not sys.warnoptions:  # what one library has to say about another is not for a person
        warnings.simplefilter("ignore")
    try:
        from ushield_hw.cli import signals
        from ushield_hw.cli.app import run
        from ushield_hw.system.hardening import harden
    except KeyboardInterrupt:  # nothing has been done yet
        sys.exit(130)
    if argv is None:  # else this is the process of the program that called
        harden()
    _fill_closed()
    before = signals.catch()
    code = run(list(sys.argv[1:] if argv is None else argv))
    if argv is not None:
        signals.give_back(before)
        sys.exit(code)
    _end(code)


def _fill_closed() -> None:
    """Open what the command was started without: else a file of ours would become stdout, and a module print into it.

    A closed stdout asks for no data.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free: this one
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)


def _end(code: int) -> NoReturn:
    """End the process at once: to take an interpreter apart takes a sixth of what a short command does."""
    from ushield_hw.cli import signals

    signals.ignore()
    if modules := sys.modules.get("ushield_hw.backend.module"):
        with suppress(Exception):  # it is over, and its result stands
            modules.close_modules()
    if forks := sys.modules.get("ushield_hw.backend.spawn"):
        with suppress(Exception):
            forks.close_all()
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed by whoever started us
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
