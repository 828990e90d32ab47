"""The texts: both languages have the same messages, and the build rejects an invalid catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from gettext import GNUTranslations
from importlib import import_module
from io import BytesIO
from pathlib import Path
from pkgutil import walk_packages
from string import Formatter

import pytest
from babel.messages.catalog import Message

from hatch_build import MESSAGES, CatalogueError, compile_all, compile_language, languages, read_language, singular
from tests.project.tree import ROOT
from ushield_hw import doctor

pytestmark = pytest.mark.unit


def by_id(language: str) -> dict[str, Message]:
    return {singular(message): message for message in read_language(ROOT, language)}


def placeholders(message: Message) -> set[str]:
    forms = [message.string] if isinstance(message.string, str) else message.string or ()
    return {name for form in forms for _, name, _, _ in Formatter().parse(form) if name is not None}


# --- this project's texts ---------------------------------------------------------------------------------------------


def test_both_languages_are_there() -> None:
    assert languages(ROOT) == ["en", "zh"]


def test_every_message_is_in_both_languages() -> None:
    en, zh = by_id("en"), by_id("zh")
    assert sorted(en.keys() - zh.keys()) == [], "in en only"
    assert sorted(zh.keys() - en.keys()) == [], "in zh only"


def test_both_languages_have_the_same_placeholders() -> None:
    en, zh = by_id("en"), by_id("zh")
    differing = {
        msgid: (placeholders(en[msgid]), placeholders(zh[msgid]))
        for msgid in en.keys() & zh.keys()
        if placeholders(en[msgid]) != placeholders(zh[msgid])
    }
    assert differing == {}


def test_both_languages_agree_on_what_is_counted() -> None:
    en, zh = by_id("en"), by_id("zh")
    assert [msgid for msgid in en.keys() & zh.keys() if en[msgid].pluralizable != zh[msgid].pluralizable] == []


def probes() -> Iterator[str]:
    """Yield the id of every probe of the doctor."""
    for module in walk_packages(doctor.__path__, "ushield_hw.doctor."):
        for name, found in vars(import_module(module.name)).items():
            if name.endswith("PROBES"):
                yield from (probe.id for probe in found)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_everything_that_the_doctor_asks_has_a_cause_and_a_remedy(language: str) -> None:
    wanted = {f"doctor.{found}.{part}" for found in probes() for part in ("cause", "remedy")}
    assert len(wanted) >= 2 * 76
    assert sorted(wanted - by_id(language).keys()) == []


@pytest.mark.parametrize("language", ["en", "zh"])
def test_compiled_texts_are_those_of_the_po_files(language: str) -> None:
    compiled = ROOT / MESSAGES / f"{language}.mo"
    assert compiled.exists(), "run: make messages"
    assert compiled.read_bytes() == compile_language(ROOT, language), "run: make messages"


# --- the build --------------------------------------------------------------------------------------------------------


def catalogue(root: Path, language: str, **files: str) -> Path:
    folder = root / MESSAGES / language
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / f"{name}.po").write_text(content, encoding="utf-8")
    return root


def entry(msgid: str, text: str) -> str:
    return f'msgid "{msgid}"\nmsgstr "{text}"\n\n'


def test_files_of_a_language_become_one(tmp_path: Path) -> None:
    catalogue(tmp_path, "zh", pin=entry("PIN_LOCKED", "PIN 已锁定"), order=entry("screen.payee", "收款人"))
    assert compile_all(tmp_path) == [MESSAGES / "zh.mo"]
    with (tmp_path / MESSAGES / "zh.mo").open("rb") as compiled:
        texts = GNUTranslations(compiled)
    assert texts.gettext("PIN_LOCKED") == "PIN 已锁定"
    assert texts.gettext("screen.payee") == "收款人"


def test_plural_forms_follow_the_language(tmp_path: Path) -> None:
    catalogue(tmp_path, "en", pin='msgid "left"\nmsgid_plural "left"\nmsgstr[0] "{n} try"\nmsgstr[1] "{n} tries"\n')
    catalogue(tmp_path, "zh", pin='msgid "left"\nmsgid_plural "left"\nmsgstr[0] "还有 {n} 次"\n')
    en = GNUTranslations(BytesIO(compile_language(tmp_path, "en")))
    zh = GNUTranslations(BytesIO(compile_language(tmp_path, "zh")))
    assert [en.ngettext("left", "left", n) for n in (1, 2)] == ["{n} try", "{n} tries"]
    assert [zh.ngettext("left", "left", n) for n in (1, 2)] == ["还有 {n} 次", "还有 {n} 次"]


def test_order_of_files_and_entries_does_not_matter(tmp_path: Path) -> None:
    one = catalogue(tmp_path / "one", "en", a=entry("X", "x") + entry("Y", "y"))
    two = catalogue(tmp_path / "two", "en", a=entry("Y", "y"), b=entry("X", "x"))
    assert compile_language(one, "en") == compile_language(two, "en")


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"a": entry("X", "1"), "b": entry("X", "2")}, r"b\.po:\d+: X is also in .*a\.po"),
        ({"a": entry("X", "1") + entry("X", "2")}, r"a\.po:\d+: X occurs twice"),
        ({"a": entry("X", "")}, "X has no text"),
        ({"a": "#, fuzzy\n" + entry("X", "1")}, "X is marked fuzzy"),
        ({"a": 'msgctxt "c"\n' + entry("X", "1")}, "X has a msgctxt"),
        ({"a": 'msgid "X"\nmsgid_plural "X"\nmsgstr[0] "1"\nmsgstr[1] ""\n'}, "X has no text"),
        ({"a": entry("X", "1") + "nonsense\n"}, r"a\.po: Unknown or misformatted"),
    ],
)
def test_a_faulty_catalogue_is_not_built(tmp_path: Path, files: dict[str, str], complaint: str) -> None:
    catalogue(tmp_path, "en", **files)
    with pytest.raises(CatalogueError, match=complaint):
        compile_all(tmp_path)
    assert not (tmp_path / MESSAGES / "en.mo").exists()
