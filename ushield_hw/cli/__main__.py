"""``python -m ushield_hw.cli``: the same as ``ushield``."""

from ushield_hw.cli import main

main()
