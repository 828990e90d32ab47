"""What PyInstaller has to know of this package to put it into a bundle; found by the entry point ``pyinstaller40``."""

from __future__ import annotations

from pathlib import Path


def hook_folders() -> list[str]:
    """Return the folder of the hooks."""
    return [str(Path(__file__).parent)]
