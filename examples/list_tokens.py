"""List the tokens that are plugged in, with the state of the PIN and the certificates. Nothing logs in.

python list_tokens.py
"""

from __future__ import annotations

import sys

import ushield_hw as us


def main() -> int:
    found = us.survey()
    for problem in found.problems:
        print(f"{problem.module}: {problem.message}", file=sys.stderr)
    for token in found.tokens:
        print(f"{token.label}  {token.serial}  {token.uri}")
        state = token.pin_state()
        if state.locked:
            print("  the PIN is locked")
        elif state.retries_left is not None:
            print(f"  {state.retries_left} attempts left ({state.source.value})")
        for pair in token.pairs():
            print(f"  {pair.subject}  until {pair.facts.not_after:%Y-%m-%d}")
    return 0 if found.tokens else 3


if __name__ == "__main__":
    sys.exit(main())
