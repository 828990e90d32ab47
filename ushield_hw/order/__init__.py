"""Orders: what a bank requests, what a screen shows, and what is signed are the same bytes.

A file is parsed into an :class:`Order` or refused with an error code. An order has one canonical form; a message format
turns it into the bytes that the token receives; screen lines are decoded from those bytes. To add a type of order,
write its table, as ``payment.py``, ``login.py`` and ``renewal.py`` do, and list it in ``order.TYPES``.

Names are imported on first use, because enumerating tokens does not need orders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ushield_hw.system.lazy import names_of

if TYPE_CHECKING:
    from ushield_hw.order.display import DisplayProfile
    from ushield_hw.order.formats import MessageFormat, decode, message_format
    from ushield_hw.order.lines import Line
    from ushield_hw.order.order import TYPES, Order
    from ushield_hw.order.screen import check_fits, pages, screen_lines
    from ushield_hw.order.use import KeyUse
    from ushield_hw.order.values import Rules

__all__ = [
    "TYPES",
    "DisplayProfile",
    "KeyUse",
    "Line",
    "MessageFormat",
    "Order",
    "Rules",
    "check_fits",
    "decode",
    "message_format",
    "pages",
    "screen_lines",
]

if not TYPE_CHECKING:
    __getattr__ = names_of(
        __name__,
        {
            "DisplayProfile": "display",
            "KeyUse": "use",
            "Line": "lines",
            "MessageFormat": "formats",
            "Order": "order",
            "Rules": "values",
            "TYPES": "order",
            "check_fits": "screen",
            "decode": "formats",
            "message_format": "formats",
            "pages": "screen",
            "screen_lines": "screen",
        },
    )
