"""The library's logger. It has a NullHandler; the program adds its own handlers.

Log records contain no PIN, and only the transaction id of an order.
"""

from __future__ import annotations

import logging
from typing import Final

LOG: Final = logging.getLogger("ushield_hw")
LOG.addHandler(logging.NullHandler())
