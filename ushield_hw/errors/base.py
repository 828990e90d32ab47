"""What all errors have: a code with texts, details with typed access, and the module's failure that they stand for."""

from __future__ import annotations

from enum import Enum, Flag, auto
from typing import Generic, NamedTuple, TypeVar, cast, overload

from ushield_hw import messages

T = TypeVar("T")
E = TypeVar("E", bound="UShieldError")


class Detail(Generic[T]):
    """An attribute of an error that is kept among its details. One that was not given reads as ``default``."""

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
    """What a vendor module was doing when it failed."""

    LOGIN = "login"
    SET_PIN = "set-pin"
    SIGN = "sign"
    OTHER = "other"


class Trait(Flag):
    """What a vendor module's failure code means for the caller. A code may have several traits, or none."""

    NONE = 0
    VAGUE = auto()  # something failed; some modules answer so too until they have noticed that a token was removed
    NOTHING_DONE = auto()  # refused as a whole: nothing was changed
    NO_LOGIN = auto()  # the token takes no login: no PIN was judged
    LOGGED_IN = auto()  # there is a login already: no PIN was judged
    ATTRIBUTE_FIXED = auto()  # this attribute of an object cannot be changed
    UNSUPPORTED = auto()  # the module has no such function
    LENGTH_UNSETTLED = auto()  # the length of the answer is never the one that was announced


class ModuleFailure(NamedTuple):
    """A vendor module's answer other than "done".

    Attributes:
        function: the function of its interface, such as ``C_Login``.
        code: what it answered, by the interface's name, such as ``CKR_PIN_INCORRECT``.
        step: what it was doing.
        traits: what the code means.
    """

    function: str
    code: str
    step: Step
    traits: Trait


class UShieldError(Exception):
    """Root of the tree.

    Args:
        code: what happened, in capitals: the key of the sentence and the remedy in ``messages``. A class that stands
            for one thing has its own.
        **details: facts for a program and for the sentence. Those that a class declares are attributes too. Never a
            PIN.

    Attributes:
        failure: the vendor module's answer that this error stands for, if there was one.
        problem: a short id of what is wrong, where one code stands for several problems.
    """

    code: str = "INTERNAL"
    failure: ModuleFailure | None = None
    problem = Detail[str | None](None)

    def __init__(self, code: str | None = None, /, **details: object) -> None:
        self.code = code or type(self).code
        self.details = details
        super().__init__(self.code)

    def failed_as(self, trait: Trait) -> bool:
        """Tell whether a vendor module has failed in one of these ways."""
        return self.failure is not None and bool(trait & self.failure.traits)

    def failed_at(self, step: Step) -> bool:
        """Tell whether a vendor module has failed at this step."""
        return self.failure is not None and self.failure.step is step

    def restated(self, kind: type[E], code: str | None = None, /, **details: object) -> E:
        """Return the same failure as another error, with its details and more."""
        error = kind(code, **{**self.details, **details})
        error.failure = self.failure
        return error

    @property
    def message(self) -> str:
        """One sentence, in the language in force."""
        return messages.text(self.code, **self._values())

    @property
    def remedy(self) -> str:
        """What a program that uses the library can do about it, or have its user do; in the language in force."""
        found = self._remedy_id()
        return messages.text(f"{found}.library" if messages.known(f"{found}.library") else found, **self._values())

    @property
    def command_remedy(self) -> str:
        """What a person at the command line can do about it: it may name options and commands of ``ushield``."""
        return messages.text(self._remedy_id(), **self._values())

    def _remedy_id(self) -> str:
        own = f"problem.{self.details.get('problem')}.remedy"  # where one code stands for problems of several kinds
        return own if messages.known(own) else f"{self.code}.remedy"

    def __str__(self) -> str:
        return self.message

    def to_json(self) -> dict[str, object]:
        """Return the error's document, for programs that use the library."""
        return self._document(self.remedy)

    def to_command_json(self) -> dict[str, object]:
        """Return the error document that ``--json`` prints."""
        return self._document(self.command_remedy)

    def _document(self, remedy: str) -> dict[str, object]:
        details = {name: jsonable(value) for name, value in self.details.items()}
        return {"code": self.code, "message": self.message, "remedy": remedy, "details": details}

    def _values(self) -> dict[str, object]:
        values = {name: _worded(name, value) for name, value in self.details.items()}
        if "problem" in values:  # a short id with a text of its own
            values["problem"] = messages.text(f"problem.{values.pop('problem')}", **values)
        return values


def _worded(name: str, value: object) -> object:
    """Return a detail as it is put into a sentence."""
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value) or messages.text("nothing")
    if name in {"reason", "why"} and messages.known(f"os.{value}"):  # the operating system speaks English
        return messages.text(f"os.{value}")
    if name == "holder" and messages.known(f"holder.{value}"):  # one that has no name
        return messages.text(f"holder.{value}")
    return value


def jsonable(value: object) -> object:
    """Return ``value`` as JSON can hold it: dataclasses and mappings as objects, enums and paths as strings."""
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
