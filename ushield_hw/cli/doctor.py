"""``ushield doctor``: one cause first, then the way from the plug to the key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ushield_hw import messages
from ushield_hw.cli import options, output
from ushield_hw.cli.help import Command
from ushield_hw.errors import InputError

if TYPE_CHECKING:
    from ushield_hw.doctor.finding import Finding
    from ushield_hw.doctor.report import Report

_MARKS: Final = {"ok": "✓", "warn": "!", "fail": "✗", "skip": "-"}
_PLAIN: Final = {"ok": "+", "warn": "!", "fail": "x", "skip": "-"}


@click.command("doctor", cls=Command, help=messages.text("help.doctor"))
@options.token()
@click.option("--module", type=click.Path(path_type=Path), help=options.say("doctor_module"))
@click.option("--code", metavar="CODE", help=options.say("code"))
@click.option("--bundle", type=click.Path(path_type=Path), metavar="FILE.zip", help=options.say("bundle"))
@click.option("--all", "everything", is_flag=True, help=options.say("all"))
@options.as_json()
def doctor_command(
    selector: str | None, module: Path | None, code: str | None, bundle: Path | None, everything: bool, as_json: bool
) -> int:
    """Say why a token is not recognized."""
    if code is not None:
        return _explain(code, as_json=as_json)
    from ushield_hw.doctor.machine import Machine
    from ushield_hw.doctor.walk import examine

    if bundle is not None:
        options.check_folder(bundle)
        options.refuse_existing(bundle)
    report = examine(Machine(options.settings(), selector=selector), module)
    if bundle is not None:
        _write_bundle(report, bundle)
    if as_json:
        output.document(report.to_json())
    else:
        output.lines(_rows(report, everything=everything))
        if bundle is not None:
            output.hint("doctor.bundle", file=bundle)
    return int(report.outcome)


def _explain(code: str, *, as_json: bool) -> int:
    from ushield_hw.doctor.codes import explained

    finding = explained(code)
    if finding is None:
        raise InputError("CODE_UNKNOWN", code=code)
    if as_json:
        output.document({"finding": finding.to_json()})
    else:
        output.lines([f"[{finding.id}] {finding.cause()}", f"  → {finding.remedy()}"])
    return 0


def _write_bundle(report: Report, file: Path) -> None:
    from ushield_hw.doctor.bundle import bundle

    before, texts = messages.language(), {}
    try:
        for lang in messages.LANGUAGES:
            messages.set_language(lang)
            texts[lang] = "\n".join(_rows(report, everything=True)) + "\n"
    finally:
        messages.set_language(before)
    options.write_new(file, bundle(report, texts))


def _rows(report: Report, *, everything: bool) -> Iterator[str]:
    say = messages.text
    for token in report.usable:
        yield f"{_mark('ok')} " + say("doctor.usable", label=token.label, serial=token.serial, subject=token.subject)
        yield f"    {token.uri}"
    if report.first is not None:
        yield f"{_mark('fail')} " + say("doctor.unusable")
        yield ""
        yield f"[{report.first.id}] {_subject(report.first)}{report.first.cause()}"
        yield f"  → {report.first.remedy()}"
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
        of_it = [finding for finding in report.findings if finding.layer is layer]
        worst = next((kind for kind in ("fail", "warn", "ok") if any(f.status.value == kind for f in of_it)), "skip")
        name, state = messages.text(f"doctor.layer.{layer.value}"), messages.text(f"doctor.status.{worst}")
        yield f"  {_mark(worst)} {name}: {state}"
        for finding in of_it:
            if finding.matters:
                yield f"      {_mark(finding.status.value)} {finding.id} {_subject(finding)}{finding.cause()}"
                if finding is not report.first:
                    yield f"          → {finding.remedy()}"
            elif everything:
                reason = f" ({finding.evidence.get('reason')})" if finding.status.value == "skip" else ""
                yield f"      {_mark(finding.status.value)} {finding.id} {finding.probe} {finding.subject}{reason}"


def _subject(finding: Finding) -> str:
    subject = finding.subject
    return f"{subject}: " if subject and subject not in (finding.cause() or "") else ""


def _evidence(finding: Finding) -> list[str]:
    rows = ((name, _short(value)) for name, value in finding.evidence.items() if name != "kind")
    return output.table(row for row in rows if row[1] not in {"", "-"})


def _short(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _mark(status: str) -> str:
    return (_MARKS if output.speaks_utf8() else _PLAIN)[status]
