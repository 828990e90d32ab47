"""PyInstaller's hook: the texts and the descriptors are files, and the commands are imported by name."""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

from ushield_hw.config import data_dir

datas = collect_data_files("ushield_hw", excludes=["_data"]) + [
    (str(data_dir(name)), f"ushield_hw/_data/{name}") for name in ("drivers", "softhsm-config")
]
hiddenimports = collect_submodules("ushield_hw.order")
