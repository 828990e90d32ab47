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

    @classmethod
    def parse(cls, text: str) -> TokenUri:
        """Read a URI.

        Raises:
            InputError: ``URI_INVALID`` with the attribute, or ``URI_REFUSED`` for one that is never taken.
        """
        if len(text) > _LONGEST or not text.startswith("pkcs11:"):
            raise InputError("URI_INVALID", uri=text[:80], attribute="", problem="uri_form")
        path, _, query = text.removeprefix("pkcs11:").partition("?")
        found = _attributes(text, path, ";") | _attributes(text, query, "&")
        if "module-path" in found and not found["module-path"].startswith(b"/"):
            raise InputError("URI_INVALID", uri=text, attribute="module-path", problem="path_relative")
        module = found.get("module-path")
        return cls(
            token=_text(text, found, "token"),
            manufacturer=_text(text, found, "manufacturer"),
            serial=_text(text, found, "serial"),
            model=_text(text, found, "model"),
            id=found.get("id"),
            object=_text(text, found, "object"),
            module_path=Path(module.decode("utf-8", "surrogateescape")) if module else None,
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
        query = f"?module-path={quote(str(self.module_path), safe='/:')}" if self.module_path else ""
        return "pkcs11:" + ";".join(parts) + query


def _attributes(uri: str, text: str, separator: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in filter(None, text.split(separator)):
        name, equals, value = part.partition("=")
        if name in _REFUSED:
            raise InputError("URI_REFUSED", attribute=name)  # never shown whole: it may hold a PIN
        known = name in _PATH if separator == ";" else name in {"module-path", "module-name"}
        if not equals or not known:
            raise InputError("URI_INVALID", uri=uri, attribute=name, problem="unknown_key")
        if name in found:
            raise InputError("URI_INVALID", uri=uri, attribute=name, problem="repeated")
        if re.search("%(?![0-9A-Fa-f]{2})", value):
            raise InputError("URI_INVALID", uri=uri, attribute=name, problem="percent")
        found[name] = unquote_to_bytes(value)
    return found


def _text(uri: str, found: dict[str, bytes], name: str) -> str | None:
    if name not in found:
        return None
    try:
        return found[name].decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("URI_INVALID", uri=uri, attribute=name, problem="not_utf8") from error
