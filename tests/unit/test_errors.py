"""Errors: each class and code used in the source has a message and a remedy in both languages."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from string import Formatter

import pytest

from ushield_hw import errors, messages
from ushield_hw.cli import exits
from ushield_hw.errors import UShieldError, jsonable
from ushield_hw.messages import LANGUAGES, Language

pytestmark = pytest.mark.unit

PACKAGE = Path(errors.__file__).parents[1]


def subclasses(kind: type[UShieldError] = UShieldError) -> Iterator[type[UShieldError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from subclasses(below)


CLASSES = [kind for kind in subclasses() if kind.__module__.startswith("ushield_hw.")]
OURS = [kind for kind in CLASSES if kind.__module__.startswith(errors.__name__)]

every_language = pytest.mark.parametrize("lang", LANGUAGES)


# --- codes in the source ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Use:
    """A place where an error with a specific code is created, and the details passed there."""

    code: str
    place: str
    facts: frozenset[str]
    more: bool

    def __str__(self) -> str:
        return f"{self.code} {self.place}"


def uses() -> Iterator[Use]:
    """Find calls of error classes whose first argument is a code or a variable that was assigned one."""
    names = {kind.__name__ for kind in CLASSES}
    for file in sorted(PACKAGE.rglob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        given = sorted((found for node in nodes for found in assigned(node)), key=lambda found: found[0])
        for node in nodes:
            if isinstance(node, ast.Call) and node.args and called(node) in names:
                facts = frozenset(word.arg for word in node.keywords if word.arg)
                more = any(word.arg is None for word in node.keywords)
                for code in codes_of(node.args[0], {name: value for line, name, value in given if line <= node.lineno}):
                    yield Use(code, f"{file.relative_to(PACKAGE)}:{node.lineno}", facts, more)
            elif isinstance(node, ast.Call) and called(node) == "SecretFile":  # the codes of a kind of file
                for code in (found for argument in node.args for found in codes_of(argument, {})):
                    yield Use(code, f"{file.relative_to(PACKAGE)}:{node.lineno}", frozenset(), more=True)


def assigned(node: ast.AST) -> Iterator[tuple[int, str, ast.expr]]:
    match node:
        case ast.Assign(targets=[ast.Name(name)], value=value) | ast.AnnAssign(target=ast.Name(name), value=value):
            if value is not None:
                yield value.lineno, name, value


def called(node: ast.Call) -> str:
    match node.func:
        case ast.Name(name) | ast.Attribute(attr=name):
            return name
    return ""


def codes_of(node: ast.expr, given: dict[str, ast.expr]) -> Iterator[str]:
    match node:
        case ast.Constant(str(code)):
            yield code
        case ast.Name(name) if name in given:
            yield from codes_of(given[name], {})
        case ast.IfExp(body=body, orelse=orelse):
            yield from codes_of(body, given)
            yield from codes_of(orelse, given)


USES = list(uses())


def test_the_walk_finds_them() -> None:
    found = {use.code for use in USES}
    assert {"TX_ID_REUSED", "PIN_FILE_MODE", "JOURNAL_UNUSABLE", "ORDER_EXPIRED", "READER_BUSY"} <= found
    assert len(found) > 60


@every_language
@pytest.mark.parametrize("code", sorted({use.code for use in USES} | {kind.code for kind in CLASSES}))
def test_every_code_has_a_sentence_and_a_remedy(code: str, lang: Language) -> None:
    assert messages.known(code, lang)
    assert messages.known(f"{code}.remedy", lang)


def placeholders(message_id: str) -> set[str]:
    found = messages.text(message_id, "en")  # without values, each {name} is kept
    return {name for _, name, _, _ in Formatter().parse(found) if name}


@pytest.mark.parametrize("use", [use for use in USES if not use.more], ids=str)
def test_every_sentence_gets_its_facts(use: Use) -> None:
    wanted = placeholders(use.code) | placeholders(f"{use.code}.remedy")
    assert wanted - use.facts == set()


# --- class hierarchy --------------------------------------------------------------------------------------------------


def test_the_tree_of_the_design() -> None:
    drawn = {
        "InputError": [],
        "DriverError": ["DriverNotFound", "DriverLoadError", "DriverUntrusted", "DescriptorError"],
        "TokenError": [
            *("TokenNotFound", "TokenMultiple", "TokenRemoved", "TokenNotInitialized", "TokenBusy", "TokenFull"),
        ],
        "CertificateError": [
            *("CertificateNotFound", "CertificateMultiple", "CertificateExpired", "KeyMismatch"),
            *("RenewalRejected", "KeyGenerationUnavailable"),
        ],
        "ConfirmationError": [
            *("ConfirmationRejected", "ConfirmationCancelled", "ConfirmationTimedOut", "OutcomeUnknown"),
        ],
        "InvalidError": ["BadSignature", "Mismatch", "UntrustedSigner", "Revoked", "Replayed"],
    }
    for parent, children in drawn.items():
        for child in children:
            assert issubclass(getattr(errors, child), getattr(errors, parent)), child
    assert issubclass(errors.InvalidError, errors.VerificationError)


def test_every_class_is_drawn_in_the_docstring() -> None:
    drawing = str(errors.__doc__)
    assert [kind.__name__ for kind in OURS if kind.__name__ not in drawing] == []


def test_what_a_token_or_a_person_did_is_no_programming_mistake() -> None:
    assert [kind for kind in CLASSES if issubclass(kind, (ValueError, TypeError, LookupError, OSError))] == []


def test_codes_of_classes_are_unique() -> None:
    own = [kind.code for kind in OURS]
    assert len(set(own)) == len(own)


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: str(kind.__name__))
def test_every_class_has_an_exit_code(kind: type[UShieldError]) -> None:
    special = {
        **dict.fromkeys(["LAST_TRY_NOT_CONFIRMED", "PIN_CANCELLED"], 7),
        "PIN_LOCKED": 5,
        "CONFIRMATION_TIMED_OUT": 8,
        "OUTCOME_UNKNOWN": 9,
        "DESCRIPTOR_INVALID": 2,  # a user-written file
        "BANK_UNREACHABLE": 11,
        "REQUEST_REFUSED": 6,
    }
    by_parent: list[tuple[type[UShieldError], int]] = [
        (errors.InputError, 2),
        (errors.DriverError, 3),
        (errors.TokenError, 3),
        (errors.PinError, 4),
        (errors.CertificateError, 6),
        (errors.ConfirmationError, 7),
        (errors.InvalidError, 10),
        (errors.VerificationError, 11),
        (errors.NetworkError, 11),
        (errors.RequestRefused, 6),
        (errors.StorageError, 12),
    ]
    general = next((code for parent, code in by_parent if issubclass(kind, parent)), 1)
    assert exits.code_of(kind.__new__(kind)) == special.get(kind.code, general)  # however it is created


# --- one error --------------------------------------------------------------------------------------------------------


def test_details_are_attributes() -> None:
    error = errors.DriverLoadError(path="/lib/x.so", reason="hung")
    assert (error.path, error.reason, error.details) == ("/lib/x.so", "hung", {"path": "/lib/x.so", "reason": "hung"})
    assert (errors.TokenNotFound().findings, errors.PinIncorrect().state.locked) == ((), None)
    error.path = "/lib/y.so"
    assert error.details["path"] == "/lib/y.so"
    with pytest.raises(AttributeError):
        _ = error.nonsense  # type: ignore[attr-defined]


def test_an_error_says_what_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    error = errors.InputError("FILE_UNREADABLE", file="order.json", reason="No such file")
    monkeypatch.setattr(messages, "_chosen", "en")
    assert str(error) == error.message == "order.json cannot be read: No such file."
    assert error.remedy.startswith("Check the path")
    monkeypatch.setattr(messages, "_chosen", "zh")
    assert "order.json" in str(error)
    assert not error.remedy.isascii()


def test_a_value_cannot_move_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_chosen", "en")
    error = errors.InputError("FILE_UNREADABLE", file="\x1b[2J\u202e", reason="x")
    assert str(error).isprintable()


def test_the_document_of_an_error() -> None:
    document = errors.TokenMultiple(candidates=["a", "b"], n=2).to_json()
    assert list(document) == ["code", "message", "remedy", "details"]
    assert (document["code"], document["details"]) == ("TOKEN_MULTIPLE", {"candidates": ["a", "b"], "n": 2})
    json.dumps(document)


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (3, 3),
        ("x", "x"),
        (b"\x0a\xff", "0aff"),
        (Path("/x"), "/x"),
        (Colour.RED, "red"),
        ((1, [b"\x01"]), [1, ["01"]]),
        ({"a": {Colour.RED}}, {"a": ["red"]}),
        (errors.TokenBusy(holder="x").details, {"holder": "x"}),
    ],
)
def test_jsonable(value: object, plain: object) -> None:
    assert jsonable(value) == plain
