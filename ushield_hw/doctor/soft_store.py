"""What SoftHSM2's configuration says, and how many objects the files of one of its tokens hold.

The files of a token show also what its objects hide until a login: not what they are, but that they are there.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ushield_hw.doctor.inspect.machine import Machine

# Where a module looks for its configuration if its descriptor's variable is not set; the first that exists counts.
CONFIGURATIONS: Final = {
    "SOFTHSM2_CONF": ("{home}/.config/softhsm2/softhsm2.conf", "/etc/softhsm/softhsm2.conf", "/etc/softhsm2.conf")
}
FILES: Final = "file"  # the object store that keeps each object in a file; the other one is a database
_LINE: Final = re.compile(r"^\s*([\w.]+)\s*=\s*([^#]*?)\s*(?:#.*)?$")  # SoftHSM2 drops what follows a #
_VERSION_1: Final = re.compile(r"(?m)^\s*\d+\s*:\s*\S")  # SLOT:FILE
_USUAL_FOLDER: Final = "/var/lib/softhsm/tokens"
_SERIAL: Final = re.compile(r"[0-9a-f]{16}")
_OF_THE_TOKEN: Final = "token.object"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration file, read.

    Attributes:
        path: the file.
        readable: False: it is not there, or cannot be read.
        folder: where the tokens are.
        store: how objects are kept.
        version_1: it is one of SoftHSM 1.
    """

    path: str
    readable: bool = False
    folder: str = ""
    store: str = ""
    version_1: bool = False


def configuration(machine: Machine, variable: str) -> Configuration:
    """Return what the configuration says that a module reads; ``variable``: one of :data:`CONFIGURATIONS`."""
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
    """Return how many objects the files of a token hold, shown or not; None: that cannot be told.

    A token's folder is called by a UUID, the end of which is the token's serial number.
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
