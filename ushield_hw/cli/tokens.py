"""``ushield list`` and ``ushield info``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import click

from ushield_hw import messages
from ushield_hw.backend.model import Contents
from ushield_hw.cli import options, output
from ushield_hw.cli.expiry import days_left, warn_of
from ushield_hw.cli.help import Command
from ushield_hw.cli.pin_text import pin_state_text
from ushield_hw.errors import UShieldError
from ushield_hw.interaction import PinState
from ushield_hw.token.discovery import survey
from ushield_hw.token.key_pairs import Pair
from ushield_hw.token.token import Problem, Token

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Seen:
    """What could be read of a token, and the errors; an uninitialized token is listed too."""

    pin: PinState
    pairs: tuple[Pair, ...]
    problems: tuple[Problem, ...]

    @classmethod
    def of(cls, token: Token) -> _Seen:
        problems: list[Problem] = []

        def tried(read: Callable[[], T], otherwise: T) -> T:
            try:
                return read()
            except UShieldError as error:
                problems.append(Problem(token.module, error.code, error.message))
                return otherwise

        pin, contents = tried(token.pin_state, PinState()), tried(token.contents, Contents())
        return cls(pin, token.pairs(contents), (*problems, *token.problems(contents)))


def token_document(token: Token) -> dict[str, object]:
    """Return the JSON object of a token."""
    seen = _Seen.of(token)
    return {
        "serial": token.serial,
        "label": token.label,
        "manufacturer": token.info.manufacturer,
        "model": token.info.model,
        "uri": token.uri,
        "driver": token.driver.id,
        "module": str(token.module),
        "also_in": [str(path) for path in token.also_in],
        "pin": seen.pin,
        "certificates": [pair.to_json() for pair in seen.pairs],
        "problems": seen.problems,
    }


def certificate_rows(pairs: tuple[Pair, ...]) -> list[tuple[str, str]]:
    """Return label and text of each certificate with its status."""
    return [(messages.text("list.certificate"), _certificate_text(pair)) for pair in pairs]


def _certificate_text(pair: Pair) -> str:
    facts, now = pair.facts, datetime.now(UTC)
    days = days_left(facts, now)
    if facts.not_before > now:
        state = messages.text("cert.not_yet", since=f"{facts.not_before:%Y-%m-%d}")
    elif days < 0:
        state = messages.text("cert.expired", date=f"{facts.not_after:%Y-%m-%d}")
    else:
        state = messages.text("cert.until", date=f"{facts.not_after:%Y-%m-%d}", n=days)
    if pair.pending or pair.superseded:
        state = f"{state} · {messages.text('cert.pending' if pair.pending else 'cert.superseded')}"
    key = {True: "cert.with_key", False: "cert.no_key", None: "cert.key_hidden"}[pair.has_key]
    return f"{pair.subject} · {state} · {messages.text(key)}"


def _token_rows(token: Token) -> list[tuple[str, object]]:
    info, seen = token.info, _Seen.of(token)
    say_problems(seen.problems)
    warn_of(seen.pairs, token.uri)
    return [
        (messages.text("list.serial"), token.serial),
        (messages.text("list.model"), f"{info.manufacturer} {info.model}".strip()),
        (messages.text("list.driver"), f"{token.driver.id} ({token.module})"),
        (messages.text("list.also_in"), ", ".join(map(str, token.also_in))),
        (messages.text("list.pin"), pin_state_text(seen.pin) or messages.text("pin.unknown")),
        *certificate_rows(seen.pairs),
    ]


def say_problems(problems: tuple[Problem, ...]) -> None:
    """Print on stderr what could not be read."""
    for problem in problems:
        output.hint("list.problem", module=problem.module, error=problem.error, message=problem.message)


@click.command("list", cls=Command, help=messages.text("help.list"))
@options.as_json()
def list_command(as_json: bool) -> None:
    """List all tokens."""
    with output.progress("cli.looking"):
        seen = survey(options.settings())
    if as_json:
        output.document({"tokens": [token_document(token) for token in seen.tokens], "problems": seen.problems})
        return
    for token in seen.tokens:
        output.lines([token.label or token.serial, *output.table(_token_rows(token), "  "), f"  {token.uri}", ""])
    say_problems(seen.problems)
    if not seen.tokens:
        output.hint("list.none_now" if any(map(_is_in_the_way, seen.problems)) else "list.none")


def _is_in_the_way(problem: Problem) -> bool:
    """Return whether a problem may hide a token: a card in use, or a service or module that does not answer."""
    return bool(problem.readers) or problem.error in {"PCSC_NO_ANSWER", "MODULE_HUNG"}


@click.command("info", cls=Command, help=messages.text("help.info"))
@options.token()
@options.as_json()
def info_command(selector: str | None, as_json: bool) -> None:
    """Show all details of one token."""
    token = options.find(selector)
    about, mechanisms = token.module_info(), token.mechanisms()
    extra = {
        "firmware_version": ".".join(map(str, token.info.firmware_version)),
        "module_description": about.description,
        "module_manufacturer": about.manufacturer,
        "module_version": ".".join(map(str, about.library_version)),
        "cryptoki_version": ".".join(map(str, about.cryptoki_version)),
        "isolation": token.isolation,
        "named_by": token.named_by,
        "confirm": token.driver.confirm.kind,
        "mechanisms": mechanisms,
    }
    if as_json:
        output.document(token_document(token) | extra)
        return
    rows = [(messages.text(f"info.{name}"), _text(value)) for name, value in extra.items()]
    output.lines([token.label or token.serial, *output.table([*_token_rows(token), *rows], "  "), f"  {token.uri}"])


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(getattr(value, "value", value))
