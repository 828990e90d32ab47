"""Create a zip for support: the report in both languages and as JSON, with personal data masked.

Masked are values known from the tokens (serial numbers, labels, subjects), from this machine (user, home folder, host
name) and by pattern (account numbers, serial numbers in URIs). Equal values get equal masks, so that two tokens can
still be distinguished.
"""

from __future__ import annotations

import getpass
import io
import json
import os
import re
import socket
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

from ushield_hw.doctor.finding import Finding, Layer
from ushield_hw.doctor.report import Report
from ushield_hw.messages import shown

_OF_A_TOKEN: Final = frozenset({Layer.TOKEN, Layer.PIN, Layer.OBJECTS})
_SHORTEST: Final = 2  # bytes: a Chinese name of one character counts, a single letter would match everywhere
_LONG: Final = 6  # characters: a shorter value is only masked as a separate word
_ASCII: Final = "0-9A-Za-z"
_ACCOUNT: Final = re.compile(rf"(?<![{_ASCII}.])[0-9](?:[ -]?[0-9]){{8,}}X?(?![{_ASCII}]|\.[0-9])")
_IBAN: Final = re.compile(rf"(?<![{_ASCII}])[A-Z]{{2}}[0-9]{{2}}(?: ?[A-Z0-9]{{2,4}}){{3,8}}(?![{_ASCII}])")
_DATE: Final = re.compile(r"[12][0-9]{3}-[01][0-9]-[0-3][0-9]")
_MAIL: Final = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+")
_HOME: Final = re.compile(r"(?<=/home/)[^/\s:;,]+|(?<=/Users/)[^/\s:;,]+|(?<=\\Users\\)[^\\\s:;,]+")
_SECRET_KEYS: Final = {
    "serial": "serial",
    "serials": "serial",
    "label": "label",
    "labels": "label",
    "unlabelled": "label",
    "subject": "name",
    "subjects": "name",
    "owner": "name",
    "owners": "name",
    "issuer": "name",
    "account": "account",
}
_PLAIN_KEYS: Final = frozenset({"id", "probe", "layer", "status", "verdict", "kind"})  # fixed identifiers of the report
_URI_PART: Final = re.compile(r"(?<![\w-])(serial|token|object|id|pin-value|pin-source)=(?!<)([^;?&\s\",，。]+)")
_NAME_PART: Final = re.compile(
    r"(?<![\w-])(CN|OU|O|SN|GN|L|ST|STREET|DC|UID|emailAddress|serialNumber)=(?!<)((?:\\.|[^,+\n;；，。”])+)"
)
_VALUE: Final = re.compile(r"(?:^|[,+])\s*([\w.]+)=((?:\\.|[^,+\\])*)")  # of a name in RFC 4514 form
# pcscd puts the USB serial number here
_OF_A_READER: Final = re.compile(r"\(([0-9A-Za-z._-]{4,})\)(?: [0-9A-F]{2}){1,2}$")


class Mask:
    """Replaces personal data; equal values get equal masks."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._pattern: re.Pattern[str] | None = None

    def know(self, kind: str, value: str) -> None:
        """Register a value to be masked in every spelling."""
        value = value.strip()
        if len(value.encode()) < _SHORTEST or value.casefold() in self._known:
            return
        self._counts[kind] = self._counts.get(kind, 0) + 1
        mask, self._pattern = f"<{kind}-{self._counts[kind]}>", None
        for way in (value, shown(value), quote(value), quote(value, safe="")):
            self._known.setdefault(way.casefold(), mask)

    def text(self, text: str) -> str:
        """Return a text with registered values and everything that looks like personal data masked.

        Patterns cover account numbers, names, mail addresses and home folders.
        """
        if self._known:
            self._pattern = self._pattern or _any_of(self._known)
            text = self._pattern.sub(lambda found: self._known.get(found[0].casefold(), "<masked>"), text)
        text = _URI_PART.sub(lambda found: f"{found[1]}=<{found[1]}>", text)
        text = _NAME_PART.sub(lambda found: f"{found[1]}=<name>", text)
        text = _HOME.sub("<user>", _MAIL.sub("<mail>", text))
        return _ACCOUNT.sub(
            lambda found: found[0] if _DATE.fullmatch(found[0]) else "<number>", _IBAN.sub("<number>", text)
        )

    def value(self, value: Any) -> Any:
        """Return a JSON value with all texts masked, except fixed identifiers."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {
                name if str(name).isidentifier() else self.text(str(name)): (
                    inner if name in _PLAIN_KEYS else self.value(inner)
                )
                for name, inner in value.items()
            }
        if isinstance(value, list | tuple | set):
            return [self.value(inner) for inner in value]
        return value

    def finding(self, finding: Finding) -> Finding:
        """Return a finding with its subject and its evidence masked, and so its texts."""
        return replace(finding, subject=self.text(finding.subject), evidence=self.value(finding.evidence))


def mask_for(report: Report) -> Mask:
    """Return a mask with the identifying values of this machine and this report."""
    mask = Mask()
    host = socket.gethostname()
    ours = [("home", home) for home in _homes()] + [("user", user) for user in _users()]
    for kind, value in (*ours, ("host", host), ("host", host.partition(".")[0])):
        if value not in {"/", "/root", "root", "localhost"}:
            mask.know(kind, value)
    for token in report.usable:
        for kind, value in (("serial", token.serial), ("label", token.label), ("name", token.subject)):
            _know(mask, kind, value)
    for kind, value in report.private():
        _know(mask, kind, value)
    for finding in report.findings:
        _learn(mask, finding)
    for name in report.environment.get("readers", ()):
        _learn_reader(mask, name)
    return mask


def bundle(report: Report, texts: Mapping[Any, str]) -> bytes:
    """Return the bundle as zip.

    Args:
        report: the diagnosis.
        texts: the human-readable report by language.
    """
    mask, made = mask_for(report), io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        document = json.dumps(mask.value(report.to_json()), ensure_ascii=False, indent=2)
        archive.writestr("report.json", document + "\n")
        for lang, text in texts.items():
            archive.writestr(f"report.{lang}.txt", mask.text(text))
        archive.writestr("README.txt", _README)
    return made.getvalue()


_README: Final = """\
A diagnosis made by `ushield doctor --bundle`. Serial numbers, labels, names, accounts and home folders are masked:
<serial-1> is the same token everywhere in these files. No PIN was asked for or tried, and none is in here.

`ushield doctor --bundle` 生成的诊断报告。序列号、标签、姓名、账号和主目录均已遮盖；
各文件中的 <serial-1> 指同一令牌。未询问、未尝试任何 PIN，其中也不含 PIN。
"""


def _know(mask: Mask, kind: str, value: str) -> None:
    """Register a value, and for a certificate name also each of its attribute values."""
    mask.know(kind, value)
    if kind == "name":
        for attribute, part in _VALUE.findall(value):
            if attribute != "C":
                mask.know(kind, re.sub(r"\\(.)", r"\1", part))


def _learn(mask: Mask, finding: Finding) -> None:
    for name, value in finding.evidence.items():
        kind = _SECRET_KEYS.get(name)
        if kind is not None:
            for one in _texts(value):
                _know(mask, kind, one)
    label, found, serial = finding.subject.rpartition(" (")
    if found and serial.endswith(")") and finding.layer in _OF_A_TOKEN:
        mask.know("label", label)
        mask.know("serial", serial.removesuffix(")"))
    _learn_reader(mask, finding.subject)


def _learn_reader(mask: Mask, name: str) -> None:
    found = _OF_A_READER.search(name)
    if found:
        mask.know("serial", found[1])


def _any_of(values: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of the values, the longest first; short values only as separate words."""
    return re.compile("|".join(map(_finding, sorted(values, key=len, reverse=True))), re.IGNORECASE)


def _finding(value: str) -> str:
    if len(value) >= _LONG:
        return re.escape(value)
    before = f"(?<![{_ASCII}])" if value[0].isascii() else ""
    return before + re.escape(value) + (f"(?![{_ASCII}])" if value[-1].isascii() else "")


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple | set):
        yield from (str(inner) for inner in value)


def _homes() -> set[str]:
    homes = {os.path.expanduser("~")}
    with suppress(KeyError, OSError, ImportError):
        homes.add(_account()[5])
    return homes | {os.path.realpath(home) for home in homes}


def _users() -> set[str]:
    users = set()
    with suppress(KeyError, OSError, ImportError):
        users.add(getpass.getuser())
    with suppress(KeyError, OSError, ImportError):
        users.add(_account()[0])
    return users


def _account() -> Sequence[Any]:
    import pwd  # not available on Windows

    return pwd.getpwuid(os.getuid())
