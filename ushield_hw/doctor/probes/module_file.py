"""E: the module file before loading, and the result of loading it in a worker process.

E40 to E46 check the file, E47 to E49 the worker that loaded it, E50 all modules together. ``kind`` in the evidence
selects the text if a cause has several variants.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from ushield_hw.doctor.finding import Probe, Rule, Said, causes, fail, ok, probe, skip, unchecked, warn
from ushield_hw.doctor.inspect.image import processor
from ushield_hw.doctor.inspect.image_model import CSP, SKF, Format, Image
from ushield_hw.doctor.inspect.linker import Linked, linked
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.inspect.packages import GONE, LIBRARIES, module_package
from ushield_hw.doctor.probes.module_search import driver_not_installed, named_modules, similar
from ushield_hw.doctor.subjects import Loaded, ModuleFile
from ushield_hw.errors import DriverLoadError, DriverUntrusted, LoadOutcome, ModuleHung, ModuleLost, Trait, UShieldError
from ushield_hw.system.trust import trusted_module

_FORMATS: Final = {"linux": Format.ELF, "darwin": Format.MACH_O, "win32": Format.PE}
_SYSTEMS: Final = {Format.ELF: "Linux", Format.MACH_O: "macOS", Format.PE: "Windows"}
_OLDEST: Final = (2, 20)
_NOT_SUPPORTED: Final = "CKR_FUNCTION_NOT_SUPPORTED"
_BITS: Final = ({"x86", "x86_64"}, {"arm", "aarch64"}, {"mips", "mips64"}, {"ppc", "ppc64"}, {"riscv32", "riscv64"})


def module_files(machine: Machine, asked: Path | None = None) -> list[ModuleFile]:
    """Return the files to check: the requested one, or all that are or should be installed.

    A module should be installed if the configuration names it or a token of its family is connected.

    Args:
        machine: the machine.
        asked: the module file that the user named.
    """
    if asked is not None:
        return [named_modules(machine, [asked.absolute()], asked=True)[0]]
    return [*named_modules(machine), *driver_not_installed(machine)]


# --- existence and permissions ----------------------------------------------------------------------------------------


@probe("E40", "module.exists")
def exists(file: ModuleFile) -> Said:
    """Check that the file exists: the path may be wrong, or the package not installed."""
    try:
        size = file.path.stat().st_size
    except PermissionError:
        return unchecked("not_searchable")
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            return fail(kind="unreadable", path=str(file.path), reason=error.strerror or "")
        return _not_there(file)
    return ok(path=str(file.path), size=size)


def _not_there(file: ModuleFile) -> Said:
    facts: dict[str, Any] = {"path": str(file.path), "found": [str(path) for path in similar(file)]}
    package = module_package(file.path.name)
    if package is not None:
        facts["package"] = package
    if file.path.is_symlink():
        return fail(kind="link", target=str(file.path.resolve()), **facts)
    if not file.asked and file.driver.usb and not facts["found"]:
        places = list(file.driver.module.paths)
        return fail(kind="driver", product=f"{file.driver.vendor} {file.driver.product}", places=places, **facts)
    if facts["found"] or package:
        return fail(kind="found" if facts["found"] else "package", **facts)
    installed = [str(other.path) for other in named_modules(file.machine) if other.path.is_file()]
    return fail(kind="others" if installed else "nothing", installed=installed, **facts)


@probe("E41", "module.permission")
def permission(file: ModuleFile) -> Said:
    """Check that the file is readable and that only trusted users can change it; otherwise it is not loaded."""
    closed = _closed(file.path)
    if closed is not None:
        place, missing = closed
        return fail(kind=missing, path=str(file.path), **_about(place))
    if not file.path.is_file():
        return skip("not_there")
    if hasattr(os, "ST_NOEXEC") and os.statvfs(file.path).f_flag & os.ST_NOEXEC:
        return fail(kind="noexec", path=str(file.path), place=_mount(file.path))
    try:
        trusted_module(file.path)
    except DriverUntrusted as error:
        return fail(kind=f"untrusted_{error.reason}", path=str(file.path), **_about(Path(str(error.place))))
    return ok(path=str(file.path), **_about(file.path.resolve()))


def _closed(path: Path) -> tuple[Path, str] | None:
    """Return the first parent folder that this user may not search, or the file if it is not readable."""
    for way in dict.fromkeys((path, Path(os.path.realpath(path)))):
        for folder in reversed(way.parents):
            if os.path.isdir(folder) and not os.access(folder, os.X_OK):
                return folder, "folder"
        if os.path.isfile(way) and not os.access(way, os.R_OK):
            return way, "file"
    return None


def _about(place: Path) -> dict[str, Any]:
    """Return owner and mode of a path, and the user id of this process."""
    about = place.stat()
    facts: dict[str, Any] = {"place": str(place), "mode": stat.filemode(about.st_mode), "uid": about.st_uid}
    if hasattr(os, "geteuid"):
        facts["asked_by"] = os.geteuid()
    return facts


def _mount(path: Path) -> str:
    return str(next(folder for folder in path.resolve().parents if folder.is_mount()))


# --- file format ------------------------------------------------------------------------------------------------------


@probe("E42", "module.format")
def library(file: ModuleFile) -> Said:
    """Check that it is a shared library of this system, not a text, an archive or a program."""
    image = file.image
    if image is None or image.format is Format.EMPTY:
        return skip("not_readable" if image is None else "empty")
    facts = {"path": str(file.path), "format": image.format.value}
    if image.format is not _FORMATS.get(file.machine.system, Format.ELF):
        made_for = _SYSTEMS.get(image.format)
        kind = "foreign" if made_for else image.format.value
        return fail(kind=kind, made_for=made_for or "", first_line=image.first_line, **facts)
    return ok(**facts) if image.shared or not image.whole else fail(kind="program", **facts)


@probe("E43", "module.whole")
def whole(file: ModuleFile) -> Said:
    """Check that the file is complete: it may be truncated or damaged by a broken download or a full disk."""
    image = file.image
    if image is not None and image.format is Format.EMPTY:
        return fail(kind="empty", path=str(file.path), size=0)
    image = _native(file)
    if image is None:
        return skip("not_a_library")
    facts: dict[str, Any] = {"path": str(file.path), "size": image.size}
    if image.missing:
        return fail(kind="truncated", missing=image.missing, **facts)
    if image.damage is not None:
        return fail(kind="damaged", damage=image.damage, **facts)
    return warn(kind="tail", missing=image.missing_tail, **facts) if image.missing_tail else ok(**facts)


@probe("E44", "module.architecture")
def architecture(file: ModuleFile) -> Said:
    """Check that it is built for the processor and word size of this Python."""
    image = _native(file)
    if image is None or not image.architectures:
        return skip("not_a_library")
    python = processor(file.machine.architecture)
    facts = {"path": str(file.path), "module": list(image.architectures), "python": python}
    if python in image.architectures:
        return ok(**facts)
    near = any({python, *image.architectures} <= family for family in _BITS)
    return fail(kind="bits" if near else "processor", **facts)


def _native(file: ModuleFile) -> Image | None:
    """Return the image if it has this system's format, else None; other probes report the reason."""
    image = file.image
    return image if image is not None and image.format is _FORMATS.get(file.machine.system) else None


def _fit(file: ModuleFile) -> Image | None:
    """Return the image if it is a complete library for this machine."""
    image = _native(file)
    fits = image is not None and image.whole and image.shared
    return image if image and fits and processor(file.machine.architecture) in image.architectures else None


# --- dependencies and exports -----------------------------------------------------------------------------------------


@probe("E45", "module.dependencies")
def dependencies(file: ModuleFile) -> Said:
    """Check that all libraries it needs are installed and new enough."""
    image = _fit(file)
    if image is None or image.format is not Format.ELF:
        return skip("not_a_library" if image is None else "not_on_this_system")
    under = linked(file.machine, file.path.resolve(), image)
    if under.missing:
        return fail(**_missing(file, under))
    if under.too_old:
        wanted = sorted({f"{one.version} ({one.library})" for one in under.too_old})
        return fail(kind="version", path=str(file.path), versions=wanted, needed_by=_needed_by(under.too_old))
    return ok(path=str(file.path), needed=list(image.needed))


def _missing(file: ModuleFile, under: Linked) -> dict[str, Any]:
    names = [one.name for one in under.missing]
    packages = sorted({LIBRARIES[name] for name in names if name in LIBRARIES})
    facts = {
        "path": str(file.path),
        "missing": names,
        "needed_by": _needed_by(under.missing),
        "packages": packages,
        "install": f"sudo apt-get install {' '.join(packages)}" if packages else "",
        "gone": [name for name in names if name in GONE],
        "found": [str(path) for path in _lying_about(file, names)],
    }
    kind = next((kind for kind in ("found", "gone", "packages") if facts[kind]), "unknown")
    return {"kind": kind, **facts}


def _needed_by(needs: Iterable[Any]) -> list[str]:
    return sorted({need.needed_by for need in needs})


def _lying_about(file: ModuleFile, names: Iterable[str]) -> Iterator[Path]:
    """Yield missing libraries that exist in folders used by vendors but not searched by the loader."""
    here = file.path.resolve().parent
    folders = (here, here.parent / "lib", here.parent / "lib64", *map(file.machine.path, ("/usr/local/lib",)))
    for name in names:
        yield from (folder / name for folder in dict.fromkeys(folders) if (folder / name).is_file())


@probe("E46", "module.is_pkcs11")
def is_pkcs11(file: ModuleFile) -> Said:
    """Check that it exports C_GetFunctionList; it may be an SKF library or a Windows CSP."""
    image = _fit(file)
    if image is None:
        return skip("not_a_library")
    if image.exports is None:
        return skip("names_not_known")
    offered = set(image.exports)
    if image.format is Format.ELF and "C_GetFunctionList" not in offered:  # the loader searches its dependencies too
        offered |= linked(file.machine, file.path.resolve(), image).exports
    facts = {"path": str(file.path), "exports": sorted(offered), "guessed": image.guessed}
    if "C_GetFunctionList" in offered:
        return ok(**facts)
    kinds = (("skf", SKF), ("csp", CSP), ("interface", {"C_GetInterface"}))
    kind = next((kind for kind, names in kinds if offered & names), "other")
    return (warn if image.guessed else fail)(kind=kind, **facts)


# --- result of loading ------------------------------------------------------------------------------------------------


@probe("E47", "module.loads", Rule(after=causes("E45")))
def loads(loaded: Loaded) -> Said:
    """Check that loading and initializing it neither crashes nor is refused by the system's loader."""
    error, facts = loaded.error, {"path": str(loaded.file.path)}
    if isinstance(error, ModuleLost) and not isinstance(error, ModuleHung):
        return fail(kind="crashed", reason=_signal_name(error.detail or ""), **facts)
    if isinstance(error, DriverLoadError):
        reason = error.reason or ""
        if error.how is LoadOutcome.CRASHED:
            return fail(kind="crashed", reason=_signal_name(reason), **facts)
        if error.how is LoadOutcome.REFUSED and not reason.startswith("CKR_"):
            return fail(kind="refused", reason=reason, **facts)
    return ok(**facts) if loaded.info is not None else unchecked("not_loaded")


@probe("E48", "module.answers", Rule(after=causes("B12 D31 D32 D34")))
def answers(loaded: Loaded) -> Said:
    """Check that loading, initializing and listing slots return within the deadline."""
    error, facts = loaded.error, {"path": str(loaded.file.path), "seconds": round(loaded.module.deadline_s)}
    if isinstance(error, DriverLoadError) and error.how is LoadOutcome.HUNG:
        return fail(kind="load", function="C_Initialize", **facts)
    if isinstance(error, ModuleHung):
        return fail(kind="call", function=error.function, **facts)
    return ok(**facts) if loaded.info is not None else unchecked("not_loaded")


@probe("E49", "module.version")
def version(loaded: Loaded) -> Said:
    """Check that its PKCS#11 version is recent enough and all required functions are implemented."""
    lacking = [*_lacking(loaded)]
    facts: dict[str, Any] = {"path": str(loaded.file.path)}
    if loaded.info is not None:
        facts["version"] = ".".join(map(str, loaded.info.cryptoki_version))
        facts["module"] = f"{loaded.info.manufacturer} {loaded.info.description}".strip()
    if lacking:
        return fail(kind="functions", functions=lacking, **facts)
    if loaded.info is None:
        return unchecked("not_loaded")
    return warn(kind="old", **facts) if loaded.info.cryptoki_version < _OLDEST else ok(**facts)


def _lacking(loaded: Loaded) -> Iterator[str]:
    """Yield the functions that returned CKR_FUNCTION_NOT_SUPPORTED."""
    error = loaded.error
    if isinstance(error, DriverLoadError) and error.reason == _NOT_SUPPORTED:
        yield "C_Initialize / C_GetInfo"
    if error is not None and error.failure is not None and error.failed_as(Trait.UNSUPPORTED):
        yield error.failure.function
    if any(slot.problem == _NOT_SUPPORTED for slot in loaded.slots):
        yield "C_GetSlotInfo / C_GetTokenInfo"


def _signal_name(reason: str) -> str:
    """Return ``signal 11`` as ``SIGSEGV (signal 11)``."""
    word, _, number = reason.partition(" ")
    known = word == "signal" and number.isdigit() and int(number) in {one.value for one in signal.Signals}
    return f"{signal.Signals(int(number)).name} ({reason})" if known else reason


# --- all modules together ---------------------------------------------------------------------------------------------


@probe("E50", "module.once")
def once(modules: tuple[Loaded, ...]) -> Said:
    """Check that no token shows through two modules, as with p11-kit's proxy module."""
    proxies = [loaded for loaded in modules if _is_proxy(loaded.error)]
    if proxies:
        asked = any(loaded.file.asked for loaded in proxies)
        return (fail if asked else warn)(kind="proxy", modules=[str(loaded.file.path) for loaded in proxies])
    seen: dict[tuple[str, str, str], dict[Path, str]] = {}
    for loaded in modules:
        for token in (slot.token for slot in loaded.slots if slot.token is not None and slot.token.serial):
            shown = seen.setdefault((token.manufacturer, token.model, token.serial), {})
            shown[loaded.file.path.resolve()] = token.label
    twice = {serial: paths for (_, _, serial), paths in seen.items() if len(paths) > 1}
    if not twice:
        return ok(modules=len(modules)) if modules else skip("no_module")
    paths = sorted({str(path) for shown in twice.values() for path in shown})
    labels = sorted({next(iter(shown.values())) for shown in twice.values()})
    return warn(kind="twice", serials=sorted(twice), labels=labels, modules=paths)


def _is_proxy(error: UShieldError | None) -> bool:
    return isinstance(error, DriverLoadError) and error.how is LoadOutcome.PROXY


FILE_PROBES: Final[tuple[Probe[ModuleFile], ...]] = (
    exists,
    permission,
    library,
    whole,
    architecture,
    dependencies,
    is_pkcs11,
)
LOADED_PROBES: Final[tuple[Probe[Loaded], ...]] = (loads, answers, version)
TOGETHER_PROBES: Final[tuple[Probe[tuple[Loaded, ...]], ...]] = (once,)
PROBES: Final[tuple[Probe[Any], ...]] = (*FILE_PROBES, *LOADED_PROBES, *TOGETHER_PROBES)
