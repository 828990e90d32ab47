"""Vendor modules behind the backend interface, which returns plain data and raises the library's errors.

The entry point is ``module.open_module``, which returns a module that runs in a worker process or in this process.
"""
