"""Parse untrusted data with a library: every exception of the library becomes :class:`Unreadable`.

cryptography raises a dozen exception classes without a common base class (``ValueError``, ``InvalidVersion``,
``UnsupportedAlgorithm``, ``DuplicateExtension``…), some of them not while loading but when a field is accessed, and a
panic of its Rust code is not even an ``Exception``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ushield_hw.errors import UShieldError

_PANIC: Final = "PanicException"  # of pyo3; its class cannot be imported


class Unreadable(Exception):
    """A library could not parse the data. Not raised by public functions: each caller converts it to its own error."""


@contextmanager
def reading() -> Iterator[None]:
    """Convert every exception raised inside the block to :class:`Unreadable`, except ``UShieldError``.

    Raises:
        Unreadable: with the original exception as its cause.
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
