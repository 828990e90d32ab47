"""The walk from the plug to a key that can sign: which questions are put to what, and what the answers come to.

Layers that do not need each other are asked side by side, every module in a worker of its own: modules that hang cost
one deadline together.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ushield_hw import __version__
from ushield_hw.doctor import bus, card, module_file, objects, pin, reader, service, slots
from ushield_hw.doctor.finding import Finding, Layer, Status, ask_all
from ushield_hw.doctor.machine import Machine
from ushield_hw.doctor.report import Report, UsableToken
from ushield_hw.doctor.skeleton import skeleton
from ushield_hw.doctor.subjects import LOAD_DEADLINE_S, Loaded, ModuleFile, TokenSeen, load
from ushield_hw.drivers import Discover, Kind
from ushield_hw.errors import UShieldError
from ushield_hw.messages import shown

_DEPENDENCIES: Final = "E45"  # a reason not to load a module, unless it loads
_WITHOUT_PLUG: Final = frozenset({"A1", "A2", "B11", "C25", "C26", "D29"})  # say nothing to somebody with a soft token
_OF_A_TOKEN: Final = frozenset({Layer.PIN, Layer.OBJECTS})


@dataclass
class _Seen:
    """What came of one module file."""

    file: ModuleFile
    findings: list[Finding] = field(default_factory=list)
    loaded: Loaded | None = None
    tokens: tuple[TokenSeen, ...] = ()


def examine(machine: Machine, module: Path | None = None, deadline_s: float = LOAD_DEADLINE_S) -> Report:
    """Look at everything and say what is wrong, naming one cause first. Spends no PIN try and changes nothing.

    Args:
        machine: this one, or a recorded one; its ``selector`` says which token was meant.
        module: look at this module file only; what lies before it is still told.
        deadline_s: how long a module may take to load.

    Raises:
        DescriptorError: a descriptor is wrong.
    """
    files = module_file.module_files(machine, module)
    with ThreadPoolExecutor(len(files) + 4) as pool:
        outer = [pool.submit(part, machine) for part in (_usb, _service, _readers, _cards)]
        seen = list(pool.map(lambda file: _look(file, deadline_s), files))
        findings = [finding for part in outer for finding in part.result()]
    try:
        return _concluded(machine, findings, seen, module)
    finally:
        for one in seen:
            if one.loaded is not None:
                one.loaded.module.close()


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


def _cards(machine: Machine) -> list[Finding]:
    found = ask_all(card.MACHINE_PROBES, machine)
    there = card.readers(machine)
    with ThreadPoolExecutor(len(there) or 1) as pool:  # each card is watched for a moment
        for part in pool.map(lambda here: ask_all(card.PROBES, here, here.reader.name), there):
            found += part
    return found


def _look(file: ModuleFile, deadline_s: float) -> _Seen:
    seen, name = _Seen(file), str(file.path)
    seen.findings = ask_all(module_file.FILE_PROBES, file, name)
    broken = {finding.id for finding in seen.findings if finding.status is Status.FAIL}
    if broken - {_DEPENDENCIES} or not (file.asked or file.driver.module.discover is Discover.ALWAYS):
        return seen
    seen.loaded = load(file, deadline_s)
    if seen.loaded.info is not None:
        seen.findings = [_believed(finding) for finding in seen.findings]
    for probes in (module_file.LOADED_PROBES, slots.LOADED_PROBES, objects.LOADED_PROBES):
        seen.findings += ask_all(probes, seen.loaded, name)
    seen.tokens = _tokens(seen.loaded)
    return seen


def _believed(finding: Finding) -> Finding:
    """A module that has loaded is missing nothing, whatever was thought of its file."""
    if finding.id == _DEPENDENCIES and finding.status is Status.FAIL:
        return replace(finding, status=Status.OK)
    return finding


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
    tokens = _each([token for one in seen for token in one.tokens])
    choice = slots.Choice(machine, loaded, [token for one in seen for token in one.tokens])
    together = ask_all(module_file.TOGETHER_PROBES, loaded)
    usable = {_name(token): token for token in tokens if _can_sign(token)}
    findings = [
        *outer,
        *(finding for one in seen for finding in one.findings),
        *together,
        *ask_all(slots.CHOICE_PROBES, choice),
        *_of_tokens(tokens),
    ]
    asked, no_service = module is not None or machine.selector is not None, machine.scene.failure is not None
    findings = _weighed(findings, seen, usable, asked=asked, no_service=no_service)
    first = None if usable and not _missed(findings) else _first(findings, module)
    known = bool(tokens) or module is not None
    return Report(
        findings,
        tuple(_usable(token) for token in usable.values()),
        first,
        skeleton=None if known else skeleton(machine),
        environment=_environment(machine, loaded),
    )


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
    findings: Sequence[Finding],
    seen: Sequence[_Seen],
    usable: dict[str, TokenSeen],
    *,
    asked: bool,
    no_service: bool,
) -> list[Finding]:
    """Take the weight from what does not matter here, now that everything is known."""
    shown_in = {
        slot.description
        for one in seen
        if one.loaded is not None
        for slot in one.loaded.slots
        if slot.token is not None
    }
    soft = any(token.token.driver.kind is Kind.SOFTWARE for token in usable.values())

    def weight(finding: Finding) -> Finding:
        if finding.id in _WITHOUT_PLUG and soft:
            return replace(finding, status=Status.SKIP, evidence={"reason": "soft_token", **finding.evidence})
        if finding.id == "F52" and no_service and finding.status is Status.FAIL:
            return replace(finding, status=Status.WARN)  # a card's module without PC/SC: that is told first
        if finding.id == "D37" and finding.subject in shown_in:
            return replace(finding, status=Status.OK)
        if usable and not asked and finding.id == "H71" and finding.status is Status.FAIL:
            return replace(finding, status=Status.WARN)
        return finding

    return [weight(finding) for finding in findings]


def _missed(findings: Sequence[Finding]) -> bool:
    """Tell whether the token that was asked for is not among those that can be used."""
    return any(finding.id in {"F55", "F57", "F58"} and finding.status is Status.FAIL for finding in findings)


def _first(findings: Sequence[Finding], module: Path | None) -> Finding:
    """Return the one cause to look at: of a token that is there, else the first failure, else what is absent.

    With a module asked for, what lies before modules does not count.
    """
    on_the_way = [finding for finding in findings if module is None or finding.layer.letter >= Layer.MODULE.letter]
    failures = [finding for finding in on_the_way if finding.status is Status.FAIL]
    choices = [finding for finding in failures if finding.id in {"F55", "F57", "F58"}]
    of_tokens = [finding for finding in failures if finding.layer in _OF_A_TOKEN]
    absent = [finding for finding in on_the_way if finding.status is Status.WARN and finding.layer not in _OF_A_TOKEN]
    for group in (choices, of_tokens, failures, absent):
        if group:
            return group[0]
    return Finding("A1", "token.none", Status.FAIL, evidence={"kind": "none"})


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
