"""A module loaded in this process. Timeouts cannot be enforced: only for modules proven not to hang."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ushield_hw.backend.interface import Watch
from ushield_hw.backend.model import ModuleOptions
from ushield_hw.backend.pkcs11.ckr import CkrError, StaleLogin
from ushield_hw.backend.transport import Stopped


class InProcess:
    """A :class:`Transport` to a module loaded in this process. Timeouts cannot be enforced.

    Args:
        path: the module file.
        options: how the module must be handled.
    """

    has_abandoned_call = False

    def __init__(self, path: Path, options: ModuleOptions) -> None:
        from ushield_hw.backend.pkcs11.engine import Engine

        self._engine = Engine(str(path), options)
        self.info = self._engine.info()

    def call(self, operation: str, arguments: tuple[Any, ...], deadline_s: float, watch: Watch | None = None) -> Any:
        """See :class:`Transport`. ``deadline_s`` is ignored; a call can only be cancelled before it has begun."""
        if operation == "held":  # a PC/SC call may block forever, so only a worker makes it
            return ()
        if watch is None or operation != "sign":
            return getattr(self._engine, operation)(*arguments)

        def began() -> None:
            if watch.cancelled.is_set():
                raise Stopped
            watch.began()

        login_id, call = arguments
        return self._engine.sign(login_id, call, began)

    def alive(self) -> bool:
        """See :class:`Transport`."""
        return True

    def post(self, operation: str, arguments: tuple[Any, ...]) -> None:
        """See :class:`Transport`; runs the operation immediately."""
        with suppress(CkrError, StaleLogin):
            self.call(operation, arguments, 0)

    def close(self) -> None:
        """See :class:`Transport`."""
        with suppress(CkrError):
            self._engine.close()

    def disown(self) -> None:
        """See :class:`Transport`. Keeps a reference, because python-pkcs11 calls the module when a session is freed."""
        _abandoned.append(self)


_abandoned: Final[list[InProcess]] = []
