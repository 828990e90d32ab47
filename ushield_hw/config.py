"""Settings and the source of each: built-in default, /etc/ushield, the user's file, flags.

``/etc/ushield/config.toml`` must belong to root and must not be writable by others. The keys that extend the modules
that may be loaded (``[modules]``) or the settings of descriptors that apply (``[drivers] consent``) are allowed only
there. The user's file is ``$XDG_CONFIG_HOME/ushield/config.toml``; it is refused if other users can change it
(``ushield_hw.system.trust``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ushield_hw.errors import InputError
from ushield_hw.schema import Table
from ushield_hw.system import trust

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

SYSTEM_FILE: Final = Path("/etc/ushield/config.toml")

_PACKAGE: Final = Path(__file__).parent
_INNER: Final = frozenset({"lenient", "left_out", "origins"})
_LARGEST: Final = 1 << 20
_OWN: Final = "ushield"  # name of the user's folder

Origin = str
"""``default``, ``flag``, or the path of the file that contains the setting."""


def data_dir(name: str) -> Path:
    """Return a data folder that ships with the project: in the installed package, else in the checkout.

    An editable install also leaves a copy in site-packages, which becomes outdated; it is never read, because the
    package is then imported from the checkout. In a zip file (zipapp) the folder is inside the zip file, where
    :func:`data_files` and :func:`data_file` can read it.

    Args:
        name: name of the folder.
    """
    packed = _PACKAGE / "_data" / name
    return packed if packed.is_dir() or not _PACKAGE.is_dir() else _PACKAGE.parent / name


def data_files(folder: Path, ending: str) -> list[Path]:
    """Return the files of a data folder whose names have an ending, sorted by their stems.

    Args:
        folder: a folder, possibly inside a zip file.
        ending: the ending.
    """
    found = list(folder.glob(f"*{ending}"))
    if not found and (archived := _archived(folder)) is not None and archived.is_dir():
        found = [folder / one.name for one in archived.iterdir() if one.name.endswith(ending)]
    return sorted(found, key=lambda file: file.stem)


def data_file(path: Path) -> bytes:
    """Return the content of a file that may be part of the package.

    Args:
        path: a file, possibly inside a zip file.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except NotADirectoryError:
        if (archived := _archived(path)) is None:
            raise
    return archived.read_bytes()


def _archived(path: Path) -> Traversable | None:
    """Return the resource for a path inside the package if the package is in a zip file."""
    if _PACKAGE.is_dir() or not path.is_relative_to(_PACKAGE):
        return None
    from importlib.resources import files

    return files(__package__).joinpath(*path.relative_to(_PACKAGE).parts)


@dataclass(frozen=True, slots=True)
class Settings:
    """The effective settings.

    Attributes:
        lang: language of messages; None: the locale's.
        profile: ``standard``, or ``demo``, which allows loopback http origins in orders.
        state_dir: folder of the journal and the PIN counters; None: not known (no HOME).
        drivers: folders of descriptors; earlier folders have precedence.
        consent: families whose descriptors apply without restrictions in any folder (system file only).
        module_files: additional module files (system file only).
        pin_timeout_s: timeout of a PIN prompt, in seconds.
        confirm_timeout_s: timeout of a confirmation on the host, in seconds.
        busy_timeout_s: how long to wait for a card that another program holds exclusively, in seconds.
        warn_days: number of days before a certificate expires from which to warn.
        urgent_days: numbers of days before it expires at which the warning becomes more urgent; the last one is the
            most urgent.
        change_first_pin: refuse signatures until the PIN was changed on this host; a rule of the bank, which a user's
            file cannot disable.
        log_file: the log file; None: no log.
        lenient: omit descriptors that other users can change instead of raising an error.
        left_out: the errors of configuration files that were omitted.
        journal_masked: the signing journal neither records payee and amount in addition to the signed order, nor shows
            them.
        journal_keep_days: number of days that the signing journal keeps an order after its last record; None: without
            limit.
        origins: setting -> where it was set, if not the default.
    """

    lang: str | None = None
    profile: str = "standard"
    state_dir: Path | None = None
    drivers: tuple[Path, ...] = ()
    consent: tuple[str, ...] = ()
    module_files: tuple[Path, ...] = ()
    pin_timeout_s: int = 120
    confirm_timeout_s: int = 120
    busy_timeout_s: int = 2
    warn_days: int = 30
    urgent_days: tuple[int, ...] = (7, 1)
    change_first_pin: bool = False
    log_file: Path | None = None
    lenient: bool = False
    left_out: tuple[InputError, ...] = ()
    journal_masked: bool = False
    journal_keep_days: int | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)

    @property
    def demo(self) -> bool:
        """Whether loopback http origins are allowed."""
        return self.profile == "demo"

    def origin(self, name: str) -> Origin:
        """Return where a setting was set.

        Args:
            name: name of the setting.

        Returns:
            ``default``, ``flag``, or the path of the file.
        """
        return self.origins.get(name, "default")

    def with_flags(self, **values: Any) -> Settings:
        """Return a copy with other values, marked as set by flags.

        Args:
            **values: values by name of the setting; those that are None are ignored.
        """
        given = {name: value for name, value in values.items() if value is not None}
        return replace(self, **given, origins={**self.origins, **dict.fromkeys(given, "flag")})

    def rows(self) -> list[tuple[str, object, Origin]]:
        """Return (name, value, origin) for every setting."""
        return [
            (one.name, getattr(self, one.name), self.origin(one.name)) for one in fields(self) if one.name not in _INNER
        ]

    def __repr__(self) -> str:
        return f"<Settings profile={self.profile!r} state_dir={str(self.state_dir)!r}>"


def places(environment: Mapping[str, str] = os.environ, system_file: Path = SYSTEM_FILE) -> tuple[Path, ...]:
    """Return the configuration files in the order in which they are read, and the user's folder of descriptors.

    Args:
        environment: the environment with HOME and the XDG variables.
        system_file: the administrator's file.

    Returns:
        The paths, whether they exist or not.
    """
    home = _folder(environment, "XDG_CONFIG_HOME", ".config")
    return (system_file,) if home is None else (system_file, home / _OWN / "config.toml", home / _OWN / "drivers")


def load_settings(
    environment: Mapping[str, str] = os.environ,
    system_file: Path = SYSTEM_FILE,
    tolerated: Callable[[InputError], bool] = lambda error: False,
) -> Settings:
    """Load the settings from the administrator's and the user's configuration files.

    Args:
        environment: the environment with HOME and the XDG variables.
        system_file: the administrator's file.
        tolerated: returns for an error whether to ignore the file, and to add the error to ``left_out``, instead of
            raising it.

    Returns:
        The settings; defaults if there are no files.

    Raises:
        InputError: ``CONFIG_UNREADABLE``; ``CONFIG_INVALID``: an unknown or invalid key; ``CONFIG_SYSTEM_ONLY``: the
            user's file contains a key that is allowed only in the administrator's file; ``CONFIG_UNSAFE``: others can
            change the file or a parent folder.
    """
    first, *own = places(environment, system_file)
    settings = _with_file(_defaults(environment), first, tolerated, system=True)
    if own:
        file, drivers = own
        if drivers.is_dir():
            origins = {**settings.origins, "drivers": str(drivers.parent)}
            settings = replace(settings, drivers=(drivers, *settings.drivers), origins=origins)
        settings = _with_file(settings, file, tolerated, system=False)
    return settings


def _with_file(settings: Settings, path: Path, tolerated: Callable[[InputError], bool], *, system: bool) -> Settings:
    try:
        content = _content(path, system=system)
        return settings if content is None else _read(settings, path, content, system=system)
    except InputError as error:
        if not tolerated(error):
            raise
        return replace(settings, left_out=(*settings.left_out, error))


def _content(path: Path, *, system: bool) -> bytes | None:
    """Return the content of a file; None: it does not exist."""
    try:
        return trust.read(path, _LARGEST, roots=system)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except trust.Unsafe as error:
        raise InputError("CONFIG_UNSAFE", file=str(path), **error.details) from error
    except OSError as error:
        raise InputError("CONFIG_UNREADABLE", file=str(path), reason=error.strerror) from error


def _defaults(environment: Mapping[str, str]) -> Settings:
    state = _folder(environment, "XDG_STATE_HOME", ".local/state")
    # set by systemd's StateDirectory=, for a service account without a home folder
    given = environment.get("STATE_DIRECTORY", "").split(":")[0]
    folder = Path(given) / "ushield" if given.startswith("/") else (state / "ushield" if state else None)
    return Settings(state_dir=folder, drivers=(data_dir("drivers"),))


def _folder(environment: Mapping[str, str], variable: str, below_home: str) -> Path | None:
    value = environment.get(variable, "")
    if value.startswith("/"):  # the XDG specification requires that relative paths are ignored
        return Path(value)
    home = environment.get("HOME", "")
    return Path(home) / below_home if home.startswith("/") else None


def _read(settings: Settings, path: Path, content: bytes, *, system: bool) -> Settings:
    import tomllib  # imported late, because most users have no file

    def refuse(*, key: str, problem: str, **values: object) -> InputError:
        return InputError("CONFIG_INVALID", file=str(path), key=key, problem=problem, **values)

    try:
        table = Table(tomllib.loads(content.decode()), refuse)
    except (ValueError, RecursionError) as error:
        raise InputError("CONFIG_UNREADABLE", file=str(path), reason=str(error)) from error
    if not system and "modules" in table.keys():
        raise InputError("CONFIG_SYSTEM_ONLY", file=str(path), key="modules")
    found = _values(table)
    table.close()
    if not system and "consent" in found:
        raise InputError("CONFIG_SYSTEM_ONLY", file=str(path), key="drivers.consent")
    if not system and settings.change_first_pin and found.get("change_first_pin") is False:
        raise InputError("CONFIG_SYSTEM_ONLY", file=str(path), key="change_first_pin")
    if "drivers" in found:
        found["drivers"] = (*found["drivers"], *settings.drivers)
    return replace(settings, **found, origins={**settings.origins, **dict.fromkeys(found, str(path))})


def _values(table: Table) -> dict[str, Any]:
    """Return the values of all allowed keys that the file contains."""
    absolute = "/.*" if sys.platform != "win32" else ".*"
    limits, modules, journal = table.table("timeouts"), table.table("modules"), table.table("journal")
    found: dict[str, Any] = {
        "lang": table.text("lang", None, pattern="en|zh"),
        "profile": table.text("profile", None, pattern="standard|demo"),
        "state_dir": table.text("state_dir", None, pattern=absolute),
        "log_file": table.text("log_file", None, pattern=absolute),
        **_drivers(table, absolute),
        "module_files": modules.texts("files", None, pattern=absolute),
        "pin_timeout_s": limits.integer("pin_s", None, least=5, most=3600),
        "confirm_timeout_s": limits.integer("confirm_s", None, least=5, most=3600),
        "busy_timeout_s": limits.integer("busy_s", None, least=0, most=600),
        "urgent_days": table.integers("urgent_days", None, least=0, most=3650),
        "change_first_pin": table.boolean("change_first_pin", None),
        "warn_days": table.integer("warn_days", None, least=1, most=3650),
        "journal_masked": journal.boolean("masked", None),
        "journal_keep_days": journal.integer("keep_days", None, least=2, most=36500),
    }
    for section in (limits, modules, journal):
        section.close()
    as_paths = {"state_dir": Path, "log_file": Path, "drivers": _paths, "module_files": _paths}
    return {
        name: as_paths[name](value) if name in as_paths else value  # type: ignore[operator]
        for name, value in found.items()
        if value is not None
    }


def _drivers(table: Table, absolute: str) -> dict[str, Any]:
    """Return the values of ``drivers``: a list of folders, or a table with ``folders`` and ``consent``."""
    if not table.holds_table("drivers"):
        return {"drivers": table.texts("drivers", None, pattern=absolute)}
    inner = table.table("drivers")
    found = {"drivers": inner.texts("folders", None, pattern=absolute), "consent": inner.texts("consent", None)}
    inner.close()
    return found


def _paths(values: tuple[str, ...]) -> tuple[Path, ...]:
    return tuple(Path(value) for value in values)
