"""The one room that speaks PKCS#11. What leaves it is plain data and this library's errors.

``module`` is its door: :func:`open_module` gives a :class:`Module` that runs in a worker process or in this one.
"""

from ushield_hw.cryptoki.module import Isolation, Module, open_module

__all__ = ["Isolation", "Module", "open_module"]
