"""The page of causes, ``docs/diagnosis.md``: which there are, as the code says, and how each is proved.

``python -m tests.project.causes`` writes the page; ``make causes`` runs that.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any, Final

from hatch_build import read_language, singular
from tests.project.tree import ROOT
from ushield_hw import doctor
from ushield_hw.doctor.finding import Layer, Probe

PAGE: Final = ROOT / "docs" / "diagnosis.md"


class Proof(Enum):
    """How it is proved that a cause is found."""

    REAL = "real"
    PARTLY = "partly"
    RECORDED = "recorded"
    NOT_HERE = "not possible here"


@dataclass(frozen=True)
class Proved:
    """How a cause is proved, and in a few words by what."""

    proof: Proof
    note: str = ""


def _all(proof: Proof, note: str, *ids: str) -> dict[str, Proved]:
    return dict.fromkeys(ids, Proved(proof, note))


PROVED: Final[Mapping[str, Proved]] = {
    **_all(Proof.RECORDED, "sysfs", "A1", "A2", "A3", "A4", "A5", "A7", "A8"),
    **_all(Proof.PARTLY, "real file modes, recorded sysfs", "A6", "A10"),
    **_all(Proof.RECORDED, "sysfs and the log", "A9"),
    **_all(Proof.REAL, "a real pcscd, stopped or silent", "B11", "B12"),
    **_all(Proof.NOT_HERE, "never run on Windows", "B13", "B14", "B15"),
    **_all(Proof.REAL, "a real pcscd built to ask polkit, a real polkitd, another user than root", "B16"),
    **_all(Proof.REAL, "a real mount, container, sandbox or library", "B17", "B18", "B19", "B20", "B22"),
    **_all(Proof.RECORDED, "the log", "B21"),
    **_all(Proof.REAL, "a real process, real driver folders", "B23"),
    **_all(Proof.PARTLY, "the real list of a driver, recorded sysfs", "C24"),
    **_all(Proof.PARTLY, "a real pcscd, made-up driver folders", "C25"),
    **_all(Proof.REAL, "a real pcscd", "C26", "C27"),
    **_all(Proof.RECORDED, "PC/SC's list; virtual readers never go away", "C28"),
    **_all(Proof.REAL, "a virtual card in a real pcscd", "D29", "D30", "D32", "D34", "D35", "D37", "D38"),
    **_all(Proof.RECORDED, "PC/SC's answer", "D31"),
    **_all(Proof.PARTLY, "recorded /proc, and a real search of this machine's", "D33"),
    **_all(Proof.NOT_HERE, "never run on macOS", "D36"),
    **_all(Proof.PARTLY, "a real OpenSC that refuses the card; its family is made up", "D39"),
    **_all(Proof.REAL, "real files", "E40", "E41", "E42", "E43", "E44", "E45", "E46"),
    **_all(Proof.REAL, "real libraries, loaded in a worker", "E47", "E48", "E49", "E50"),
    **_all(Proof.REAL, "SoftHSM2, or a faulty module in front of it", "F51", "F53", "F54", "F55", "F56", "F57"),
    **_all(Proof.REAL, "SoftHSM2, or a faulty module in front of it", "F58", "F59", "F60"),
    **_all(Proof.REAL, "a real failure; the list of processes is recorded", "F52"),
    **_all(Proof.PARTLY, "a real empty card of a made-up family", "F61"),
    **_all(Proof.REAL, "a real OpenSC with five readers; another module's slots are recorded", "F77"),
    **_all(Proof.REAL, "real wrong PINs, spent by tests; the doctor spends none", "G62", "G64"),
    **_all(Proof.REAL, "SoftHSM2, or a faulty module in front of it", "G63", "G65"),
    **_all(Proof.PARTLY, "recorded USB ids, and a made-up flag of the module", "G66"),
    **_all(Proof.REAL, "by the code that a login brings", "G67"),
    **_all(Proof.REAL, "objects on a real token", "H68", "H69", "H70", "H71", "H72", "H75"),
    **_all(Proof.REAL, "objects on a real token; CKA_SIGN false is made up", "H73"),
    **_all(Proof.REAL, "a real token; P-521 stands in for SM2", "H74"),
    **_all(Proof.REAL, "a virtual U-shield that waits for its button", "H76"),
    **_all(Proof.REAL, "SoftHSM2, or a faulty module in front of it", "H78"),
}

TESTS: Final[Mapping[Layer, tuple[str, ...]]] = {
    Layer.USB: ("tests/unit/doctor/test_bus.py",),
    Layer.SERVICE: ("tests/stack/doctor/test_service.py",),
    Layer.READER: ("tests/stack/doctor/test_reader.py",),
    Layer.CARD: ("tests/stack/doctor/test_card.py", "tests/unit/doctor/test_processes.py"),
    Layer.MODULE: tuple(f"tests/stack/doctor/test_module_{what}.py" for what in ("file", "links", "loaded")),
    Layer.TOKEN: ("tests/stack/doctor/test_slots.py", "tests/stack/doctor/test_compare.py"),
    Layer.PIN: ("tests/stack/doctor/test_pin.py",),
    Layer.OBJECTS: ("tests/stack/doctor/test_objects.py", "tests/stack/doctor/test_verdict.py"),
}

_TITLES: Final = {
    Layer.USB: "USB",
    Layer.SERVICE: "The smart card service",
    Layer.READER: "The reader and its driver",
    Layer.CARD: "The card",
    Layer.MODULE: "The module's file",
    Layer.TOKEN: "The module and its token",
    Layer.PIN: "The PIN",
    Layer.OBJECTS: "Key and certificate",
}

_INTRO: Final = """\
# What the doctor knows

Made by `make causes` from the code. `ushield doctor` walks from the USB plug to a key that can sign, asks for every
cause below, and names one first. It spends no PIN try and changes nothing. An id stays for good and can be written into
a ticket. Words in braces are filled in with what was seen; a cause that has several faces is shown in its plainest one.
`ushield doctor --all` shows every question with its answer, `--lang zh` speaks Chinese.

How each is proved, in the tests named below its layer:

- **real**: the tests produce the cause itself, with real programs, files, cards or tokens, and see it found;
- **partly**: a part of it is real, the rest is recorded or made up;
- **recorded**: found in data as such a machine gives it (sysfs, logs), because no machine here can be broken that way;
- **not possible here**: found in recorded data too, but the question has never been asked on the system it is for.

What [other tools say of ten of these](side-by-side.md) is on a page of its own.
"""


def probes() -> dict[str, list[Probe[Any]]]:
    """Return everything that the doctor asks, by the cause's id, in the order of the numbers."""
    found: dict[str, list[Probe[Any]]] = {}
    for module in walk_packages(doctor.__path__, "ushield_hw.doctor."):
        for name, value in vars(import_module(module.name)).items():
            for one in value if name.endswith("PROBES") else ():
                known = found.setdefault(one.id, [])
                if one not in known:
                    known.append(one)
    return dict(sorted(found.items(), key=lambda item: int(item[0][1:])))


def counts() -> str:
    """Return the line of numbers at the top."""
    by_proof = Counter(proved.proof for proved in PROVED.values())
    numbers = ", ".join(f"{by_proof[proof]} {proof.value}" for proof in Proof)
    return f"**{len(probes())} causes: {numbers}.**"


def page() -> str:
    """Return the page."""
    return "\n".join([_INTRO, counts(), *(line for layer in Layer for line in _section(layer))]) + "\n"


def _section(layer: Layer) -> Iterator[str]:
    words = {singular(message): str(message.string) for message in read_language(ROOT, "en")}
    yield f"\n## {layer.letter}. {_TITLES[layer]}\n"
    yield f"Tests: {', '.join(f'[{Path(path).name}](../{path})' for path in TESTS[layer])}\n"
    yield "| id | asked by | what it says | proved |"
    yield "|---|---|---|---|"
    for id, asked in probes().items():
        if id.startswith(layer.letter):
            names = ", ".join(f"`{name}`" for name in dict.fromkeys(one.name for one in asked))
            yield f"| {id} | {names} | {_cell(words[f'doctor.{id}.cause'])} | {_how(PROVED[id])} |"


def _how(proved: Proved) -> str:
    return f"{proved.proof.value}: {proved.note}" if proved.note else proved.proof.value


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


if __name__ == "__main__":
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        PAGE.write_text(page(), encoding="utf-8")
        sys.stdout.write(f"{PAGE.relative_to(ROOT)}: written\n")
