"""Closed schemas: read TOML and JSON objects key by key, and reject unexpected keys.

Used for driver descriptors, configuration and soft-token files. A reader takes the keys that it knows and then calls
:meth:`Table.close`, which rejects the remaining keys. Every error names the key with its full path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, NoReturn, Protocol, TypeVar

from ushield_hw.errors import UShieldError

E = TypeVar("E", bound=Enum)
T = TypeVar("T")
V = TypeVar("V")


class Refuse(Protocol):
    """Creates the error for a key."""

    def __call__(self, *, key: str, problem: str, **values: object) -> UShieldError:
        """Return the exception to raise.

        Args:
            key: dotted path of the key.
            problem: id of the problem.
            **values: values for the problem's message.
        """
        ...


class _Required(Enum):
    REQUIRED = "required"


REQUIRED: Final = _Required.REQUIRED


class Table:
    """One table, read key by key.

    The methods that take a key remove it from the table. They return ``default`` if the key is missing, or reject the
    table if there is no default.

    Args:
        data: the parsed data.
        refuse: creates the error for a rejected key.
        place: dotted path of this table; empty for the top level.

    Raises:
        UShieldError: from every method: the error that ``refuse`` creates.
    """

    def __init__(self, data: object, refuse: Refuse, place: str = "") -> None:
        self._refuse = refuse
        self.place = place
        if not isinstance(data, Mapping):
            self.fail("", "not_a_table")
        self._left: dict[str, object] = dict(data)

    def fail(self, key: str, problem: str, **values: object) -> NoReturn:
        """Raise the error for a key of this table.

        Args:
            key: the key; empty: the table itself.
            problem: id of the problem.
            **values: values for the problem's message.
        """
        path = ".".join(part for part in (self.place, key) if part)
        raise self._refuse(key=path, problem=problem, **values)

    def text(
        self, key: str, default: T | _Required = REQUIRED, *, pattern: str | None = None, longest: int = 1000
    ) -> str | T:
        """Take a string that is not blank and, if ``pattern`` is given, matches it in full."""
        return self._take(key, default, lambda value: self._text(key, value, pattern, longest))

    def integer(self, key: str, default: T | _Required = REQUIRED, *, least: int = 0, most: int = 2**31) -> int | T:
        """Take an integer from ``least`` to ``most``."""

        def check(value: object) -> int:
            if not isinstance(value, int) or isinstance(value, bool):
                self.fail(key, "not_an_integer")
            if not least <= value <= most:
                self.fail(key, "out_of_range", least=least, most=most)
            return value

        return self._take(key, default, check)

    def integers(
        self, key: str, default: T | _Required = REQUIRED, *, least: int = 0, most: int = 2**31
    ) -> tuple[int, ...] | T:
        """Take a list of integers from ``least`` to ``most``."""

        def check(value: object) -> tuple[int, ...]:
            if not isinstance(value, list):
                self.fail(key, "not_a_list")
            for item in value:
                if not isinstance(item, int) or isinstance(item, bool):
                    self.fail(key, "not_an_integer")
                if not least <= item <= most:
                    self.fail(key, "out_of_range", least=least, most=most)
            return tuple(value)

        return self._take(key, default, check)

    def boolean(self, key: str, default: T | _Required = REQUIRED) -> bool | T:
        """Take a boolean."""

        def check(value: object) -> bool:
            if not isinstance(value, bool):
                self.fail(key, "not_a_boolean")
            return value

        return self._take(key, default, check)

    def choice(self, key: str, kind: type[E], default: T | _Required = REQUIRED) -> E | T:
        """Take a string that is the value of a member of the enum ``kind``."""

        def check(value: object) -> E:
            allowed = [member.value for member in kind]
            if value not in allowed:
                self.fail(key, "not_a_choice", allowed=" | ".join(allowed))
            return kind(value)

        return self._take(key, default, check)

    def texts(self, key: str, default: T | _Required = REQUIRED, *, pattern: str | None = None) -> tuple[str, ...] | T:
        """Take a list of strings."""

        def check(value: object) -> tuple[str, ...]:
            if not isinstance(value, list):
                self.fail(key, "not_a_list")
            return tuple(self._text(f"{key}[{n}]", item, pattern, 1000) for n, item in enumerate(value))

        return self._take(key, default, check)

    def regular(self, key: str) -> str | None:
        """Take an optional regular expression."""
        found = self.text(key, None)
        try:
            re.compile(found or "")
        except re.error as error:
            self.fail(key, "not_a_pattern", reason=str(error))
        return found

    def table(self, key: str) -> Table:
        """Take a table; a missing one is treated as empty, so that the error names the required key in it."""
        path = ".".join(part for part in (self.place, key) if part)
        return Table(self._left.pop(key, {}), self._refuse, path)

    def tables(self, key: str) -> list[Table]:
        """Take a list of tables; a missing list is treated as empty."""
        value = self._left.pop(key, [])
        if not isinstance(value, list):
            self.fail(key, "not_a_list")
        path = ".".join(part for part in (self.place, key) if part)
        return [Table(item, self._refuse, f"{path}[{n}]") for n, item in enumerate(value)]

    def strings(self, key: str) -> dict[str, str]:
        """Take a table of strings with arbitrary keys."""
        inner = self.table(key)
        return {name: self._text(f"{key}.{name}", value, None, 1000) for name, value in inner._left.items()}

    def holds_table(self, key: str) -> bool:
        """Return whether the value of a key that was not taken yet is a table."""
        return isinstance(self._left.get(key), Mapping)

    def keys(self) -> list[str]:
        """Return the keys that were not taken yet, in their order."""
        return list(self._left)

    def close(self) -> None:
        """Reject the first key that was not taken."""
        for key in self._left:
            self.fail(key, "unknown_key")

    def _take(self, key: str, default: T | _Required, check: Callable[[object], V]) -> V | T:
        if key in self._left:
            return check(self._left.pop(key))
        if isinstance(default, _Required):
            self.fail(key, "missing_key")
        return default

    def _text(self, key: str, value: object, pattern: str | None, longest: int) -> str:
        if not isinstance(value, str):
            self.fail(key, "not_a_string")
        if not value.strip():
            self.fail(key, "blank")
        if len(value) > longest:
            self.fail(key, "too_long", longest=longest)
        if pattern is not None and not re.fullmatch(pattern, value):
            self.fail(key, "bad_form", pattern=pattern)
        return value
