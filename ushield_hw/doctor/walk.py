"""The walk from the plug to a key that can sign: which questions are put to what, and what the answers come to.

Layers that do not need each other are asked side by side, every module in a worker of its own: modules that hang cost
one deadline together.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import IntEnum, auto
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from ushield_hw import __version__
from ushield_hw.cryptoki.module import Module
from ushield_hw.discovery import names
from ushield_hw.doctor import bus, card, module_file, objects, pin, reader, service, slots
from ushield_hw.doctor.finding import Finding, Layer, Status, ask_all
from ushield_hw.doctor.machine import Machine
from ushield_hw.doctor.report import Report, UsableToken
from ushield_hw.doctor.skeleton import skeleton
from ushield_hw.doctor.subjects import LOAD_DEADLINE_S, Loaded, ModuleFile, TokenSeen, load
from ushield_hw.drivers import GENERIC, Discover, Kind
from ushield_hw.errors import InputError, TokenNotInitialized, UShieldError
from ushield_hw.messages import shown
from ushield_hw.uri import TokenUri

_DEPENDENCIES: Final = "E45"  # no reason not to load a module: the loader itself knows best
_DEPENDENCIES_AT: Final = [ask.id for ask in module_file.FILE_PROBES].index(_DEPENDENCIES)
_WITHOUT_PLUG: Final = frozenset({"A1", "A2", "B11", "C25", "C26", "D29"})  # say nothing to somebody with a soft token
_OF_A_TOKEN: Final = frozenset({Layer.PIN, Layer.OBJECTS})
_CHOICES: Final = frozenset({"F55", "F57", "F58"})
_LONGEST_SLOT: Final = 64  # bytes of a slot's description


@dataclass
class _Seen:
    """What came of one module file."""

    file: ModuleFile
    findings: list[Finding] = field(default_factory=list)
    loaded: Loaded | None = None
    tokens: tuple[TokenSeen, ...] = ()

    def ask_of_file(self) -> None:
        """Ask what the file itself can be asked."""
        name = str(self.file.path)
        asked = [ask(self.file, name) for ask in module_file.FILE_PROBES if ask.id != _DEPENDENCIES]
        asked.insert(_DEPENDENCIES_AT, _dependencies(self.file, self.loaded))
        self.findings = [*asked, *self.findings[len(asked) :]]


def examine(
    machine: Machine, module: Path | None = None, deadline_s: float = LOAD_DEADLINE_S, *, closely: bool = False
) -> Report:
    """Look at everything and say what is wrong, naming one cause first. Spends no PIN try and changes nothing.

    Args:
        machine: this one, or a recorded one; its ``selector`` says which token was meant.
        module: look at this module file only; what lies before it is still told.
        deadline_s: how long a module may take to load.
        closely: read the tables of every module's file, also where all is well.

    Raises:
        DescriptorError: a descriptor is wrong.
    """
    files = module_file.module_files(machine, module)
    enough = threading.Event()
    with ThreadPoolExecutor(len(files) + 5) as pool:
        looks = [pool.submit(_look, file, deadline_s, closely=closely) for file in files]  # they take longest
        outer = [pool.submit(part, machine) for part in (_usb, _service, _readers)]
        outer.append(pool.submit(_cards, machine, enough))
        pool.submit(import_module, "cryptography.x509")  # certificates will be read; the modules are waited for anyway
        seen = [look.result() for look in looks]
        if any(_is_meant(token, machine.selector) and _can_sign(token) for one in seen for token in one.tokens):
            enough.set()
        else:
            list(pool.map(_look_closely, seen))
        findings = [finding for part in outer for finding in part.result()]
    try:
        return _concluded(machine, findings, seen, module)
    finally:
        loaded = [one.loaded.module for one in seen if one.loaded is not None]
        with ThreadPoolExecutor(len(loaded) or 1) as pool:
            list(pool.map(Module.close, loaded))


# --- the layers -------------------------------------------------------------------------------------------------------


def _usb(machine: Machine) -> list[Finding]:
    found = ask_all(bus.PROBES, machine)
    for device in bus.plugged(machine):
        found += ask_all(bus.DEVICE_PROBES, device, device.label)
    return found


def _service(machine: Machine) -> list[Finding]:
    return ask_all(service.PROBES, machine)


def _readers(machine: Machine) -> list[Finding]:
    return ask_all(reader.PROBES, machine)


def _cards(machine: Machine, enough: threading.Event) -> list[Finding]:
    found = ask_all(card.MACHINE_PROBES, machine)
    there = card.readers(machine, enough)
    with ThreadPoolExecutor(len(there) or 1) as pool:  # each card is watched for a moment
        for part in pool.map(lambda here: ask_all(card.PROBES, here, here.reader.name), there):
            found += part
    return found


def _look(file: ModuleFile, deadline_s: float, *, closely: bool) -> _Seen:
    """Look at a file, and load it if nothing speaks against that."""
    seen, name = _Seen(file), str(file.path)
    file.closely = closely
    seen.ask_of_file()
    broken = any(finding.status is Status.FAIL for finding in seen.findings)
    if not broken and (file.asked or file.driver.module.discover is Discover.ALWAYS):
        seen.loaded = load(file, deadline_s)
        file.closely = closely or seen.loaded.info is None
        seen.ask_of_file()
    if seen.loaded is None:
        return seen
    for probes in (module_file.LOADED_PROBES, slots.LOADED_PROBES, objects.LOADED_PROBES):
        seen.findings += ask_all(probes, seen.loaded, name)
    _look_into(seen, _tokens(seen.loaded))
    return seen


def _look_closely(seen: _Seen) -> None:
    """Read the tables of a file that is not loaded, and load another once more: nothing else has helped so far."""
    if seen.file.closely:
        return
    seen.file.closely = True
    if seen.loaded is None:
        seen.ask_of_file()
    else:
        anew = slots.fresh(seen.loaded, str(seen.file.path))
        seen.findings = [anew if one.id == anew.id else one for one in seen.findings]


def _look_into(seen: _Seen, tokens: Sequence[TokenSeen]) -> None:
    """Keep the tokens that answer; a module that hangs or crashes over one of them is not asked again."""
    answering: list[TokenSeen] = []
    for token in tokens:
        error = _trouble(token)
        if error is None:
            answering.append(token)
            continue
        troubled = replace(token.loaded, error=error)
        of_module = ask_all((module_file.loads, module_file.answers), troubled, str(seen.file.path))
        failed = [finding for finding in of_module if finding.status is Status.FAIL]
        seen.findings += failed or [_unreadable(token, error)]
        if failed:
            return
    seen.tokens = tuple(answering)


def _trouble(seen: TokenSeen) -> UShieldError | None:
    """Return why what shows on a token without a login cannot be read."""
    try:
        _ = seen.keys, seen.pairs, seen.mechanisms
    except TokenNotInitialized:
        return None  # F56 says so
    except UShieldError as error:
        return error
    return None


def _unreadable(seen: TokenSeen, error: UShieldError) -> Finding:
    facts = {"path": str(seen.loaded.file.path), "slots": len(seen.loaded.slots)}
    code = str(error.details.get("ckr") or error.code)
    evidence = {"kind": "broken", **facts, "codes": [code], "where": [seen.token.label]}
    return Finding(slots.readable.id, slots.readable.name, Status.FAIL, _name(seen), evidence)


def _dependencies(file: ModuleFile, loaded: Loaded | None) -> Finding:
    """Ask what a file is missing, unless it has shown that it misses nothing: following all it needs takes long."""
    ask, name = module_file.FILE_PROBES[_DEPENDENCIES_AT], str(file.path)
    if loaded is not None and loaded.info is not None:
        return Finding(ask.id, ask.name, Status.OK, name, {"path": name})
    if not file.closely and file.glance is not None:
        return Finding(ask.id, ask.name, Status.SKIP, name, {"path": name, "reason": "looks_well"})
    return ask(file, name)


def _tokens(loaded: Loaded) -> tuple[TokenSeen, ...]:
    try:
        return slots.tokens_of(loaded)
    except UShieldError:
        return ()


def _of_tokens(tokens: Iterable[TokenSeen]) -> Iterator[Finding]:
    for seen in tokens:
        for probes in (slots.TOKEN_PROBES, pin.PROBES, objects.TOKEN_PROBES):
            yield from ask_all(probes, seen, _name(seen))


# --- what it comes to -------------------------------------------------------------------------------------------------


def _concluded(machine: Machine, outer: list[Finding], seen: Sequence[_Seen], module: Path | None) -> Report:
    loaded = tuple(one.loaded for one in seen if one.loaded is not None)
    every = [token for one in seen for token in one.tokens]
    tokens = _each(every)
    meant = [token for token in tokens if _is_meant(token, machine.selector)]
    usable = [token for token in meant if _can_sign(token)]
    findings = [
        *outer,
        *(finding for one in seen for finding in one.findings),
        *ask_all(module_file.TOGETHER_PROBES, loaded),
        *ask_all(slots.CHOICE_PROBES, slots.Choice(machine, loaded, every)),
        *_of_tokens(tokens),
    ]
    idle = [token for token in tokens if _is_blank(token) and (usable or token not in meant)]
    findings = _weighed(machine, findings, seen, usable, {_name(token) for token in idle})
    first = None if usable and not _missed(findings) else _first(findings, meant, module)
    return Report(
        findings,
        tuple(_usable(token) for token in usable),
        first,
        skeleton=None if module is not None else _beginning(machine, findings, tokens),
        environment=_environment(machine, loaded),
        private=partial(_private, machine, every),
    )


def _beginning(machine: Machine, findings: Sequence[Finding], tokens: Sequence[TokenSeen]) -> str | None:
    """Return a descriptor to begin with, where no token shows or a card is left that nothing here knows."""
    strange = any(finding.id == "D37" and finding.matters for finding in findings)
    return skeleton(machine) if strange or not tokens else None


def _is_meant(seen: TokenSeen, selector: str | None) -> bool:
    try:
        return selector is None or names(selector, seen.token)
    except InputError:  # F55 and F57 say what is wrong with it
        return False


def _each(tokens: Sequence[TokenSeen]) -> list[TokenSeen]:
    """Return every token once, through the module that is its family's own if there is one."""
    found: dict[tuple[str, str, str], TokenSeen] = {}
    for seen in sorted(tokens, key=lambda seen: seen.token.driver.module.general):
        info = seen.token.info
        found.setdefault((info.manufacturer, info.model, info.serial or info.label), seen)
    return list(found.values())


def _can_sign(seen: TokenSeen) -> bool:
    try:
        return not seen.pin.locked and objects.usable(seen) is not None
    except UShieldError:
        return False


def _usable(seen: TokenSeen) -> UsableToken:
    pair = objects.usable(seen)
    subject = pair.facts.subject_text() if pair is not None else ""
    return UsableToken(seen.token.uri, seen.token.label, seen.token.serial, subject)


def _name(seen: TokenSeen) -> str:
    return f"{seen.token.label} ({seen.token.serial})"


def _weighed(
    machine: Machine,
    findings: Sequence[Finding],
    seen: Sequence[_Seen],
    usable: Sequence[TokenSeen],
    idle: Container[str],
) -> list[Finding]:
    """Take the weight from what does not matter here, now that everything is known."""
    slots_seen = [slot for one in seen if one.loaded is not None for slot in one.loaded.slots]
    shown_in = {slot.description for slot in slots_seen if slot.token is not None}
    soft = any(token.token.driver.kind is Kind.SOFTWARE for token in usable)
    no_service = machine.scene.failure is not None
    ours = (one.file for one in seen if no_service and not one.file.asked)
    need_pcsc = {str(file.path) for file in ours if _needs_pcsc(machine, file)}

    def weight(finding: Finding) -> Finding:
        if finding.id in _WITHOUT_PLUG and soft:
            return _dropped(finding, "soft_token")
        if finding.id == "F52" and no_service and finding.matters and finding.subject in need_pcsc:
            return _dropped(finding, "no_service")  # B tells why
        if finding.id == "D37" and finding.subject[:_LONGEST_SLOT] in shown_in:
            return replace(finding, status=Status.OK)
        if finding.matters and finding.layer in _OF_A_TOKEN and finding.subject in idle:
            return _dropped(finding, "another_is_meant")
        if usable and finding.id == "H71" and finding.status is Status.FAIL:
            return replace(finding, status=Status.WARN)
        return finding

    return [weight(finding) for finding in findings]


def _dropped(finding: Finding, reason: str) -> Finding:
    return replace(finding, status=Status.SKIP, evidence={**finding.evidence, "reason": reason})


def _needs_pcsc(machine: Machine, file: ModuleFile) -> bool:
    """Tell whether a module's tokens come through PC/SC, as far as its descriptor says."""
    families = (file.driver, *machine.catalogue.driven_by(file.driver))
    past = any(usb.binding.past_pcsc for family in families for usb in family.usb)
    return file.driver.kind is Kind.TOKEN and file.driver is not GENERIC and not past


def _missed(findings: Sequence[Finding]) -> bool:
    """Tell whether it is not clear which token is meant."""
    return any(finding.id in _CHOICES and finding.status is Status.FAIL for finding in findings)


def _first(findings: Sequence[Finding], meant: Sequence[TokenSeen], module: Path | None) -> Finding:
    """Return the one cause to look at; with a module asked for, what lies before modules counts last."""
    blank = {_name(token) for token in meant if _is_blank(token)}
    ours = {_name(token) for token in meant}
    told = [one for one in findings if one.matters and (one.layer not in _OF_A_TOKEN or one.subject in ours)]

    def order(one: Finding) -> tuple[bool, int]:
        return module is not None and one.layer.letter < Layer.MODULE.letter, _rank(one, blank)

    return min(told, key=order, default=None) or Finding("A1", "token.none", Status.FAIL, evidence={"kind": "none"})


class _Rank(IntEnum):
    """What explains best why no token can be used, the best first."""

    CHOICE = 0
    TOKEN = auto()
    FAILURE = auto()
    STRANGE = auto()
    NOT_THERE = auto()
    BLANK = auto()
    ABSENT = auto()
    ODD = auto()


def _rank(finding: Finding, blank: Container[str]) -> _Rank:
    if finding.status is Status.WARN:
        absent = _Rank.ABSENT if finding.id in _WITHOUT_PLUG else _Rank.ODD
        return _Rank.STRANGE if finding.id == "D37" else absent
    if finding.id in _CHOICES:  # a name that nothing bears: perhaps what bears it does not show
        return _Rank.NOT_THERE if finding.evidence.get("kind") == "none" else _Rank.CHOICE
    if finding.layer in _OF_A_TOKEN:
        return _Rank.BLANK if finding.subject in blank else _Rank.TOKEN
    return _Rank.BLANK if finding.id == "F56" and finding.evidence.get("kind") == "soft" else _Rank.FAILURE


def _is_blank(seen: TokenSeen) -> bool:
    """Tell whether it is an empty soft token, which may be nobody's."""
    try:
        return seen.token.driver.kind is Kind.SOFTWARE and not seen.pairs
    except UShieldError:
        return False


def _private(machine: Machine, tokens: Sequence[TokenSeen]) -> Iterator[tuple[str, str]]:
    """Yield what names a person or a token, and its kind, for the bundle to mask."""
    for seen in tokens:
        yield "serial", seen.token.serial
        yield "label", seen.token.label
        with suppress(UShieldError):
            yield from (("label", key.label) for key in seen.keys)
        with suppress(UShieldError):
            for pair in seen.pairs:
                yield "label", pair.certificate.label
                yield "name", pair.facts.subject_text()
                yield "name", pair.facts.issuer_text()
    yield from (("serial", device.serial) for device in machine.usb or ())
    if machine.selector is not None and not TokenUri.names(machine.selector):
        yield "asked", machine.selector


def _environment(machine: Machine, loaded: Sequence[Loaded]) -> dict[str, Any]:
    modules = {
        str(one.file.path): f"{shown(one.info.description)} {'.'.join(map(str, one.info.library_version))}"
        for one in loaded
        if one.info is not None
    }
    return {
        "ushield": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "architecture": machine.architecture,
        "kind": machine.kind,
        "pcsc": "ok" if machine.scene.failure is None else machine.scene.failure.name,
        "readers": [shown(one.name) for one in machine.scene.readers],
        "families": len(machine.catalogue.ids()),
        "modules": modules,
    }
