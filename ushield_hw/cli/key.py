"""``ushield key list|delete``: key pairs on a token, with or without a certificate."""

from __future__ import annotations

from collections.abc import Iterator

import click

from ushield_hw import messages
from ushield_hw.certificates.renewal import is_under_way
from ushield_hw.cli import options, output
from ushield_hw.cli.help import Group
from ushield_hw.cli.terminal import Terminal
from ushield_hw.errors import ConfirmationRejected, InputError
from ushield_hw.interaction import PinKind
from ushield_hw.token.choice import key_choice
from ushield_hw.token.key_inventory import Entry, check_not_in_use, delete, entries, of_session, pick
from ushield_hw.token.key_pairs import ANY, KeyChoice
from ushield_hw.token.token import Token


@click.group("key", cls=Group, help=messages.text("help.key"))
def key_command() -> None:
    """Commands for key pairs on a token."""


@key_command.command("list", help=messages.text("help.key.list"))
@options.token()
@options.pin_source()
@options.last_try()
@options.as_json()
def _list(selector: str | None, pin_source: str | None, allow_last_try: bool, as_json: bool) -> None:
    if pin_source is None:
        token = options.find(selector)
        contents = token.contents()
        found = entries(token.pairs(contents), contents.keys)
    else:
        person = options.person({PinKind.USER: pin_source}, allow_last_try=allow_last_try)
        with options.find(selector).open(person, purpose="keys") as session:
            found = of_session(session)
    if as_json:
        output.document({"keys": found})
    elif not found:
        output.hint("key.none")
    else:
        output.lines(_line(entry) for entry in found)
    if pin_source is None and not as_json:
        output.hint("key.may_hide")


@key_command.command("delete", help=messages.text("help.key.delete"))
@options.token()
@options.key_id()
@options.pin_source()
@options.last_try()
@click.option("--yes", is_flag=True, help=options.say("yes"))
@options.as_json()
def _delete(
    selector: str | None, key_id: str | None, pin_source: str | None, allow_last_try: bool, yes: bool, as_json: bool
) -> None:
    choice = key_choice(selector, key_id)
    if choice == ANY:
        raise InputError("USAGE_ONE_OF", argument="--key-id, --token 'pkcs11:...;object=LABEL'")
    if not yes and not Terminal.present():
        raise ConfirmationRejected("DELETION_NOT_CONFIRMED")
    person = options.person({PinKind.USER: pin_source}, allow_last_try=allow_last_try)
    token = options.find(selector)
    with token.open(person, purpose="keys") as session:
        entry = pick(of_session(session), choice)
        check_not_in_use(entry)
        terminal = options.terminal()
        shown = [messages.text("prompt.deletion"), *output.table(list(_rows(token, entry)), "  ")]
        if not yes and not terminal.confirm("\n".join([*shown, messages.text("prompt.delete")])):
            raise ConfirmationRejected("DELETION_NOT_CONFIRMED")
        delete(session, entry)
    if as_json:
        output.document({"deleted": entry})
    else:
        output.lines([messages.text("key.deleted", key=entry.brief())])


def _line(entry: Entry) -> str:
    said = [messages.text("key.certificate" if entry.pairs or entry.unclear else "key.no_certificate")]
    said += [f"{pair.subject} ({pair.fingerprint})" for pair in (*entry.pairs, *entry.unclear)]
    if not entry.has_private:
        said.append(messages.text("key.public_only"))
    return f"{entry.brief()} · {' · '.join(said)}"


def _rows(token: Token, entry: Entry) -> Iterator[tuple[str, object]]:
    """Yield the details of a key and what depends on it."""
    yield messages.text("key.row_token"), token.label or token.serial
    yield messages.text("key.row_key_id"), entry.key_id or "-"
    yield messages.text("key.row_label"), entry.label or "-"
    yield messages.text("key.row_kind"), entry.kind
    for pair in (*entry.pairs, *entry.unclear):
        yield messages.text("list.certificate"), f"{pair.subject} ({pair.fingerprint})"
    if is_under_way(token.settings, token.info.identity, KeyChoice(bytes.fromhex(entry.key_id))):
        yield messages.text("key.row_renewal"), messages.text("key.renewal_under_way")
