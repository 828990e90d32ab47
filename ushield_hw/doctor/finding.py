"""The result of a probe: a finding with evidence, a cause and a remedy.

The id consists of the layer's letter and the cause's number, ``A1`` to ``H78``. Ids are stable because they appear in
support tickets. The texts are in the message catalogue under ``doctor.E44.cause`` and ``doctor.E44.remedy``; the
evidence fills their placeholders. If the evidence has a ``kind``, ``doctor.E44.cause.KIND`` is used instead where it
exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from typing import Any, Final, Generic, TypeVar

from ushield_hw import messages

S = TypeVar("S")

# Reasons for a skipped probe that are used in several modules.
NO_SERVICE: Final = "no_service"  # PC/SC is not available
NO_PYSCARD: Final = "no_pyscard"  # the Python package for PC/SC is not installed
SOFT: Final = "soft_token"  # a soft token can sign, so no device is needed
PAST_PCSC: Final = "past_pcsc"  # the connected device does not use PC/SC


class Layer(Enum):
    """The layers from the USB bus to the signing key, in order."""

    USB = "usb"
    SERVICE = "service"
    READER = "reader"
    CARD = "card"
    MODULE = "module"
    TOKEN = "token"  # noqa: S105
    PIN = "pin"
    OBJECTS = "objects"

    @property
    def letter(self) -> str:
        """The letter of its finding ids."""
        return "ABCDEFGH"[list(Layer).index(self)]


_BY_LETTER: Final = {layer.letter: layer for layer in Layer}
_OF_TOKENS: Final = {Layer.TOKEN, Layer.PIN, Layer.OBJECTS}


class Status(Enum):
    """The result of a probe."""

    OK = "ok"
    WARN = "warn"  # works, but should be checked
    FAIL = "fail"
    SKIP = "skip"  # not checked or not applicable


class Outcome(IntEnum):
    """The exit codes of a diagnosis."""

    OK = 0
    NO_TOKEN = 3
    PIN_LOCKED = 5
    CERTIFICATE = 6


class Way(Enum):
    """How programs access a token; a cause on one path does not affect tokens on another."""

    ANY = "any"
    PCSC = "pcsc"  # a card or a CCID token, accessed through the PC/SC service
    DIRECT = "direct"  # a device with a vendor protocol, which PC/SC never shows
    SOFT = "soft"  # a soft token or another program; no device is connected


class Priority(IntEnum):
    """How well a cause explains that no token can be used; the lowest value is named first."""

    CHOICE = 0  # the selection of the token is ambiguous or invalid
    TOKEN = auto()  # the selected token itself
    FAULT = auto()  # a component that is present does not work
    STRANGE = auto()  # an unknown device or card is present
    NOT_NAMED = auto()  # no token has the requested name
    EMPTY = auto()  # an empty soft token store
    ABSENT = auto()  # nothing is present
    REMARK = auto()  # it works; information only


@dataclass(frozen=True)
class Rule:
    """What a probe declares about its cause, to rank it among the others.

    Attributes:
        failed: priority if it fails.
        warned: priority if it warns.
        kinds: priority by ``kind`` of the evidence, failing or not.
        after: causes that this one may be a consequence of, or that must be fixed first. If one of them is found, this
            one is not named before it. Within one layer, and between a token, its PIN and its objects, this applies to
            the same subject only.
        way: the access path whose tokens it affects.
        exits: the exit code if it is named first.
        quiet: do not report it at all if it is a consequence.
        headline: message id of the headline if it is named first; empty: the default, that no token can be used.
    """

    failed: Priority = Priority.FAULT
    warned: Priority = Priority.REMARK
    kinds: Mapping[str, Priority] = field(default_factory=dict)
    after: frozenset[str] = frozenset()
    way: Way = Way.ANY
    exits: Outcome = Outcome.NO_TOKEN
    quiet: bool = False
    headline: str = ""


def causes(text: str) -> frozenset[str]:
    """Return the ids in a space-separated text, for :attr:`Rule.after`."""
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class Said:
    """A probe's answer: status and evidence. Created by :func:`ok`, :func:`warn`, :func:`fail`, :func:`skip`."""

    status: Status
    evidence: dict[str, Any]


def ok(**evidence: Any) -> Said:
    """Return an answer without a problem."""
    return Said(Status.OK, evidence)


def warn(**evidence: Any) -> Said:
    """Return an answer for something that works but should be checked."""
    return Said(Status.WARN, evidence)


def fail(**evidence: Any) -> Said:
    """Return an answer for a problem that prevents use of the token."""
    return Said(Status.FAIL, evidence)


def skip(reason: str, **evidence: Any) -> Said:
    """Return an answer for a check that does not apply; ``reason`` is a short identifier."""
    return Said(Status.SKIP, {"reason": reason, **evidence})


def unchecked(reason: str, **evidence: Any) -> Said:
    """Return an answer for a check that applies but could not be made; ``reason`` is a short identifier."""
    return Said(Status.SKIP, {"reason": reason, **evidence, "checked": False})


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a probe.

    Attributes:
        id: layer letter and cause number.
        probe: the probe's name, for example ``module.architecture``.
        status: the result.
        subject: what was checked: a device, reader, module file or token; empty for the machine itself.
        evidence: the observed values; untrusted where they come from a token.
        rule: what the probe declares.
        way: the access path it affects; None: as the probe declares.
        unrelated: it does not concern what the user asked about.
    """

    id: str
    probe: str
    status: Status
    subject: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    rule: Rule = field(default=Rule(), repr=False, compare=False)
    way: Way | None = None
    unrelated: bool = False

    @property
    def layer(self) -> Layer:
        """The layer it belongs to."""
        return _BY_LETTER[self.id[0]]

    @property
    def is_problem(self) -> bool:
        """Whether it is a warning or a failure."""
        return self.status in {Status.WARN, Status.FAIL}

    @property
    def concerns(self) -> Way:
        """The access path it affects."""
        return self.way or self.rule.way

    @property
    def priority(self) -> Priority:
        """Its priority according to the probe's rule."""
        by_status = self.rule.failed if self.status is Status.FAIL else self.rule.warned
        return self.rule.kinds.get(str(self.evidence.get("kind")), by_status)

    @property
    def unchecked(self) -> bool:
        """Whether the check applies but could not be made."""
        return self.status is Status.SKIP and self.evidence.get("checked") is False

    def follows(self, other: Finding) -> bool:
        """Return whether this finding may be a consequence of another one."""
        if other.id not in self.rule.after or not other.is_problem:
            return False
        ways = {self.concerns, other.concerns}
        alike = self.layer is other.layer or {self.layer, other.layer} <= _OF_TOKENS
        return (len(ways) == 1 or Way.ANY in ways) and (not alike or self.subject == other.subject)

    def cause(self) -> str | None:
        """Return the cause in the current language, or None if there is no problem."""
        return self._text("cause") if self.is_problem else None

    def remedy(self) -> str | None:
        """Return the remedy in the current language, or None if there is no problem."""
        return self._text("remedy") if self.is_problem else None

    def lead(self) -> str:
        """Return the subject, to be written before the cause; empty if the cause already contains it."""
        subject, cause = messages.shown(self.subject), self.cause() or ""
        label = subject.rpartition(" (")[0] or subject  # of a token
        return "" if subject in cause or label in cause else subject

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON."""
        return {
            "id": self.id,
            "probe": self.probe,
            "layer": self.layer.value,
            "status": self.status.value,
            "subject": self.subject,
            "evidence": self.evidence,
            "cause": self.cause(),
            "remedy": self.remedy(),
            "unrelated": self.unrelated,
            "unchecked": self.unchecked,
        }

    def _text(self, part: str) -> str:
        """Return the text for the ``kind`` of the evidence if the catalogue has one, else the general text."""
        values = {name: _listed(value) for name, value in self.evidence.items()}
        plain = f"doctor.{self.id}.{part}"
        special = f"{plain}.{self.evidence.get('kind')}"
        return messages.text(special if messages.known(special) else plain, subject=self.subject, **values)


def _listed(value: Any) -> Any:
    """Return evidence as text for a message; ``-`` and an empty list become "none"."""
    said = ", ".join(map(str, value)) if isinstance(value, list | tuple | set) else value
    return messages.text("doctor.none") if said in {"-", ""} else said


@dataclass(frozen=True)
class Probe(Generic[S]):
    """A check of one kind of subject, with the ranking rule of its cause."""

    id: str
    name: str
    ask: Callable[[S], Said]
    rule: Rule = Rule()

    def __call__(self, subject: S, name: str = "", way: Way | None = None) -> Finding:
        """Run the check. Never raises: an exception becomes an unchecked finding."""
        try:
            said = self.ask(subject)
        except Exception as error:  # unexpected data of the machine must not end the diagnosis
            said = unchecked("probe_failed", error=f"{type(error).__name__}: {error}")
        return self.found(said, name, way)

    def found(self, said: Said, name: str = "", way: Way | None = None) -> Finding:
        """Return an answer as a finding of this probe."""
        return Finding(self.id, self.name, said.status, name, said.evidence, self.rule, way)


def probe(id: str, name: str, rule: Rule = Rule()) -> Callable[[Callable[[S], Said]], Probe[S]]:
    """Return a decorator that makes a probe of a function.

    Args:
        id: layer letter and cause number.
        name: the name of the probe.
        rule: how its cause is ranked.
    """
    return lambda ask: Probe(id, name, ask, rule)


def ask_all(probes: Iterable[Probe[S]], subject: S, name: str = "", way: Way | None = None) -> list[Finding]:
    """Run all probes on one subject.

    Args:
        probes: the probes.
        subject: what they check.
        name: the subject of the findings.
        way: the access path of the tokens concerned.
    """
    return [question(subject, name, way) for question in probes]
