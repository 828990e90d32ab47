"""The index of the descriptors that ship with the package: the tables of all TOML files in one JSON file.

Parsing a hundred TOML files takes longer than most commands. A wheel contains the index; in a checkout it is created if
it is missing or a descriptor has changed. This module imports only the standard library, because the build uses it too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

NAME: Final = "index.json"
"""Name of the index in a wheel, in the folder of the descriptors."""

IN_CHECKOUT: Final = ".index.json"
"""Name of the index in a checkout."""

Tables = Mapping[str, Mapping[str, Any]]
"""Family id -> table of its descriptor."""


def build(folder: Path, stamp: object = None) -> bytes:
    """Return the index of a folder of descriptors.

    Args:
        folder: the folder.
        stamp: identifies the state of the files, to detect changes; None: they never change.

    Raises:
        OSError, ValueError: a descriptor cannot be read, or is not TOML.
    """
    import tomllib

    tables = {file.stem: tomllib.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.toml"))}
    return json.dumps({"stamp": stamp, "tables": tables}, ensure_ascii=False, separators=(",", ":")).encode()


def of_wheel(content: bytes) -> Tables:
    """Return the tables of the index in a wheel.

    Args:
        content: the content of the index.
    """
    tables: Tables = json.loads(content)["tables"]
    return tables


def of_checkout(folder: Path) -> Tables:
    """Return the tables of a checkout's descriptors, and update its index if it is out of date.

    Args:
        folder: the folder of the descriptors.

    Raises:
        OSError, ValueError: a descriptor cannot be read, or is not TOML.
    """
    return _fresh(folder, tuple(_stamp(folder)))


@lru_cache(4)
def _fresh(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> Tables:
    wanted, file = [list(one) for one in stamp], folder / IN_CHECKOUT
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(file.read_bytes())
        if found["stamp"] == wanted:
            known: Tables = found["tables"]
            return known
    content = build(folder, wanted)
    draft = file.with_name(f"{IN_CHECKOUT}.{os.getpid()}")
    with suppress(OSError):  # the checkout may be read-only
        draft.write_bytes(content)
        os.replace(draft, file)
    return of_wheel(content)


def _stamp(folder: Path) -> list[tuple[str, int, int]]:
    """Return name, size and modification time of every descriptor."""
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(".toml")]
    return sorted((name, about.st_size, about.st_mtime_ns) for name, about in found)
