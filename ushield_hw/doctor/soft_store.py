"""Read SoftHSM2's configuration and count the objects in the files of a token.

The count includes private objects, which are only visible after login: their content is unknown, but their number is.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ushield_hw.doctor.inspect.machine import Machine

# Where a module reads its configuration if its environment variable is not set; the first existing file is used.
CONFIGURATIONS: Final = {
    "SOFTHSM2_CONF": ("{home}/.config/softhsm2/softhsm2.conf", "/etc/softhsm/softhsm2.conf", "/etc/softhsm2.conf")
}
FILES: Final = "file"  # one file per object; the alternative backend is a database
_LINE: Final = re.compile(r"^\s*([\w.]+)\s*=\s*([^#]*?)\s*(?:#.*)?$")  # SoftHSM2 ignores everything after a #
_VERSION_1: Final = re.compile(r"(?m)^\s*\d+\s*:\s*\S")  # SLOT:FILE
_USUAL_FOLDER: Final = "/var/lib/softhsm/tokens"
_SERIAL: Final = re.compile(r"[0-9a-f]{16}")
_OF_THE_TOKEN: Final = "token.object"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Configuration:
    """A parsed configuration file.

    Attributes:
        path: the file.
        readable: whether it exists and can be read.
        folder: the token folder.
        store: the object store backend.
        version_1: whether it is a configuration of SoftHSM 1.
    """

    path: str
    readable: bool = False
    folder: str = ""
    store: str = ""
    version_1: bool = False


def configuration(machine: Machine, variable: str) -> Configuration:
    """Return the configuration that a module reads.

    Args:
        machine: the machine to read from.
        variable: the environment variable of the module, one of :data:`CONFIGURATIONS`.
    """
    path = _file(machine, variable)
    text = machine.text(path)
    if text is None:
        return Configuration(path)
    rows = (_LINE.match(line) for line in text.splitlines())
    said = {row[1]: row[2] for row in rows if row}
    folder, store = said.get("directories.tokendir") or _USUAL_FOLDER, said.get("objectstore.backend") or FILES
    return Configuration(path, True, folder, store, not said and _VERSION_1.search(text) is not None)


def _file(machine: Machine, variable: str) -> str:
    if variable in machine.environ:
        return machine.environ[variable]
    places = [place.format(home=machine.environ.get("HOME", "")) for place in CONFIGURATIONS[variable]]
    return next((place for place in places if os.path.lexists(machine.path(place))), places[1])


def objects_stored(machine: Machine, variable: str | None, serial: str) -> int | None:
    """Return the number of objects in the files of a token, visible or not; None if it cannot be determined.

    The name of a token's folder is a UUID that ends with the token's serial number.
    """
    if variable not in CONFIGURATIONS or not _SERIAL.fullmatch(serial):
        return None
    found = configuration(machine, variable)
    if not found.readable or found.store != FILES:
        return None
    folders = list(machine.path(found.folder).glob(f"*-{serial[:4]}-{serial[4:]}"))
    return _objects_in(folders[0]) if len(folders) == 1 else None


def _objects_in(folder: Path) -> int | None:
    try:
        names = os.listdir(folder)
    except OSError:
        return None
    if _OF_THE_TOKEN not in names:
        return None
    return sum(name.endswith(".object") for name in names) - 1
