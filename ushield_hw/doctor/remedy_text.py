"""The parts of a remedy: plain text, inserted values and commands.

Remedies are sentences in which commands stand unmarked. A command is only recognized where the catalogue's own text
begins one: a value of the machine, such as the label of a token, never becomes a command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum, auto
from shlex import quote
from typing import Any, Final

from ushield_hw.doctor.finding import Finding
from ushield_hw.messages import shown

_OPEN, _CLOSE, _RUN = "\ue000", "\ue001", "\ue002"  # around a value; at the beginning of one that is a command
_OWN_COMMANDS: Final = frozenset({"install"})  # evidence that this program composes as a command
_VALUE: Final = f"{_OPEN}[^{_CLOSE}]*{_CLOSE}"
_ALONE: Final = "lsusb|pcsc_scan"  # a command without any argument
_PROGRAMS: Final = (
    "ushield|sudo|systemctl|journalctl|gpgconf|export|unset|modprobe|usbipd|ykman|sc|ls|df|namei|mkdir|sha256sum|"
    "apt-file|p11-kit|pkcs11-tool|git lfs|date|cat|echo|flatpak"
)
_BEGIN: Final = re.compile(rf"(?<![\w/.{_CLOSE}-])(?:(?:{_ALONE})\b(?!-)|(?:{_PROGRAMS})(?= [\w'{_OPEN}./-]))")
_WORD: Final = re.compile(rf""" ((?:{_VALUE}|'(?:{_VALUE}|[^'\s{_OPEN}]|\s)*'|"[^"]*"|[!-~])+)""")
# English words that continue the sentence after a command; in Chinese a Chinese character does.
_PROSE: Final = frozenset(
    "again and asks ends for generates if in lists names or prints resets sets shows then to when which with".split()
)
_STOPS: Final = ".,;:)"
# Needs no quotes in a shell: no special character, and spaces only between words, such as names of packages.
_HARMLESS: Final = re.compile(r"[\w@%+=:,.-]+(?: [\w@%+=:,.-]+)*|[\w@%+=:,./-]+", re.ASCII)


class Kind(Enum):
    """What a part of a remedy is."""

    TEXT = auto()
    VALUE = auto()
    COMMAND = auto()


def cause_parts(finding: Finding) -> list[tuple[Kind, str]]:
    """Return the parts of a problem's cause in the current language: text and values."""
    return list(_values(marked(finding).cause() or ""))


def remedy_parts(finding: Finding) -> list[tuple[Kind, str]]:
    """Return the parts of a problem's remedy in the current language: text, values and commands."""
    return list(_split(marked(finding).remedy() or ""))


def commands(text: str) -> list[str]:
    """Return the commands in a text in which no values are marked."""
    return [part for kind, part in _split(text) if kind is Kind.COMMAND]


def marked(finding: Finding) -> Finding:
    """Return a finding whose values keep their place in its texts recognizable."""
    return replace(
        finding,
        subject=_marked(finding.subject),
        evidence={
            name: value if name == "kind" else _marked(value, _RUN if name in _OWN_COMMANDS else "")
            for name, value in finding.evidence.items()
        },
    )


def _marked(value: Any, kind: str = "") -> Any:
    if isinstance(value, list | tuple | set):
        return [_marked(inner, kind) for inner in value]
    if isinstance(value, bool | int) or value in (None, "", "-"):  # selects a plural form, or is shown as "none"
        return value
    plain = re.sub("[\ue000-\ue002]", lambda found: f"\\u{{{ord(found[0]):04x}}}", shown(value))
    return f"{_OPEN}{kind}{plain}{_CLOSE}"


def _split(text: str) -> Iterator[tuple[Kind, str]]:
    at = 0
    while found := _begin(text, at):
        end = _end(text, found.end())
        yield from _values(text[at : found.start()])
        yield Kind.COMMAND, _filled(text[found.start() : end])
        at = end
    yield from _values(text[at:])


def _begin(text: str, at: int) -> re.Match[str] | None:
    """Return the beginning of the next command outside of values."""
    blind = re.sub(_VALUE, lambda found: _OPEN + "\0" * (len(found[0]) - 2) + _CLOSE, text)
    found = _BEGIN.search(blind, at)
    while found and _end(text, found.end()) == found.end() and not re.fullmatch(_ALONE, found[0]):
        found = _BEGIN.search(blind, found.end())
    return found


def _end(text: str, at: int) -> int:
    """Return where a command ends: before punctuation, prose, or a character that is not ASCII."""
    end = at
    while found := _WORD.match(text, end):
        bare = found[1].rstrip(_STOPS)
        if bare in _PROSE or bare.startswith("(") or not bare:
            break
        end = found.end() - len(found[1]) + len(bare)
        if bare != found[1]:
            break
    return end


def _filled(command: str) -> str:
    """Return a command whose values the shell takes as they are: it may be copied without being read."""
    made, quoted = "", False
    for kind, text in _values(command):
        if kind is Kind.TEXT:
            quoted ^= text.count("'") % 2 == 1
            made += text
        elif quoted:
            made += text.replace("'", "'\\''")
        else:
            made += text if _HARMLESS.fullmatch(text) else quote(text)
    return made


def _values(text: str) -> Iterator[tuple[Kind, str]]:
    at = 0
    for found in re.finditer(_VALUE, text):
        if found.start() > at:
            yield Kind.TEXT, text[at : found.start()]
        value = found[0][1:-1]
        yield (Kind.COMMAND, value[1:]) if value.startswith(_RUN) else (Kind.VALUE, value)
        at = found.end()
    if at < len(text):
        yield Kind.TEXT, text[at:]
