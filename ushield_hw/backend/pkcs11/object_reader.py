"""Find and read the objects of one session; an unreadable object does not hide the others.

For one object a module may return any error, a length that grows before it is used, or CKR_OBJECT_HANDLE_INVALID
because another program has deleted the object since it was found. Such objects are reported as problems and omitted.
An error after which nothing can be read, such as a removed token or a closed session, is raised.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from ushield_hw.backend.model import ObjectClass, ObjectProblem
from ushield_hw.backend.pkcs11 import function_list, slots, text
from ushield_hw.backend.pkcs11.ckr import GONE, NUMBERS, CkrError
from ushield_hw.backend.pkcs11.numbers import CERTIFICATE, PRIVATE_KEY, PUBLIC_KEY, Attribute

T = TypeVar("T")

_CLASSES: Final = {
    ObjectClass.CERTIFICATE: CERTIFICATE,
    ObjectClass.PUBLIC_KEY: PUBLIC_KEY,
    ObjectClass.PRIVATE_KEY: PRIVATE_KEY,
}
_BATCH: Final = 512
_MOST_OBJECTS: Final = 1 << 17
_MOST_FOUND: Final = 4 * _MOST_OBJECTS  # a module may return an object several times
_MOST_OCTETS: Final = 32 << 20  # total size of the values read by one Reader
_LONGEST_VALUE: Final = 1 << 16
_REPEATS: Final = 8  # retries of a two-call query whose result grows between the calls
_ROUNDS: Final = 5  # searches, while another program adds and deletes objects
_PAUSE_S: Final = 0.025
_ALL_PAUSES: Final = 20
# After one of these nothing more can be read.
_ENDS_ALL: Final = (*GONE, "CRYPTOKI_NOT_INITIALIZED", "HOST_MEMORY", "TOKEN_NOT_RECOGNIZED")
# Returned for an attribute that an object does not have or does not reveal.
_NOT_SHOWN: Final = ("ATTRIBUTE_TYPE_INVALID", "ATTRIBUTE_SENSITIVE", "INFORMATION_SENSITIVE", "FUNCTION_FAILED")
# Unspecific errors: the call is retried once, and the token is checked.
_VAGUE: Final = ("GENERAL_ERROR", "FUNCTION_FAILED", "DEVICE_ERROR")
_READ: Final = "C_GetAttributeValue"
_TOO_SMALL: Final = NUMBERS["BUFFER_TOO_SMALL"]


class Unusable(Exception):
    """An object was read without an error, but does not have the required attributes.

    Args:
        label: its label.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        super().__init__(label)


class _NoValue(Exception):
    """The module returned an impossible length for an attribute."""


@dataclass
class Reader:
    """Reads the objects that are visible in a session.

    Args:
        functions: the module's functions.
        session: the session handle.
        slot_id: the token's slot.
        logged_in: a login exists, so CKR_USER_NOT_LOGGED_IN means that it has ended.
        key_id: find only objects with this CKA_ID; None: all objects.

    Attributes:
        problems: the objects and attributes that could not be read.
    """

    functions: function_list.Functions
    session: int
    slot_id: int
    logged_in: bool
    key_id: bytes | None = None
    problems: list[ObjectProblem] = field(default_factory=list)
    _octets: int = 0
    _pauses: int = _ALL_PAUSES
    _suspect: CkrError | None = None  # a device error after which nothing was read successfully

    def each(self, kind: ObjectClass, read: Callable[[int], T]) -> list[T]:
        """Return the results of ``read`` for every readable object of a class.

        Another program may delete or write objects meanwhile: the search is then repeated after a pause.

        Args:
            kind: the object class.
            read: reads the object with a handle.

        Raises:
            CkrError: the token cannot be read any more.
        """
        made: dict[int, T] = {}
        failed: dict[int, list[Unusable | CkrError]] = {}
        for number in range(_ROUNDS):
            todo = [handle for handle in self.find(kind) if handle not in made and not _final(failed.get(handle))]
            if number and todo:
                self._pause(2 ** (number - 1))
            for read_already, handle in enumerate(todo):
                if self._octets > _MOST_OCTETS:
                    self.problems.append(ObjectProblem(kind, 0, "", _READ, 0, "", count=len(todo) - read_already))
                    return list(made.values())
                self._forgotten(handle)  # drop problems from an earlier round
                try:
                    made[handle] = read(handle)
                except (Unusable, CkrError) as error:
                    self._raise_what_ends(error)
                    failed.setdefault(handle, []).append(error)
            if all(handle in made or _final(failed[handle]) for handle in todo):
                break
        there = set(self.find(kind)) if failed else set()
        for handle in failed.keys() - made.keys():
            if handle in there and (_final(failed[handle]) or len(failed[handle]) == _ROUNDS):  # not a new object
                self._note(kind, handle, failed[handle][-1])
        return list(made.values())

    def find(self, kind: ObjectClass) -> list[int]:
        """Return the handles of the objects of a class, without duplicates.

        Empty if the module refuses a search by CKA_ID: some modules only support templates with a class.
        """
        try:
            return self._found(kind)
        except CkrError as error:
            if self.key_id is None or error.among(*_ENDS_ALL):
                raise
            with suppress(CkrError):
                self.functions.call("C_FindObjectsFinal", self.session)
            return []

    def _found(self, kind: ObjectClass) -> list[int]:
        by_class: dict[int, bytes] = {Attribute.CLASS: bytes(ctypes.c_ulong(_CLASSES[kind]))}
        wanted = function_list.template(by_class if self.key_id is None else by_class | {Attribute.ID: self.key_id})
        self.functions.call("C_FindObjectsInit", self.session, wanted, len(wanted))
        batch, count = (ctypes.c_ulong * _BATCH)(), ctypes.c_ulong(1)
        found: dict[int, None] = {}
        seen = 0
        while count.value and seen < _MOST_FOUND and len(found) < _MOST_OBJECTS:
            self.functions.call("C_FindObjects", self.session, batch, _BATCH, ctypes.byref(count))
            fresh = batch[: min(count.value, _BATCH)]
            seen += len(fresh)
            found.update(dict.fromkeys(fresh))
        if count.value:  # the search did not end, so the number of objects is unknown
            self.problems.append(ObjectProblem(kind, 0, "", "C_FindObjects", 0, "", count=0))
        self.functions.call("C_FindObjectsFinal", self.session)
        return list(found)

    def read(self, kind: ObjectClass, handle: int, wanted: Sequence[int]) -> dict[int, bytes]:
        """Return attributes of an object, without those that it does not have or does not reveal.

        Some modules fail for all attributes if one is missing, so after an error the attributes are read one by one.
        Attributes that cannot be read are added to ``problems``.

        Args:
            kind: the object's class.
            handle: the object.
            wanted: the attribute types.

        Raises:
            CkrError: no attribute can be read, or the token cannot be read any more.
        """
        try:
            return self._together(handle, wanted)
        except _NoValue:
            pass
        except CkrError as error:
            self._raise_what_ends(error)
            if error.among("OBJECT_HANDLE_INVALID"):
                raise
        said: dict[int, bytes] = {}
        failed: list[CkrError] = []
        for one in wanted:
            try:
                said |= self._alone(handle, one)
            except CkrError as error:
                self._raise_what_ends(error)
                failed.append(error)
        if failed and len(failed) == len(wanted):
            raise failed[0]
        if failed:
            label = text.label(said.get(Attribute.LABEL, b""))
            self.problems.append(ObjectProblem(kind, handle, label, *_answer(failed[0]), left_out=False))
        return said

    def read_if_shown(self, kind: ObjectClass, handle: int, wanted: Sequence[int]) -> dict[int, bytes]:
        """Read optional attributes as :meth:`read` does, but return nothing if the token refuses them.

        Raises:
            CkrError: the token cannot be read any more, or the object was deleted.
        """
        try:
            return self.read(kind, handle, wanted)
        except CkrError as error:
            self._raise_what_ends(error)
            if error.among("OBJECT_HANDLE_INVALID"):
                raise
            return {}

    def check(self) -> None:
        """Check whether earlier unspecific errors mean that the token was removed.

        Raises:
            CkrError: the token cannot be read any more.
        """
        if self._suspect is not None:
            raise self._suspect
        vague = {NUMBERS[name] for name in _VAGUE}
        if any(problem.rv in vague for problem in self.problems):
            slots.token(self.functions, self.slot_id)

    def _alone(self, handle: int, one: int) -> dict[int, bytes]:
        """Return one attribute; empty if the object does not have it or does not reveal it."""
        for last in (False, True):
            try:
                return self._together(handle, [one])
            except _NoValue:
                raise CkrError(_READ, NUMBERS["ATTRIBUTE_VALUE_INVALID"]) from None
            except CkrError as error:
                if error.among(*_NOT_SHOWN):
                    return {}
                if last or not error.among(*_VAGUE) or not self._pauses:
                    raise
            self._pause()
        raise AssertionError("not reached")

    def _together(self, handle: int, wanted: Sequence[int]) -> dict[int, bytes]:
        """Return attributes by a two-call query, lengths then values; retried if a value grows between the calls."""
        for _ in range(_REPEATS):
            try:
                said = self._asked_and_read(handle, wanted)
            except CkrError as error:
                if error.rv != _TOO_SMALL:
                    raise
            else:
                self._suspect = None
                self._octets += sum(map(len, said.values()))
                return said
        raise CkrError(_READ, _TOO_SMALL)

    def _asked_and_read(self, handle: int, wanted: Sequence[int]) -> dict[int, bytes]:
        lengths = (function_list.Attribute * len(wanted))(*(function_list.Attribute(name, None, 0) for name in wanted))
        self.functions.call(_READ, self.session, handle, lengths, len(wanted))
        asked = {name: one.ulValueLen for name, one in zip(wanted, lengths, strict=True)}
        if any(_LONGEST_VALUE < length < function_list.UNAVAILABLE for length in asked.values()):
            raise _NoValue
        buffer = function_list.template(
            {name: bytes(length) for name, length in asked.items() if 0 < length < function_list.UNAVAILABLE}
        )
        if not len(buffer):
            return {}
        self.functions.call(_READ, self.session, handle, buffer, len(buffer))
        said = function_list.values(buffer)
        if said is None:
            raise _NoValue
        return said

    def _raise_what_ends(self, error: Unusable | CkrError) -> None:
        if not isinstance(error, CkrError):
            return
        if error.among(*_ENDS_ALL) or (self.logged_in and error.among("USER_NOT_LOGGED_IN")):
            raise error
        if error.among("DEVICE_ERROR"):
            self._suspect = error

    def _note(self, kind: ObjectClass, handle: int, error: Unusable | CkrError) -> None:
        """Report an object that is omitted.

        Not reported if it has no class any more, because it was deleted: SoftHSM2 continues to find a deleted object,
        without any attribute.
        """
        if isinstance(error, CkrError):
            self.problems.append(ObjectProblem(kind, handle, "", *_answer(error)))
        elif parts := self._forgotten(handle):  # attributes that failed are the reason that it is unusable
            self.problems.append(replace(parts[0], left_out=True))
        elif self._alone(handle, Attribute.CLASS):
            self.problems.append(ObjectProblem(kind, handle, error.label, _READ, 0, ""))

    def _forgotten(self, handle: int) -> list[ObjectProblem]:
        """Remove the problems of an object from the list, and return them."""
        found = [problem for problem in self.problems if problem.handle == handle]
        for problem in found:
            self.problems.remove(problem)
        return found

    def _pause(self, times: int = 1) -> None:
        if self._pauses:
            self._pauses -= 1
            time.sleep(times * _PAUSE_S)


def _final(failures: Sequence[Unusable | CkrError] | None) -> bool:
    """Return whether an object need not be read again: its error does not come from a concurrent change."""
    last = failures[-1] if failures else None
    return isinstance(last, CkrError) and not last.among("OBJECT_HANDLE_INVALID")


def _answer(error: CkrError) -> tuple[str, int, str]:
    """Return the function that failed, and its return value as number and name."""
    return error.function, error.rv, error.name
