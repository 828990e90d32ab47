"""Each test runs over both databases: SQLite in a file, and a PostgreSQL that one process of the run has for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from tests.unit.bank.postgresql import Cluster, cluster
from tests.unit.bank.world import Bank, SoftKey
from ushield_hw.bank.database import Database


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.xdist_group("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> URL | str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/bank.sqlite3"
    running: Cluster = request.getfixturevalue("postgresql")
    return running.database()


@pytest.fixture
def opened(url: URL | str) -> Iterator[Callable[[], Database]]:
    """Open the database once more, as another process would."""
    all_of_them: list[Database] = []

    def another() -> Database:
        database = Database(url)
        all_of_them.append(database)
        return database

    yield another
    for database in all_of_them:
        database.close()


@pytest.fixture
def database(opened: Callable[[], Database]) -> Database:
    made = opened()
    made.migrate()
    return made


@pytest.fixture
def bank(database: Database) -> Bank:
    return Bank(database)


@pytest.fixture
def old() -> SoftKey:
    return SoftKey()


@pytest.fixture
def new() -> SoftKey:
    return SoftKey()
