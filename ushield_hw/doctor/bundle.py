"""A zip for a support desk: the diagnosis in both languages and as JSON, with whatever names a person masked.

What is masked is known from the tokens themselves (serial numbers, labels, subjects), from this machine (user, home,
host) and by its form (account numbers, serials in URIs). The same value gets the same mask everywhere, so that a
support desk can still tell two tokens apart.
"""

from __future__ import annotations

import getpass
import io
import json
import os
import re
import socket
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from ushield_hw.doctor.finding import Finding
from ushield_hw.doctor.report import Report

_SHORTEST: Final = 3  # a shorter value would be found inside words
_ACCOUNT: Final = re.compile(r"(?<![\w.])[0-9][0-9 -]{7,}[0-9](?![\w.])")
_MAIL: Final = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+")
_SECRET_KEYS: Final = {
    "serial": "serial",
    "serials": "serial",
    "label": "label",
    "labels": "label",
    "subject": "name",
    "subjects": "name",
    "issuer": "name",
    "uri": "uri",
}
_URI_PART: Final = re.compile(r"\b(serial|token|object|id)=([^;?&\s\"]+)")
_NAME_PART: Final = re.compile(r"\b(CN|O|OU|SN|GN|emailAddress|serialNumber)=([^,+]+)")


class Mask:
    """Replaces what names a person, the same way every time."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def know(self, kind: str, value: str) -> None:
        """From now on hide a value, wherever it stands."""
        if len(value) >= _SHORTEST and value not in self._known:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._known[value] = f"<{kind}-{self._counts[kind]}>"

    def text(self, text: str) -> str:
        """Return a text without what is known, and without what looks like an account, a name or an address."""
        for value in sorted(self._known, key=len, reverse=True):
            text = text.replace(value, self._known[value])
        text = _URI_PART.sub(lambda found: f"{found[1]}=<{found[1]}>", text)
        text = _NAME_PART.sub(lambda found: f"{found[1]}=<name>", text)
        return _ACCOUNT.sub("<number>", _MAIL.sub("<mail>", text))

    def value(self, value: Any) -> Any:
        """Return a JSON value with every text in it masked."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(name)): self.value(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple | set):
            return [self.value(inner) for inner in value]
        return value


def mask_for(report: Report) -> Mask:
    """Return a mask that knows this machine's and this report's names."""
    mask = Mask()
    home = os.path.expanduser("~")
    for kind, value in (("home", home), ("user", _user()), ("host", socket.gethostname())):
        if value not in {"/", "/root", "root", "localhost"}:
            mask.know(kind, value)
    for token in report.usable:
        for kind, value in (("serial", token.serial), ("label", token.label), ("name", token.subject)):
            mask.know(kind, value)
    for finding in report.findings:
        _learn(mask, finding)
    return mask


def bundle(report: Report, texts: Mapping[Any, str]) -> bytes:
    """Return the zip.

    Args:
        report: the diagnosis.
        texts: the report for people, by language.
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


def _learn(mask: Mask, finding: Finding) -> None:
    for name, value in finding.evidence.items():
        kind = _SECRET_KEYS.get(name)
        if kind is not None:
            for one in _texts(value):
                mask.know(kind, one)
    label, found, serial = finding.subject.rpartition(" (")
    if found and serial.endswith(")"):  # a token
        mask.know("label", label)
        mask.know("serial", serial.removesuffix(")"))


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple | set):
        yield from (str(inner) for inner in value)


def _user() -> str:
    with suppress(KeyError, OSError, ImportError):
        return getpass.getuser()
    return ""
