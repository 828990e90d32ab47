"""The definition of a fuzz target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from ushield_hw import messages
from ushield_hw.errors import UShieldError

Mutate = Callable[[bytes, Random], bytes]

seen: Final[Counter[str]] = Counter()
"""What became of the inputs: printed at the end, to see that the way to a yes was taken too."""


@dataclass(frozen=True)
class Target:
    """One parser under test.

    Attributes:
        seeds: the initial inputs.
        one: runs one input; raises on a violation.
        mutate: derives an input from another; None: libFuzzer's mutations only.
    """

    seeds: Sequence[bytes]
    one: Callable[[bytes], None]
    mutate: Mutate | None = None


def refused(error: UShieldError, *kinds: type[UShieldError]) -> None:
    """Check an error: one of these types, with a message and a remedy without unfilled placeholders."""
    seen[f"refused: {error.code} {error.details.get('problem', '')}".rstrip()] += 1
    assert type(error) in kinds, f"{type(error).__name__} {error.code}"
    for lang in messages.LANGUAGES:
        messages.set_language(lang)
        words = error.message + error.remedy
        assert error.code not in words, words
    messages.set_language(None)
