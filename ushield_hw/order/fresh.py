"""New orders: the parts that make each order unique and limit its life."""

from __future__ import annotations

import os
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ushield_hw.order.times import time_text


def renewed(document: Mapping[str, Any], life: timedelta, *, now: datetime | None = None) -> dict[str, Any]:
    """Return an order's JSON document with a new transaction id, nonce, creation and expiry time.

    Args:
        document: the order; these four members are added or replaced.
        life: how long it can be signed, at most 24 hours.
        now: the time of creation; None: the current time.

    Returns:
        The document; not yet checked, see ``Order.from_json``.
    """
    created = (now or datetime.now(UTC)).replace(microsecond=0)
    return {
        **document,
        "tx_id": str(uuid.UUID(bytes=os.urandom(16), version=4)),
        "created": time_text(created),
        "expires": time_text(created + life),
        "nonce": urlsafe_b64encode(os.urandom(32)).decode().rstrip("="),
    }
