"""Rules for text that users read and compare: names and purposes.

Signed text must look the same on every screen. So there are no invisible characters, none that reorder the text around
them, one form for each character (NFC; never NFKC: ``·`` and full-width forms are kept), and no leading, trailing or
repeated spaces.

The characters known are those of this Python's unicodedata. Older Python versions refuse newer characters, except
ideographs.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from ushield_hw.errors import InputError

LONGEST: Final = 140  # code points
MOST_MARKS: Final = 2  # combining marks in a row

# Default_Ignorable_Code_Point of Unicode 17.0.0 (DerivedCoreProperties.txt), which unicodedata lacks; and the Braille
# blank, U+2800, which is a symbol without a visible glyph.
_HIDDEN: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f-\u1160\u17b4-\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\u2800]"
)
# Fast path: printable ASCII, the basic ideographs, the middle dot of names, the ideographic space and full-width forms.
# Most names have only these characters; of them, only misplaced spaces can be refused.
_ORDINARY: Final = re.compile("[ -~·\u3000\u4e00-\u9fff\uff01-\uff5e]*")
_REFUSED: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_IDEOGRAPHIC_PLANES: Final = range(0x20000, 0x40000)
_LAST_TWO: Final = 0xFFFE  # of every plane: noncharacters
_SPACES: Final = "[ \u3000]"
_BAD_SPACE: Final = re.compile(rf"\A{_SPACES}|{_SPACES}\Z|(?<={_SPACES}){_SPACES}")
_NAMELESS: Final = {"Cc": "control", "Cs": "surrogate", "Co": "private use", "Cn": "unassigned"}


def check_text(value: str, place: str) -> None:
    """Raise an error unless a value is one line of text that every screen shows in the same way.

    Args:
        value: The text.
        place: The place of the value.

    Raises:
        InputError: ``ORDER_TEXT_TOO_LONG``, ``ORDER_TEXT_CHARACTER``, ``ORDER_TEXT_NOT_NFC``, ``ORDER_TEXT_SPACES`` or
            ``ORDER_TEXT_MARKS``, with ``place`` and, except for the first, ``position`` (from 1) and ``character``.
    """
    if len(value) > LONGEST:
        raise InputError("ORDER_TEXT_TOO_LONG", place=place, length=len(value), longest=LONGEST)
    if _ORDINARY.fullmatch(value) is None:
        _check_characters(value, place)
        _check_nfc(value, place)
        _check_marks(value, place)
    if spaces := _BAD_SPACE.search(value):
        raise InputError("ORDER_TEXT_SPACES", place=place, **_at(value, spaces.start()))


def describe(text: str) -> str:
    """Return text as code points and names: ``U+202E RIGHT-TO-LEFT OVERRIDE``. Several are joined with ``+``.

    Args:
        text: One or more characters.
    """
    return " + ".join(_describe(character) for character in text)


def _describe(character: str) -> str:
    name = unicodedata.name(character, None) or _NAMELESS.get(unicodedata.category(character), "unnamed")
    return f"U+{ord(character):04X} {name}"


def _at(value: str, index: int) -> dict[str, object]:
    return {"position": index + 1, "character": describe(value[index])}


def _check_characters(value: str, place: str) -> None:
    for index, character in enumerate(value):
        if _refused(character):
            replacement = {"replacement": describe(" ")} if character.isspace() else {}
            raise InputError("ORDER_TEXT_CHARACTER", place=place, **_at(value, index), **replacement)


def _refused(character: str) -> bool:
    category = unicodedata.category(character)
    if category == "Cn":
        return not _unknown_ideograph(ord(character))
    if category == "Zs":
        return character not in " \u3000"
    return category in _REFUSED or _HIDDEN.match(character) is not None


def _unknown_ideograph(code_point: int) -> bool:
    """Tell whether a code point may be an ideograph newer than this Python's tables: names contain rare ones."""
    return code_point in _IDEOGRAPHIC_PLANES and code_point & _LAST_TWO != _LAST_TWO


def _check_nfc(value: str, place: str) -> None:
    if unicodedata.is_normalized("NFC", value):
        return
    start, end, replacement = _first_change(value, unicodedata.normalize("NFC", value))
    found = {"position": start + 1, "character": describe(value[start:end])}
    raise InputError("ORDER_TEXT_NOT_NFC", place=place, **found, replacement=describe(replacement))


def _first_change(value: str, normal: str) -> tuple[int, int, str]:
    """Return start and end of the first part that normalization changes, and its replacement."""
    start = next((i for i, (old, new) in enumerate(zip(value, normal, strict=False)) if old != new), len(normal))
    for end in range(start + 1, len(value)):
        head, tail = (unicodedata.normalize("NFC", part) for part in (value[start:end], value[end:]))
        if head + tail == normal[start:]:
            return start, end, head
    return start, len(value), normal[start:]


def _check_marks(value: str, place: str) -> None:
    run = 0
    for index, character in enumerate(value):
        run = run + 1 if unicodedata.category(character)[0] == "M" else 0
        if run > MOST_MARKS:
            raise InputError("ORDER_TEXT_MARKS", place=place, **_at(value, index), most=MOST_MARKS)
