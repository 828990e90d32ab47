"""The pytest plugin: tokens for an integrator's own tests. pytest loads it wherever ushield_hw is installed.

::

    def test_my_payment(virtual_shield, tmp_path):
        virtual_shield.answer("ok")
        done = subprocess.run([...], env={**os.environ, **virtual_shield.env})
        assert virtual_shield.signatures == 1

Every test gets its own fixture, which is removed afterwards, so tests can run in parallel (pytest-xdist). While a
fixture is active its environment is also set in this process: ``ushield_hw.find_token(serial=soft_token.serial)`` works
in the test itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # pytest imports this module at every start, so the import must be cheap
    from ushield_hw.testing.faulty import Fault, FaultyModule
    from ushield_hw.testing.shield import VirtualShield
    from ushield_hw.testing.softtoken import SoftToken


@pytest.fixture(scope="session")
def _ushield_soft_token(tmp_path_factory: pytest.TempPathFactory) -> SoftToken:
    """The soft token that is copied for each test."""
    from ushield_hw.testing.softtoken import soft_token as make

    return make(tmp_path_factory.mktemp("ushield-soft") / "token")


@pytest.fixture
def soft_token(_ushield_soft_token: SoftToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftToken]:
    """A SoftHSM2 token with an EC key and a certificate.

    ``.uri .pin .so_pin .serial .label .softhsm2_conf .ca_pem .env``
    """
    token = _ushield_soft_token.copy(tmp_path / "ushield-soft-token")
    yield from _in_force(token, monkeypatch)


@pytest.fixture
def virtual_shield(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualShield]:
    """An inserted virtual U-shield with a screen, an EC key and a certificate.

    ``.uri .pin .so_pin .serial .ca_pem .env``, ``.screen()``, ``.press("ok"|"c"|"up"|"down")``, ``.eject()``,
    ``.insert()``, ``.answer("ok"|"refuse"|"timeout", after_s=…)``, ``.signatures``
    """
    from ushield_hw.testing.shield import VirtualShield

    with VirtualShield() as shield:
        yield from _in_force(shield, monkeypatch)


@pytest.fixture
def faulty_module(tmp_path: Path) -> Callable[..., FaultyModule]:
    """A factory for PKCS#11 modules with injected faults, wrapping SoftHSM2 or ``target``: ``faulty_module(plan)``.

    A plan is a list of faults: ``Fault`` objects of :mod:`ushield_hw.testing.faulty`, or ``("C_Sign", 1, "hang")`` with
    ``hang``, ``crash``, ``late 0.5`` or a ``CKR_…`` name; None as number means every call. The result has ``.path``,
    ``.calls``, ``.plan([...])``, and ``.drivers``: a folder for ``ushield --drivers`` that names the module.
    """
    made: list[FaultyModule] = []

    def make(plan: Sequence[Fault | tuple[str, int | None, str]] = (), target: Path | None = None) -> FaultyModule:
        from ushield_hw.config import data_dir
        from ushield_hw.drivers.catalogue import Catalogue
        from ushield_hw.testing.faulty import faulty_module as build

        softhsm = Catalogue([data_dir("drivers")]).get("softhsm2")
        made.append(build(tmp_path / f"ushield-faulty-{len(made)}", target or softhsm.module_files()[0], plan))
        return made[-1]

    return make


def _in_force(token: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Set the token's environment in this process while the test runs."""
    from ushield_hw.backend.module import close_modules

    for name, value in token.env.items():
        monkeypatch.setenv(name, value)
    close_modules()
    yield token
    close_modules()
