"""PyInstaller's hook for a bundle of the command itself."""

from PyInstaller.utils.hooks import collect_submodules

hiddenimports = collect_submodules("ushield_hw.cli")
