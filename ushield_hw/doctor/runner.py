"""Run all probes and combine their findings into a report.

Layers that do not depend on each other are checked in parallel. Every module is loaded in its own worker process, so
that several modules that hang cost one deadline in total.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from ushield_hw import __version__
from ushield_hw.backend.module import Module
from ushield_hw.doctor.codes import unexplained
from ushield_hw.doctor.descriptor_draft import skeleton
from ushield_hw.doctor.finding import NO_PYSCARD, Finding, Status, ask_all, fail, ok, skip, unchecked
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes import bus, card, compare, module_file, objects, pin, reader, service, slots
from ushield_hw.doctor.ranking import Case, first, weighed
from ushield_hw.doctor.report import Report, UsableToken
from ushield_hw.doctor.subjects import LOAD_DEADLINE_S, Loaded, ModuleFile, TokenSeen, each, load, pcsc_unavailable
from ushield_hw.drivers.family import Discover
from ushield_hw.errors import InputError, TokenNotInitialized, UShieldError
from ushield_hw.messages import shown
from ushield_hw.token.choice import names
from ushield_hw.uri import TokenUri

# A failing dependency check does not prevent loading the module: the system's loader decides.
_DEPENDENCIES_AT: Final = module_file.FILE_PROBES.index(module_file.dependencies)

_OF_A_TOKEN: Final = (slots.TOKEN_PROBES, pin.PROBES, objects.TOKEN_PROBES)


@dataclass
class _Seen:
    """The results for one module file."""

    file: ModuleFile
    findings: list[Finding] = field(default_factory=list)
    loaded: Loaded | None = None
    tokens: tuple[TokenSeen, ...] = ()

    def ask_of_file(self) -> None:
        """Run the probes that only need the file."""
        name = str(self.file.path)
        others = [ask for ask in module_file.FILE_PROBES if ask is not module_file.dependencies]
        asked = ask_all(others, self.file, name, self.file.way)
        asked.insert(_DEPENDENCIES_AT, _dependencies(self.file, self.loaded))
        self.findings = [*asked, *self.findings[len(asked) :]]


def examine(
    machine: Machine, module: Path | None = None, deadline_s: float = LOAD_DEADLINE_S, *, closely: bool = False
) -> Report:
    """Run all checks and name one cause first. Uses no PIN attempt and changes nothing.

    Args:
        machine: this machine or a recorded one; its ``selector`` names the token to check.
        module: check only this module file; the layers before it are still reported.
        deadline_s: timeout in seconds for loading a module.
        closely: parse the tables of every module file, even if its header looks valid.

    Returns:
        The report.

    Raises:
        DescriptorError: a descriptor is invalid.
    """
    files = module_file.module_files(machine, module)
    enough = threading.Event()
    with ThreadPoolExecutor(len(files) + 6) as pool:
        # submitted first because they take longest
        looks = [pool.submit(_look, file, deadline_s, closely=closely) for file in files]
        outer = [pool.submit(part, machine) for part in (_usb, _service, _readers)]
        readers = pool.submit(card.readers, machine, enough)
        outer.append(pool.submit(lambda: _cards(machine, readers.result())))
        pool.submit(import_module, "cryptography.x509")  # preload for parsing certificates while the modules load
        seen = [look.result() for look in looks]
        if any(_is_meant(token, machine.selector) and _can_sign(token) for one in seen for token in one.tokens):
            enough.set()
        else:
            list(pool.map(_look_closely, seen))
        findings = [finding for part in outer for finding in part.result()]
    try:
        return _concluded(machine, findings, readers.result(), seen, module)
    finally:
        loaded = [one.loaded.module for one in seen if one.loaded is not None]
        with ThreadPoolExecutor(len(loaded) or 1) as pool:
            list(pool.map(Module.close, loaded))


# --- the layers -------------------------------------------------------------------------------------------------------


def _usb(machine: Machine) -> list[Finding]:
    found = ask_all(bus.PROBES, machine)
    for device in bus.plugged(machine):
        found += ask_all(bus.DEVICE_PROBES, device, device.label, device.way)
    return found


def _service(machine: Machine) -> list[Finding]:
    if pcsc_unavailable(machine) != NO_PYSCARD:
        return ask_all(service.PROBES, machine)
    others = (ask for ask in service.PROBES if ask is not service.not_running)
    return [service.not_running(machine), *(ask.found(unchecked(NO_PYSCARD)) for ask in others)]


def _readers(machine: Machine) -> list[Finding]:
    return ask_all(reader.PROBES, machine)


def _cards(machine: Machine, there: Sequence[card.InReader]) -> list[Finding]:
    found = ask_all(card.MACHINE_PROBES, machine)
    with ThreadPoolExecutor(len(there) or 1) as pool:  # every card stays connected for a short time
        for part in pool.map(lambda here: ask_all(card.CONTACT_PROBES, here, here.reader.name), there):
            found += part
    return found


def _compared(machine: Machine, there: Sequence[card.InReader], loaded: Sequence[Loaded]) -> Iterator[Finding]:
    """Run the probes that need the results of the modules."""
    if reason := pcsc_unavailable(machine):
        yield from (ask.found(unchecked(reason)) for ask in card.PROBES)
    for here in there:
        here.shown = compare.shows_a_token(here, loaded)
        yield from ask_all(card.FAMILY_PROBES, here, here.reader.name)
    for one in compare.expected(machine, there, loaded):
        yield from ask_all(compare.PROBES, one, one.subject, one.way)


def _look(file: ModuleFile, deadline_s: float, *, closely: bool) -> _Seen:
    """Check a module file, and load it unless a check failed."""
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
        seen.findings += ask_all(probes, seen.loaded, name, file.way)
    _look_into(seen, _tokens(seen.loaded))
    return seen


def _look_closely(seen: _Seen) -> None:
    """Parse the tables of a file that was not loaded, or load the module a second time.

    Called only if no token can be used so far.
    """
    if seen.file.closely:
        return
    seen.file.closely = True
    if seen.loaded is None:
        seen.ask_of_file()
    else:
        repeated = slots.fresh(seen.loaded, str(seen.file.path), seen.file.way)
        seen.findings = [repeated if one.id == repeated.id else one for one in seen.findings]


def _look_into(seen: _Seen, tokens: Sequence[TokenSeen]) -> None:
    """Keep the tokens that can be read. A module that hangs or crashes on one token is not called again."""
    answering: list[TokenSeen] = []
    for token in tokens:
        error = _trouble(token)
        if error is None:
            answering.append(token)
            continue
        troubled = replace(token.loaded, error=error)
        of_module = ask_all((module_file.loads, module_file.answers), troubled, str(seen.file.path), seen.file.way)
        failed = [finding for finding in of_module if finding.status is Status.FAIL]
        seen.findings += failed or [_unreadable(token, error)]
        if failed:
            return
    seen.tokens = tuple(answering)


def _trouble(seen: TokenSeen) -> UShieldError | None:
    """Return the error of reading what a token shows without a login, or None."""
    try:
        _ = seen.keys, seen.certificates, seen.pairs, seen.mechanisms
    except TokenNotInitialized:
        return None  # reported as F56
    except UShieldError as error:
        return error
    return None


def _unreadable(seen: TokenSeen, error: UShieldError) -> Finding:
    facts = {"path": str(seen.loaded.file.path), "slots": len(seen.loaded.slots)}
    code = error.failure.code if error.failure is not None else error.code
    evidence = {"kind": "broken", **facts, "codes": [code], "where": [seen.token.label]}
    return slots.readable.found(fail(**evidence), seen.name)


def _dependencies(file: ModuleFile, loaded: Loaded | None) -> Finding:
    """Check the dependencies of a file, unless it was loaded or its header looks valid: resolving them takes long."""
    ask, name = module_file.dependencies, str(file.path)
    if loaded is not None and loaded.info is not None:
        return ask.found(ok(path=name), name, file.way)
    if not file.closely and file.glance is not None:
        return ask.found(skip("looks_well", path=name), name, file.way)
    return ask(file, name, file.way)


def _tokens(loaded: Loaded) -> tuple[TokenSeen, ...]:
    try:
        return slots.tokens_of(loaded)
    except UShieldError:
        return ()


def _of_tokens(tokens: Iterable[TokenSeen]) -> Iterator[Finding]:
    for seen in tokens:
        yield from findings_of(seen)


def findings_of(seen: TokenSeen) -> list[Finding]:
    """Return all findings about one token. A finding fails only if it prevents a signature."""
    asked = [one for probes in _OF_A_TOKEN for one in ask_all(probes, seen, seen.name)]
    return list(_as_a_signature_sees_it(seen, asked))


def _as_a_signature_sees_it(seen: TokenSeen, asked: Sequence[Finding]) -> Iterator[Finding]:
    """Yield the findings of a token, downgraded to warnings if the token can sign all the same.

    If it cannot sign and no finding explains that, a finding for the error is added.
    """
    try:
        able, error = seen.able, seen.decision.error
    except UShieldError:  # it cannot be read or is not initialized, which other findings report
        able, error = False, None
    for one in asked:
        yield replace(one, status=Status.WARN) if able and one.status is Status.FAIL else one
    if not able and error is not None and all(one.status is not Status.FAIL for one in asked):
        yield unexplained(error, seen.name)


# --- conclusion -------------------------------------------------------------------------------------------------------


def _concluded(
    machine: Machine,
    outer: list[Finding],
    there: Sequence[card.InReader],
    seen: Sequence[_Seen],
    module: Path | None,
) -> Report:
    loaded = tuple(one.loaded for one in seen if one.loaded is not None)
    every = [token for one in seen for token in one.tokens]
    case = _case(machine, seen, module, each(every))
    asked = [
        *outer,
        *_compared(machine, there, loaded),
        *(finding for one in seen for finding in one.findings),
        *ask_all(module_file.TOGETHER_PROBES, loaded),
        *ask_all(slots.CHOICE_PROBES, slots.Choice(machine, loaded, every)),
        *_of_tokens(case.tokens),
    ]
    findings = weighed(asked, case)
    return Report(
        findings,
        tuple(_usable(token) for token in case.usable),
        first(findings, case),
        skeleton=None if module is not None else _beginning(machine, findings, case.tokens),
        environment=_environment(machine, loaded),
        named=case.named,
        private=partial(_private, machine, every),
    )


def _case(machine: Machine, seen: Sequence[_Seen], module: Path | None, tokens: Sequence[TokenSeen]) -> Case:
    meant = [token for token in tokens if _is_meant(token, machine.selector)]
    able = [token for token in tokens if _can_sign(token)]
    return Case(
        machine,
        None if module is None else seen[0].file,
        [one.file for one in seen],
        tokens,
        meant,
        [token for token in able if token in meant],
        others_can_sign=any(token not in meant for token in able),
    )


def _beginning(machine: Machine, findings: Sequence[Finding], tokens: Sequence[TokenSeen]) -> str | None:
    """Return a draft descriptor if no token shows or a card is unknown, otherwise None."""
    strange = any(finding.probe == card.unknown_card.name and finding.is_problem for finding in findings)
    return skeleton(machine) if strange or not tokens else None


def _is_meant(seen: TokenSeen, selector: str | None) -> bool:
    try:
        return selector is None or names(selector, seen.token)
    except InputError:  # the selector is invalid, which F55 and F57 report
        return False


def _can_sign(seen: TokenSeen) -> bool:
    try:
        return seen.able
    except UShieldError:
        return False


def _usable(seen: TokenSeen) -> UsableToken:
    pair = seen.decision.pair
    subject = pair.subject if pair is not None else ""
    return UsableToken(seen.token.uri, seen.token.label, seen.token.serial, subject, not seen.uncertain)


def _private(machine: Machine, tokens: Sequence[TokenSeen]) -> Iterator[tuple[str, str]]:
    """Yield kind and text of personal data and token identifiers, to be masked in the bundle."""
    for seen in tokens:
        yield "serial", seen.token.serial
        yield "label", seen.token.label
        with suppress(UShieldError):
            yield from (("label", key.label) for key in seen.keys)
            yield from (("label", problem.label) for problem in seen.unread if problem.label)
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
        "pcsc": "ok" if machine.reader_list.failure is None else machine.reader_list.failure.name,
        "readers": [shown(one.name) for one in machine.reader_list.readers],
        "families": len(machine.catalogue.ids()),
        "modules": modules,
    }
