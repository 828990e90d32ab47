"""Rank the causes by what their probes declare (:class:`~ushield_hw.doctor.finding.Rule`).

The order is decided in three steps:

1. Findings that do not concern the user's request are marked unrelated: other tokens and modules if a token was named,
   and the PC/SC service if no connected device needs it.
2. A consequence never comes before its cause: a cause inherits the priority of its consequences.
3. The rest is ordered by priority, then by layer from the USB bus to the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ushield_hw.doctor.finding import PAST_PCSC, SOFT, Finding, Layer, Priority, Status, Way
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes.bus import ccid_devices, plugged
from ushield_hw.doctor.subjects import ModuleFile, TokenSeen
from ushield_hw.drivers.family import Kind
from ushield_hw.system.lazy import cached_property
from ushield_hw.system.pcsc import Slot

_OF_A_TOKEN: Final = frozenset({Layer.PIN, Layer.OBJECTS})
_OF_A_MODULE: Final = frozenset({Layer.MODULE, Layer.TOKEN})
_NOTHING_FOUND: Final = Finding("A1", "token.none", Status.FAIL, evidence={"kind": "none"})


@dataclass(frozen=True)
class Case:
    """The scope of a diagnosis.

    Attributes:
        machine: the machine; its ``selector`` names a token.
        module: the requested module file; None: any.
        files: the module files that were checked.
        tokens: every token that was found, once.
        meant: the tokens that the selector matches; all of them without a selector.
        usable: the tokens in ``meant`` that can sign.
        others_can_sign: whether a token outside ``meant`` can sign.
    """

    machine: Machine
    module: ModuleFile | None = None
    files: Sequence[ModuleFile] = ()
    tokens: Sequence[TokenSeen] = ()
    meant: Sequence[TokenSeen] = ()
    usable: Sequence[TokenSeen] = ()
    others_can_sign: bool = False

    @property
    def named(self) -> bool:
        """Whether a token was selected."""
        return self.machine.selector is not None

    @cached_property
    def modules(self) -> frozenset[str]:
        """The subjects of findings about module files."""
        return frozenset(str(file.path) for file in self.files)

    @cached_property
    def own(self) -> frozenset[str]:
        """The subjects of the selected tokens: the tokens, their modules and their readers."""
        found = {text for seen in self.meant for text in (seen.name, str(seen.loaded.file.path), seen.reader)}
        return frozenset(found - {""})

    @cached_property
    def others(self) -> frozenset[str]:
        """The tokens that were found but not selected."""
        ours = {seen.name for seen in self.meant}
        return frozenset(seen.name for seen in self.tokens) - ours

    @cached_property
    def idle(self) -> frozenset[str]:
        """Empty soft tokens that are not judged because another token can sign or is selected."""
        # a token that shows nothing may be usable too: its objects may be private
        filled = any(not seen.blank for seen in self.usable)
        return frozenset(
            seen.name for seen in self.tokens if seen.blank and (filled or (self.named and seen not in self.meant))
        )

    @cached_property
    def empty(self) -> frozenset[str]:
        """Empty soft tokens that are included only because no token was selected."""
        return frozenset(seen.name for seen in self.meant if seen.blank and not self.named)

    @cached_property
    def soft(self) -> bool:
        """Whether a soft token can certainly sign, so that no device is needed."""
        return any(seen.token.driver.kind is Kind.SOFTWARE and not seen.uncertain for seen in self.usable)

    @cached_property
    def needs_pcsc(self) -> bool:
        """Whether a connected device uses PC/SC, or may use it because no device that bypasses it is connected."""
        cards = any(reader.slot is not Slot.EMPTY for reader in self.machine.reader_list.readers)
        past = any(one.past_pcsc for one in plugged(self.machine))
        return cards or bool(ccid_devices(self.machine)) or not past


def weighed(findings: Sequence[Finding], case: Case) -> list[Finding]:
    """Return the findings in layer order, set aside or downgraded where they do not apply.

    Args:
        findings: the findings of all probes.
        case: the scope of the diagnosis.
    """
    order = list(Layer)
    found = sorted(findings, key=lambda one: order.index(one.layer))
    problems = (_quiet(one, found) if one.rule.quiet and one.is_problem else one for one in found)
    return [_weighed(one, case) for one in problems]


def first(findings: Sequence[Finding], case: Case) -> Finding | None:
    """Return the first cause; None if a selected token can sign and the selection is unambiguous.

    Args:
        findings: the result of :func:`weighed`.
        case: the scope of the diagnosis.
    """
    unclear = any(one.rule.failed is Priority.CHOICE and one.status is Status.FAIL for one in findings)
    if case.usable and not unclear:
        return None
    problems = [one for one in findings if one.is_problem]
    if not problems:
        return _NOTHING_FOUND
    effective = _effective(problems, case)
    best = min(range(len(problems)), key=lambda number: (problems[number].unrelated, effective[number], number))
    return problems[best]


def _quiet(one: Finding, found: Sequence[Finding]) -> Finding:
    """Return a finding as skipped if it only repeats its cause."""
    cause = next((other for other in found if one.follows(other)), None)
    return one if cause is None else _dropped(one, f"follows_{cause.id}")


def _weighed(one: Finding, case: Case) -> Finding:
    if not one.is_problem:
        return one
    if one.layer in _OF_A_TOKEN and one.subject in case.idle:
        return _dropped(one, "another_is_meant")
    if _priority(one, case) is Priority.ABSENT and one.status is Status.WARN:
        if case.soft:
            return _dropped(one, SOFT)
        if not _can_matter(one, case):
            return _dropped(one, PAST_PCSC)
    one = replace(one, unrelated=_is_unrelated(one, case))
    mild = case.usable and (one.subject in case.modules or one.layer is Layer.OBJECTS)
    return replace(one, status=Status.WARN) if mild else one


def _dropped(one: Finding, reason: str) -> Finding:
    return replace(one, status=Status.SKIP, evidence={**one.evidence, "reason": reason})


def _is_unrelated(one: Finding, case: Case) -> bool:
    """Return whether a finding does not concern the user's request."""
    if case.module is not None:
        return one.layer.letter < Layer.MODULE.letter
    if one.rule.failed is Priority.CHOICE:
        return False
    if case.named and case.meant:
        return one.subject not in case.own
    if case.named and one.subject in case.others:
        return True
    if case.others_can_sign and one.layer in _OF_A_MODULE and one.subject in case.modules:
        return True
    return not _can_matter(one, case)


def _can_matter(one: Finding, case: Case) -> bool:
    """Return whether a finding affects an access path that is in use."""
    return one.concerns is not Way.PCSC or case.needs_pcsc


def _priority(one: Finding, case: Case) -> Priority:
    return Priority.EMPTY if one.subject in case.empty else one.priority


def _effective(problems: Sequence[Finding], case: Case) -> Mapping[int, tuple[Priority, int]]:
    """Return priority and depth of each finding.

    A cause inherits the priority of its consequences and has less depth than they have.
    """
    behind = {
        number: [
            other for other, cause in enumerate(problems) if one.follows(cause) and cause.unrelated <= one.unrelated
        ]
        for number, one in enumerate(problems)
    }
    best = {number: _priority(one, case) for number, one in enumerate(problems)}
    depth = dict.fromkeys(best, 0)
    for _ in problems:  # a chain has at most as many steps as there are findings
        for number, causes in behind.items():
            for cause in causes:
                best[cause] = min(best[cause], best[number])
                depth[number] = min(len(problems), max(depth[number], depth[cause] + 1))
    return {number: (best[number], depth[number]) for number in best}
