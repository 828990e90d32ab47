"""``ushield pin status|verify|change|unblock``."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from ushield_hw import messages
from ushield_hw.cli import options, output
from ushield_hw.cli.help import Group
from ushield_hw.cli.pin_text import pin_state_text
from ushield_hw.drivers.family import Unblock
from ushield_hw.errors import InputError
from ushield_hw.interaction import CountSource, PinKind, PinState
from ushield_hw.token.pin_operations import change_pin, unblock_pin, verify_pin


def age_days(changed_at: str) -> int:
    """Return how many days ago a PIN was changed."""
    return max(0, (datetime.now(UTC) - datetime.fromisoformat(changed_at)).days)


def _print(state: PinState, as_json: bool, done: str | None = None) -> None:
    if done:
        output.achieved()
    if as_json:
        output.document({"pin": state})
        return
    rows = [messages.text(done)] if done else []
    rows.append(pin_state_text(state) or messages.text("pin.unknown"))
    if state.source is not CountSource.NONE:
        rows.append(messages.text(f"pin.source_{state.source.value}"))
    if state.changed_at is not None:
        rows.append(messages.text("pin.changed_at", date=state.changed_at[:10], n=age_days(state.changed_at)))
    output.lines(rows)


@click.group("pin", cls=Group, help=messages.text("help.pin"))
def pin_command() -> None:
    """PIN commands."""


@pin_command.command("status", help=messages.text("help.pin.status"))
@options.token()
@options.as_json()
def _status(selector: str | None, as_json: bool) -> None:
    _print(options.find(selector).pin_state(), as_json)


@pin_command.command("verify", help=messages.text("help.pin.verify"))
@options.token()
@options.pin_source()
@options.last_try()
@options.as_json()
def _verify(selector: str | None, pin_source: str | None, allow_last_try: bool, as_json: bool) -> None:
    person = options.person({PinKind.USER: pin_source}, allow_last_try=allow_last_try)
    _print(verify_pin(options.find(selector), person), as_json, "pin.correct")


@pin_command.command("change", help=messages.text("help.pin.change"))
@options.token()
@options.pin_source()
@click.option("--new-pin-source", metavar="FILE|-", default=None, help=options.say("new_pin_source"))
@options.last_try()
@options.as_json()
def _change(
    selector: str | None, pin_source: str | None, new_pin_source: str | None, allow_last_try: bool, as_json: bool
) -> None:
    sources = {PinKind.USER: pin_source, PinKind.NEW: new_pin_source}
    person = options.person(sources, allow_last_try=allow_last_try)
    _print(change_pin(options.find(selector), person), as_json, "pin.changed")


@pin_command.command("unblock", help=messages.text("help.pin.unblock"))
@options.token()
@click.option("--so-pin-source", metavar="FILE|-", default=None, help=options.say("so_pin_source"))
@click.option("--puk-source", metavar="FILE|-", default=None, help=options.say("puk_source"))
@click.option("--new-pin-source", metavar="FILE|-", default=None, help=options.say("new_pin_source"))
@options.as_json()
def _unblock(
    selector: str | None, so_pin_source: str | None, puk_source: str | None, new_pin_source: str | None, as_json: bool
) -> None:
    person = options.person({PinKind.SO: so_pin_source, PinKind.PUK: puk_source, PinKind.NEW: new_pin_source})
    token = options.find(selector)
    takes_puk = token.driver.pin.unblock is Unblock.SET_PIN_UNLOGGED
    if (so_pin_source if takes_puk else puk_source) is not None and token.driver.pin.unblock is not Unblock.NONE:
        raise InputError("PIN_UNBLOCK_OTHER", argument="--puk-source" if takes_puk else "--so-pin-source")
    _print(unblock_pin(token, person), as_json, "pin.unblocked")
