"""For integrators' own tests: tokens and modules that misbehave on demand.

Shipped with the library and used by its own tests. Nothing else in the library imports it, and no test framework is
needed to use it. ``ushield_hw.testing.faulty`` holds a PKCS#11 module that stands in front of another one,
``ushield_hw.testing.scripted`` a person who answers from a list.
"""
