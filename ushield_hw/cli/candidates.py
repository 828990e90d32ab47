"""Values that the shell completes: tokens, keys and descriptors. Errors yield nothing: a shell cannot show them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from ushield_hw.errors import UShieldError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ushield_hw.token.key_pairs import Pair
    from ushield_hw.token.token import Token


def tokens(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return labels and serial numbers of the tokens that are inserted, for ``--token``."""
    from click.shell_completion import CompletionItem

    found = []
    for token in _tokens():
        about = f"{token.label} {token.serial} {token.driver.id}"
        found += [
            CompletionItem(name, help=about) for name in (token.label, token.serial) if name.startswith(incomplete)
        ]
    return found


def key_ids(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the key ids on the token of ``--token``, else on all tokens, for ``--key-id``."""
    from click.shell_completion import CompletionItem

    return [
        CompletionItem(pair.key_id, help=pair.subject)
        for token in _tokens(context.params.get("selector"))
        for pair in _pairs(token)
        if pair.key_id.startswith(incomplete)
    ]


def _tokens(selector: str | None = None) -> Iterator[Token]:
    from ushield_hw.token.choice import names
    from ushield_hw.token.discovery import find_tokens

    with suppress(UShieldError):
        yield from (token for token in find_tokens() if selector is None or names(selector, token))


def _pairs(token: Token) -> Iterator[Pair]:
    with suppress(UShieldError):
        yield from token.pairs()
