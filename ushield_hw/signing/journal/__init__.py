"""The signing journal: what was about to be signed and what was signed. A signer signs each order once.

It survives a crash, so that nothing is signed twice and no signed order is lost (docs/journal.md). For each order and
signer the states are prepared -> sign-called (on disk before C_Sign) -> signed | rejected | unknown. If a record is in
state sign-called and no process holds the order's lock, its process ended while the token may have been signing: the
state is unknown. Only the bank knows the outcome, and its answer resolves the entry.
"""

from ushield_hw.signing.journal.entry import JournalEntry, Signatory, State, Step, TokenName
from ushield_hw.signing.journal.journal import Attempt, Journal

__all__ = ["Attempt", "Journal", "JournalEntry", "Signatory", "State", "Step", "TokenName"]
