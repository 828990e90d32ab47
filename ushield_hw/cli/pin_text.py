"""Text for the state of a PIN."""

from __future__ import annotations

from ushield_hw import messages
from ushield_hw.pin_state import CountSource, PinState


def pin_state_text(state: PinState) -> str:
    """Return the state of a PIN as text; empty if nothing is known."""
    if state.locked:
        return messages.text("pin.locked")
    if state.final_try:
        return messages.text("pin.final_try")
    if state.retries_left is not None:
        return messages.text("pin.tries_left", n=state.retries_left)
    if state.low:
        return messages.text("pin.low")
    return messages.text("pin.fine") if state.locked is False and state.source is CountSource.FLAGS else ""
