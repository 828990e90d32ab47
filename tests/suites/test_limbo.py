"""x509-limbo: certification paths, most of them invalid, with the expected result."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.suites import explained, vectors
from tests.suites.judged import refusal
from tests.unit.verifier.test_verify import told

pytestmark = pytest.mark.unit

_PATIENCE_S = 2.0  # CPU time of this process; reaching the verifier's limit takes a tenth of it


def outcome(case: dict[str, Any]) -> tuple[bool, float]:
    """Return whether the verifier accepts it, and the CPU time used."""
    (leaf,) = vectors.pem(case["peer_certificate"])[:1]
    anchors, others, crls = (vectors.pem(*case[name]) for name in ("trusted_certs", "untrusted_intermediates", "crls"))
    moment = datetime.fromisoformat(case["validation_time"]) if case["validation_time"] else datetime.now(UTC)
    began = time.thread_time()
    refused = refusal(leaf, anchors, others, crls, moment)
    took = time.thread_time() - began
    if refused is not None:
        told(refused)
    return refused is None, took


@pytest.fixture(scope="module")
def outcomes() -> dict[str, tuple[bool, bool, float]]:
    """The expected and the actual result, by case id."""
    cases = vectors.document("limbo.json.xz")["testcases"]
    return {case["id"]: (case["expected_result"] == "SUCCESS", *outcome(case)) for case in cases}


def test_nothing_is_accepted_that_must_be_refused(outcomes: dict[str, tuple[bool, bool, float]]) -> None:
    laxer = {case for case, (expected, accepted, _) in outcomes.items() if accepted and not expected}

    assert {case for case in laxer if not explained.explains(explained.LIMBO_LAXER, case)} == set()


def test_nothing_is_refused_that_must_be_accepted(outcomes: dict[str, tuple[bool, bool, float]]) -> None:
    stricter = {case for case, (expected, accepted, _) in outcomes.items() if expected and not accepted}

    assert {case for case in stricter if not explained.explains(explained.LIMBO_STRICTER, case)} == set()


def test_every_explanation_is_needed(outcomes: dict[str, tuple[bool, bool, float]]) -> None:
    wrong = {case for case, (expected, accepted, _) in outcomes.items() if expected != accepted}
    names = [name for listed in explained.LIMBO_LAXER.values() for name in listed]

    assert [name for name in names if not any(explained.explains({"": (name,)}, case) for case in wrong)] == []
    assert len(outcomes) == 208 and len(outcomes) - len(wrong) == 155


def test_no_case_takes_long(outcomes: dict[str, tuple[bool, bool, float]]) -> None:
    assert {case: took for case, (_, _, took) in outcomes.items() if took > _PATIENCE_S} == {}
