"""The base class of all errors: code, message, remedy, typed details, and the module failure behind the error."""

from __future__ import annotations

from enum import Enum, Flag, auto
from typing import Generic, NamedTuple, TypeVar, cast, overload

from ushield_hw import messages

T = TypeVar("T")
E = TypeVar("E", bound="UShieldError")


class Detail(Generic[T]):
    """A typed attribute of an error, stored in its ``details``.

    Args:
        default: the value if the detail was not given.
    """

    def __init__(self, default: T) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, error: None, owner: type) -> Detail[T]: ...

    @overload
    def __get__(self, error: UShieldError, owner: type) -> T: ...

    def __get__(self, error: UShieldError | None, owner: type) -> T | Detail[T]:
        return self if error is None else cast("T", error.details.get(self._name, self._default))

    def __set__(self, error: UShieldError, value: T) -> None:
        error.details[self._name] = value


class Step(Enum):
    """The operation in which a vendor module failed."""

    LOGIN = "login"
    SET_PIN = "set-pin"
    SIGN = "sign"
    OTHER = "other"


class Trait(Flag):
    """What a vendor module's return code means for the caller. A code may have several traits, or none."""

    NONE = 0
    VAGUE = auto()  # unspecific; some modules also return it before they have noticed that a token was removed
    NOTHING_DONE = auto()  # the call was refused; nothing was changed
    NO_LOGIN = auto()  # the token does not support login; no PIN was checked
    LOGGED_IN = auto()  # already logged in; no PIN was checked
    ATTRIBUTE_FIXED = auto()  # this attribute of an object cannot be changed
    UNSUPPORTED = auto()  # the module does not implement the function
    LENGTH_UNSETTLED = auto()  # the output length keeps differing from the announced one


class ModuleFailure(NamedTuple):
    """A failed call of a vendor module.

    Attributes:
        function: the API function, such as ``C_Login``.
        code: name of the return code, such as ``CKR_PIN_INCORRECT``.
        step: the operation that the call belongs to.
        traits: what the code means.
    """

    function: str
    code: str
    step: Step
    traits: Trait


class UShieldError(Exception):
    """Base class of all errors of the library.

    Args:
        code: error code in capitals, the id of the message and the remedy in ``messages``; None: the class's own code.
        **details: facts for programs and for the message. Those that a class declares are also attributes. Never
            contains a PIN.

    Attributes:
        code: the error code.
        details: the details.
        failure: the vendor module's failure that caused this error, if any.
        problem: a short id that distinguishes the problems that share one code.
        file: the file that the error concerns, if any.
    """

    code: str = "INTERNAL"
    failure: ModuleFailure | None = None
    problem = Detail[str | None](None)
    file = Detail[str | None](None)

    def __init__(self, code: str | None = None, /, **details: object) -> None:
        self.code = code or type(self).code
        self.details = details
        super().__init__(self.code)

    def failed_as(self, trait: Trait) -> bool:
        """Return whether a vendor module failed with one of these traits.

        Args:
            trait: one trait or a combination.
        """
        return self.failure is not None and bool(trait & self.failure.traits)

    def failed_at(self, step: Step) -> bool:
        """Return whether a vendor module failed at this step.

        Args:
            step: the step to compare with.
        """
        return self.failure is not None and self.failure.step is step

    def restated(self, kind: type[E], code: str | None = None, /, **details: object) -> E:
        """Return this error as another class, with the same failure and details.

        Args:
            kind: class of the new error.
            code: its code; None: the class's own.
            **details: details to add or replace.
        """
        error = kind(code, **{**self.details, **details})
        error.failure = self.failure
        return error

    @property
    def message(self) -> str:
        """One sentence in the current language."""
        return messages.text(self.code, **self._values())

    @property
    def remedy(self) -> str:
        """What a program that uses the library, or its user, can do about it; in the current language."""
        found = self._remedy_id()
        return messages.text(f"{found}.library" if messages.known(f"{found}.library") else found, **self._values())

    @property
    def command_remedy(self) -> str:
        """What the user of the command line can do about it; may name options and commands of ``ushield``."""
        return messages.text(self._remedy_id(), **self._values())

    def _remedy_id(self) -> str:
        own = f"problem.{self.details.get('problem')}.remedy"  # one code may cover problems with different remedies
        return own if messages.known(own) else f"{self.code}.remedy"

    def __str__(self) -> str:
        return self.message

    def to_json(self) -> dict[str, object]:
        """Return code, message, remedy and details as JSON-compatible values, with the remedy for library users."""
        return self._document(self.remedy)

    def to_command_json(self) -> dict[str, object]:
        """Return the error object that ``--json`` prints, with the remedy for command-line users."""
        return self._document(self.command_remedy)

    def _document(self, remedy: str) -> dict[str, object]:
        details = {name: jsonable(value) for name, value in self.details.items()}
        return {"code": self.code, "message": self.message, "remedy": remedy, "details": details}

    def _values(self) -> dict[str, object]:
        values = {name: _worded(name, value) for name, value in self.details.items()}
        if "problem" in values:  # a short id with its own message
            values["problem"] = messages.text(f"problem.{values.pop('problem')}", **values)
        return values


def _worded(name: str, value: object) -> object:
    """Return the text of a detail for use in a message."""
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value) or messages.text("nothing")
    if name in {"reason", "why"} and messages.known(f"os.{value}"):  # operating system errors are in English
        return messages.text(f"os.{value}")
    if name == "holder" and messages.known(f"holder.{value}"):  # an unidentified holder
        return messages.text(f"holder.{value}")
    return value


def jsonable(value: object) -> object:
    """Return ``value`` as JSON-compatible data.

    Args:
        value: mappings and objects with ``to_json`` become objects, bytes become hex, enums their values, other types
            strings.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, frozenset, set)):
        return [jsonable(item) for item in value]
    to_json = getattr(value, "to_json", None)
    return jsonable(to_json()) if to_json else str(value)
