"""Test support for integrators: virtual tokens, soft tokens and modules with injected faults.

Shipped with the library and used by its own tests. Nothing else in the library imports it except commands for test
tokens, and it needs no test framework. ``ushield_hw.testing.faulty`` is a PKCS#11 module that wraps another one and
injects faults, ``ushield_hw.testing.scripted`` an ``Interaction`` with scripted answers.
"""
