"""Objects of one session, found and read: one that cannot be read never hides the others.

A module may answer for one object with any error, give lengths that grow before they are used, or lose an object
between finding and reading it because another program has removed it. What fails is noted and left out. What ends all
reading, a token that was pulled out or a session that was closed, is raised.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from pkcs11 import Attribute

from ushield_hw.cryptoki import abi, slots, text
from ushield_hw.cryptoki.ckr import GONE, NUMBERS, CkrError
from ushield_hw.cryptoki.model import ObjectClass, ObjectProblem

T = TypeVar("T")

_CLASSES: Final = {ObjectClass.CERTIFICATE: 1, ObjectClass.PUBLIC_KEY: 2, ObjectClass.PRIVATE_KEY: 3}  # CKO_*
_BATCH: Final = 512
_MOST_OBJECTS: Final = 1 << 17
_MOST_FOUND: Final = 4 * _MOST_OBJECTS  # a module may find each of them several times
_MOST_OCTETS: Final = 32 << 20  # of all that is read in one look
_LONGEST_VALUE: Final = 1 << 16
_REPEATS: Final = 8  # of a question whose answer grows between its two calls
_ROUNDS: Final = 4  # of searches while another program adds and removes objects
_PAUSE_S: Final = 0.025
_ALL_PAUSES: Final = 20
# Nothing more can be read once a module has answered this.
_ENDS_ALL: Final = (*GONE, "CRYPTOKI_NOT_INITIALIZED", "HOST_MEMORY", "TOKEN_NOT_RECOGNIZED")
# What a token answers of an attribute that an object does not have or does not show.
_NOT_SHOWN: Final = ("ATTRIBUTE_TYPE_INVALID", "ATTRIBUTE_SENSITIVE", "INFORMATION_SENSITIVE", "FUNCTION_FAILED")
# Something went wrong, and it may be the token: asked once more, and the token is looked at.
_VAGUE: Final = ("GENERAL_ERROR", "FUNCTION_FAILED", "DEVICE_ERROR")
_TOO_SMALL: Final = NUMBERS["BUFFER_TOO_SMALL"]


class _NoValue(Exception):
    """An attribute has a length that nothing can have, or none at all."""


@dataclass
class Reader:
    """Reads the objects that a session shows.

    Args:
        functions: the module's.
        session: its handle.
        slot_id: the token's slot.
        logged_in: a login stands: that an object wants one then means that it has ended.

    Attributes:
        problems: what could not be read.
    """

    functions: abi.Functions
    session: int
    slot_id: int
    logged_in: bool
    problems: list[ObjectProblem] = field(default_factory=list)
    _octets: int = 0
    _pauses: int = _ALL_PAUSES
    _suspect: CkrError | None = None  # a failure of the device after which nothing was read

    def each(self, kind: ObjectClass, read: Callable[[int], T | None]) -> list[T]:
        """Return what ``read`` makes of every object of a class; those for which it returns None are left out.

        A handle that is stale is no problem if the object is gone: the search is repeated, and finds what came instead.

        Raises:
            CkrError: the token cannot be read any more, or no object of the class could be and there are some.
        """
        made: dict[int, T | None] = {}
        stale: dict[int, CkrError] = {}
        for _ in range(_ROUNDS):
            todo = [handle for handle in self.find(kind) if handle not in made]
            stale = {}
            for number, handle in enumerate(todo):
                if self._octets > _MOST_OCTETS:
                    left = len(todo) - number
                    self.problems.append(ObjectProblem(kind, 0, "", "C_GetAttributeValue", 0, count=left))
                    return self._result(made)
                try:
                    made[handle] = read(handle)
                except CkrError as error:
                    if error.among("OBJECT_HANDLE_INVALID"):
                        stale[handle] = error
                        continue
                    made[handle] = None
                    self._note(kind, handle, error)
            if not stale:
                break
        for handle, gone in stale.items():
            self._note(kind, handle, gone)
        return self._result(made)

    def find(self, kind: ObjectClass) -> list[int]:
        """Return the handles of the objects of a class, each once."""
        wanted = abi.template({Attribute.CLASS: bytes(ctypes.c_ulong(_CLASSES[kind]))})
        self.functions.call("C_FindObjectsInit", self.session, wanted, len(wanted))
        batch, count = (ctypes.c_ulong * _BATCH)(), ctypes.c_ulong(1)
        found: dict[int, None] = {}
        seen = 0
        while count.value and seen < _MOST_FOUND and len(found) < _MOST_OBJECTS:
            self.functions.call("C_FindObjects", self.session, batch, _BATCH, ctypes.byref(count))
            fresh = batch[: min(count.value, _BATCH)]
            seen += len(fresh)
            found.update(dict.fromkeys(fresh))
        if count.value:  # how many there are cannot be known
            self.problems.append(ObjectProblem(kind, 0, "", "C_FindObjects", 0, count=0))
        self.functions.call("C_FindObjectsFinal", self.session)
        return list(found)

    def read(self, kind: ObjectClass, handle: int, wanted: Sequence[int]) -> dict[int, bytes]:
        """Return attributes of an object; those that it does not have or does not show are left out.

        One that fails alone is no reason to give up the others, and some modules fail for all when one is missing: so
        what was refused together is asked for one by one. What cannot be read of an object is noted.

        Raises:
            CkrError: nothing of the object can be read, or nothing of the token any more.
        """
        try:
            return self._together(handle, wanted)
        except _NoValue:
            pass
        except CkrError as error:
            self._raise_what_ends(error)
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
            self.problems.append(ObjectProblem(kind, handle, label, failed[0].function, failed[0].rv, left_out=False))
        return said

    def read_if_shown(self, kind: ObjectClass, handle: int, wanted: Sequence[int]) -> dict[int, bytes]:
        """As :meth:`read`, for what few tokens have: whatever else they answer to it says nothing of the object.

        Raises:
            CkrError: nothing of the token can be read any more, or the object is gone.
        """
        try:
            return self.read(kind, handle, wanted)
        except CkrError as error:
            self._raise_what_ends(error)
            return {}

    def unusable(self, kind: ObjectClass, handle: int, label: str) -> None:
        """Note an object that gives no error, and nothing that can be used."""
        if not any(problem.handle == handle for problem in self.problems):
            self.problems.append(ObjectProblem(kind, handle, label, "C_GetAttributeValue", 0))

    def check(self) -> None:
        """See whether what failed may be the token's end.

        Raises:
            CkrError: it is.
        """
        if self._suspect is not None:
            raise self._suspect
        vague = {NUMBERS[name] for name in _VAGUE}
        if any(problem.rv in vague for problem in self.problems):
            slots.token(self.functions, self.slot_id)

    def _alone(self, handle: int, one: int) -> dict[int, bytes]:
        """Return one attribute; empty where the object does not have or does not show it."""
        for last in (False, True):
            try:
                return self._together(handle, [one])
            except _NoValue:
                raise CkrError("C_GetAttributeValue", NUMBERS["ATTRIBUTE_VALUE_INVALID"]) from None
            except CkrError as error:
                if error.among(*_NOT_SHOWN):
                    return {}
                if last or not error.among(*_VAGUE) or not self._pauses:
                    raise
            self._pauses -= 1
            time.sleep(_PAUSE_S)
        raise AssertionError("not reached")

    def _together(self, handle: int, wanted: Sequence[int]) -> dict[int, bytes]:
        """Return attributes in two calls: how long, then what; again if one has grown meanwhile."""
        for _ in range(_REPEATS):
            template = (abi.Attribute * len(wanted))(*(abi.Attribute(name, None, 0) for name in wanted))
            self.functions.call("C_GetAttributeValue", self.session, handle, template, len(wanted))
            asked = {name: one.ulValueLen for name, one in zip(wanted, template, strict=True)}
            if any(_LONGEST_VALUE < length < abi.UNAVAILABLE for length in asked.values()):
                raise _NoValue
            asked = {name: length for name, length in asked.items() if 0 < length < abi.UNAVAILABLE}
            if not asked:
                return {}
            template = abi.template({name: bytes(length) for name, length in asked.items()})
            try:
                self.functions.call("C_GetAttributeValue", self.session, handle, template, len(template))
            except CkrError as error:
                if error.rv != _TOO_SMALL:
                    raise
                continue
            said = abi.values(template)
            if said is None:
                raise _NoValue
            self._suspect = None
            self._octets += sum(map(len, said.values()))
            return said
        raise CkrError("C_GetAttributeValue", _TOO_SMALL)

    def _raise_what_ends(self, error: CkrError) -> None:
        if error.among(*_ENDS_ALL, "OBJECT_HANDLE_INVALID") or (self.logged_in and error.among("USER_NOT_LOGGED_IN")):
            raise error

    def _note(self, kind: ObjectClass, handle: int, error: CkrError) -> None:
        """Note an object that is left out.

        Raises:
            CkrError: it is not the object's fault.
        """
        if not error.among("OBJECT_HANDLE_INVALID"):
            self._raise_what_ends(error)
        if error.among("DEVICE_ERROR"):
            self._suspect = error
        self.problems.append(ObjectProblem(kind, handle, "", error.function, error.rv))

    def _result(self, made: dict[int, T | None]) -> list[T]:
        return [one for one in made.values() if one is not None]
