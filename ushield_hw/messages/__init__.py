"""The one catalogue of what people read: zh and en text for every code.

Texts live in ``en/*.po`` and ``zh/*.po`` under symbolic ids (``PIN_INCORRECT``, ``PIN_INCORRECT.remedy``,
``screen.payee``) and are compiled to ``en.mo`` and ``zh.mo`` by the build. Gettext does the look-up and the plural
rules; this module adds the choice of language and makes every inserted value safe to show.
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

# Controls, and the characters that reorder or hide text: C0, C1, soft hyphen, Arabic letter mark, zero-width and bidi
# marks, separators, invisible operators, BOM, lone surrogates, tags.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)

_chosen: Language | None = None
_here: ContextVar[Language | None] = ContextVar("ushield_language", default=None)


def set_language(language: Language | None) -> None:
    """Choose the language of every text of this process from now on; ``None`` goes back to the environment's."""
    global _chosen  # noqa: PLW0603 - the process's own
    _chosen = language


@contextmanager
def using_language(language: Language) -> Iterator[None]:
    """Choose the language of the texts made in a block, for this thread or task alone.

    A server speaks to several customers at once. An error's ``message`` and ``remedy`` are made when they are read.
    """
    before = _here.set(language)
    try:
        yield
    finally:
        _here.reset(before)


def language() -> Language:
    """Return the language in force: the block's, else the process's, else the locale's, else English."""
    return _here.get() or _chosen or _of_environment()


@cache
def _of_environment() -> Language:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name)
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


def text(message_id: str, lang: Language | None = None, /, **values: object) -> str:
    """Return the text of ``message_id`` with ``values`` put in, each made safe to show.

    An integer ``n`` among the values chooses the plural form. An id without a text comes back as it is: a missing
    translation must not hide the error that it belongs to.
    """
    catalogue = _catalogue(lang or language())
    n = values.get("n")
    template = catalogue.ngettext(message_id, message_id, n) if isinstance(n, int) else message_id
    if template == message_id:  # no number, or a text that is the same for every number
        template = catalogue.gettext(message_id)
    return template.format_map(_Shown(values)) if template != message_id else message_id


def known(message_id: str, lang: Language = "en") -> bool:
    """Tell whether the catalogue has a text for ``message_id``."""
    return _catalogue(lang).gettext(message_id) != message_id or text(message_id, lang, n=2) != message_id


def shown(value: object) -> str:
    """Return ``value`` as text that cannot move the cursor, hide or reorder what stands around it."""
    return _UNSAFE.sub(lambda found: f"\\u{{{ord(found[0]):04x}}}", str(value))


class _Shown(dict[str, object]):
    def __getitem__(self, key: str) -> str:
        return shown(super().__getitem__(key))

    def __missing__(self, key: str) -> str:
        return "{" + key + "}"


@cache
def _catalogue(lang: Language) -> NullTranslations:
    try:
        compiled = get_data(__name__, f"{lang}.mo")  # the package may be in a zip
    except OSError:  # without texts an error still has its code
        compiled = None
    return GNUTranslations(BytesIO(compiled)) if compiled else NullTranslations()
