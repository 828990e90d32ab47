"""The signing journal: what was about to be signed, and what was; one order is signed once by a person.

It survives a crash, so that nothing is signed twice and nothing signed is lost (docs/journal.md). For each order and
signer it goes prepared -> sign-called (on the disk before C_Sign) -> signed | rejected | unknown. A record that says
sign-called while nobody holds the order's lock is of a process that ended while the token may have been signing:
unknown. Only the bank knows what became of it, and its answer resolves it.
"""

from ushield_hw.signing.journal.entry import JournalEntry, Signatory, State, Step, TokenName
from ushield_hw.signing.journal.journal import Attempt, Journal

__all__ = ["Attempt", "Journal", "JournalEntry", "Signatory", "State", "Step", "TokenName"]
