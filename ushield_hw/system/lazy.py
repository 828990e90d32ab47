"""What is computed or imported when it is first used.

``cached_property`` is without a lock. Until Python 3.12 the one in functools holds one lock for all objects of a class
while it computes. A process that forks at that moment has a child in which the lock is never released, and every look
at tokens there would wait for ever.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or sys.version_info >= (3, 12):
    from functools import cached_property
else:

    class cached_property:  # noqa: N801 - stands for that of functools
        """A property that is computed once for each object; two threads may compute it twice."""

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
    """Return a package's ``__getattr__``: it imports a name from its module when the name is first used.

    Args:
        package: the package.
        homes: the module of each name, by name.
    """

    def load(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, found)  # once
        return found

    return load


__all__ = ["cached_property", "names_of"]
