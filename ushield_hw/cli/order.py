"""``ushield order new``: write a fresh payment order, as a bank's server would issue it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from ushield_hw import messages
from ushield_hw.cli import options, output
from ushield_hw.cli.help import Command, Group
from ushield_hw.cli.terminal import Terminal
from ushield_hw.errors import InputError
from ushield_hw.order import Order
from ushield_hw.order.fresh import renewed

_LONGEST_MINUTES: Final = 24 * 60
_CNAPS_DIGITS: Final = 12
# Option -> its place in the order; the bank's code is written as cnaps or bic.
_PLACES: Final = {
    "payee_name": "payee.name",
    "payee_account": "payee.account",
    "payee_bank_name": "payee.bank.name",
    "payee_bank": "payee.bank.",
    "payer": "payer.account",
    "amount": "amount.value",
    "purpose": "purpose",
    "bank_id": "bank.id",
    "origin": "bank.origin",
}
_TEXTS: Final = {"bank_id": "order_bank_id", "origin": "order_origin"}  # where an option's text has another name


@click.group("order", cls=Group, help=messages.text("help.order"))
def order_command() -> None:
    """Write orders."""


@order_command.command("new", cls=Command, help=messages.text("help.order.new"))
@click.option("--payee-name", metavar="NAME", help=options.say("payee_name"))
@click.option("--payee-account", metavar="ACCOUNT", help=options.say("payee_account"))
@click.option("--payee-bank-name", metavar="NAME", help=options.say("payee_bank_name"))
@click.option("--payee-bank", metavar="CNAPS|BIC", help=options.say("payee_bank"))
@click.option("--payer", metavar="ACCOUNT", help=options.say("payer"))
@click.option("--amount", metavar="VALUE", help=options.say("amount"))
@click.option("--currency", metavar="CODE", default="CNY", show_default=True, help=options.say("currency"))
@click.option("--purpose", metavar="TEXT", help=options.say("purpose"))
@click.option("--bank-id", metavar="ID", help=options.say("order_bank_id"))
@click.option("--origin", metavar="URL", help=options.say("order_origin"))
@click.option("--order-no", metavar="REFERENCE", help=options.say("order_no"))
@click.option(
    "--minutes", type=click.IntRange(1, _LONGEST_MINUTES), default=5, show_default=True, help=options.say("minutes")
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help=options.say("order_out"))
@options.as_json()
def new(
    currency: str, order_no: str | None, minutes: int, out: Path | None, as_json: bool, **given: str | None
) -> None:
    """Write a payment order; ask at the terminal for what was not given."""
    if out is not None:
        options.check_folder(out)
        options.refuse_existing(out)
    order = _asked(given, currency, order_no, timedelta(minutes=minutes))
    if out is not None:
        options.write_new(out, f"{json.dumps(order.to_json(), ensure_ascii=False, indent=2)}\n".encode())
        output.hint("order.written", file=out, expires=order.get("expires"))
    if as_json or out is None:
        output.document(order.to_json())


def _asked(given: Mapping[str, str | None], currency: str, order_no: str | None, life: timedelta) -> Order:
    """Return the order, with the missing values asked for at the terminal, and again if they are invalid.

    Raises:
        InputError: ``USAGE_MISSING`` without a terminal; otherwise what is invalid.
    """
    values = {name: value for name, value in given.items() if value is not None}
    missing = [name for name in _PLACES if name not in values]
    if missing and not Terminal.present():
        names = [f"--{name.replace('_', '-')}" for name in missing]
        raise InputError("USAGE_MISSING", argument=", ".join(names), missing=names, command="ushield order new")
    for name in missing:
        values[name] = _answer(name)
    while True:
        try:
            return Order.from_json(_document(values, currency, order_no, life), rules=options.rules())
        except InputError as error:
            wrong = next(
                (name for name in missing if str(error.details.get("place", "")).startswith(_PLACES[name])), None
            )
            if wrong is None:
                raise
            output.note(error.message)
            values[wrong] = _answer(wrong)


def _answer(name: str) -> str:
    return options.terminal().ask(f"{options.say(_TEXTS.get(name, name)).rstrip('.。')}:")


def _document(values: Mapping[str, str], currency: str, order_no: str | None, life: timedelta) -> dict[str, Any]:
    code = values["payee_bank"]
    kind = "cnaps" if code.isdigit() or len(code) == _CNAPS_DIGITS else "bic"
    document = {
        "type": "ushield.payment/1",
        "bank": {"id": values["bank_id"], "origin": values["origin"]},
        "order_no": order_no or datetime.now(UTC).strftime("N%Y%m%d-%H%M%S"),
        "payer": {"account": values["payer"]},
        "payee": {
            "name": values["payee_name"],
            "account": values["payee_account"],
            "bank": {"name": values["payee_bank_name"], kind: code},
        },
        "amount": {"currency": currency, "value": values["amount"]},
        "purpose": values["purpose"],
    }
    return renewed(document, life)
