"""Compile the message catalogues: all of ``ushield_hw/messages/<language>/*.po`` into one ``<language>.mo``.

Runs as the build hook of wheels and editable installs, and as ``python hatch_build.py`` (what ``make messages`` does).
The result depends on the texts alone, not on the day or the order of the files. As the metadata hook it makes the links
of README.md absolute, for readers who have no checkout.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.util import module_from_spec, spec_from_file_location
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from babel.messages.catalog import Catalog, Message
from babel.messages.mofile import write_mo
from babel.messages.pofile import PoFileError, PoFileParser
from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

MESSAGES: Final = Path("ushield_hw", "messages")
_NO_DATE: Final = datetime(1970, 1, 1, tzinfo=UTC)


_LINK: Final = re.compile(r"(?P<picture>!?)(?P<text>\[[^\]]*\])\((?!https?:|#)(?P<target>[^)]+)\)")


class CatalogueError(Exception):
    """A .po file that must not be built; the text names the file, the message and the fault."""


class ReadmeHook(MetadataHookInterface):
    """Supplies README.md with absolute links."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the readme of the project's metadata."""
        text = Path(self.root, "README.md").read_text("utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, metadata["urls"]["Source"])}


def absolute(text: str, source: str) -> str:
    """Return a Markdown text whose relative links lead to the repository.

    Args:
        text: the text, with links relative to the repository's root.
        source: the URL of the repository.
    """

    def link(found: re.Match[str]) -> str:
        kind = "raw" if found["picture"] else "blob"
        return f"{found['picture']}{found['text']}({source}/{kind}/main/{found['target']})"

    return _LINK.sub(link, text)


class WheelBuildHook(BuildHookInterface[BuilderConfig]):
    """Compiles the catalogues and adds the data folders before a wheel is put together."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Ship the catalogues although git ignores them; copy the data folders unless the wheel is editable."""
        build_data["artifacts"] += [f"/{path.as_posix()}" for path in compile_all(Path(self.root))]
        if version == "standard":
            build_data["force_include"] |= self.config["data"]
            built = Path(self.root, "build", "index.json")
            built.parent.mkdir(exist_ok=True)
            index, folder = _index_module(Path(self.root)), Path(self.root, "drivers")
            (folder / index.IN_CHECKOUT).unlink(missing_ok=True)  # a wheel has one that never goes stale
            built.write_bytes(index.build(folder))
            build_data["force_include"][str(built)] = f"{self.config['data']['drivers']}/index.json"


def _index_module(root: Path) -> Any:
    """Return the package's own module that makes the index of descriptors; it imports the standard library alone."""
    spec = spec_from_file_location("index", root / "ushield_hw" / "drivers" / "index.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError("ushield_hw/drivers/index.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compile_all(root: Path) -> list[Path]:
    """Write ``<language>.mo`` for every language below ``root``; return the files written, relative to ``root``."""
    written = []
    for language in languages(root):
        compiled = compile_language(root, language)
        target = MESSAGES / f"{language}.mo"
        _replace(root / target, compiled)
        written.append(target)
    return written


def languages(root: Path) -> list[str]:
    """Return the languages that have a folder of .po files."""
    return sorted({path.parent.name for path in (root / MESSAGES).glob("*/*.po")})


def compile_language(root: Path, language: str) -> bytes:
    """Return the compiled catalogue of one language."""
    merged = Catalog(
        language,
        project="ushield-hw",
        version="0",
        creation_date=_NO_DATE,
        revision_date=_NO_DATE,
        last_translator="ushield_hw contributors",
        language_team="ushield_hw contributors",
    )
    for message in read_language(root, language):
        merged[message.id] = message
    output = BytesIO()
    write_mo(output, merged)
    return output.getvalue()


def read_language(root: Path, language: str) -> list[Message]:
    """Return the messages of all .po files of one language, by id.

    Raises:
        CatalogueError: An id occurs twice, or a message has no text, a context or the fuzzy mark.
    """
    seen: dict[str, Path] = {}
    messages: dict[str, Message] = {}
    for path in sorted((root / MESSAGES / language).glob("*.po")):
        for message in _read_file(path, language):
            msgid = singular(message)
            if msgid in seen:
                raise CatalogueError(f"{path}:{message.lineno}: {msgid} is also in {seen[msgid]}")
            seen[msgid] = path
            messages[msgid] = message
    return [messages[msgid] for msgid in sorted(messages)]


def singular(message: Message) -> str:
    """Return the id that the program asks for."""
    return message.id if isinstance(message.id, str) else message.id[0]


def _read_file(path: Path, language: str) -> Iterator[Message]:
    catalog = _OneFile(path, language)
    try:
        with path.open("rb") as lines:
            PoFileParser(catalog, ignore_obsolete=True, abort_invalid=True).parse(lines)
    except PoFileError as error:
        raise CatalogueError(f"{path}: {error}") from error
    for message in catalog:
        if message.id:
            yield message


class _OneFile(Catalog):
    """A catalogue that refuses what Babel would merge or drop without a word."""

    def __init__(self, path: Path, language: str) -> None:
        super().__init__(language)
        self._path = path

    def __setitem__(self, id: str | list[str] | tuple[str, ...], message: Message) -> None:
        fault = _fault(message, known=bool(message.id) and message.id in self)
        if fault:
            raise CatalogueError(f"{self._path}:{message.lineno}: {singular(message)} {fault}")
        super().__setitem__(id, message)


def _fault(message: Message, *, known: bool) -> str | None:
    if not message.id:
        return None
    texts = [message.string] if isinstance(message.string, str) else message.string
    if known:
        return "occurs twice"
    if message.context:
        return "has a msgctxt: the program asks by id alone"
    if message.fuzzy:
        return "is marked fuzzy: check the text, then take the mark away"
    return None if texts and all(texts) else "has no text"


def _replace(target: Path, content: bytes) -> None:
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    scratch.write_bytes(content)
    scratch.replace(target)


if __name__ == "__main__":
    try:
        for compiled_file in compile_all(Path(__file__).resolve().parent):
            print(compiled_file)
    except CatalogueError as fault:
        sys.exit(f"messages: {fault}")
