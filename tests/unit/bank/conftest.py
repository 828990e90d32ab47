"""Runs each test with both databases: SQLite in a file, and a PostgreSQL server of one test process.

The schema is migrated once per database and then copied.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from sqlalchemy.engine import URL, make_url

from tests.unit.bank.postgresql import Cluster, cluster
from tests.unit.bank.world import Bank, SoftKey
from ushield_hw.bank.database import Database

Open = Callable[[], Database]


class Sqlite:
    """Databases in files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def database(self, template: URL | None = None) -> URL:
        """Return the URL of a new database: empty, or a copy."""
        file = self._folder / f"{len(list(self._folder.iterdir()))}.sqlite3"
        file.touch()
        if template is not None:
            shutil.copy(str(template.database), file)
        return make_url(f"sqlite:///{file}")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Sqlite:
    return Sqlite(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.xdist_group("postgresql"))])
def kind(request: pytest.FixtureRequest) -> Sqlite | Cluster:
    found: Sqlite | Cluster = request.getfixturevalue(request.param)
    return found


@cache
def migrated(kind: Sqlite | Cluster) -> URL:
    """Return the database used as the template."""
    url = kind.database()
    with Database(url) as database:
        database.migrate()
    return url


@pytest.fixture
def empty(kind: Sqlite | Cluster) -> Iterator[Open]:
    """Open the same empty database on each call."""
    yield from opening(kind.database())


@pytest.fixture
def opened(kind: Sqlite | Cluster) -> Iterator[Open]:
    """Open a migrated database; each further call opens it again, as another process would."""
    yield from opening(kind.database(migrated(kind)))


def opening(url: URL) -> Iterator[Open]:
    all_of_them: list[Database] = []

    def another() -> Database:
        all_of_them.append(Database(url))
        return all_of_them[-1]

    yield another
    for database in all_of_them:
        database.close()


@pytest.fixture
def database(opened: Open) -> Database:
    return opened()


@pytest.fixture
def bank(database: Database) -> Bank:
    return Bank(database)


@pytest.fixture
def old() -> SoftKey:
    return SoftKey()


@pytest.fixture
def new() -> SoftKey:
    return SoftKey()
