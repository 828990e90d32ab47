"""The PKCS#11 constants defined in this project match those of python-pkcs11."""

from __future__ import annotations

import pkcs11
import pytest

from ushield_hw.backend.pkcs11 import numbers
from ushield_hw.backend.pkcs11.numbers import MECHANISMS, Attribute, mechanism_names, mechanism_number
from ushield_hw.crypto.algorithms import KeyKind, suites_for

pytestmark = pytest.mark.unit


def test_they_are_the_same() -> None:
    unnamed = {"PUBLIC_KEY_INFO"}  # python-pkcs11 has no name for it
    assert {one.name: int(one) for one in Attribute if one.name not in unnamed} == {
        one.name: int(pkcs11.Attribute[one.name]) for one in Attribute if one.name not in unnamed
    }
    assert {name: int(pkcs11.Mechanism[name]) for name in MECHANISMS} == MECHANISMS
    theirs = pkcs11.ObjectClass.CERTIFICATE, pkcs11.ObjectClass.PUBLIC_KEY, pkcs11.ObjectClass.PRIVATE_KEY
    assert (numbers.CERTIFICATE, numbers.PUBLIC_KEY, numbers.PRIVATE_KEY) == theirs
    theirs_of_keys = pkcs11.KeyType.RSA, pkcs11.KeyType.EC, pkcs11.CertificateType.X_509
    assert (numbers.RSA, numbers.EC, numbers.X_509) == theirs_of_keys


def test_a_rare_mechanism_has_its_name_too() -> None:
    everything = [int(mechanism) for mechanism in pkcs11.Mechanism]
    assert mechanism_names([*everything, 0x80000001]) == tuple(
        sorted({pkcs11.Mechanism(number).name for number in everything} | {"0x80000001"})
    )
    assert mechanism_number("SEED_ECB") == pkcs11.Mechanism.SEED_ECB
    assert mechanism_number("nonsense") is None


def test_what_signs_is_not_rare() -> None:
    wanted = {way.mechanism for kind in KeyKind for suite in suites_for(kind) for way in suite.ways}
    assert wanted
    assert wanted <= set(MECHANISMS)
