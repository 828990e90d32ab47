"""The documentation site's hook for mkdocs: generated parts of pages, and links that leave ``docs/``.

A page contains a marker where text is generated when the site is built:

- ``<!-- include: FILE -->``: a document from the root of the repository, so that it is not kept twice;
- ``<!-- generated: error-codes -->``: every error code of ``ushield_hw/messages``, with its texts and its class;
- ``<!-- generated: error-exits -->``: which errors end the command with which exit code.

Links to files outside ``docs/`` work in a checkout; on the site they lead to the page that includes the file, or to the
repository.
"""

from __future__ import annotations

import ast
import posixpath
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # mkdocs loads this file by its path

from hatch_build import read_language, singular  # noqa: E402
from ushield_hw import errors  # noqa: E402
from ushield_hw.cli import exits  # noqa: E402

# Documents outside docs/ -> the page that includes them.
INCLUDED: Final = {
    "README.md": "index.md",
    "README.zh-CN.md": "index.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "drivers/README.md": "reference/descriptors.md",
}
_MARKER: Final = re.compile(r"<!-- (include|generated): (\S+) -->")
_LINK: Final = re.compile(r"(\]\()([^)\s]+)(\))")
_LOADED: Final = re.compile(
    r"""\bsrc=["']?(?:https?:)?//|<link[^>]*\brel=["']?(?:stylesheet|preconnect|preload)[^>]*//"""
)
_CODE: Final = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*")
_LABELS: Final = {
    "en": {"remedy": "Remedy: ", "library": "Remedy in a program: ", "class": "Class: ", "exit": "exit code"},
    "zh": {"remedy": "处理办法：", "library": "在程序中的处理办法：", "class": "异常类：", "exit": "退出码"},
}
# A line break between two Chinese characters, which a browser would show as a space.
_BROKEN: Final = re.compile(
    r"(?<=[\u2018-\u201f\u3000-\u9fff\uff00-\uffef])\n(?=[\u2018-\u201f\u3000-\u9fff\uff00-\uffef])"
)
_FENCE: Final = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
_ROLE: Final = re.compile(r":(?:attr|class|data|exc|func|meth|mod):(?=<code)")  # of docstrings


def on_config(config: Any) -> Any:
    """List the decision records in the navigation; called by mkdocs.

    Args:
        config: mkdocs' configuration.
    """
    records = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    for section in config["nav"]:
        for pages in section.values():
            for entry in pages if isinstance(pages, list) else ():
                if "Decisions" in entry:
                    entry["Decisions"] = ["decisions/README.md", *(f"decisions/{name}" for name in records)]
    return config


def on_post_build(config: Any) -> None:
    """Check that no page loads anything from the network; remove the sitemap, which needs an address; called by mkdocs.

    Args:
        config: mkdocs' configuration.

    Raises:
        ValueError: A page does.
    """
    for sitemap in Path(config["site_dir"]).glob("sitemap.xml*"):
        sitemap.unlink()
    pages = sorted(Path(config["site_dir"]).rglob("*.html"))
    loading = [str(page) for page in pages if _LOADED.search(page.read_text(encoding="utf-8"))]
    if loading:
        raise ValueError(f"these pages load something from the network: {loading}")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Fill in the markers of a page and rewrite its links; called by mkdocs for each page and language.

    Args:
        markdown: the text of the page.
        page: mkdocs' page.
        config: mkdocs' configuration of this language.
    """
    language = "zh" if config["theme"]["language"].startswith("zh") else "en"
    here = f"docs/{page.file.src_uri}"
    parts = _FENCE.split(_with_links(markdown, here, here))  # text, block, text, …
    joined = "".join(part if number % 2 else _BROKEN.sub("", part) for number, part in enumerate(parts))
    return _MARKER.sub(lambda found: _filled(found, here, language), joined)


def on_page_content(html: str, **_: Any) -> str:
    """Remove the marks of docstrings, such as ``:meth:`` and ``::``; called by mkdocs with the page as HTML.

    Args:
        html: the page.
    """
    return _ROLE.sub("", html).replace("<p>::</p>", "")


def _filled(found: re.Match[str], page: str, language: str) -> str:
    kind, name = found.groups()
    if kind == "include":
        return _with_links((ROOT / name).read_text(encoding="utf-8"), name, page)
    return {"error-codes": error_codes, "error-exits": error_exits}[name](language)


# --- links ------------------------------------------------------------------------------------------------------------


def _with_links(text: str, written_in: str, page: str) -> str:
    """Return the text with its relative links as the page needs them."""

    def changed(found: re.Match[str]) -> str:
        target, hash_, fragment = found[2].partition("#")
        if not target or ":" in target:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(written_in), target))
        return f"{found[1]}{_address(path, page)}{hash_}{fragment}{found[3]}"

    return _LINK.sub(changed, text)


def _address(path: str, page: str) -> str:
    """Return the address of a file of the repository, as seen from a page."""
    inside = f"docs/{INCLUDED[path]}" if path in INCLUDED else path
    if inside.startswith("docs/") or not (ROOT / inside).exists():  # of what does not exist, mkdocs warns
        return posixpath.relpath(inside, posixpath.dirname(page))
    kind = "tree" if (ROOT / path).is_dir() else "blob"
    return f"{repository()}/{kind}/main/{path}"


@cache
def repository() -> str:
    """Return the address of the repository, from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Homepage"]).rstrip("/")


# --- errors -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """An error code with its texts by language: what happened, what to do, what a program can do."""

    code: str
    message: dict[str, str]
    remedy: dict[str, str]
    library: dict[str, str]


def entries() -> list[Entry]:
    """Return every error code that has a message and a remedy in the catalogues, sorted."""
    texts = {language: _texts(language) for language in ("en", "zh")}
    codes = [id for id in texts["en"] if _CODE.fullmatch(id) and f"{id}.remedy" in texts["en"]]

    def both(id: str) -> dict[str, str]:
        return {language: known[id] for language, known in texts.items() if id in known}

    return [Entry(code, both(code), both(f"{code}.remedy"), both(f"{code}.remedy.library")) for code in sorted(codes)]


def _texts(language: str) -> dict[str, str]:
    """Return the texts of a language by id; of a text with plural forms the last, which is the general one."""
    found = {}
    for message in read_language(ROOT, language):
        forms = [message.string] if isinstance(message.string, str) else message.string or ()
        found[singular(message)] = str(forms[-1])
    return found


def error_codes(language: str) -> str:
    """Return the index of all error codes, as Markdown: both languages, the page's own first."""
    return "\n".join(line for entry in entries() for line in _section(entry, language))


def _section(entry: Entry, language: str) -> Iterator[str]:
    labels, kinds = _LABELS[language], classes().get(entry.code, [])
    first, second = (language, "en" if language == "zh" else "zh")
    yield f"### {entry.code} {{ #{entry.code.lower().replace('_', '-')} data-toc-label='{entry.code}' }}\n"
    if kinds:
        codes = " / ".join(map(str, sorted({_exit_code(kind) for kind in kinds})))
        names = ", ".join(f"[`{kind.__name__}`][ushield_hw.errors.{kind.__name__}]" for kind in kinds)
        yield f"{labels['class']}{names} · {labels['exit']} {codes}\n"
    for tongue in (first, second):
        words = _LABELS[tongue]
        yield f"**{_text(entry.message[tongue])}**<br>"
        yield f"{words['remedy']}{_text(entry.remedy[tongue])}" + ("<br>" if entry.library else "\n")
        if entry.library:
            yield f"{words['library']}{_text(entry.library[tongue])}\n"


def _text(message: str) -> str:
    """Return a text of the catalogue as Markdown that shows it unchanged."""
    plain = escape(" ".join(message.split()).replace("{{", "{").replace("}}", "}"), quote=False)
    return re.sub(r"([\\`*_#|\[\]~^])", r"\\\1", plain)


def _exit_code(kind: type[errors.UShieldError]) -> int:
    return exits.code_of(kind.__new__(kind))  # its class decides alone


@cache
def classes() -> dict[str, list[type[errors.UShieldError]]]:
    """Return the classes of errors with which the code raises each error code, as far as the source shows them."""
    found: dict[str, set[type[errors.UShieldError]]] = {}
    for kind in _kinds():
        found.setdefault(kind.code, set()).add(kind)
    for path in sorted((ROOT / "ushield_hw").rglob("*.py")):
        for code, kind in _raised(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(code, set()).add(kind)
    return {code: sorted(kinds, key=lambda kind: kind.__name__) for code, kinds in found.items()}


def _kinds() -> list[type[errors.UShieldError]]:
    values = (getattr(errors, name) for name in errors.__all__)
    return [value for value in values if isinstance(value, type) and issubclass(value, errors.UShieldError)]


def _raised(tree: ast.AST) -> Iterator[tuple[str, type[errors.UShieldError]]]:
    """Yield the code and the class of each call such as ``errors.InputError("PIN_FILE_MODE", …)``."""
    known = {kind.__name__: kind for kind in _kinds()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for argument in node.args[:2]:  # restated(kind, code) has the class first
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str) and name in known:
                    yield argument.value, known[name]


def error_exits(language: str) -> str:
    """Return a table of exit codes and the classes of errors that lead to them."""
    by_code: dict[int, list[str]] = {}
    for kind in sorted(_kinds(), key=lambda kind: kind.__name__):
        if kind is not errors.UShieldError:
            by_code.setdefault(_exit_code(kind), []).append(f"[`{kind.__name__}`][ushield_hw.errors.{kind.__name__}]")
    head = {"en": "| exit code | classes of `us.errors` |", "zh": "| 退出码 | `us.errors` 中的异常类 |"}[language]
    return "\n".join([head, "|---|---|", *(f"| {code} | {', '.join(by_code[code])} |" for code in sorted(by_code))])
