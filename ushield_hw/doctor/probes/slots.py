"""F: initialization of a module, its slots, and the selection of a token.

A software module that the user neither requested nor configured cannot prevent use of a token, so its problems are at
most warnings. The user requests it by naming its file, setting its environment variable or selecting a token through
it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ushield_hw.backend.model import SlotInfo, TokenFlag
from ushield_hw.doctor import soft_store
from ushield_hw.doctor.finding import Priority, Probe, Rule, Said, causes, fail, ok, probe, skip, unchecked, warn
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes.bus import plugged
from ushield_hw.doctor.soft_store import CONFIGURATIONS, FILES
from ushield_hw.doctor.subjects import Loaded, TokenSeen, each, load
from ushield_hw.drivers.catalogue import GENERIC
from ushield_hw.drivers.family import Kind
from ushield_hw.drivers.installed import Installed
from ushield_hw.errors import DriverLoadError, InputError, LoadOutcome
from ushield_hw.system.lazy import cached_property
from ushield_hw.system.processes import named
from ushield_hw.token.choice import names
from ushield_hw.token.discovery import tokens_in
from ushield_hw.token.token import Token
from ushield_hw.uri import TokenUri

_NAME_IN_PROC: Final = 15  # the kernel truncates process names to this length

_STARTED_TWICE: Final = {"CKR_CRYPTOKI_ALREADY_INITIALIZED", "CKR_CRYPTOKI_NOT_INITIALIZED"}
_NO_LOCKS: Final = {"CKR_CANT_LOCK", "CKR_NEED_TO_CREATE_THREADS"}
_ANOTHER_CAUSE: Final = {*_STARTED_TWICE, *_NO_LOCKS, "CKR_FUNCTION_NOT_SUPPORTED"}
_UNKNOWN_CARD: Final = "CKR_TOKEN_NOT_RECOGNIZED"
_GONE_MEANWHILE: Final = "CKR_TOKEN_NOT_PRESENT"

_SLOT_ASKED: Final = re.compile(r"(?i)^pkcs11:.*\bslot-id=(\d{1,20})\b")
_SUFFIX: Final = re.compile(r"\s*\([^()]*\)$")  # OpenSC's suffix "(UserPIN)"
_ALIKE: Final = 3  # characters: a shorter prefix matches too much


@dataclass
class Choice:
    """The selection, and everything that was found.

    Attributes:
        machine: its ``selector`` is the selection.
        modules: every module that was loaded.
        tokens: every token that was found; twice if it shows through two modules.
    """

    machine: Machine
    modules: Sequence[Loaded]
    tokens: Sequence[TokenSeen]

    @cached_property
    def each(self) -> tuple[Token, ...]:
        """Every token once."""
        return tuple(seen.token for seen in each(self.tokens))


def tokens_of(loaded: Loaded) -> tuple[TokenSeen, ...]:
    """Return the tokens in a module's slots."""
    file = loaded.file
    entry = Installed(file.path, file.driver, file.driver.id)
    machine = file.machine
    found = tokens_in(entry, loaded.module, loaded.slots, machine.catalogue, machine.settings)
    return tuple(TokenSeen(token, loaded) for token in found)


# --- initialization of the module -------------------------------------------------------------------------------------


@probe("F51", "module.configuration", Rule(failed=Priority.EMPTY))
def configuration(loaded: Loaded) -> Said:
    """Check that the module's configuration and token folder exist and are accessible to this user."""
    found = _configured(loaded)
    if found is None:
        return skip("needs_no_configuration")
    kind, facts = found
    if kind is None:
        return ok(**facts) if loaded.error is None else skip("nothing_wrong_with_it", **facts)
    return _judged(loaded, kind=kind, **facts) if loaded.error else warn(kind=kind, **facts)


@probe("F52", "module.service", Rule(after=causes("F51 B11 B12 B16 B17 B18 B19 B20 B21 B22"), quiet=True))
def service(loaded: Loaded) -> Said:
    """Check that the service of the module is running and that the module starts.

    A module that fails to start for an unknown reason is reported here too.
    """
    machine, code = loaded.file.machine, _code(loaded)
    # process names are read from /proc, which only Linux has
    services = loaded.file.driver.module.services if machine.system == "linux" else ()
    running = [name for name in services if named(machine, name[:_NAME_IN_PROC])]
    facts = {"path": str(loaded.file.path), "services": list(services), "running": running, "code": code}
    if loaded.error is None and (loaded.slots or set(running) == set(services)):
        return ok(**facts)
    missing = [name for name in services if name not in running]
    if missing:
        return _judged(loaded, kind="down", missing=missing, **facts)
    configured = _configured(loaded)
    if code is None or code in _ANOTHER_CAUSE or (configured is not None and configured[0]):
        return skip("another_cause", **facts)
    if not _wanted(loaded) and loaded.file.driver.kind is not Kind.SOFTWARE:
        # it came with a package and no device of its families is connected
        return skip("nothing_of_its_family", **facts)
    return (fail if _wanted(loaded) else warn)(kind="unexplained", **facts)


@probe("F53", "module.started_once")
def started_once(loaded: Loaded) -> Said:
    """Check that the module was not initialized twice or used in a process that did not initialize it."""
    error, code = loaded.error, _code(loaded)
    facts = {"path": str(loaded.file.path), "code": code}
    if error is not None and error.code == "USED_AFTER_FORK":
        return fail(**{**facts, "kind": "fork", "code": error.code})
    if isinstance(error, DriverLoadError) and error.how is LoadOutcome.PROXY:
        return fail(kind="proxy", **facts)
    if code in _STARTED_TWICE:
        return fail(**facts)
    return ok(**facts) if error is None else skip("another_cause", **facts)


@probe("F54", "module.locking")
def locking(loaded: Loaded) -> Said:
    """Check that the module accepts a locking mode; the system's locks are offered first, then none."""
    code = _code(loaded)
    facts = {"path": str(loaded.file.path), "code": code}
    if code in _NO_LOCKS:
        return fail(**facts)
    return ok(**facts) if loaded.error is None else skip("another_cause", **facts)


# --- its slots --------------------------------------------------------------------------------------------------------


@probe("F56", "token.initialised", Rule(kinds={"soft": Priority.EMPTY}))
def initialised(loaded: Loaded) -> Said:
    """Check that a token is initialized."""
    present = [slot.token for slot in loaded.slots if slot.token is not None]
    blank = [token for token in present if not token.has(TokenFlag.TOKEN_INITIALIZED)]
    facts = {"path": str(loaded.file.path), "slots": [token.slot_id for token in blank]}
    if not present:
        return skip("no_token")
    if loaded.file.driver.kind is not Kind.SOFTWARE:
        if not blank:
            return ok(tokens=len(present), **facts)
        where = [slot.description for slot in loaded.slots if slot.slot_id in facts["slots"]]
        return (fail if blank == present else warn)(kind="card", where=where, **facts)
    if blank != present:  # a software module always shows one more, uninitialized slot
        return ok(tokens=len(present) - len(blank), **facts)
    return fail(kind="soft", **facts) if _meant(loaded) else skip("no_token_made", **facts)


@probe("F59", "slots.fresh")
def fresh(loaded: Loaded) -> Said:
    """Check whether tokens were inserted or removed that the module only shows after it is loaded again."""
    if loaded.error is not None:
        return unchecked("not_loaded")
    if not loaded.file.closely:
        return skip("looks_well")
    before, after = _shown(loaded.slots), _shown(_slots_now(loaded))
    facts = {"path": str(loaded.file.path), "appeared": sorted(after - before), "gone": sorted(before - after)}
    if facts["appeared"] or facts["gone"]:
        return warn(kind="appeared" if facts["appeared"] else "gone", **facts)
    return ok(**facts)


@probe("F60", "slots.readable", Rule(after=causes("D30 D31 D32 D34 D35 D37 D38")))
def readable(loaded: Loaded) -> Said:
    """Check that all slots can be read; other slots of the module may work."""
    if loaded.error is not None:
        return unchecked("not_loaded")
    broken = [slot for slot in loaded.slots if slot.problem not in {None, _GONE_MEANWHILE}]
    unknown = [slot for slot in broken if slot.problem == _UNKNOWN_CARD]
    facts = {"path": str(loaded.file.path), "slots": len(loaded.slots)}
    if not broken:
        return ok(**facts)
    file = loaded.file
    if broken == unknown and file.driver.module.general and not file.asked:
        return skip("another_module_may_know_it", where=[slot.description for slot in unknown], **facts)
    shows_a_token = any(slot.token is not None for slot in loaded.slots)
    facts["codes"] = [slot.problem for slot in broken]
    facts["where"] = [slot.description or str(slot.slot_id) for slot in broken]
    return (warn if shows_a_token else fail)(kind="unknown" if broken == unknown else "broken", **facts)


# --- selection --------------------------------------------------------------------------------------------------------


@probe("F55", "choice.slot", Rule(failed=Priority.CHOICE, headline="doctor.not_there"))
def slot_number(choice: Choice) -> Said:
    """Check whether the token was selected by slot id, which is not stable."""
    asked = _SLOT_ASKED.search(choice.machine.selector or "")
    if asked is None:
        return skip("no_slot_asked")
    slots = {slot.slot_id: slot for loaded in choice.modules for slot in loaded.slots}
    number = int(asked[1])
    facts = {"slot": number, "slots": sorted(slots), "tokens": [token.uri for token in choice.each]}
    if number in slots and slots[number].token is not None:
        return warn(kind="there", **facts)
    return fail(**facts)


@probe(
    "F57",
    "choice.exists",
    Rule(failed=Priority.CHOICE, kinds={"none": Priority.NOT_NAMED}, headline="doctor.not_there"),
)
def exists(choice: Choice) -> Said:
    """Check that a token matches the selection, and suggest tokens with a similar name."""
    wanted = choice.machine.selector
    if wanted is None or _SLOT_ASKED.search(wanted):
        return skip("none_asked")
    try:
        found = [token for token in choice.each if names(wanted, token)]
    except InputError as error:
        return fail(kind="uri", wanted=wanted, code=error.code, attribute=error.attribute or "")
    if not choice.each:
        return skip("no_token")
    if found:
        return ok(wanted=wanted, tokens=[token.uri for token in found])
    near = [token for token in choice.each if _nearly(wanted, token)]
    facts = {"wanted": wanted, "labels": [token.label for token in choice.each]}
    uris = [token.uri for token in near or choice.each]
    return fail(kind="near" if near else "none", near=[token.label for token in near], tokens=uris, **facts)


@probe("F58", "choice.one", Rule(failed=Priority.CHOICE, headline="doctor.undecided"))
def one(choice: Choice) -> Said:
    """Check that no more than one token matches the selection."""
    wanted = choice.machine.selector
    if wanted is None or _SLOT_ASKED.search(wanted):
        return skip("none_asked")
    try:
        uris = [token.uri for token in choice.each if names(wanted, token)]
    except InputError as error:
        return skip("not_a_uri", code=error.code)
    return (fail if len(uris) > 1 else ok)(wanted=wanted, count=len(uris), tokens=uris)


# --- one token --------------------------------------------------------------------------------------------------------


@probe("F61", "token.format", Rule(failed=Priority.TOKEN))
def formatted_for_us(seen: TokenSeen) -> Said:
    """Check whether a token looks empty through a general module because vendor software formatted it."""
    if not seen.general:
        return skip("its_own_module")
    if seen.pairs or seen.keys:
        return ok(certificates=len(seen.pairs), keys=len(seen.keys))
    families, atr = seen.set_up_by, seen.atr
    if not families:
        return skip("no_other_family_known", atr=atr.hex())
    modules = [str(path) for family in families for path in family.module_files()]
    facts = {"atr": atr.hex(), "families": [family.product for family in families], "modules": modules}
    facts |= {"through": str(seen.loaded.file.path), "label": seen.token.label}
    return fail(kind="installed" if modules else "missing", **facts)


def _code(loaded: Loaded) -> str | None:
    """Return the PKCS#11 code with which the module failed to start or to list its slots."""
    error = loaded.error
    if error is not None and error.failure is not None:
        return error.failure.code
    said = error.reason if isinstance(error, DriverLoadError) else None
    return said if said is not None and said.startswith("CKR_") else None


def _meant(loaded: Loaded) -> bool:
    """Return whether the user requested this module; modules for hardware always count as requested."""
    file = loaded.file
    if file.asked or file.driver.kind not in {Kind.SOFTWARE, Kind.PLATFORM}:
        return True
    variable = file.driver.module.config_env
    if variable is not None and variable in file.machine.environ:
        return True
    return _selected(loaded)


def _wanted(loaded: Loaded) -> bool:
    """Return whether the user requested this module or a device that it drives is connected."""
    file, machine = loaded.file, loaded.file.machine
    if file.asked or file.driver is GENERIC or file.driver.kind in {Kind.SOFTWARE, Kind.PLATFORM, Kind.HSM}:
        return _meant(loaded)
    drives = {file.driver.id, *(family.id for family in machine.catalogue.driven_by(file.driver))}
    there = [driver.id for one in plugged(machine) for driver in one.drivers]
    atrs = [reader.atr for reader in machine.reader_list.readers if reader.atr]
    there += [driver.id for atr in atrs for driver in machine.catalogue.for_atr(atr)]
    return not drives.isdisjoint(there) or (file.driver.module.general and bool(atrs)) or _selected(loaded)


def _selected(loaded: Loaded) -> bool:
    """Return whether the selected URI names this module."""
    selector = loaded.file.machine.selector
    try:
        path = TokenUri.parse(selector).module_path if selector and TokenUri.names(selector) else None
    except InputError:
        return False
    return path is not None and path.resolve() == loaded.file.path.resolve()


def _judged(loaded: Loaded, **evidence: Any) -> Said:
    return fail(**evidence) if _meant(loaded) else warn(**evidence)


def _configured(loaded: Loaded) -> tuple[str | None, dict[str, Any]] | None:
    """Return the problem with a module's configuration and the evidence; None if no configuration is known for it."""
    variable, machine = loaded.file.driver.module.config_env, loaded.file.machine
    if variable not in CONFIGURATIONS:
        return None
    said = soft_store.configuration(machine, variable)
    file = machine.path(said.path)
    facts = {"path": said.path, "variable": variable, "set": variable in machine.environ, "folder": said.folder}
    if not said.readable:
        behind = _closed(file.parent) in {"above_closed", "folder_closed"}
        return ("closed" if behind or os.path.lexists(file) else "missing"), facts
    facts["store"] = said.store
    if said.version_1:
        return "version_1", facts
    if loaded.error is not None and said.store != FILES:
        return "store", facts  # the only alternative is a database, which may not be compiled in
    return _closed(machine.path(said.folder)), facts


def _closed(folder: Path) -> str | None:
    """Return the problem with a folder; if a parent folder is not searchable, the folder may still exist."""
    for above in reversed(folder.parents):
        if os.path.isdir(above) and not os.access(above, os.X_OK):
            return "above_closed"
    if not os.path.isdir(folder):
        return "no_folder"
    if not os.access(folder, os.R_OK | os.X_OK):
        return "folder_closed"
    return None if os.access(folder, os.W_OK) else "folder_read_only"


def _slots_now(loaded: Loaded) -> Sequence[SlotInfo]:
    """Return the slots as a newly started program sees them; a software module may not update its list by itself."""
    driver = loaded.file.driver
    if driver.kind is not Kind.SOFTWARE or driver.module.relist:  # lists again after C_Finalize and C_Initialize
        return loaded.module.slots()
    again = load(loaded.file)
    try:
        return loaded.slots if again.error else again.slots
    finally:
        again.module.close()


def _shown(slots: Sequence[SlotInfo]) -> set[str]:
    tokens = (slot.token for slot in slots if slot.token is not None)
    return {f"{token.label} ({token.serial})" for token in tokens if token.has(TokenFlag.TOKEN_INITIALIZED)}


def _nearly(wanted: str, token: Token) -> bool:
    """Return whether label or serial number match apart from case, spaces, a suffix or the end."""
    said = {_plain(token.label), _plain(token.serial)} - {""}
    return any(
        word == name or (min(len(word), len(name)) >= _ALIKE and (name.startswith(word) or word.startswith(name)))
        for word in _words(wanted)
        for name in said
    )


def _words(wanted: str) -> Iterator[str]:
    if not TokenUri.names(wanted):
        yield _plain(wanted)
        return
    uri = TokenUri.parse(wanted)
    yield from (_plain(word) for word in (uri.token, uri.serial) if word)


def _plain(name: str) -> str:
    return "".join(_SUFFIX.sub("", name.strip()).split()).casefold()


LOADED_PROBES: Final[tuple[Probe[Loaded], ...]] = (
    configuration,
    service,
    started_once,
    locking,
    initialised,
    fresh,
    readable,
)
CHOICE_PROBES: Final[tuple[Probe[Choice], ...]] = (slot_number, exists, one)
TOKEN_PROBES: Final[tuple[Probe[TokenSeen], ...]] = (formatted_for_us,)
PROBES: Final = (*LOADED_PROBES, *CHOICE_PROBES, *TOKEN_PROBES)
