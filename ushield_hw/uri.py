"""PKCS#11 URIs (RFC 7512): how tokens and keys are named on the command line and in documents.

A URI may choose; it may not carry a secret or widen what is loaded: ``pin-value`` and ``pin-source`` are refused, and
``module-path`` only picks among modules that would be loaded anyway. ``slot-id`` is refused because slot numbers move.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from ushield_hw.errors import InputError

_PATH: Final = {
    "token",
    "manufacturer",
    "serial",
    "model",
    "library-manufacturer",
    "library-description",
    "library-version",
    "id",
    "object",
    "type",
}
_REFUSED: Final = {"pin-value", "pin-source", "slot-id", "slot-manufacturer", "slot-description"}
# RFC 7512 section 2.3: characters that a path component may hold as they are.
_PLAIN: Final = ":[]@!$'()*+,=&"
_LONGEST: Final = 4096
_SCHEME: Final = "pkcs11:"


@dataclass(frozen=True, slots=True)
class TokenUri:
    """The attributes of a PKCS#11 URI that this library uses; None where the URI does not say."""

    token: str | None = None
    manufacturer: str | None = None
    serial: str | None = None
    model: str | None = None
    id: bytes | None = None
    object: str | None = None
    module_path: Path | None = None

    @staticmethod
    def names(text: str) -> bool:
        """Tell whether a text is meant as such a URI; a scheme's case does not matter (RFC 3986 section 3.1)."""
        return text[: len(_SCHEME)].lower() == _SCHEME

    @classmethod
    def parse(cls, text: str) -> TokenUri:
        """Read a URI.

        Raises:
            InputError: ``URI_INVALID`` with the attribute, or ``URI_REFUSED`` for one that is never taken. Neither
                holds the URI or a value from it: somebody may have put a PIN there.
        """
        if not cls.names(text):
            raise _invalid("", "uri_form")
        if len(text) > _LONGEST:
            raise _invalid("", "too_long", longest=_LONGEST)
        path, _, query = text[len(_SCHEME) :].partition("?")
        found = _attributes(path, ";") | _attributes(query, "&")
        return cls(
            token=_text(found, "token"),
            manufacturer=_text(found, "manufacturer"),
            serial=_text(found, "serial"),
            model=_text(found, "model"),
            id=found.get("id"),
            object=_text(found, "object"),
            module_path=_path(found),
        )

    def __str__(self) -> str:
        """Return the URI, its attributes percent-encoded."""
        named = (
            ("token", self.token),
            ("manufacturer", self.manufacturer),
            ("serial", self.serial),
            ("model", self.model),
        )
        parts = [f"{name}={quote(value, safe=_PLAIN)}" for name, value in named if value is not None]
        if self.id is not None:
            parts.append("id=" + "".join(f"%{byte:02X}" for byte in self.id))
        if self.object is not None:
            parts.append(f"object={quote(self.object, safe=_PLAIN)}")
        query = f"?module-path={quote(_octets(self.module_path), safe='/:')}" if self.module_path else ""
        return "pkcs11:" + ";".join(parts) + query


def _attributes(text: str, separator: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in filter(None, text.split(separator)):
        name, equals, value = part.partition("=")
        if name in _REFUSED:
            raise InputError("URI_REFUSED", attribute=name)
        known = name in _PATH if separator == ";" else name in {"module-path", "module-name"}
        if not equals or not known:
            raise _invalid(name, "unknown_key")
        if name in found:
            raise _invalid(name, "repeated")
        if re.search("%(?![0-9A-Fa-f]{2})", value):
            raise _invalid(name, "percent")
        try:
            found[name] = unquote_to_bytes(value)
        except UnicodeEncodeError as error:  # an octet on the command line that is no text
            raise _invalid(name, "not_utf8") from error
    return found


def _text(found: dict[str, bytes], name: str) -> str | None:
    if name not in found:
        return None
    try:
        return found[name].decode("utf-8")
    except UnicodeDecodeError as error:
        raise _invalid(name, "not_utf8") from error


def _path(found: dict[str, bytes]) -> Path | None:
    module = found.get("module-path")
    if module is None:
        return None
    if not module.startswith(b"/"):
        raise _invalid("module-path", "path_relative")
    if b"\0" in module:
        raise _invalid("module-path", "nul")
    return Path(module.decode("utf-8", "surrogateescape"))


def _octets(path: Path) -> bytes:
    return str(path).encode("utf-8", "surrogateescape")


def _invalid(attribute: str, problem: str, **values: object) -> InputError:
    return InputError("URI_INVALID", attribute=attribute, problem=problem, **values)
