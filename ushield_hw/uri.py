"""PKCS#11 URIs (RFC 7512), which select tokens and keys on the command line and in documents.

Every attribute restricts the selection. A URI must not contain a secret or cause another module to be loaded:
``pin-value`` and ``pin-source`` are refused, and ``module-path`` only selects among the installed modules. ``slot-id``
is refused because slot numbers change, and unknown attributes are refused because they cannot be compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from ushield_hw.errors import InputError

_PATH: Final = {
    "token",
    "manufacturer",
    "serial",
    "model",
    "slot-description",
    "slot-manufacturer",
    "library-manufacturer",
    "library-description",
    "library-version",
    "id",
    "object",
    "type",
}
_QUERY: Final = {"module-path", "module-name"}
_REFUSED: Final = {"pin-value", "pin-source", "slot-id"}
_OCTETS: Final = {"id", "module-path"}
_TYPES: Final = ("public", "private", "cert", "secret-key", "data")
_VERSION: Final = re.compile(r"\d{1,3}(\.\d{1,3})?", re.ASCII)
# RFC 7512 section 2.3: characters that are not percent-encoded in a path component.
_PLAIN: Final = ":[]@!$'()*+,=&"
_LONGEST: Final = 4096
_SCHEME: Final = "pkcs11:"
# Prefix and suffixes of library files that "module-name" does not contain (RFC 7512 section 2.3).
_AFFIXES: Final = re.compile(r"^lib|(\.(so|dll|dylib)(\.\d+)*)$")


@dataclass(frozen=True, slots=True)
class TokenUri:
    """The attributes of a PKCS#11 URI; None: not in the URI; empty: the value must be empty.

    Attributes:
        token: the token's label.
        type: type of the object: public, private, cert, secret-key or data.
        library_version: major, or major.minor.
    """

    token: str | None = None
    manufacturer: str | None = None
    serial: str | None = None
    model: str | None = None
    id: bytes | None = None
    object: str | None = None
    module_path: Path | None = None
    slot_description: str | None = None
    slot_manufacturer: str | None = None
    library_manufacturer: str | None = None
    library_description: str | None = None
    library_version: str | None = None
    type: str | None = None
    module_name: str | None = None

    @staticmethod
    def names(text: str) -> bool:
        """Return whether a text has the URI scheme, which is case-insensitive (RFC 3986 section 3.1)."""
        return text[: len(_SCHEME)].lower() == _SCHEME

    @classmethod
    def parse(cls, text: str) -> TokenUri:
        """Parse a URI.

        Args:
            text: the URI.

        Raises:
            InputError: ``URI_INVALID`` with the attribute, or ``URI_REFUSED`` for an attribute that is not allowed.
                Neither contains the URI or a value from it, because the user may have put a PIN into it.
        """
        if not cls.names(text):
            raise _invalid("", "uri_form")
        if len(text) > _LONGEST:
            raise _invalid("", "too_long", longest=_LONGEST)
        path, _, query = text[len(_SCHEME) :].partition("?")
        found = _attributes(path, ";") | _attributes(query, "&")
        texts = {name.replace("-", "_"): _text(found, name) for name in (_PATH | _QUERY) - _OCTETS}
        uri = cls(**texts, id=found.get("id"), module_path=_path(found))
        if uri.type is not None and uri.type not in _TYPES:
            raise _invalid("type", "uri_type")
        if uri.library_version is not None and not _VERSION.fullmatch(uri.library_version):
            raise _invalid("library-version", "version")
        return uri

    def __str__(self) -> str:
        """Return the URI with percent-encoded attributes."""
        query = {
            "module-path": quote(_octets(self.module_path), safe="/:") if self.module_path else None,
            "module-name": quote(self.module_name, safe="") if self.module_name is not None else None,
        }
        asked = "&".join(f"{name}={value}" for name, value in query.items() if value is not None)
        parts = [f"{name}={value}" for name, value in self._path_values() if value is not None]
        return _SCHEME + ";".join(parts) + ("?" + asked if asked else "")

    def wants_module(self, path: Path) -> bool:
        """Return whether ``module-name`` matches a module file, ignoring case, ``lib`` prefix and file extension."""
        return self.module_name is None or _plain_name(self.module_name) == _plain_name(path.name)

    def wants_version(self, version: tuple[int, ...]) -> bool:
        """Return whether ``library-version`` matches a module's version; a missing minor number is 0."""
        if self.library_version is None:
            return True
        major, _, minor = self.library_version.partition(".")
        return (int(major), int(minor or 0)) == version[:2]

    def _path_values(self) -> list[tuple[str, str | None]]:
        found: list[tuple[str, str | None]] = []
        for field in fields(self):
            name, value = field.name.replace("_", "-"), getattr(self, field.name)
            if name in _PATH and isinstance(value, bytes):
                found.append((name, "".join(f"%{byte:02X}" for byte in value)))
            elif name in _PATH:
                found.append((name, None if value is None else quote(value, safe=_PLAIN)))
        return found


def _plain_name(name: str) -> str:
    return _AFFIXES.sub("", name.casefold())


def _attributes(text: str, separator: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in filter(None, text.split(separator)):
        name, equals, value = part.partition("=")
        if name in _REFUSED:
            raise InputError("URI_REFUSED", attribute=name)
        known = name in (_PATH if separator == ";" else _QUERY)
        if not equals or not known:
            raise _invalid(name, "unknown_key")
        if name in found:
            raise _invalid(name, "repeated")
        if re.search("%(?![0-9A-Fa-f]{2})", value):
            raise _invalid(name, "percent")
        try:
            found[name] = unquote_to_bytes(value)
        except UnicodeEncodeError as error:  # a command-line argument that is not valid UTF-8
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
