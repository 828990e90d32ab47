"""A module in this process. Deadlines cannot be kept here: only for modules proven not to hang."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ushield_hw.backend.interface import Watch
from ushield_hw.backend.model import ModuleOptions
from ushield_hw.backend.pkcs11.ckr import CkrError, StaleLogin
from ushield_hw.backend.transport import Stopped


class InProcess:
    """The module in this process. Deadlines cannot be kept here: only for modules proven not to hang."""

    engaged = False

    def __init__(self, path: Path, options: ModuleOptions) -> None:
        from ushield_hw.backend.pkcs11.engine import Engine

        self._engine = Engine(str(path), options)
        self.info = self._engine.info()

    def call(self, operation: str, arguments: tuple[Any, ...], deadline_s: float, watch: Watch | None = None) -> Any:
        """See :class:`Transport`; ``deadline_s`` is not kept, and only what has not begun can be cancelled."""
        if operation == "held":  # PC/SC may keep a thread waiting for ever: only a worker asks it
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

    def leave(self, operation: str, arguments: tuple[Any, ...]) -> None:
        """See :class:`Transport`: runs it now."""
        with suppress(CkrError, StaleLogin):
            self.call(operation, arguments, 0)

    def close(self) -> None:
        """See :class:`Transport`."""
        with suppress(CkrError):
            self._engine.close()

    def disown(self) -> None:
        """See :class:`Transport`: kept for good, as what python-pkcs11 does when a session goes is a call."""
        _abandoned.append(self)


_abandoned: Final[list[InProcess]] = []
