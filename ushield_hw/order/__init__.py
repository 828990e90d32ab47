"""Orders: what a bank asks for, what a screen shows, and what is signed are the same bytes.

A file becomes an :class:`Order` or is refused by name; an order has one canonical form; a message format turns it into
the bytes that the token receives; screen lines come from those bytes. To add a type of order, write its table, as
``payment.py``, ``login.py`` and ``renewal.py`` do, and list it in ``order.TYPES``.
"""

from ushield_hw.order.formats import MessageFormat, decode, message_format
from ushield_hw.order.lines import Line
from ushield_hw.order.order import TYPES, Order
from ushield_hw.order.schema import KeyUse
from ushield_hw.order.screen import DisplayProfile, check_fits, pages, screen_lines
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
