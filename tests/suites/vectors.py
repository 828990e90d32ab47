"""The data of the public suites, and the result of a test without it."""

from __future__ import annotations

import json
import lzma
import os
import re
import tarfile
from base64 import b64decode
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

FOLDER: Final = Path(os.environ.get("USHIELD_VECTORS") or Path(__file__).resolve().parents[3] / "shared" / "vectors")
"""Its README says where each file comes from and under which licence."""


def there(name: str) -> Path:
    """Return the path of a data file; without it the test is skipped, which fails in CI."""
    file = FOLDER / name
    if not file.exists():
        pytest.skip(f"the data of public suites is not there: {file}")
    return file


@cache
def document(name: str) -> Any:
    """Return a compressed JSON document."""
    with lzma.open(there(name)) as packed:
        return json.load(packed)


@cache
def archive(name: str) -> dict[str, bytes]:
    """Return the files of an archive by path."""
    with tarfile.open(there(name)) as packed:
        files = ((one.name.removeprefix("./"), packed.extractfile(one)) for one in packed.getmembers())
        return {path: content.read() for path, content in files if content is not None}


def pem(*texts: str) -> list[bytes]:
    """Return the content of the PEM blocks in texts."""
    return [
        b64decode(block) for text in texts for block in re.findall(r"-----BEGIN [^-]+-----(.*?)-----END", text, re.S)
    ]
