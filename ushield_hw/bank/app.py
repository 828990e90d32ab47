"""The bank's ASGI application, composed of areas with their own routes, service and tables."""

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
    """A part of the bank with its own routes.

    Attributes:
        statuses: HTTP status by error code of its ``RequestRefused``. An error that no area maps is a server error:
            503, and the client may retry.
    """

    statuses: Mapping[str, int]

    def routes(self) -> Sequence[Route]:
        """Return the routes of this area."""
        ...


def application(areas: Iterable[Area]) -> Starlette:
    """Return the ASGI application.

    Args:
        areas: the areas to serve.

    Returns:
        A Starlette application with the routes and the error handling of all areas.
    """
    found = list(areas)
    made = Starlette(
        routes=[route for area in found for route in area.routes()], exception_handlers={HTTPException: no_route}
    )
    made.router.redirect_slashes = False  # a redirect would go to the host named by the client
    made.state.threads = ThreadPoolExecutor(CONNECTIONS, "bank")
    made.state.statuses = STATUSES | {code: status for area in found for code, status in area.statuses.items()}
    return made
