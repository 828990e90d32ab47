"""The one room that speaks PKCS#11. What leaves it is plain data and this library's errors.

``module`` is its door: its :func:`open_module` gives a module that runs in a worker process or in this one.
"""
