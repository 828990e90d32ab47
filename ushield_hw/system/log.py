"""The logger of this library. It writes nowhere until the program gives it a handler.

What it gets is redacted: no PIN, and of an order its transaction id only.
"""

from __future__ import annotations

import logging
from typing import Final

LOG: Final = logging.getLogger("ushield_hw")
LOG.addHandler(logging.NullHandler())
