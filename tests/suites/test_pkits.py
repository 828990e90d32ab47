"""PKITS, NIST's suite for path validation (2011), with its CRLs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.suites import explained, vectors
from tests.suites.judged import refusal
from tests.unit.verifier.test_verify import told
from ushield_hw.errors import Revoked
from ushield_hw.verifier.extensions import ANY_POLICY, of
from ushield_hw.verifier.policies import PolicyInputs

pytestmark = pytest.mark.unit

_MOMENT = datetime(2022, 5, 1, tzinfo=UTC)


def asked(params: dict[str, Any]) -> PolicyInputs:
    acceptable = frozenset(map(of, params.get("user_initial_policy_set", ()))) or frozenset({ANY_POLICY})
    flags = ("initial_explicit_policy", "initial_policy_mapping_inhibit", "initial_any_policy_inhibit")
    explicit, no_mapping, no_any = (bool(params.get(flag)) for flag in flags)
    return PolicyInputs(acceptable, explicit, no_mapping, no_any)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, tuple[str | None, Any]]:
    """The expected kind of error, or None, and the actual result, by case name."""
    files, found = vectors.archive("pkits.tar.xz"), {}
    root, its_crl = files["certs/TrustAnchorRootCertificate.crt"], files["crls/TrustAnchorRootCRL.crl"]
    for case in json.loads(files["cases.json"]):
        others = [files[f"certs/{name}"] for name in case.get("other_certs", ())]
        crls = [its_crl, *(files[f"crls/{name}"] for name in case.get("crls", ()))]
        leaf, checks = files[f"certs/{case['cert']}"], case.get("revocation", True)
        expected = case["error"]["class"] if "error" in case else None
        refused = refusal(leaf, [root], others, crls if checks else (), _MOMENT, asked(case.get("params", {})))
        if refused is not None:
            told(refused)
        found[case["name"]] = expected, refused
    return found


def test_nothing_is_accepted_that_must_be_refused(outcomes: dict[str, tuple[str | None, Any]]) -> None:
    assert [name for name, (expected, refused) in outcomes.items() if expected and refused is None] == []


def test_nothing_is_refused_that_must_be_accepted(outcomes: dict[str, tuple[str | None, Any]]) -> None:
    stricter = {name for name, (expected, refused) in outcomes.items() if not expected and refused is not None}

    assert stricter == {name for listed in explained.PKITS_STRICTER.values() for name in listed}
    assert len(outcomes) == 246


def test_what_is_revoked_is_told_so(outcomes: dict[str, tuple[str | None, Any]]) -> None:
    revoked = {name for name, (_, refused) in outcomes.items() if isinstance(refused, Revoked)}
    expected = {name for name, (expected, _) in outcomes.items() if expected == "RevokedError"}

    assert expected - revoked == {  # rejected for another reason
        "invalid_negative_serial_number_test15",  # no certificate here has one
        "invalid_crlissuer_test31",  # indirect CRLs
        "invalid_crlissuer_test32",
    }
    assert revoked - expected == {  # an entry counts, whatever else the CRL contains
        "invalid_unknown_crl_entry_extension_test8",
        "invalid_unknown_crl_extension_test9",
    }
