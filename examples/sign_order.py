"""Sign an order: the PIN is prompted for, the order is shown, and a person says yes.

    python sign_order.py SERIAL ORDER.json SIGNED.p7m

A program with windows or pages of its own gives the library its own ``Interaction``.
"""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

import ushield_hw as us


class Person:
    """Whom the library asks."""

    def request_pin(self, ask: us.PinRequest) -> str | None:
        left = "" if ask.state.retries_left is None else f", {ask.state.retries_left} attempts left"
        return getpass.getpass(f"PIN of {ask.label}{left}: ") or None

    def confirm_last_try(self, ask: us.PinRequest) -> bool:
        return input("This is the last attempt. Use it? [y/N] ") == "y"

    def confirm_order(self, ask: us.ConfirmRequest) -> bool:
        for line in ask.lines:
            print(f"{line.label}: {line.value}")
        return input("Sign? [y/N] ") == "y"

    def compare_on_token(self, ask: us.ConfirmRequest) -> None:
        print("Compare with the screen of the token, then press OK there:")
        for line in ask.lines:
            print(f"{line.label}: {line.value}")

    def waiting_for_token(self, action: us.TokenAction) -> None:
        print("Waiting for the token …")


def main(serial: str, order_file: str, signed_file: str) -> int:
    order = us.Order.parse(Path(order_file).read_bytes())
    try:
        with us.find_token(serial=serial).open(Person()) as session:
            signed = us.sign(order, session)
    except us.errors.PinIncorrect as error:
        print(f"wrong PIN, {error.state.retries_left} attempts left", file=sys.stderr)
        return 4
    except us.errors.OutcomeUnknown as error:
        print(f"it is not known whether {error.tx_id} was signed: ask the bank", file=sys.stderr)
        return 9
    except us.UShieldError as error:
        print(f"{error.message} {error.remedy}", file=sys.stderr)
        return 1
    Path(signed_file).write_bytes(signed.der)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
