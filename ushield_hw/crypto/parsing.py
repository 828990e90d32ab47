"""The one place where a library reads strangers' bytes: whatever it raises becomes :class:`Unreadable`.

cryptography raises a dozen kinds that share no root (``ValueError``, ``InvalidVersion``, ``UnsupportedAlgorithm``,
``DuplicateExtension``…), some of them not at loading but when a field is looked at, and a panic of its Rust half is not
even an ``Exception``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ushield_hw.errors import UShieldError

_PANIC: Final = "PanicException"  # of pyo3; its class cannot be imported


class Unreadable(Exception):
    """A library could not read it. Never leaves a public function: each caller has an error of its own for it."""


@contextmanager
def reading() -> Iterator[None]:
    """Turn whatever a library raises inside into :class:`Unreadable`; errors of our own pass.

    Raises:
        Unreadable: with the library's error as its cause.
    """
    try:
        yield
    except UShieldError:
        raise
    except Exception as failed:
        raise Unreadable(str(failed)) from failed
    except BaseException as failed:
        if type(failed).__name__ != _PANIC:
            raise
        raise Unreadable(str(failed)) from failed
