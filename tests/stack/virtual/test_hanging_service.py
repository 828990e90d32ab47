"""A PC/SC service that hangs: every enumeration ends soon and reports the service."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

import ushield_hw as us
from tests.soft import SETTINGS
from tests.stack.virtual.desks import WITHIN_S, hanging, inserted, token
from ushield_hw.backend.module import close_modules
from ushield_hw.config import Settings
from ushield_hw.drivers.catalogue import Catalogue
from ushield_hw.errors import DriverError
from ushield_hw.testing.readers import PcscHost
from ushield_hw.token.discovery import survey
from ushield_hw.token.watch import EventKind, watch_tokens

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]

SOON_S: Final = 12.0  # a few seconds on an idle machine; before the fix it took 30


@pytest.fixture
def generic(tmp_path: Path, desk: PcscHost) -> Iterator[Settings]:
    """OpenSC under a path that no descriptor names: an unknown module."""
    (tmp_path / "drivers").mkdir()
    module = tmp_path / "libsomething.so"
    shutil.copy(Catalogue(SETTINGS.drivers).get("opensc").module_files()[0], module)
    close_modules()
    yield replace(SETTINGS, drivers=(tmp_path / "drivers",), module_files=(module,), state_dir=tmp_path / "state")
    close_modules()


@contextmanager
def soon(within_s: float = SOON_S) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < within_s


def serials(settings: Settings) -> list[str]:
    """Return the tokens found through the unknown module."""
    ours = settings.module_files
    return [token.serial for token in us.find_tokens(settings) if {token.module, *token.also_in} & {*ours}]


def problems(settings: Settings) -> list[str]:
    """Return the problems of the unknown module only: this machine has others, too."""
    seen = survey(settings)
    assert "WATCH1" not in [token.serial for token in seen.tokens]
    return [problem.error for problem in seen.problems if problem.module in settings.module_files]


def until(right: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not right():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_module_of_which_nothing_is_known_does_not_wait_for_it(desk: PcscHost, generic: Settings) -> None:
    inserted(desk, token())
    with hanging(desk), soon():
        assert problems(generic) == ["PCSC_NO_ANSWER"]
    until(lambda: serials(generic) == ["WATCH1"])


def test_nor_does_one_that_was_loaded_before(desk: PcscHost, generic: Settings) -> None:
    inserted(desk, token())
    assert serials(generic) == ["WATCH1"]
    with hanging(desk):
        time.sleep(4)  # longer than the service state is cached
        with soon():
            assert problems(generic) == ["PCSC_NO_ANSWER"]
    until(lambda: serials(generic) == ["WATCH1"])


def test_nor_does_the_only_module_that_a_uri_names(desk: PcscHost, generic: Settings) -> None:
    for settings in (generic, replace(SETTINGS, state_dir=generic.state_dir)):
        path = next(iter(settings.module_files), Catalogue(SETTINGS.drivers).get("opensc").module_files()[0])
        with hanging(desk), soon(), pytest.raises(DriverError) as caught:
            us.find_token(f"pkcs11:serial=1?module-path={path}", settings=settings)
        assert caught.value.code == "PCSC_NO_ANSWER"
        close_modules()


def test_several_modules_wait_for_it_together(desk: PcscHost, generic: Settings, tmp_path: Path) -> None:
    modules = [tmp_path / f"libother{number}.so" for number in range(3)]
    for module in modules:
        shutil.copy(generic.module_files[0], module)
    settings = replace(generic, module_files=tuple(modules))
    with hanging(desk), soon():
        assert problems(settings) == ["PCSC_NO_ANSWER"] * 3


def test_a_watch_goes_on_when_it_answers_again(desk: PcscHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "none.conf"))
    with hanging(desk):
        watching = watch_tokens(replace(SETTINGS, state_dir=tmp_path / "state"))
        with soon(5.0):
            assert watching.get(2.0) is None
    with watching:
        inserted(desk, token())
        event = watching.get(WITHIN_S)
        assert event is not None
        assert (event.kind, event.token.serial) == (EventKind.INSERTED, "WATCH1")
        with hanging(desk):
            assert watching.get(2.0) is None  # a token that may be present is not reported as removed
            closing = threading.Thread(target=watching.close)
            closing.start()
            closing.join(SOON_S)
            assert not closing.is_alive()
