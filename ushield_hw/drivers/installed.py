"""The installed PKCS#11 modules: those listed by descriptors, by p11-kit and by the administrator's configuration.

Only these are ever loaded. Of p11-kit, only ``*.module`` files in its root-owned folders are used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from hashlib import sha256
from pathlib import Path
from typing import Final

from ushield_hw.backend.module import Module, open_module
from ushield_hw.backend.sharing import Sharing
from ushield_hw.config import Settings
from ushield_hw.drivers.catalogue import GENERIC, Catalogue
from ushield_hw.drivers.family import Discover, Driver, Kind, ModuleSpec
from ushield_hw.errors import DriverNotFound, StorageError
from ushield_hw.system import storage
from ushield_hw.system.log import LOG

_LEFT_OUT: Final = "{left_out}"  # placeholder in ``config_adds`` for the line that ignores readers


P11_KIT_FOLDERS: Final = (Path("/etc/pkcs11/modules"), Path("/usr/share/p11-kit/modules"))
# Folders in which p11-kit finds a module named without a folder (its compiled-in p11_module_path, by distribution).
_P11_KIT_PATHS: Final = ("/usr/lib/*-linux-gnu/pkcs11", "/usr/lib64/pkcs11", "/usr/lib/pkcs11", "/usr/local/lib/pkcs11")


@dataclass(frozen=True, slots=True)
class Installed:
    """An installed module.

    Attributes:
        path: the module file.
        driver: its driver.
        named_by: what lists it: a descriptor's id, the path of a ``*.module`` file, or ``config``.
    """

    path: Path
    driver: Driver
    named_by: str

    def module(self, settings: Settings) -> Module:
        """Return the module; it is loaded at the first call.

        Args:
            settings: the settings.
        """
        spec = self.driver.module
        environment = module_environment(self.driver, settings)
        return open_module(
            self.path,
            spec.isolation,
            spec.options,
            deadline_s=spec.deadline_s,
            environment=environment,
            sharing=lambda: _sharing(self.driver, settings),
        )


def installed(
    catalogue: Catalogue, settings: Settings, p11_kit: Sequence[Path] = P11_KIT_FOLDERS
) -> tuple[Installed, ...]:
    """Return every installed module, without duplicates by real path.

    Args:
        catalogue: the descriptors.
        settings: the settings.
        p11_kit: folders of ``*.module`` files.

    Returns:
        The modules listed by descriptors first, in the catalogue's order.
    """
    found: dict[Path, Installed] = {}
    for entry in (*_from_descriptors(catalogue), *_from_files(catalogue, settings, p11_kit)):
        found.setdefault(entry.path.resolve(), entry)
    return tuple(found.values())


def chosen(catalogue: Catalogue, settings: Settings, path: Path) -> Installed:
    """Return the module that a URI's ``module-path`` selects.

    Usually only one descriptor is read, so that a signature does not wait for the others.

    Args:
        catalogue: the descriptors.
        settings: the settings.
        path: the path in the URI.

    Raises:
        DriverNotFound: it is not an installed module.
    """
    driver = catalogue.for_module(path)
    if driver is not None and any(path.resolve() == known.resolve() for known in driver.module_files()):
        return Installed(path, driver, driver.id)
    for entry in installed(catalogue, settings):
        if entry.path.resolve() == path.resolve():
            return entry
    raise DriverNotFound("MODULE_NOT_INSTALLED", searched=[str(path)], path=str(path))


def discoverable(entries: Sequence[Installed]) -> tuple[Installed, ...]:
    """Return the modules that are loaded whenever tokens are enumerated."""
    return tuple(entry for entry in entries if entry.driver.module.discover is Discover.ALWAYS)


def _sharing(driver: Driver, settings: Settings) -> Sharing | None:
    """Return the state for card readers that a module shares with other programs; None: it uses no card readers."""
    if driver.kind is not Kind.TOKEN:
        return None
    if driver.module.config_leaves_out is None:
        return Sharing(float(settings.busy_timeout_s), None)

    def skipping(readers: tuple[str, ...]) -> Mapping[str, str] | None:
        return module_environment(driver, settings, readers) or None

    return Sharing(float(settings.busy_timeout_s), skipping)


def module_environment(driver: Driver, settings: Settings, left_out: Sequence[str] = ()) -> dict[str, str]:
    """Return additional environment variables for the module's worker: the path of its extended configuration.

    Empty if the variable is already set by the user, or if the system's configuration already has the setting
    (``config_unless``).

    Args:
        driver: the module's driver.
        settings: contain the state folder, where the configuration is stored.
        left_out: names of readers that the module must ignore.
    """
    spec = driver.module
    if spec.config_adds is None or spec.config_env is None or spec.config_env in os.environ:
        return {}
    own = next((text for place in spec.config_extends if (text := _text(place)) is not None), "")
    if spec.config_unless and re.search(spec.config_unless, own):
        LOG.info("%s: its own configuration is used as it is", driver.id)
        return {}
    try:
        wanted = own + spec.config_adds.replace(_LEFT_OUT, _leaves_out(spec, left_out))
        name = f"{driver.id}-{sha256(wanted.encode()).hexdigest()[:8]}" if left_out else driver.id
        kept = storage.state_folder(settings.state_dir, "modules") / f"{name}.conf"
        if _text(kept) != wanted:
            storage.write_atomically(kept, wanted.encode())
    except (StorageError, OSError) as error:
        LOG.warning("%s: runs without what its descriptor adds to its configuration: %s", driver.id, error)
        return {}
    return {spec.config_env: str(kept)}


def _leaves_out(spec: ModuleSpec, readers: Sequence[str]) -> str:
    """Return the configuration line that ignores readers, without names that could not be quoted safely."""
    names = [f'"{name}"' for name in readers if name.isprintable() and not set(name) & set('"\\')]
    return spec.config_leaves_out.format(readers=", ".join(names)) if names and spec.config_leaves_out else ""


def _text(place: str | Path) -> str | None:
    try:
        return Path(place).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _from_descriptors(catalogue: Catalogue) -> Iterator[Installed]:
    for driver in catalogue.installed():
        for path in driver.module_files():
            yield Installed(path, driver, driver.id)


def _from_files(catalogue: Catalogue, settings: Settings, p11_kit: Sequence[Path]) -> Iterator[Installed]:
    named = [(path, "config") for path in settings.module_files]
    named += [(path, str(file)) for folder in p11_kit for file, path in _p11_kit_modules(folder)]
    for path, by in named:
        if path.is_file():
            yield Installed(path, catalogue.for_module(path) or GENERIC, by)


def _p11_kit_modules(folder: Path) -> Iterator[tuple[Path, Path]]:
    if not _roots_own(folder):
        return
    for file in sorted(folder.glob("*.module")):
        if _roots_own(file) and (path := _module_of(file)):
            yield file, path


def _roots_own(path: Path) -> bool:
    try:
        about = path.stat()
    except OSError:  # does not exist, or is a dangling link
        return False
    return about.st_uid == 0 and not about.st_mode & 0o022


def _module_of(file: Path) -> Path | None:
    """Return the module file in a ``*.module`` file; None if it is remote or restricted to other programs."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    pairs = (line.split(":", 1) for line in lines if ":" in line and not line.lstrip().startswith("#"))
    settings = {name.strip(): value.strip() for name, value in pairs}
    name = settings.get("module", "")
    if not name or "enable-in" in settings:
        return None
    if os.path.isabs(name):
        return Path(name)
    candidates = (Path(place) / name for pattern in _P11_KIT_PATHS for place in sorted(glob(pattern)))
    return next((path for path in candidates if path.is_file()), None)
