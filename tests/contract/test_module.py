"""What holds for every token, whichever way its module is reached."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from enum import Enum

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from tests.contract.subjects import Can, Subject, needs
from tests.contract.witness import attributes
from tests.soft import KEYS, WRONG_PIN
from ushield_hw.cryptoki.engine import _FRESH_S
from ushield_hw.cryptoki.model import KeyRecord, PublicKey, SignCall, TokenFlag, User
from ushield_hw.errors import PinIncorrect, TokenBusy, TokenError, UShieldError
from ushield_hw.suites import DIGEST_INFO_PREFIX, KeyKind

pytestmark = pytest.mark.contract

MESSAGE = b"CNY 128.50"
HASHES: dict[str, HashAlgorithm] = {"sha256": SHA256(), "sha384": SHA384(), "sha512": SHA512()}
CURVES: dict[KeyKind, ec.EllipticCurve] = {KeyKind.EC_P256: ec.SECP256R1(), KeyKind.EC_P384: ec.SECP384R1()}
EACH_DIGEST = pytest.mark.parametrize("digest", HASHES)
EACH_EC_LABEL = pytest.mark.parametrize("label", ["pay", "p384"])


def digest_of(message: bytes, name: str = "sha256") -> bytes:
    return hashlib.new(name, message).digest()


def public_ec(kind: KeyKind, point: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(CURVES[kind], point)


def public_half(subject: Subject, private: KeyRecord) -> bytes:
    found = next(key for key in subject.module.keys(subject.slot) if not key.private and key.key_id == private.key_id)
    assert found.public is not None
    return found.public


def public_rsa(modulus: bytes) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(65537, int.from_bytes(modulus)).public_key()


def verify_ecdsa(key: ec.EllipticCurvePublicKey, raw: bytes, digest: bytes, name: str = "sha256") -> None:
    half = len(raw) // 2
    signature = encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
    key.verify(signature, digest, ec.ECDSA(Prehashed(HASHES[name])))


def sign_and_verify(subject: Subject, login: int, message: bytes) -> None:
    private = subject.key("pay")
    raw = subject.module.sign(login, SignCall(private.handle, "ECDSA", digest_of(message)))
    verify_ecdsa(public_ec(KeyKind.EC_P256, public_half(subject, private)), raw, digest_of(message))


# -- module, slots, token ------------------------------------------------------------------------------------------


def test_the_module_says_who_made_it(subject: Subject) -> None:
    info = subject.module.info()
    assert info.manufacturer
    assert info.path == str(subject.module.path)
    assert info.cryptoki_version >= (2, 11)


def test_the_token_is_found_in_its_slot_with_its_pin_lengths(subject: Subject) -> None:
    info = subject.info()
    assert info.has(TokenFlag.TOKEN_INITIALIZED | TokenFlag.USER_PIN_INITIALIZED)
    assert info == subject.module.token(info.slot_id)
    assert 0 < info.min_pin <= len(subject.pin) <= info.max_pin


def test_a_slot_that_does_not_exist_is_a_token_error(subject: Subject) -> None:
    with pytest.raises(TokenError) as caught:
        subject.module.token(123456789)
    assert caught.value.ckr == "CKR_SLOT_ID_INVALID"


@needs(Can.COUNT_LOW)
def test_the_flags_change_with_a_wrong_pin_and_with_the_right_one(subject: Subject) -> None:
    slot = subject.slot
    with pytest.raises(PinIncorrect):
        subject.login(WRONG_PIN)
    assert subject.module.token(slot).has(TokenFlag.USER_PIN_COUNT_LOW)
    subject.login()
    assert not subject.module.token(slot).has(TokenFlag.USER_PIN_COUNT_LOW)


@needs(Can.INIT_TOKEN)
def test_a_token_can_be_set_up_from_nothing(subject: Subject) -> None:
    subject.module.init_token(subject.empty_slot(subject.module), "12345678", "新的U盾")
    subject.module.close()
    made = next(slot.token for slot in subject.module.slots() if slot.token and slot.token.label == "新的U盾")
    assert made.has(TokenFlag.TOKEN_INITIALIZED)
    assert not made.has(TokenFlag.USER_PIN_INITIALIZED)


# -- login ---------------------------------------------------------------------------------------------------------


def test_a_login_stands_until_it_is_ended(subject: Subject) -> None:
    login = subject.login()
    assert subject.module.logged_in(login)
    subject.module.logout(login)
    assert not subject.module.logged_in(login)


def test_ending_a_login_twice_says_that_it_has_ended(subject: Subject) -> None:
    login = subject.login()
    subject.module.logout(login)
    with pytest.raises(TokenError) as caught:
        subject.module.logout(login)
    assert caught.value.code == "LOGIN_ENDED"


def test_a_wrong_pin_is_an_error_that_says_so(subject: Subject) -> None:
    with pytest.raises(PinIncorrect) as caught:
        subject.login(WRONG_PIN)
    assert caught.value.ckr == "CKR_PIN_INCORRECT"
    assert str(caught.value)


def test_a_second_login_is_refused_as_busy_and_the_first_one_stands(subject: Subject) -> None:
    login = subject.login()
    with pytest.raises(TokenBusy):
        subject.login(WRONG_PIN)
    sign_and_verify(subject, login, MESSAGE)


def test_another_process_may_log_in_to_the_same_token(subject: Subject) -> None:
    login = subject.login()
    subject.elsewhere.login(subject.info(subject.elsewhere).slot_id, User.USER, subject.pin)
    subject.elsewhere.close()
    sign_and_verify(subject, login, MESSAGE)


def test_private_keys_show_only_while_logged_in(subject: Subject) -> None:
    def private() -> dict[str, KeyKind | None]:
        return {key.label: key.kind for key in subject.module.keys(slot) if key.private}

    slot = subject.slot
    assert private() == {}
    login = subject.login()
    assert private() == KEYS
    subject.module.logout(login)
    assert private() == {}


def test_closing_ends_the_login_and_the_module_can_be_used_again(subject: Subject) -> None:
    login = subject.login()
    subject.module.close()
    assert not subject.module.logged_in(login)
    sign_and_verify(subject, subject.login(), MESSAGE)


# -- keys ----------------------------------------------------------------------------------------------------------


@needs(Can.GENERATE)
@pytest.mark.parametrize("kind", [KeyKind.EC_P256, KeyKind.EC_P384])
def test_a_new_ec_pair_signs_for_the_public_key_it_came_with(subject: Subject, kind: KeyKind) -> None:
    login = subject.login()
    made = subject.module.generate(login, kind, 0, b"\x77", "新", always_authenticate=False)
    private = subject.key("新")
    raw = subject.module.sign(login, SignCall(private.handle, "ECDSA", digest_of(MESSAGE)))
    verify_ecdsa(public_ec(kind, made.point), raw, digest_of(MESSAGE))
    assert (private.kind, private.key_id, private.can_sign) == (kind, b"\x77", True)


@needs(Can.GENERATE, Can.RSA)
def test_a_new_rsa_pair_signs_for_the_public_key_it_came_with(subject: Subject) -> None:
    login = subject.login()
    made = subject.module.generate(login, KeyKind.RSA, 2048, b"\x77", "新", always_authenticate=False)
    raw = subject.module.sign(login, SignCall(subject.key("新").handle, "SHA256_RSA_PKCS", MESSAGE))
    assert int.from_bytes(made.exponent) == 65537
    public_rsa(made.modulus).verify(raw, MESSAGE, padding.PKCS1v15(), SHA256())


@needs(Can.GENERATE, Can.RSA)
@pytest.mark.parametrize("kind", [KeyKind.EC_P256, KeyKind.RSA])
def test_another_program_finds_that_a_new_key_is_for_signing_and_never_leaves_the_token(
    subject: Subject, kind: KeyKind
) -> None:
    login = subject.login()
    subject.module.generate(login, kind, 2048, b"\x77", "新", always_authenticate=False)
    assert attributes(subject.module.path, subject.serial, subject.pin, b"\x77") == {
        **dict.fromkeys(("token", "private", "sensitive", "sign"), True),
        **dict.fromkeys(("extractable", "decrypt", "unwrap", "derive", "always_authenticate"), False),
        "label": "新",
    }


@needs(Can.GENERATE, Can.CONTEXT_LOGIN)
def test_a_new_key_can_ask_for_the_pin_each_time(subject: Subject) -> None:
    login = subject.login()
    subject.module.generate(login, KeyKind.EC_P256, 0, b"\x77", "新", always_authenticate=True)
    assert subject.key("新").always_authenticate
    assert attributes(subject.module.path, subject.serial, subject.pin, b"\x77")["always_authenticate"] is True


def test_a_key_written_by_another_process_is_seen_at_once(subject: Subject) -> None:
    subject.login()
    theirs = subject.elsewhere.login(subject.info(subject.elsewhere).slot_id, User.USER, subject.pin)
    subject.elsewhere.generate(theirs, KeyKind.EC_P256, 0, b"\x77", "theirs", always_authenticate=False)
    assert subject.key("theirs").key_id == b"\x77"


@needs(Can.GENERATE)
def test_a_key_that_is_destroyed_is_gone(subject: Subject) -> None:
    login = subject.login()
    subject.module.destroy(login, subject.key("pay").handle)
    assert "pay" not in {key.label for key in subject.module.keys(subject.slot) if key.private}


# -- signing -------------------------------------------------------------------------------------------------------


@EACH_EC_LABEL
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


# -- PINs ------------------------------------------------------------------------------------------------------------


@needs(Can.SET_PIN)
def test_a_changed_pin_replaces_the_old_one(subject: Subject) -> None:
    subject.module.set_pin(subject.slot, subject.pin, "654321")
    with pytest.raises(PinIncorrect):
        subject.login()
    subject.login("654321")


@needs(Can.SET_PIN)
def test_a_wrong_old_pin_changes_nothing(subject: Subject) -> None:
    with pytest.raises(PinIncorrect):
        subject.module.set_pin(subject.slot, WRONG_PIN, "654321")
    subject.login()


@needs(Can.INIT_PIN)
def test_the_so_sets_a_new_pin(subject: Subject) -> None:
    login = subject.module.login(subject.slot, User.SO, subject.so_pin)
    subject.module.init_pin(login, "654321")
    subject.module.logout(login)
    subject.login("654321")


@needs(Can.INIT_PIN)
def test_the_so_pin_is_checked(subject: Subject) -> None:
    with pytest.raises(PinIncorrect):
        subject.module.login(subject.slot, User.SO, WRONG_PIN)


# -- what others change ----------------------------------------------------------------------------------------------


@needs(Can.SET_PIN)
@pytest.mark.parametrize("way", ["login", "set_pin"])
def test_a_pin_changed_by_another_process_is_in_force_here(subject: Subject, way: str) -> None:
    slot = subject.slot
    subject.elsewhere.set_pin(subject.info(subject.elsewhere).slot_id, subject.pin, "654321")
    time.sleep(_FRESH_S)  # a module that was initialised this recently is not initialised again
    if way == "login":
        subject.module.login(slot, User.USER, "654321")
    else:
        subject.module.set_pin(slot, "654321", "765432")


@needs(Can.INIT_TOKEN)
def test_a_token_made_by_another_process_is_seen(subject: Subject) -> None:
    subject.module.slots()
    subject.elsewhere.init_token(subject.empty_slot(subject.elsewhere), "12345678", "theirs")
    time.sleep(_FRESH_S)
    assert "theirs" in {slot.token.label for slot in subject.module.slots() if slot.token}


# -- certificates ----------------------------------------------------------------------------------------------------


def certificate() -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "张三")])
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 0x1234)
    return builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, SHA256())


def write(subject: Subject, login: int, certificate: x509.Certificate) -> int:
    return subject.module.write_certificate(
        *(login, certificate.public_bytes(Encoding.DER)),
        key_id=b"\x01",
        label="pay",
        subject=certificate.subject.public_bytes(),
        issuer=certificate.issuer.public_bytes(),
        serial=bytes.fromhex("02021234"),
    )


@needs(Can.WRITE_CERTIFICATE)
def test_a_certificate_is_read_back_as_written_also_without_a_login(subject: Subject) -> None:
    made, login = certificate(), subject.login()
    write(subject, login, made)
    subject.module.logout(login)
    (found,) = subject.module.certificates(subject.slot)
    assert (found.der, found.key_id, found.label) == (made.public_bytes(Encoding.DER), b"\x01", "pay")


@needs(Can.WRITE_CERTIFICATE)
def test_a_certificate_is_destroyed_by_the_handle_that_writing_gave(subject: Subject) -> None:
    login = subject.login()
    handle = write(subject, login, certificate())
    subject.module.destroy(login, handle)
    assert subject.module.certificates(subject.slot) == ()


@needs(Can.WRITE_CERTIFICATE)
def test_a_certificate_needs_the_login_to_be_written(subject: Subject) -> None:
    login = subject.login()
    subject.module.logout(login)
    with pytest.raises(TokenError) as caught:
        write(subject, login, certificate())
    assert caught.value.code == "LOGIN_ENDED"


# -- the edge of the room --------------------------------------------------------------------------------------------


def parts(value: object) -> Iterator[object]:
    yield value
    if dataclasses.is_dataclass(value):
        value = tuple(getattr(value, field.name) for field in dataclasses.fields(value))
    if isinstance(value, tuple):
        for item in value:
            yield from parts(item)
    if isinstance(value, dict):
        yield from parts((*value, *value.values()))


def assert_ours(*values: object) -> None:
    plain = {bool, int, str, bytes, tuple, dict, type(None)}
    for part in parts(values):
        kind = type(part)
        assert kind in plain or kind.__module__.startswith("ushield_hw."), kind
        assert not isinstance(part, Enum) or kind.__module__.startswith("ushield_hw.")


@needs(Can.GENERATE, Can.WRITE_CERTIFICATE)
def test_only_our_own_types_come_out(subject: Subject) -> None:
    module, slot, login = subject.module, subject.slot, subject.login()
    handle = write(subject, login, certificate())
    made = module.generate(login, KeyKind.EC_P256, 0, b"\x77", "new", always_authenticate=False)
    signature = module.sign(login, SignCall(subject.key("pay").handle, "ECDSA", digest_of(MESSAGE)))
    assert_ours(login, handle, made, signature, module.info(), module.slots(), module.token(slot))
    assert_ours(module.mechanisms(slot), module.keys(slot), module.certificates(slot), module.logged_in(login))
    assert isinstance(made, PublicKey)


def test_only_our_own_errors_come_out_and_they_carry_plain_facts(subject: Subject) -> None:
    slot, login = subject.slot, subject.login()
    attempts = (
        lambda: subject.module.keys(slot + 1),
        lambda: subject.module.mechanisms(slot + 1),
        lambda: subject.module.destroy(login, 999999),
        lambda: subject.module.sign(login, SignCall(999999, "ECDSA", b"")),
        lambda: subject.module.generate(login, KeyKind.RSA, 7, b"", "", always_authenticate=False),
    )
    for attempt in attempts:
        with pytest.raises(UShieldError) as caught:
            attempt()
        assert_ours(caught.value.details)
