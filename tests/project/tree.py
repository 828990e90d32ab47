"""The files of the project, as listed by git."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_NOT_OURS = {".git", ".venv", "__pycache__", "build", "dist"}


@cache
def project_files() -> tuple[Path, ...]:
    """Return every tracked or unignored file, relative to ``ROOT``; outside git, every existing file."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode == 0:
        found = [Path(name) for name in listing.stdout.decode().split("\0") if name]
    else:
        found = [path.relative_to(ROOT) for path in ROOT.rglob("*") if not _NOT_OURS & set(path.parts)]
    return tuple(sorted(path for path in found if (ROOT / path).is_file()))
