"""Print an event when a token is inserted or removed, for so many seconds.

python watch_tokens.py SECONDS
"""

from __future__ import annotations

import sys
import time

import ushield_hw as us


def main(seconds: str) -> int:
    until = time.monotonic() + float(seconds)
    with us.watch_tokens() as events:
        while (left := until - time.monotonic()) > 0:
            event = events.get(timeout_s=left)
            if event is not None:
                print(f"{event.at:%H:%M:%S} {event.kind.value} {event.token.label}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
