"""Order types as tables: the keys of a document, the values that each may have, and the screen lines.

A value is identified by its place, the dotted path of its key: ``payee.bank.name``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from ushield_hw.errors import InputError
from ushield_hw.messages import shown
from ushield_hw.order.document import ORDER, Number, Pairs
from ushield_hw.order.use import KeyUse
from ushield_hw.order.values import Rule, Rules

MOST_BYTES: Final = 64 * 1024

_LONGEST_KEY: Final = 40  # of an unknown key in an error message


class Field(NamedTuple):
    """A key whose value is a string.

    Args:
        key: The key.
        rule: The value type.
        required: Whether the key must be present.
    """

    key: str
    rule: Rule
    required: bool = True

    def take(self, found: object, place: str, rules: Rules, into: dict[str, str]) -> None:
        """Check a value and store it in ``into`` under its place.

        Args:
            found: The value in the document.
            place: The place of the value.
            rules: What may differ between installations.
            into: The values of the order.

        Raises:
            InputError: The value is not valid.
        """
        if type(found) is not str:
            raise _wrong_type(place, "string", found)
        if not found.strip():
            raise InputError("ORDER_BLANK", place=place)
        self.rule.check(found, place, rules)
        into[place] = found

    def rules(self, place: str) -> Iterator[tuple[str, Rule]]:
        """Yield the place and its value type."""
        yield place, self.rule


class Group(NamedTuple):
    """A key whose value is an object; the top of a document is the group with an empty key.

    Args:
        key: The key; empty at the top.
        members: The members of the object, in document order.
        one_of: Keys of optional members, exactly one of which must be present.
        check: Called with the group's own strings by key, and its place; raises ``InputError``.
        required: Whether the key must be present.
    """

    key: str
    members: tuple[Field | Group, ...]
    one_of: tuple[str, ...] = ()
    check: Callable[[Mapping[str, str], str], None] | None = None
    required: bool = True

    def take(self, found: object, place: str, rules: Rules, into: dict[str, str]) -> None:
        """Check an object and store all its strings in ``into`` under their places, in document order.

        Args:
            found: The value in the document.
            place: The place of the group.
            rules: What may differ between installations.
            into: The values of the order.

        Raises:
            InputError: For the first value that is not valid.
        """
        entries = _entries(found, place)
        self._check_keys(entries, place)
        for member in self.members:
            if member.key in entries:
                member.take(entries[member.key], join(place, member.key), rules, into)
        if self.check is not None:
            self.check({key: value for key, value in entries.items() if isinstance(value, str)}, place)

    def rules(self, place: str = "") -> Iterator[tuple[str, Rule]]:
        """Yield every place below this one with its value type."""
        for member in self.members:
            yield from member.rules(join(place, member.key))

    def _check_keys(self, entries: Mapping[str, object], place: str) -> None:
        absent = [member for member in self.members if member.key not in entries]
        if len(entries) + len(absent) > len(self.members):
            known = {member.key for member in self.members}
            unknown = next(key for key in entries if key not in known)
            raise InputError("ORDER_UNKNOWN_KEY", place=join(place, printable(unknown)))
        for member in absent:
            if member.required:
                raise InputError("ORDER_MISSING_KEY", place=join(place, member.key))
        if self.one_of and sum(key in entries for key in self.one_of) != 1:
            raise InputError("ORDER_ONE_OF", place=place, keys=self.one_of)


class Shown(NamedTuple):
    """One line of a screen: a label, and the values at ``places`` separated by spaces, or a fixed text.

    The line is shown if the order has all its places. ``label`` and ``text`` are message ids. Labels are part of what
    ``xml-tdm`` signs: the labels of a type are distinct and, once in use, never change.
    """

    label: str
    places: tuple[str, ...] = ()
    text: str | None = None


class OrderType(NamedTuple):
    """One type of order.

    Args:
        name: The value of ``type``.
        key_use: The use that the signing key must have.
        top: The document.
        screen: The screen, line by line; the most important for comparison first.
        most_bytes: The maximum size of a file, in bytes.
    """

    name: str
    key_use: KeyUse
    top: Group
    screen: tuple[Shown, ...]
    most_bytes: int = MOST_BYTES

    @property
    def rules(self) -> dict[str, Rule]:
        """The value type of every place that a document of this type may have."""
        return dict(self.top.rules())


def join(place: str, key: str) -> str:
    """Return the place of ``key`` in the object at ``place``."""
    return f"{place}.{key}" if place else key


def nested(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the document with values at their places, in their order.

    Args:
        values: The values by place.
    """
    document: dict[str, Any] = {}
    for place, value in values.items():
        *groups, key = place.split(".")
        inner = document
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[key] = value
    return document


def type_name(found: object) -> str:
    """Return the type name that a document states.

    Args:
        found: The document.

    Raises:
        InputError: It is not an object, or has no type.
    """
    entries = _entries(found, "")
    if "type" not in entries:
        raise InputError("ORDER_MISSING_KEY", place="type")
    name = entries["type"]
    if type(name) is not str:
        raise _wrong_type("type", "string", name)
    return name


def _entries(found: object, place: str) -> dict[str, object]:
    if isinstance(found, Pairs):
        return _without_repeats(found, place)
    if not isinstance(found, Mapping):
        raise _wrong_type(place or ORDER, "object", found)
    for key in found:
        if type(key) is not str:
            raise _wrong_type(join(place, printable(key)), "string", key)
    return dict(found)


def _without_repeats(pairs: Pairs, place: str) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise InputError("ORDER_DUPLICATE_KEY", place=join(place, printable(_repeated(pairs))))
    return entries


def _repeated(pairs: Pairs) -> str:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return key
        seen.add(key)
    raise AssertionError("no key is repeated")


def _wrong_type(place: str, expected: str, found: object) -> InputError:
    return InputError("ORDER_WRONG_TYPE", place=place, expected=expected, found=_json_type(found))


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    names = ((bool, "boolean"), ((Number, int, float), "number"), (str, "string"), ((Pairs, Mapping), "object"))
    fitting = (name for kinds, name in names if isinstance(value, kinds))
    return next(fitting, "array" if isinstance(value, (list, tuple)) else type(value).__name__)


def printable(key: object) -> str:
    """Return an unknown key in a form that is safe to display: escaped, never empty, limited in length."""
    text = shown(key) or '""'
    return text if len(text) <= _LONGEST_KEY else text[: _LONGEST_KEY - 1] + "…"
