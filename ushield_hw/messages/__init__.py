"""The message catalogue: Chinese and English text for every code.

Texts are in ``en/*.po`` and ``zh/*.po`` under symbolic ids (``PIN_INCORRECT``, ``PIN_INCORRECT.remedy``,
``screen.payee``); the build compiles them to ``en.mo`` and ``zh.mo``. Gettext does the lookup and the plural forms;
this module selects the language and escapes every inserted value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from gettext import GNUTranslations, NullTranslations
from io import BytesIO
from pkgutil import get_data
from typing import Final, Literal

Language = Literal["en", "zh"]

LANGUAGES: Final[tuple[Language, ...]] = ("en", "zh")

# Control characters, and characters that reorder or hide text: C0, C1, soft hyphen, Arabic letter mark, zero-width and
# bidi marks, separators, invisible operators, BOM, lone surrogates, tags.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)

_chosen: Language | None = None
_here: ContextVar[Language | None] = ContextVar("ushield_language", default=None)


def set_language(language: Language | None) -> None:
    """Set the language of all messages of this process.

    Args:
        language: the language; ``None`` restores the language of the environment.
    """
    global _chosen  # noqa: PLW0603 - a setting of the process
    _chosen = language


@contextmanager
def using_language(language: Language) -> Iterator[None]:
    """Set the language of messages inside a block, for the current thread or task only.

    For servers that serve several users at the same time. An error's ``message`` and ``remedy`` are formatted when they
    are read, so read them inside the block.

    Args:
        language: the language.
    """
    before = _here.set(language)
    try:
        yield
    finally:
        _here.reset(before)


def language() -> Language:
    """Return the current language: that of the block, else of the process, else of the locale, else English."""
    return _here.get() or _chosen or _of_environment()


@cache
def _of_environment() -> Language:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name)
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


def text(message_id: str, lang: Language | None = None, /, **values: object) -> str:
    """Return a message with its values inserted and escaped.

    Args:
        message_id: id in the catalogue. An id without a text is returned unchanged: a missing translation must not hide
            the error that it belongs to.
        lang: the language; None: the current one.
        **values: the values; an integer ``n`` selects the plural form.
    """
    catalogue = _catalogue(lang or language())
    n = values.get("n")
    template = catalogue.ngettext(message_id, message_id, n) if isinstance(n, int) else message_id
    if template == message_id:  # no number, or a text without plural forms
        template = catalogue.gettext(message_id)
    return template.format_map(_Shown(values)) if template != message_id else message_id


def known(message_id: str, lang: Language = "en") -> bool:
    """Return whether the catalogue has a text for ``message_id``."""
    return _catalogue(lang).gettext(message_id) != message_id or text(message_id, lang, n=2) != message_id


def shown(value: object) -> str:
    """Return ``value`` as text, with the characters escaped that move the cursor or hide or reorder other text."""
    return _UNSAFE.sub(lambda found: f"\\u{{{ord(found[0]):04x}}}", str(value))


class _Shown(dict[str, object]):
    def __getitem__(self, key: str) -> str:
        return shown(super().__getitem__(key))

    def __missing__(self, key: str) -> str:
        return "{" + key + "}"


@cache
def _catalogue(lang: Language) -> NullTranslations:
    try:
        compiled = get_data(__name__, f"{lang}.mo")  # not open(): the package may be in a zip
    except OSError:  # without messages an error still has its code
        compiled = None
    return GNUTranslations(BytesIO(compiled)) if compiled else NullTranslations()
