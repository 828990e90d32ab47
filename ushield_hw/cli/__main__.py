"""``python -m ushield_hw.cli`` is ``ushield``."""

from ushield_hw.cli import main

main()
