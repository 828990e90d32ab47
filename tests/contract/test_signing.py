"""What a token signs, checked by cryptography; and the PIN that some keys want for each signature."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric import padding

from tests.contract.checks import (
    HASHES,
    MESSAGE,
    digest_of,
    public_ec,
    public_half,
    public_rsa,
    sign_and_verify,
    verify_ecdsa,
)
from tests.contract.subjects import Can, Subject, needs
from tests.soft import WRONG_PIN
from ushield_hw.cryptoki.model import SignCall
from ushield_hw.errors import PinIncorrect, TokenError
from ushield_hw.suites import DIGEST_INFO_PREFIX, KeyKind

pytestmark = pytest.mark.contract

EACH_DIGEST = pytest.mark.parametrize("digest", HASHES)


# -- signing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["pay", "p384"])
def test_ecdsa_over_the_hosts_digest_verifies(subject: Subject, label: str) -> None:
    login, private = subject.login(), subject.key(label)
    raw = subject.module.sign(login, SignCall(private.handle, "ECDSA", digest_of(MESSAGE, "sha384")))
    assert private.kind is not None
    public = public_ec(private.kind, public_half(subject, private))
    verify_ecdsa(public, raw, digest_of(MESSAGE, "sha384"), "sha384")


@needs(Can.RSA)
@EACH_DIGEST
def test_rsa_pkcs1_over_the_hosts_digest_info_verifies(subject: Subject, digest: str) -> None:
    login, private = subject.login(), subject.key("rsa")
    data = DIGEST_INFO_PREFIX[digest] + digest_of(MESSAGE, digest)
    raw = subject.module.sign(login, SignCall(private.handle, "RSA_PKCS", data))
    public_rsa(private.public or b"").verify(raw, MESSAGE, padding.PKCS1v15(), HASHES[digest])


@needs(Can.RSA)
@EACH_DIGEST
def test_rsa_pss_verifies_with_a_salt_as_long_as_the_digest(subject: Subject, digest: str) -> None:
    login, private = subject.login(), subject.key("rsa")
    raw = subject.module.sign(
        login, SignCall(private.handle, "RSA_PKCS_PSS", digest_of(MESSAGE, digest), digest=digest)
    )
    pss = padding.PSS(padding.MGF1(HASHES[digest]), HASHES[digest].digest_size)
    public_rsa(private.public or b"").verify(raw, MESSAGE, pss, HASHES[digest])


@pytest.mark.parametrize("mechanism", ["ECDSA_SHA256", "NO_SUCH_MECHANISM"])
def test_a_mechanism_the_token_lacks_is_a_token_error_and_the_login_stands(subject: Subject, mechanism: str) -> None:
    login = subject.login()
    with pytest.raises(TokenError) as caught:
        subject.module.sign(login, SignCall(subject.key("pay").handle, mechanism, MESSAGE))
    assert caught.value.ckr == "CKR_MECHANISM_INVALID"
    sign_and_verify(subject, login, MESSAGE)


def test_the_mechanisms_are_listed_by_name(subject: Subject) -> None:
    assert "ECDSA" in subject.module.mechanisms(subject.slot)


def test_nothing_is_signed_after_the_login_has_ended(subject: Subject) -> None:
    login = subject.login()
    call = SignCall(subject.key("pay").handle, "ECDSA", digest_of(MESSAGE))
    subject.module.logout(login)
    with pytest.raises(TokenError) as caught:
        subject.module.sign(login, call)
    assert caught.value.code == "LOGIN_ENDED"


def test_four_threads_sign_with_one_login(subject: Subject) -> None:
    login, private = subject.login(), subject.key("pay")
    public = public_ec(KeyKind.EC_P256, public_half(subject, private))

    def sign(number: int) -> None:
        digest = digest_of(str(number).encode())
        verify_ecdsa(public, subject.module.sign(login, SignCall(private.handle, "ECDSA", digest)), digest)

    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(sign, range(200)))) == 200


# -- keys that want the PIN for each signature -----------------------------------------------------------------------


@needs(Can.CONTEXT_LOGIN)
def test_the_pin_for_each_signature_lets_one_signature_through(subject: Subject) -> None:
    login, private = subject.login(), subject.key("each")
    call = SignCall(private.handle, "ECDSA", digest_of(MESSAGE), context=True, pin=subject.pin)
    raw = subject.module.sign(login, call)
    verify_ecdsa(public_ec(KeyKind.EC_P256, public_half(subject, private)), raw, digest_of(MESSAGE))
    assert subject.module.logged_in(login)


@needs(Can.CONTEXT_LOGIN)
def test_a_wrong_pin_for_a_signature_ends_the_login(subject: Subject) -> None:
    login, private = subject.login(), subject.key("each")
    call = SignCall(private.handle, "ECDSA", digest_of(MESSAGE), context=True, pin=WRONG_PIN)
    with pytest.raises(PinIncorrect):
        subject.module.sign(login, call)
    assert not subject.module.logged_in(login)
    with pytest.raises(TokenError) as caught:
        subject.module.sign(login, dataclasses.replace(call, pin=subject.pin))
    assert caught.value.code == "LOGIN_ENDED"


@needs(Can.CONTEXT_LOGIN)
def test_after_a_wrong_pin_for_a_signature_a_new_login_works(subject: Subject) -> None:
    login, private = subject.login(), subject.key("each")
    with pytest.raises(PinIncorrect):
        subject.module.sign(login, SignCall(private.handle, "ECDSA", digest_of(MESSAGE), context=True, pin=WRONG_PIN))
    sign_and_verify(subject, subject.login(), MESSAGE)
