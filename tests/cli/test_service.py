"""A service account: no home, no terminal, the PIN as a systemd credential, state in systemd's state directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.world import Bank, Home

pytestmark = pytest.mark.stack


@pytest.fixture
def service(home: Home) -> Home:
    """The home's tokens for a user without a home; the PIN is a credential readable by the service only."""
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        del home.environment[name]
    home.write("credentials/pin", home.content(home.token.pin_file), 0o400)
    return home


def words(service: Home) -> list[str]:
    return ["sign", service.order(), "--token", service.token.uri, "--pin-source", "credentials/pin", "--unattended"]


def test_it_signs_with_its_state_where_systemd_says(service: Home, bank: Bank) -> None:
    state = service.folder / "var"
    state.mkdir(mode=0o700)
    service.json(*words(service), "-o", "signed.p7m", STATE_DIRECTORY=str(state))
    assert bank.accepts(service.file("signed.p7m"))
    assert {path.name for path in (state / "ushield").iterdir()} == {"pin", "journal"}


def test_without_a_place_for_its_state_nothing_is_signed(service: Home) -> None:
    assert service.fails(12, "STATE_FOLDER_UNKNOWN", *words(service), "-o", "signed.p7m")["path"] is None
    assert not service.file("signed.p7m").exists()


def test_a_state_folder_that_others_may_write_is_not_used(service: Home) -> None:
    state = service.folder / "var"
    (state / "ushield" / "journal").mkdir(parents=True)
    (state / "ushield" / "journal").chmod(0o777)
    service.fails(12, "STATE_UNSAFE", *words(service), "-o", "signed.p7m", STATE_DIRECTORY=str(state))


def test_it_never_takes_the_last_try(worn: Home, tmp_path: Path) -> None:
    tired = worn.copy(tmp_path / "tired")
    pin = ("--token", tired.token.uri, "--pin-source", tired.token.pin_file)
    tired.fails(7, "LAST_TRY_NOT_CONFIRMED", "pin", "verify", *pin)
    assert tired.tries_left() == 1
