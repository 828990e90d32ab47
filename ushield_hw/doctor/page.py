"""The report as one HTML page: the path from the plug to the key, the first cause and its remedy, and all checks.

The page loads nothing and runs nothing: no script, its styles are allowed by their hash, and its pictures are part of
it. It contains both languages; radio buttons switch them. Personal data is masked as in the bundle. Everything is
escaped unless it is markup made here.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from html import escape
from itertools import takewhile
from pkgutil import get_data
from typing import Final

from ushield_hw import messages
from ushield_hw.doctor.bundle import Mask, mask_for
from ushield_hw.doctor.finding import Finding, Layer, Status
from ushield_hw.doctor.remedy_text import Kind, cause_parts, remedy_parts
from ushield_hw.doctor.report import Report, UsableToken
from ushield_hw.messages import Language, shown

_NAMES: Final[dict[Language, str]] = {"zh": "中文", "en": "English"}
_EMPTY: Final = frozenset({"meta", "input"})  # elements without content
_LONG: Final = 48  # characters: a longer command is shortened within the remedy's sentence
_NAMED_WORDS: Final = 4


class Html(str):
    """Markup. Any other text is escaped where it becomes part of the page."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class _View:
    """A report in one language, with what masks its personal data."""

    report: Report
    mask: Mask
    lang: Language


def page(report: Report) -> str:
    """Return the page, which shows the current language first.

    Args:
        report: the diagnosis.
    """
    current, mask, title = messages.language(), mask_for(report), _verdict(report)[1]
    languages = sorted(messages.LANGUAGES, key=lambda lang: lang != current)
    head = _el("head", *_metadata(), _el("title", f"ushield doctor: {title}"), _el("style", Html(_style())))
    articles = []
    for lang in languages:
        with messages.using_language(lang):
            articles.append(_el("article", *_sections(_View(report, mask, lang)), lang=lang))
    body = _el("body", Html(_file("page.svg")), *_switch(languages, current), _el("main", *articles))
    return "<!DOCTYPE html>\n" + _el("html", head, body, lang=current) + "\n"


# --- head and language switch -----------------------------------------------------------------------------------------


def _metadata() -> Iterator[Html]:
    digest = b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    yield _el("meta", charset="utf-8")
    yield _el("meta", http_equiv="Content-Security-Policy", content=policy)
    for name, content in {
        "viewport": "width=device-width, initial-scale=1",
        "referrer": "no-referrer",
        "color-scheme": "light dark",
        "format-detection": "telephone=no",
    }.items():
        yield _el("meta", name=name, content=content)


def _switch(languages: Iterable[Language], current: Language) -> Iterator[Html]:
    for lang in languages:
        chosen = {"checked": "checked"} if lang == current else {}
        yield _el("input", type="radio", name="language", id=f"show-{lang}", autocomplete="off", **chosen)
    labels = (_el("label", name, for_=f"show-{lang}", lang=lang) for lang, name in _NAMES.items())
    yield _el("header", _span("brand", "ushield doctor"), _el("div", *labels, class_="choice"), class_="bar")


# --- the sections -----------------------------------------------------------------------------------------------------


def _sections(view: _View) -> Iterator[Html]:
    report = view.report
    status, title = _verdict(report)
    yield _el("div", _mark(status), _el("h1", title), class_="verdict")
    yield _path(view)
    if report.first is not None:
        yield _cause(view, report.first)
    if report.usable:
        yield _section("tokens", "doctor.page.tokens", _list(_token(view, token) for token in report.usable))
    yield from _others(view)
    if unrelated := report.unrelated:
        yield _section("unrelated", "doctor.page.unrelated", _list(_problem(view, one) for one in unrelated))
    if report.skeleton:
        draft = Html("\n".join(map(_text, view.mask.text(report.skeleton).split("\n"))))
        yield _details(messages.text("doctor.skeleton"), _el("pre", draft), class_="draft")
    yield _checks(view)
    yield _footer(view)


def _verdict(report: Report) -> tuple[Status, str]:
    if report.first is not None:
        return Status.FAIL, messages.text(report.headline)
    if any(token.certain for token in report.usable):
        return Status.OK, messages.text("doctor.page.ready")
    state = "undecided" if report.usable else "no_problem"
    return (Status.WARN if report.usable else Status.OK), messages.text(f"doctor.page.{state}")


def _path(view: _View) -> Html:
    stations = _el("ol", *(_station(view, layer) for layer in Layer), class_="stations")
    return _section("path", "doctor.page.path", stations)


def _station(view: _View, layer: Layer) -> Html:
    first = view.report.first
    broken = first is not None and first.layer is layer
    status, state = view.report.state(layer)
    said = _span("name", _layer_name(layer)), " ", _span("state", messages.text(_short(state)))
    here = []
    if first is not None and broken:
        target = f"#cause-{view.lang}"
        here = [" ", _el("a", messages.text("doctor.page.here", id=first.id), class_="here", href=target)]
    cut = [_el("svg", _el("path", d="M7 4l8 12M15 4l-8 12"), class_="cut", viewBox="0 0 22 20")] if broken else []
    return _el(
        "li",
        _el("span", *cut, class_="link", aria_hidden="true"),
        _el("span", _icon(layer.value), _mark(status), class_="icon", aria_hidden="true"),
        _el("span", *said, *here, class_="text"),
        class_=f"station {status.value}{' broken' if broken else ''}",
    )


def _short(state: str) -> str:
    """Return the id of a layer's state without its reason, which the list of checks shows."""
    if state.startswith("doctor.unchecked."):
        return "doctor.status.unchecked"
    return "doctor.page.unneeded" if state == "doctor.unneeded" else state


def _cause(view: _View, first: Finding) -> Html:
    masked = view.mask.finding(first)
    remedy = remedy_parts(masked)
    brief = ((kind, _brief(text) if kind is Kind.COMMAND else text) for kind, text in remedy)
    return _el(
        "section",
        _el("h2", f"{messages.text('doctor.page.cause')} · {_layer_name(first.layer)} · ", _id(first)),
        _el("p", *_subject(masked), *_inline(cause_parts(masked)), class_="what"),
        _el("h3", messages.text("doctor.page.remedy")),
        _el("p", *_inline(brief), class_="remedy"),
        *_commands(_of_remedy(masked), complete=_of_remedy(first)),
        *_evidence(masked),
        class_="cause",
        id=f"cause-{view.lang}",
    )


def _of_remedy(finding: Finding) -> list[str]:
    return list(dict.fromkeys(text for kind, text in remedy_parts(finding) if kind is Kind.COMMAND))


def _brief(command: str) -> str:
    """Return a long command without its options: the whole of it follows below the remedy."""
    words = list(takewhile(lambda word: word[:1].isalpha(), command.split(" ")))[:_NAMED_WORDS]
    return command if len(command) <= _LONG else f"{' '.join(words)}\N{NO-BREAK SPACE}…"


def _commands(commands: list[str], complete: list[str]) -> Iterator[Html]:
    if commands:
        lines = (_el("li", _command(command)) for command in commands)
        yield _el("ul", *lines, class_="commands", aria_label=messages.text("doctor.page.commands"))
    if commands != complete:
        yield _el("p", messages.text("doctor.page.masked_command"), class_="note")


def _token(view: _View, token: UsableToken) -> Html:
    kind = "usable" if token.certain else "maybe" if token.subject else "hidden"
    about = {"label": token.label, "serial": token.serial, "subject": token.subject}
    said = messages.text(f"doctor.{kind}", **{name: view.mask.text(value) for name, value in about.items()})
    status = Status.OK if token.certain else Status.WARN
    return _item(status, _el("p", said, class_="who"), _el("code", view.mask.text(token.uri)))


def _others(view: _View) -> Iterator[Html]:
    rows: list[Html] = []
    for layer in Layer:
        found = [one for one in view.report.of(layer) if one.is_problem and one is not view.report.first]
        if found:
            rows.append(_el("h3", _layer_name(layer), class_="layer"))
            rows.append(_list(_problem(view, one) for one in found))
    if rows:
        name = "others" if view.report.first is not None else "remarks"
        yield _section("others", f"doctor.page.{name}", *rows)


def _problem(view: _View, finding: Finding) -> Html:
    masked = view.mask.finding(finding)
    cause = _el("p", *_subject(masked), *_inline(cause_parts(masked)), " ", _id(finding))
    remedy = _el("p", *_inline(remedy_parts(masked)), class_="fix")
    return _item(finding.status, cause, remedy, *_evidence(masked))


def _checks(view: _View) -> Html:
    rows: list[Html] = []
    for layer in Layer:
        status, state = view.report.state(layer)
        name = messages.text("doctor.line", name=_layer_name(layer), text=messages.text(state))
        rows.append(_el("h3", _mark(status), " ", name, class_="layer"))
        rows.append(_list(_check(view, one) for one in view.report.findings if one.layer is layer))
    count = len(view.report.findings)
    return _details(messages.text("doctor.page.checks", count=count), *rows, class_="checks")


def _check(view: _View, finding: Finding) -> Html:
    masked = view.mask.finding(finding)
    subject = [" ", _el("bdi", masked.subject)] if masked.subject else []
    unchecked = [" ", messages.text("doctor.status.unchecked")] if finding.unchecked else []
    title = _el("span", _id(finding), " ", finding.probe, *subject, *unchecked)
    rows = _rows(masked)
    return _item(finding.status, _details(title, _facts(rows)) if rows else _el("p", title))


def _footer(view: _View) -> Html:
    facts = view.mask.value(view.report.environment)
    names = [name for name in ("ushield", "python", "system", "kind", "pcsc") if name in facts]
    said = messages.text("doctor.environment", **{name: facts[name] for name in names})
    return _el("footer", _el("p", said), _el("p", messages.text("doctor.page.masked")))


# --- parts ------------------------------------------------------------------------------------------------------------


def _evidence(masked: Finding) -> Iterator[Html]:
    if rows := _rows(masked):
        yield _details(messages.text("doctor.page.evidence"), _facts(rows))


def _rows(masked: Finding) -> list[tuple[str, str]]:
    rows = [(name, _joined(value)) for name, value in masked.evidence.items() if name not in {"kind", "checked"}]
    return [row for row in rows if row[1] not in {"", "-"}]


def _joined(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _facts(rows: Iterable[tuple[str, str]]) -> Html:
    return _el("dl", *(part for name, value in rows for part in (_el("dt", name), _el("dd", _el("bdi", value)))))


def _subject(masked: Finding) -> list[Html]:
    lead = masked.lead()
    return [_el("bdi", lead), _text(messages.text("doctor.line", name="", text=""))] if lead else []


def _inline(parts: Iterable[tuple[Kind, str]]) -> Iterator[Html]:
    for kind, text in parts:
        if kind is Kind.COMMAND:
            yield _command(text)
        else:
            yield _el("bdi", text) if kind is Kind.VALUE else _text(text)


def _command(command: str) -> Html:
    """Return a command that a click selects; its options are not broken at their hyphens."""
    words = (_span("option", word) if word.startswith("-") else _text(word) for word in command.split(" "))
    return _el("code", Html(" ".join(words)), class_="run")


def _section(name: str, title: str, *children: str) -> Html:
    return _el("section", _el("h2", messages.text(title)), *children, class_=name)


def _details(summary: str, *children: str, **attributes: str) -> Html:
    return _el("details", _el("summary", summary), *children, **attributes)


def _list(items: Iterable[Html]) -> Html:
    return _el("ul", *items, class_="list")


def _item(status: Status, *children: str) -> Html:
    word = _span("hidden", messages.text(f"doctor.status.{status.value}"))
    return _el("li", _mark(status), word, _el("div", *children), class_="item")


def _mark(status: Status) -> Html:
    return _icon(status.value, f"mark {status.value}")


def _icon(name: str, kind: str = "layer-icon") -> Html:
    return _el("svg", _el("use", href=f"#{name}"), class_=kind, aria_hidden="true")


def _id(finding: Finding) -> Html:
    return _el("code", finding.id, class_="id")


def _span(kind: str, text: str) -> Html:
    return _el("span", text, class_=kind)


def _layer_name(layer: Layer) -> str:
    return messages.text(f"doctor.layer.{layer.value}")


def _el(tag: str, *children: str, **attributes: str) -> Html:
    """Return an element. Children that are not markup, and all attributes, are escaped."""
    names = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    begin = tag + "".join(f' {name}="{_text(value)}"' for name, value in names.items())
    if tag in _EMPTY:
        return Html(f"<{begin} />")
    return Html(f"<{begin}>{''.join(child if isinstance(child, Html) else _text(child) for child in children)}</{tag}>")


def _text(text: str) -> Html:
    """Return a text as markup, with characters escaped that are markup or that hide or reorder others."""
    return Html(escape(shown(text)))


@cache
def _style() -> str:
    return _file("page.css")


@cache
def _file(name: str) -> str:
    return (get_data(__package__ or "", name) or b"").decode()  # not open(): the package may be in a zip
