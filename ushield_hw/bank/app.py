"""The bank's server application: its areas, each with its own routes, service and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from ushield_hw.bank.database import CONNECTIONS
from ushield_hw.bank.http import STATUSES, no_route


class Area(Protocol):
    """A part of the bank with routes of its own.

    Attributes:
        statuses: what each of its refusals (the code of a ``RequestRefused``) is in HTTP. What is in no area's is not
            the client's doing: 503, and the request may be sent again.
    """

    statuses: Mapping[str, int]

    def routes(self) -> Sequence[Route]:
        """Return its routes."""
        ...


def application(areas: Iterable[Area]) -> Starlette:
    """Return the server's application.

    Args:
        areas: what is served.
    """
    found = list(areas)
    made = Starlette(
        routes=[route for area in found for route in area.routes()], exception_handlers={HTTPException: no_route}
    )
    made.router.redirect_slashes = False  # it would send the client to whatever host it has named
    made.state.threads = ThreadPoolExecutor(CONNECTIONS, "bank")
    made.state.statuses = STATUSES | {code: status for area in found for code, status in area.statuses.items()}
    return made
