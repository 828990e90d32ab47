"""Signatures verified with cryptography, and keys that require the PIN for each signature."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric import padding

from tests.contract.checks import (
    HASHES,
    MECHANISMS,
    MESSAGE,
    call_of,
    digest_of,
    public_half,
    public_rsa,
    sign_and_verify,
    verify,
)
from tests.contract.subjects import Can, Subject, needs
from tests.soft import WRONG_PIN
from ushield_hw.backend.model import SignCall
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.errors import PinIncorrect, TokenError

pytestmark = pytest.mark.contract

EACH_DIGEST = pytest.mark.parametrize("digest", HASHES)


# -- signing -------------------------------------------------------------------------------------------------------


@needs(Can.EC, Can.P384)
@pytest.mark.parametrize(("kind", "digest"), [(KeyKind.EC_P256, "sha256"), (KeyKind.EC_P384, "sha384")])
def test_ecdsa_over_the_hosts_digest_verifies(subject: Subject, kind: KeyKind, digest: str) -> None:
    login, private = subject.login(), subject.key(kind)
    raw = subject.module.sign(login, call_of(private, MESSAGE, digest))
    verify(kind, public_half(subject, private), raw, MESSAGE, digest)


@needs(Can.EC, Can.CUT_DIGEST)
def test_ecdsa_over_a_digest_that_is_longer_than_the_key_verifies(subject: Subject) -> None:
    login, private = subject.login(), subject.key(KeyKind.EC_P256)
    raw = subject.module.sign(login, call_of(private, MESSAGE, "sha384"))
    verify(KeyKind.EC_P256, public_half(subject, private), raw, MESSAGE, "sha384")


@needs(Can.RSA)
@EACH_DIGEST
def test_rsa_pkcs1_over_the_hosts_digest_info_verifies(subject: Subject, digest: str) -> None:
    login, private = subject.login(), subject.key(KeyKind.RSA)
    raw = subject.module.sign(login, call_of(private, MESSAGE, digest))
    verify(KeyKind.RSA, private.public or b"", raw, MESSAGE, digest)


@needs(Can.RSA, Can.HASH)
def test_rsa_over_a_message_that_the_token_hashes_verifies(subject: Subject) -> None:
    login, private = subject.login(), subject.key(KeyKind.RSA)
    raw = subject.module.sign(login, SignCall(private.handle, "SHA256_RSA_PKCS", MESSAGE))
    verify(KeyKind.RSA, private.public or b"", raw)


@needs(Can.RSA, Can.PSS)
@EACH_DIGEST
def test_rsa_pss_verifies_with_a_salt_as_long_as_the_digest(subject: Subject, digest: str) -> None:
    login, private = subject.login(), subject.key(KeyKind.RSA)
    raw = subject.module.sign(
        login, SignCall(private.handle, "RSA_PKCS_PSS", digest_of(MESSAGE, digest), digest=digest)
    )
    pss = padding.PSS(padding.MGF1(HASHES[digest]), HASHES[digest].digest_size)
    public_rsa(private.public or b"").verify(raw, MESSAGE, pss, HASHES[digest])


def lacking(subject: Subject) -> str:
    listed = subject.module.mechanisms(subject.slot)
    return next(name for name in ("ECDSA_SHA256", "GOSTR3410_WITH_GOSTR3411") if name not in listed)


@pytest.mark.parametrize("known", [True, False])
def test_a_mechanism_the_token_lacks_is_a_token_error_and_the_login_stands(subject: Subject, known: bool) -> None:
    mechanism, login = lacking(subject) if known else "NO_SUCH_MECHANISM", subject.login()
    with pytest.raises(TokenError) as caught:
        subject.module.sign(login, SignCall(subject.key(subject.usual).handle, mechanism, MESSAGE))
    assert caught.value.ckr == "CKR_MECHANISM_INVALID"
    sign_and_verify(subject, login, MESSAGE)


def test_the_mechanisms_are_listed_by_name(subject: Subject) -> None:
    assert MECHANISMS[subject.usual] in subject.module.mechanisms(subject.slot)


def test_the_token_lists_the_same_mechanisms_whichever_way_it_is_reached_or_fewer(subject: Subject) -> None:
    others = subject.elsewhere.mechanisms(subject.info(subject.elsewhere).slot_id)
    assert set(subject.module.mechanisms(subject.slot)) <= set(others)


def test_nothing_is_signed_after_the_login_has_ended(subject: Subject) -> None:
    login = subject.login()
    call = call_of(subject.key(subject.usual))
    subject.module.logout(login)
    with pytest.raises(TokenError) as caught:
        subject.module.sign(login, call)
    assert caught.value.code == "LOGIN_ENDED"


def test_four_threads_sign_with_one_login(subject: Subject) -> None:
    login, private = subject.login(), subject.key(subject.usual)
    public = public_half(subject, private)

    def sign(number: int) -> None:
        message = str(number).encode()
        verify(subject.usual, public, subject.module.sign(login, call_of(private, message)), message)

    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(sign, range(200)))) == 200


# -- keys with CKA_ALWAYS_AUTHENTICATE -------------------------------------------------------------------------------


@needs(Can.EC, Can.CONTEXT_LOGIN)
def test_the_pin_for_each_signature_lets_one_signature_through(subject: Subject) -> None:
    login, private = subject.login(), subject.key(KeyKind.EC_P256, each=True)
    raw = subject.module.sign(login, dataclasses.replace(call_of(private), context=True, pin=subject.pin))
    verify(KeyKind.EC_P256, public_half(subject, private), raw)
    assert subject.module.logged_in(login)


@needs(Can.EC, Can.CONTEXT_LOGIN, Can.WRONG_PIN)
def test_a_wrong_pin_for_a_signature_ends_the_login(subject: Subject) -> None:
    login, private = subject.login(), subject.key(KeyKind.EC_P256, each=True)
    call = dataclasses.replace(call_of(private), context=True, pin=WRONG_PIN)
    with pytest.raises(PinIncorrect):
        subject.module.sign(login, call)
    assert not subject.module.logged_in(login)
    with pytest.raises(TokenError) as caught:
        subject.module.sign(login, dataclasses.replace(call, pin=subject.pin))
    assert caught.value.code == "LOGIN_ENDED"


@needs(Can.EC, Can.CONTEXT_LOGIN, Can.WRONG_PIN)
def test_after_a_wrong_pin_for_a_signature_a_new_login_works(subject: Subject) -> None:
    login, private = subject.login(), subject.key(KeyKind.EC_P256, each=True)
    with pytest.raises(PinIncorrect):
        subject.module.sign(login, dataclasses.replace(call_of(private), context=True, pin=WRONG_PIN))
    sign_and_verify(subject, subject.login(), MESSAGE)
