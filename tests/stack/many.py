"""Initialises many SoftHSM2 tokens in a separate process: ``python -m tests.stack.many N``.

The library's own calls enumerate all slots each time, which for hundreds of tokens takes a minute.
"""

from __future__ import annotations

import sys

from tests.soft import SOFTHSM
from ushield_hw.backend.pkcs11 import function_list, slots

SO_PIN = b"87654321"


def main(count: str) -> None:
    """Initialise tokens labelled t0000 and so on."""
    functions = function_list.Functions(str(SOFTHSM))
    functions.call("C_Initialize", None)
    for number in range(int(count)):
        free = slots.slot_ids(functions)[-1]
        functions.call("C_InitToken", free, SO_PIN, len(SO_PIN), f"t{number:04}".encode().ljust(32))


if __name__ == "__main__":
    main(*sys.argv[1:])
