"""The descriptors that ship with the package, as one index: what each file's TOML says, read at once.

To parse a hundred TOML files takes longer than most commands. The index holds their tables as JSON. A wheel brings it;
in a checkout it is made when it is missing or a descriptor has changed. Only the standard library is imported here: the
build uses this file too.
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
"""The index's file, beside the descriptors in a wheel."""

IN_CHECKOUT: Final = ".index.json"
"""The one that a checkout makes for itself."""

Tables = Mapping[str, Mapping[str, Any]]
"""By a family's id: what its descriptor says."""


def build(folder: Path, stamp: object = None) -> bytes:
    """Return the index of a folder of descriptors.

    Args:
        folder: where they are.
        stamp: tells whether they are still the same; None: they never change.

    Raises:
        OSError, ValueError: one cannot be read, or is not TOML.
    """
    import tomllib

    tables = {file.stem: tomllib.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.toml"))}
    return json.dumps({"stamp": stamp, "tables": tables}, ensure_ascii=False, separators=(",", ":")).encode()


def of_wheel(content: bytes) -> Tables:
    """Return the tables of an index that was built into a wheel."""
    tables: Tables = json.loads(content)["tables"]
    return tables


def of_checkout(folder: Path) -> Tables:
    """Return the tables of a checkout's descriptors, and renew its index if it is stale.

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
    with suppress(OSError):  # a checkout that is not ours to write
        draft.write_bytes(content)
        os.replace(draft, file)
    return of_wheel(content)


def _stamp(folder: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of change of every descriptor."""
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(".toml")]
    return sorted((name, about.st_size, about.st_mtime_ns) for name, about in found)
