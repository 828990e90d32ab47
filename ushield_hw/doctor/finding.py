"""What a probe says: one finding, with its evidence, and in words why and what to do.

An id is the layer's letter and the cause's number, ``A1`` to ``H76``, for good: support desks write them into tickets.
The words are in the catalogue of messages under ``doctor.E44.cause`` and ``doctor.E44.remedy``; evidence is put in. A
cause with several faces names the one it saw in its evidence as ``kind``, and ``doctor.E44.cause.KIND`` is its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from typing import Any, Final, Generic, TypeVar

from ushield_hw import messages

S = TypeVar("S")

# Why a question was not asked or its answer does not count, where more than one part has to know.
NO_SERVICE: Final = "no_service"  # PC/SC cannot be asked
SOFT: Final = "soft_token"  # a soft token can sign: nothing has to be plugged in
PAST_PCSC: Final = "past_pcsc"  # what is plugged in does not come through PC/SC


class Layer(Enum):
    """The layers from the plug to a key that can sign, in order."""

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
        """The letter of its ids."""
        return "ABCDEFGH"[list(Layer).index(self)]


_BY_LETTER: Final = {layer.letter: layer for layer in Layer}
_OF_TOKENS: Final = {Layer.TOKEN, Layer.PIN, Layer.OBJECTS}


class Status(Enum):
    """How a probe ended."""

    OK = "ok"
    WARN = "warn"  # works, but look at it
    FAIL = "fail"
    SKIP = "skip"  # not looked at, or nothing to look at


class Outcome(IntEnum):
    """The exit codes that a diagnosis can end in."""

    OK = 0
    NO_TOKEN = 3
    PIN_LOCKED = 5
    CERTIFICATE = 6


class Way(Enum):
    """How a token comes to a program, and so which tokens a cause can keep from being used."""

    ANY = "any"
    PCSC = "pcsc"  # a card or a CCID token, shown by the smart card service
    DIRECT = "direct"  # a device with its maker's own protocol: PC/SC never shows it
    SOFT = "soft"  # files or another program: nothing is plugged in


class Priority(IntEnum):
    """How well a cause explains that no token can be used; the lowest is named first."""

    CHOICE = 0  # it is not clear which token is meant
    TOKEN = auto()  # the very token that is meant
    FAULT = auto()  # something that is there does not work
    STRANGE = auto()  # something is there that nothing here knows
    NOT_NAMED = auto()  # nothing bears the name that was asked for
    EMPTY = auto()  # a place for soft tokens without one that can be used
    ABSENT = auto()  # nothing is there
    REMARK = auto()  # it works; worth knowing


@dataclass(frozen=True)
class Rule:
    """What a probe declares about its cause, beside the question: its place among the other causes.

    Attributes:
        failed: its priority where it fails.
        warned: its priority where it warns.
        kinds: the priority of one kind of it (``kind`` of the evidence), failing or not.
        after: the causes that it may be a mere consequence of, or that have to be dealt with first: where one of them
            is found, this one is not named before it. In one layer, and from a token to its PIN and its objects, that
            holds for the same subject only.
        way: which tokens it can keep from being used.
        exits: the exit code if it is named first.
        quiet: as a mere consequence it is not mentioned at all.
        headline: the text above it if it is named first; empty: that no token can be used.
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
    """Return the ids in a text, for :attr:`Rule.after`."""
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class Said:
    """A probe's answer: a status and what it saw. Made by :func:`ok`, :func:`warn`, :func:`fail`, :func:`skip`."""

    status: Status
    evidence: dict[str, Any]


def ok(**evidence: Any) -> Said:
    """Nothing wrong here."""
    return Said(Status.OK, evidence)


def warn(**evidence: Any) -> Said:
    """It works, but somebody should look."""
    return Said(Status.WARN, evidence)


def fail(**evidence: Any) -> Said:
    """This keeps the token from being used."""
    return Said(Status.FAIL, evidence)


def skip(reason: str, **evidence: Any) -> Said:
    """The question does not apply here; ``reason``: why, in a word or two."""
    return Said(Status.SKIP, {"reason": reason, **evidence})


def unchecked(reason: str, **evidence: Any) -> Said:
    """The question applies and could not be answered; ``reason``: what stood in the way, in a word or two."""
    return Said(Status.SKIP, {"reason": reason, **evidence, "checked": False})


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe found.

    Attributes:
        id: layer letter and cause number.
        probe: its name, such as ``module.architecture``.
        status: how it ended.
        subject: what it looked at: a device, a reader, a module file, a token; empty for the machine itself.
        evidence: what it saw; untrusted where it comes from a token.
        rule: what its probe declares.
        way: which tokens it can keep from being used; None: as its probe declares.
        aside: it does not concern what was asked for.
    """

    id: str
    probe: str
    status: Status
    subject: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    rule: Rule = field(default=Rule(), repr=False, compare=False)
    way: Way | None = None
    aside: bool = False

    @property
    def layer(self) -> Layer:
        """The layer it belongs to."""
        return _BY_LETTER[self.id[0]]

    @property
    def matters(self) -> bool:
        """Whether a person should read it."""
        return self.status in {Status.WARN, Status.FAIL}

    @property
    def concerns(self) -> Way:
        """Which tokens it can keep from being used."""
        return self.way or self.rule.way

    @property
    def priority(self) -> Priority:
        """Its place among the causes, by what its probe declares."""
        by_status = self.rule.failed if self.status is Status.FAIL else self.rule.warned
        return self.rule.kinds.get(str(self.evidence.get("kind")), by_status)

    @property
    def unchecked(self) -> bool:
        """Whether the question applies and could not be answered."""
        return self.status is Status.SKIP and self.evidence.get("checked") is False

    def follows(self, other: Finding) -> bool:
        """Tell whether this one may be a mere consequence of another one that was found."""
        if other.id not in self.rule.after or not other.matters:
            return False
        ways = {self.concerns, other.concerns}
        alike = self.layer is other.layer or {self.layer, other.layer} <= _OF_TOKENS
        return (len(ways) == 1 or Way.ANY in ways) and (not alike or self.subject == other.subject)

    def cause(self) -> str | None:
        """Return what is wrong, in the language in force; None where nothing is."""
        return self._text("cause") if self.matters else None

    def remedy(self) -> str | None:
        """Return what to do about it."""
        return self._text("remedy") if self.matters else None

    def to_json(self) -> dict[str, Any]:
        """Return the finding of design section 5."""
        return {
            "id": self.id,
            "probe": self.probe,
            "layer": self.layer.value,
            "status": self.status.value,
            "subject": self.subject,
            "evidence": self.evidence,
            "cause": self.cause(),
            "remedy": self.remedy(),
            "aside": self.aside,
            "unchecked": self.unchecked,
        }

    def _text(self, part: str) -> str:
        """Return the text for this ``kind`` of the evidence where the catalogue has one, else the cause's own."""
        values = {name: _listed(value) for name, value in self.evidence.items()}
        plain = f"doctor.{self.id}.{part}"
        special = f"{plain}.{self.evidence.get('kind')}"
        return messages.text(special if messages.known(special) else plain, subject=self.subject, **values)


def _listed(value: Any) -> Any:
    """Return evidence as a sentence takes it: ``-`` and an empty list stand for nothing."""
    said = ", ".join(map(str, value)) if isinstance(value, list | tuple | set) else value
    return messages.text("doctor.none") if said in {"-", ""} else said


@dataclass(frozen=True)
class Probe(Generic[S]):
    """One question about a subject, and what is declared about the cause that it looks for."""

    id: str
    name: str
    ask: Callable[[S], Said]
    rule: Rule = Rule()

    def __call__(self, subject: S, name: str = "", way: Way | None = None) -> Finding:
        """Ask, and never raise: a probe that breaks is a finding too."""
        try:
            said = self.ask(subject)
        except Exception as error:  # whatever a strange machine makes it do
            said = unchecked("probe_failed", error=f"{type(error).__name__}: {error}")
        return self.found(said, name, way)

    def found(self, said: Said, name: str = "", way: Way | None = None) -> Finding:
        """Return an answer as this probe's finding."""
        return Finding(self.id, self.name, said.status, name, said.evidence, self.rule, way)


def probe(id: str, name: str, rule: Rule = Rule()) -> Callable[[Callable[[S], Said]], Probe[S]]:
    """Make a probe of a function that looks at one subject."""
    return lambda ask: Probe(id, name, ask, rule)


def ask_all(probes: Iterable[Probe[S]], subject: S, name: str = "", way: Way | None = None) -> list[Finding]:
    """Put every question to one subject; ``way``: how the tokens come here that it is about."""
    return [question(subject, name, way) for question in probes]
