"""Remote tokens: the connection can break, and each program has a separate function list."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.checks import MESSAGE, call_of, sign_and_verify
from tests.contract.subjects import Place, Subject
from tests.contract.tokens.p11_kit import client, served
from tests.stack.bench import ends
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import ModuleOptions
from ushield_hw.backend.module import Module
from ushield_hw.errors import DriverLoadError, TokenError

pytestmark = pytest.mark.contract


@pytest.fixture(params=list(Isolation))
def remote(request: pytest.FixtureRequest) -> Iterator[tuple[Subject, int]]:
    with served(Place(request), request.param) as made:
        yield made


def break_connections(server: int) -> None:
    """Kill the processes that the server started for its clients."""
    for child in Path(f"/proc/{server}/task/{server}/children").read_text().split():
        with ends(int(child)):
            os.kill(int(child), signal.SIGKILL)


def test_a_connection_that_breaks_is_a_token_error_and_after_closing_all_is_well(remote: tuple[Subject, int]) -> None:
    subject, server = remote
    login = subject.login()
    call = call_of(subject.key(subject.usual))
    break_connections(server)
    with pytest.raises(TokenError) as caught:
        subject.module.sign(login, call)
    assert caught.value.ckr == "CKR_DEVICE_ERROR"
    with pytest.raises(TokenError):  # the ended login is reported once it is detected
        subject.module.sign(login, call)
    subject.module.close()
    assert not subject.module.logged_in(login)
    sign_and_verify(subject, subject.login(), MESSAGE)


@pytest.mark.parametrize("isolation", list(Isolation))
def test_p11_kits_client_as_it_is_is_refused_with_what_to_do_instead(isolation: Isolation) -> None:
    path = client()
    assert path is not None
    with pytest.raises(DriverLoadError) as caught:
        Module(path, isolation, ModuleOptions(), 30).slots()
    assert caught.value.problem == "load_proxy"
