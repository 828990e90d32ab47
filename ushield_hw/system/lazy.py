"""Compute or import at first use.

``cached_property`` has no lock. Before Python 3.12, that of functools holds one lock for all objects of a class while
it computes. If the process forks at that moment, the lock is never released in the child, and enumerating tokens there
blocks forever.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or sys.version_info >= (3, 12):
    from functools import cached_property
else:

    class cached_property:  # noqa: N801 - replaces that of functools
        """A property that is computed once for each object; concurrent threads may compute it twice."""

        def __init__(self, compute: Any) -> None:
            self._compute = compute
            self.__doc__ = compute.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self._name = name

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            if instance is None:
                return self
            found = instance.__dict__[self._name] = self._compute(instance)
            return found


def names_of(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return a package's ``__getattr__`` that imports a name from its module at first use.

    Args:
        package: the package.
        homes: name -> module.
    """

    def load(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, found)  # later accesses do not call this function
        return found

    return load


__all__ = ["cached_property", "names_of"]
