"""What a probe says: one finding, with its evidence, and in words why and what to do.

An id is the layer's letter and the cause's number, ``A1`` to ``H76``, for good: support desks write them into tickets.
The words are in the catalogue of messages under ``doctor.E44.cause`` and ``doctor.E44.remedy``; evidence is put in. A
cause with several faces names the one it saw in its evidence as ``kind``, and ``doctor.E44.cause.KIND`` is its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from ushield_hw import messages

S = TypeVar("S")


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


class Status(Enum):
    """How a probe ended."""

    OK = "ok"
    WARN = "warn"  # works, but look at it
    FAIL = "fail"
    SKIP = "skip"  # not looked at, or nothing to look at


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
    """There is nothing to look at, or it cannot be looked at here; ``reason``: why, in a word or two."""
    return Said(Status.SKIP, {"reason": reason, **evidence})


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe found.

    Attributes:
        id: layer letter and cause number.
        probe: its name, such as ``module.architecture``.
        status: how it ended.
        subject: what it looked at: a device, a reader, a module file, a token; empty for the machine itself.
        evidence: what it saw; untrusted where it comes from a token.
    """

    id: str
    probe: str
    status: Status
    subject: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def layer(self) -> Layer:
        """The layer it belongs to."""
        return _BY_LETTER[self.id[0]]

    @property
    def matters(self) -> bool:
        """Whether a person should read it."""
        return self.status in {Status.WARN, Status.FAIL}

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
        }

    def _text(self, part: str) -> str:
        """Return the text for this ``kind`` of the evidence where the catalogue has one, else the cause's own."""
        values = {name: _listed(value) for name, value in self.evidence.items()}
        plain = f"doctor.{self.id}.{part}"
        special = f"{plain}.{self.evidence.get('kind')}"
        return messages.text(special if messages.known(special) else plain, subject=self.subject, **values)


def _listed(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple | set) else value


@dataclass(frozen=True)
class Probe(Generic[S]):
    """One question about a subject."""

    id: str
    name: str
    ask: Callable[[S], Said]

    def __call__(self, subject: S, name: str = "") -> Finding:
        """Ask, and never raise: a probe that breaks is a finding too."""
        try:
            said = self.ask(subject)
        except Exception as error:  # whatever a strange machine makes it do
            said = skip("probe_failed", error=f"{type(error).__name__}: {error}")
        return Finding(self.id, self.name, said.status, name, said.evidence)


def probe(id: str, name: str) -> Callable[[Callable[[S], Said]], Probe[S]]:
    """Make a probe of a function that looks at one subject."""
    return lambda ask: Probe(id, name, ask)


def ask_all(probes: Iterable[Probe[S]], subject: S, name: str = "") -> list[Finding]:
    """Put every question to one subject."""
    return [question(subject, name) for question in probes]
