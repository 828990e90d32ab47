"""How to install what a part of the library needs beyond its core, on this system and in this environment."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Final

_PACKAGE: Final = "ushield-hw"
# Extras that are built from source where they have no wheel: what Debian calls the tools and headers for that.
_TO_BUILD: Final = {"pcsc": "gcc python3-dev swig libpcsclite-dev pkg-config"}
# The same as packages of the distribution, for a Python without a virtual environment.
_OF_DEBIAN: Final = {"pcsc": "python3-pyscard"}


def command_for(extra: str) -> str:
    """Return the command that installs an extra of this project here.

    Args:
        extra: its name in ``[project.optional-dependencies]``.
    """
    pip = f"{sys.executable or 'python3'} -m pip install '{_PACKAGE}[{extra}]'"
    if sys.platform != "linux" or shutil.which("apt-get") is None:
        return pip
    apt = "apt-get install" if os.geteuid() == 0 else "sudo apt-get install"
    if sys.prefix == sys.base_prefix and extra in _OF_DEBIAN:
        return f"{apt} {_OF_DEBIAN[extra]}"
    return f"{apt} {_TO_BUILD[extra]} && {pip}" if extra in _TO_BUILD else pip
