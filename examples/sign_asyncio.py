"""Sign several orders from asyncio. The library is synchronous and thread-safe: each call runs in a thread.

    python sign_asyncio.py SERIAL PIN_FILE FOLDER

signs every ``*.json`` in a folder, unattended: the signatures say that nobody has confirmed.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import ushield_hw as us


class PinFromFile(us.Silent):
    """Gives the PIN, and refuses whatever else would need a person."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def request_pin(self, ask: us.PinRequest) -> str | None:
        return self._file.read_text().strip()


async def main(serial: str, pin_file: str, folder: str) -> int:
    token = await asyncio.to_thread(us.find_token, serial=serial)
    with await asyncio.to_thread(token.open, PinFromFile(Path(pin_file))) as session:

        async def sign(file: Path) -> str:
            order = us.Order.parse(file.read_bytes())
            signed = await asyncio.to_thread(us.sign, order, session, attendance=us.Attendance.NOBODY)
            file.with_suffix(".p7m").write_bytes(signed.der)
            return signed.tx_id

        for tx_id in await asyncio.gather(*map(sign, sorted(Path(folder).glob("*.json")))):
            print(tx_id)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
