"""The command ``ushield``: parse, call the library, print. Data goes to stdout; everything else to stderr.

Commands are imported when they are called: a person waits.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code (see ``cli.exits``)."""
    if not sys.warnoptions:  # what one library has to say about another is not for a person
        warnings.simplefilter("ignore")
    try:
        from ushield_hw.cli.app import run
    except KeyboardInterrupt:  # nothing has been done yet
        sys.exit(130)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # closed by whoever started us
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))
