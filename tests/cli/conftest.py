"""Fixtures: homes with tokens. What is slow to create is created once per process and copied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.person import Person
from tests.cli.world import Bank, Home

DEMO = "CN=张三,O=Demo Bank"
CHECKER = "CN=李四,O=Demo Bank"


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """The bank that issues every certificate."""
    return Bank.opened(tmp_path_factory.mktemp("bank") / "ca")


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two fresh soft tokens without keys. Shared: for tests that change nothing."""
    return Home(tmp_path_factory.mktemp("blank")).softhsm_init()


@pytest.fixture(scope="session")
def shared(blank: Home, bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The tokens with a payment key each: EC on the first, RSA on the second. Shared: for tests that change nothing."""
    home = blank.copy(tmp_path_factory.mktemp("shared"))
    home.enrol(bank, home.token, DEMO)
    home.enrol(bank, home.other_token, CHECKER, key="rsa-2048")
    return home


@pytest.fixture
def home(shared: Home, tmp_path: Path) -> Home:
    """A copy of ``shared`` for one test."""
    return shared.copy(tmp_path / "home")


@pytest.fixture
def bare(tmp_path: Path) -> Home:
    """A home without tokens."""
    folder = tmp_path / "bare"
    (folder / "softhsm" / "tokens").mkdir(parents=True)
    conf = f"directories.tokendir = {folder}/softhsm/tokens\n"
    (folder / "softhsm" / "softhsm2.conf").write_text(conf)
    return Home(folder)


@pytest.fixture(scope="session")
def worn(blank: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The first token after five wrong PINs: one attempt remaining. A template for copies."""
    home = blank.copy(tmp_path_factory.mktemp("worn"))
    for _ in range(5):
        home.ushield("pin", "verify", "--token", home.token.uri, "--pin-source", home.pin(), exits=4)
    return home


@dataclass(frozen=True)
class Signed:
    """A signed order; the files are in the home of ``shared``."""

    home: Home
    order: str
    file: str

    @property
    def path(self) -> Path:
        return self.home.file(self.file)


@pytest.fixture(scope="session")
def signed(shared: Home, bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """An order signed by the first token."""
    home = shared.copy(tmp_path_factory.mktemp("signed"))
    home.sign(home.order(), "signed.p7m")
    return Signed(home, "order.json", "signed.p7m")


@pytest.fixture
def people() -> Iterator[list[Person]]:
    """The users at terminals that a test has started; their commands are ended after the test."""
    seated: list[Person] = []
    yield seated
    for person in seated:
        person.leaves()
