"""``ushield doctor``: the first cause, then the findings of all layers."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ushield_hw import messages
from ushield_hw.cli import options, output
from ushield_hw.cli.help import Command
from ushield_hw.cli.layout import coloured, folded, painted
from ushield_hw.errors import InputError

if TYPE_CHECKING:
    from ushield_hw.doctor.finding import Finding
    from ushield_hw.doctor.report import Report

_MARKS: Final = {"ok": "✓", "warn": "!", "fail": "✗", "skip": "-"}
_PLAIN: Final = str.maketrans({"✓": "+", "✗": "x", "→": "->", "·": "|", "…": "..."})
_NARROWEST: Final = 40
_SECRETS: Final = re.compile(r"(?i)^pkcs11:.*\bpin-(value|source)=")
_LEAD: Final = re.compile(r"\s*(?:[✓✗!→-] |\[\w+\] )?(?:[A-H]\d+ )?")
_STYLED: Final = {"✓": "good", "!": "warning", "✗": "bad", "→": "strong", "-": "faint"}
_STYLED_MARK: Final = re.compile(r"(\s*)([✓✗!→-])(?= )|(\s*)(\[\w+\])(?= )")


@click.command("doctor", cls=Command, help=messages.text("help.doctor"))
@options.token()
@options.key_id()
@click.option("--certificate", metavar="HEX", help=options.say("certificate_choice"))
@click.option("--module", type=click.Path(path_type=Path), help=options.say("doctor_module"))
@click.option("--code", metavar="CODE", help=options.say("code"))
@click.option("--bundle", type=click.Path(path_type=Path), metavar="FILE.zip", help=options.say("bundle"))
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE.html", help=options.say("html"))
@click.option("--all", "everything", is_flag=True, help=options.say("all"))
@options.as_json()
def doctor_command(
    selector: str | None,
    key_id: str | None,
    certificate: str | None,
    module: Path | None,
    code: str | None,
    bundle: Path | None,
    html: Path | None,
    everything: bool,
    as_json: bool,
) -> int:
    """Diagnose why a token is not recognized."""
    if code is not None:
        if any(given is not None for given in (selector, module, bundle, html)):
            raise InputError("USAGE_ONE_OF", argument="--code, --token | --module | --bundle | --html")
        return _explain(code, as_json=as_json)
    from ushield_hw.cli.config import left_out
    from ushield_hw.doctor.inspect.machine import Machine
    from ushield_hw.doctor.runner import examine
    from ushield_hw.token.choice import key_choice
    from ushield_hw.uri import TokenUri

    if selector is not None and _SECRETS.search(selector):
        TokenUri.parse(selector)  # refuses secrets in the URI; any other error of the selector becomes a finding
    choice = key_choice(None, key_id, certificate)  # refuses values that are not hexadecimal
    files = _new_files(bundle, html)
    with output.progress("cli.looking"):
        machine = Machine(options.settings(), selector=selector, key_id=choice.key_id, certificate=choice.certificate)
        report = examine(machine, module)
    if bundle is not None:
        _write_bundle(report, bundle)
    if html is not None:
        _write_page(report, html)
    unusable = left_out(options.settings())
    if as_json:
        output.document({**report.to_json(), "problems": [error.to_command_json() for error in unusable]})
    else:
        for error in unusable:
            output.note(f"{error.message} {error.command_remedy}")
        _print(_rows(report, everything=everything), kept=report.skeleton or "")
        for file in files:
            output.hint("doctor.bundle", file=file)
    return int(report.outcome)


def _explain(code: str, *, as_json: bool) -> int:
    from ushield_hw.doctor.codes import explained

    finding = explained(code)
    if finding is None:
        raise InputError("CODE_UNKNOWN", code=code)
    if as_json:
        output.document({"finding": finding.to_json()})
    else:
        _print([f"[{finding.id}] {finding.cause()}", f"  → {finding.remedy()}"])
    return 0


def _new_files(*files: Path | None) -> list[Path]:
    """Return the files to write, after checking that none exists and that each can be created."""
    asked = [file for file in files if file is not None]
    for file in asked:
        options.check_folder(file)
        options.refuse_existing(file)
    if len({file.absolute() for file in asked}) < len(asked):
        raise InputError("OUTPUT_EXISTS", file=str(asked[-1]))  # the other one would be there by then
    return asked


def _write_bundle(report: Report, file: Path) -> None:
    from ushield_hw.doctor.bundle import bundle

    texts = {}
    for lang in messages.LANGUAGES:
        with messages.using_language(lang):
            texts[lang] = "\n".join(_rows(report, everything=True)) + "\n"
    options.write_new(file, bundle(report, texts), 0o600)


def _write_page(report: Report, file: Path) -> None:
    from ushield_hw.doctor.page import page

    options.write_new(file, page(report).encode(), 0o600)


def _rows(report: Report, *, everything: bool) -> Iterator[str]:
    say = messages.text
    for token in report.usable:
        kind = "usable" if token.certain else "maybe" if token.subject else "hidden"
        about = {"label": token.label, "serial": token.serial, "subject": token.subject}
        yield f"{_MARKS['ok' if token.certain else 'warn']} " + say(f"doctor.{kind}", **about)
        yield f"    {token.uri}"
    if report.first is not None:
        yield "✗ " + say(report.headline)
        yield ""
        yield f"[{report.first.id}] {_subject(report.first)}{report.first.cause()}"
        yield f"  → {report.first.remedy()}"
        if everything:
            yield from (f"    {row}" for row in _evidence(report.first))
    yield ""
    yield say("doctor.path")
    yield from _path(report, everything=everything)
    if report.skeleton:
        yield ""
        yield say("doctor.skeleton")
        yield from report.skeleton.rstrip().split("\n")
    yield ""
    facts = report.environment
    yield say("doctor.environment", **{name: facts[name] for name in ("ushield", "python", "system", "kind", "pcsc")})


def _path(report: Report, *, everything: bool) -> Iterator[str]:
    from ushield_hw.doctor.finding import Layer

    for layer in Layer:
        state, text = report.state(layer)
        name, said = messages.text(f"doctor.layer.{layer.value}"), messages.text(text)
        yield f"  {_MARKS[state.value]} " + messages.text("doctor.line", name=name, text=said)
        for finding in report.of(layer):
            if finding.is_problem or everything:
                yield from _problem(finding, report, everything=everything)
    if unrelated := report.unrelated:
        yield ""
        yield messages.text("doctor.unrelated")
        for finding in unrelated:
            yield from _problem(finding, report, everything=everything)


def _problem(finding: Finding, report: Report, *, everything: bool) -> Iterator[str]:
    """Yield the lines of a finding in its layer: the first cause refers to the text above, others omit the remedy."""
    status = finding.status.value
    if finding is report.first:
        yield f"      {_MARKS['fail']} {finding.id} {messages.text('doctor.above')}"
    elif finding.is_problem:
        yield f"      {_MARKS[status]} {finding.id} {_subject(finding)}{finding.cause()}"
        if everything or report.first is None:
            yield f"        → {finding.remedy()}"
    else:
        reason = f" ({finding.evidence.get('reason')})" if status == "skip" else ""
        unchecked = f" {messages.text('doctor.status.unchecked')}" if finding.unchecked else ""
        yield f"      {_MARKS[status]} {finding.id} {finding.probe} {finding.subject}{unchecked}{reason}"


def _subject(finding: Finding) -> str:
    lead = finding.lead()
    return messages.text("doctor.line", name=lead, text="") if lead else ""


def _evidence(finding: Finding) -> list[str]:
    rows = ((name, _short(value)) for name, value in finding.evidence.items() if name != "kind")
    return output.table(row for row in rows if row[1] not in {"", "-"})


def _short(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


# --- formatting -------------------------------------------------------------------------------------------------------


def _print(rows: Iterable[str], kept: str = "") -> None:
    """Print rows, wrapped to the terminal's width except those in ``kept``, with symbols the output can show."""
    whole = set(kept.split("\n"))
    made = [messages.shown(row) for row in rows]
    colour = coloured(sys.stdout)
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        wide = [[row] if row in whole else _folded(row, max(width, _NARROWEST)) for row in made]
        made = [part for parts in wide for part in parts]
    output.lines((_styled(row) if colour else row for row in _with_signs(made)), colour=colour)


def _with_signs(rows: Iterable[str]) -> Iterator[str]:
    """Yield rows with the symbols that the output can show."""
    signs = _has_signs()
    yield from (row if signs else row.translate(_PLAIN) for row in rows)


def _styled(row: str) -> str:
    """Return a row with its mark in colour; the first cause and its code in bold."""
    found = _STYLED_MARK.match(row)
    if found is None:
        return row
    indent, mark = found[1] or found[3] or "", found[2] or found[4]
    style = _STYLED.get(mark, "strong")
    if not indent and mark in "✓✗!":
        return painted(row, style)
    if mark.startswith("["):
        return indent + painted(row[len(indent) :], "strong")
    return indent + painted(mark, style) + row[found.end() :]


def _has_signs() -> bool:
    """Return whether non-ASCII symbols can be shown.

    Python writes UTF-8 in the C locale too, where the reader may not expect it.
    """
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    return output.speaks_utf8() and next(filter(None, names), "C") not in {"C", "POSIX"}


def _folded(row: str, width: int) -> Iterator[str]:
    """Yield a row wrapped to a width; continuation lines are indented to the text after the mark."""
    yield from folded(row, width, " " * len(_LEAD.match(row)[0]))  # type: ignore[index] # it matches everything
