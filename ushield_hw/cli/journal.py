"""``ushield journal``: what this user has signed on this host, and resolution of unknown outcomes."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Sequence
from typing import Final

import click

from ushield_hw import messages
from ushield_hw.cli import options, output
from ushield_hw.cli.help import Group
from ushield_hw.errors import ConfirmationRejected, InputError
from ushield_hw.signing.journal import Journal, JournalEntry, State

_SCOPE: Final = messages.text("help.journal.scope")  # in the language of this process, as every text of a help page


@click.group("journal", cls=Group, help=messages.text("help.journal"), epilog=_SCOPE)
def journal_command() -> None:
    """Commands for the signing journal."""


@journal_command.command("list", help=messages.text("help.journal.list"), epilog=_SCOPE)
@options.as_json()
def _list(as_json: bool) -> None:
    entries = _journal().entries()
    if as_json:
        output.document({"entries": entries})
        return
    if not entries:
        output.hint("journal.empty")
    for entry in entries:
        output.lines(_brief(entry))
    if unknown := [entry for entry in entries if entry.state is State.UNKNOWN]:
        output.hint("journal.open", n=len(unknown), tx_id=unknown[0].tx_id)


@journal_command.command("show", help=messages.text("help.journal.show"), epilog=_SCOPE)
@click.argument("tx_id", metavar="TX_ID")
@click.option("--bank-id", metavar="ID", default=None, help=options.say("journal_bank_id"))
@options.as_json()
def _show(tx_id: str, bank_id: str | None, as_json: bool) -> None:
    _report(_journal().find(tx_id, bank_id), as_json=as_json)


@journal_command.command(
    "resolve",
    help=messages.text("help.journal.resolve"),
    epilog=_SCOPE,
)
@click.argument("tx_id", metavar="TX_ID")
@click.option("--booked", is_flag=True, help=options.say("booked"))
@click.option("--not-booked", is_flag=True, help=options.say("not_booked"))
@click.option("--bank-id", metavar="ID", default=None, help=options.say("journal_bank_id"))
@click.option("--yes", is_flag=True, help=options.say("journal_yes"))
@options.as_json()
def _resolve(tx_id: str, booked: bool, not_booked: bool, bank_id: str | None, yes: bool, as_json: bool) -> None:
    if booked == not_booked:
        raise InputError("USAGE_ONE_OF", argument="--booked, --not-booked")
    journal = _journal()
    known = journal.find(tx_id, bank_id)
    if any(entry.is_open for entry in known) and not yes:
        _ask(known, booked=booked)
    entries = journal.resolve(tx_id, booked=booked, by=_user(), bank_id=bank_id)
    output.achieved()
    output.hint("journal.resolved", tx_id=tx_id, state=_answer(booked=booked))
    _report(entries, as_json=as_json)


def _journal() -> Journal:
    return Journal.of(options.settings())


def _ask(entries: Sequence[JournalEntry], *, booked: bool) -> None:
    """Show the order and ask the user to confirm the bank's answer.

    Raises:
        ConfirmationRejected: the user did not confirm.
    """
    entry = next(entry for entry in entries if entry.is_open)
    terminal = options.terminal()
    question = messages.text(
        "journal.ask_booked" if booked else "journal.ask_not_booked", tx_id=entry.tx_id, expires=entry.expires
    )
    output.note("\n".join(_rows(entry)))
    if not terminal.confirm(question):
        raise ConfirmationRejected("RESOLVE_NOT_CONFIRMED", tx_id=entry.tx_id)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _report(entries: Iterable[JournalEntry], *, as_json: bool) -> None:
    if as_json:
        output.document({"entries": list(entries)})
        return
    for entry in entries:
        output.lines(_rows(entry))


def _brief(entry: JournalEntry) -> list[str]:
    """Return an entry in two lines."""
    what = [_payment(entry.amount), _payment(entry.payee)] if entry.payee or entry.amount else [entry.order_type]
    who = f"{entry.subject_text} · {entry.token.label} ({entry.token.serial})"
    return [
        f"{entry.at}  {_state(entry)}  {entry.tx_id}  {entry.bank_id}",
        f"    {'  '.join(part for part in (*what, who) if part)}",
    ]


def _rows(entry: JournalEntry) -> list[str]:
    """Return an entry in full."""
    token = entry.token
    rows = [
        ("transaction", entry.tx_id),
        ("bank", entry.bank_id),
        ("type", entry.order_type),
        ("payee", _payment(entry.payee)),
        ("amount", _payment(entry.amount)),
        ("expires", entry.expires),
        ("signer", entry.subject_text),
        ("certificate", entry.certificate_serial),
        ("token", f"{token.label} ({token.manufacturer}, {token.model}, {token.serial})"),
        *(("state", _step(entry, n)) for n in range(len(entry.steps))),
    ]
    return output.table((messages.text(f"journal.{name}"), value) for name, value in rows)


def _step(entry: JournalEntry, n: int) -> str:
    step = entry.steps[n]
    state = _state(entry) if n == len(entry.steps) - 1 else messages.text(f"journal.state.{step.state.value}")
    by = messages.text("journal.by", by=step.by) if step.by else ""
    return "  ".join(part for part in (step.at, state, by) if part)


def _state(entry: JournalEntry) -> str:
    if entry.state is State.RESOLVED:
        return _answer(booked=bool(entry.booked))
    return messages.text(f"journal.state.{entry.state.value}")


def _answer(*, booked: bool) -> str:
    return messages.text("journal.state.booked" if booked else "journal.state.not_booked")


def _payment(part: object) -> str:
    return " ".join(part.values()) if isinstance(part, dict) else ""
