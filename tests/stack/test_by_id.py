"""Objects are searched by CKA_ID where it is known: few calls on a full token, with a fallback for unusual tokens."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.soft import SOFTHSM
from tests.stack.bench import Bench
from tests.stack.test_signing import OpenToken, bank, desk, fresh, person
from tests.unit.cms.pki import Authority, der
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.pkcs11 import function_list
from ushield_hw.backend.pkcs11.ckr import NUMBERS, CkrError
from ushield_hw.certificates.certificate import objects_of, write
from ushield_hw.cms import CertificateFacts
from ushield_hw.errors import CertificateMultiple, CertificateNotFound
from ushield_hw.signing.order import SignedOrder, sign
from ushield_hw.testing.faulty import faulty_module
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.key_pairs import KeyChoice
from ushield_hw.token.session import Session, open_session
from ushield_hw.verifier import verify

__all__ = ["bank", "desk"]

pytestmark = pytest.mark.stack

FULL: Final = 3000
FEW_CALLS: Final = 60
MARK: Final = bytes.fromhex("1122334455667788")


def stranger(bank: Authority) -> CertificateFacts:
    key = ec.generate_private_key(ec.SECP256R1())
    return CertificateFacts.read(der(bank.issue("CN=stranger", key.public_key(), serial=int.from_bytes(MARK))))


def fill(bench: Bench, bank: Authority, count: int) -> None:
    """Write distinct certificates of other keys to the token."""
    with open_session(bench.link, Scripted(bench.soft.pin), "install") as session:
        write(session, stranger(bank), b"\xaa" * 20, "stranger")
    (file,) = (file for file in bench.soft.folder.rglob("*.object") if MARK in file.read_bytes())
    for number in range(count - 1):
        copy = file.with_name(f"00000000-0000-0000-0000-{number:012}.object")
        copy.write_bytes(file.read_bytes().replace(MARK, b"\x11" + secrets.token_bytes(7)))
        copy.with_suffix(".lock").touch()
    bench.module.close()


def id_of(session: Session, label: str = "pay") -> bytes:
    return next(one.key_id for one in session.certificates() if one.label == label)


def signed_by_id(desk: OpenToken, key_id: bytes, label: str | None = None) -> SignedOrder:
    order = fresh(tx_id=str(uuid.uuid4()))
    with desk.opened(person(desk, True)) as session:
        signed = sign(order, session, key=KeyChoice(key_id, label))
    verify(signed, trust=desk.trust, expected=order)
    return signed


def known_id(desk: OpenToken) -> bytes:
    with desk.opened(person(desk)) as session:
        return id_of(session)


def test_a_full_token_signs_by_id_in_few_calls(desk: OpenToken, bank: Authority) -> None:
    key_id = known_id(desk)
    fill(desk.bench, bank, FULL)
    signed_by_id(desk, key_id)
    assert len(desk.bench.faulty.calls) < FEW_CALLS


def test_a_session_that_was_opened_for_one_key_looks_only_for_it_later(desk: OpenToken, bank: Authority) -> None:
    key_id = known_id(desk)
    fill(desk.bench, bank, 200)
    with desk.opened(person(desk, True, True)) as session:
        sign(fresh(tx_id=str(uuid.uuid4())), session, key=KeyChoice(key_id))
        desk.bench.faulty.clear()
        session._seen_at = 0.0
        sign(fresh(tx_id=str(uuid.uuid4())), session, key=KeyChoice(key_id))
        assert 0 < len(desk.bench.faulty.calls) < FEW_CALLS


def test_a_certificate_is_read_back_by_its_id(bench: Bench, bank: Authority) -> None:
    fill(bench, bank, 200)
    with open_session(bench.link, Scripted(bench.soft.pin), "install") as session:
        bench.faulty.clear()
        write(session, stranger(bank), b"\xbb", "more")
        assert len(bench.faulty.calls) < FEW_CALLS


def test_what_was_written_under_another_id_is_found_too(desk: OpenToken) -> None:
    """A PIV card gives each certificate the id of its slot."""
    with desk.opened(person(desk)) as session:
        first, second = session.certificates()[:2]
        assert first.key_id != second.key_id
        assert objects_of(session, second.der, first.key_id) == [second]


# --- modules that answer a search by id incorrectly -------------------------------------------------------------------

Call = Callable[..., None]


def asks_for_an_id(arguments: tuple[Any, ...]) -> bool:
    return bool(arguments[2] == 2)


def ignores_it(real: Call, *arguments: Any) -> None:
    """Ignores CKA_ID and finds all objects of the class."""
    real(*arguments[:2], arguments[2], 1 if asks_for_an_id(arguments[1:]) else arguments[3])


def refuses_it(real: Call, *arguments: Any) -> None:
    if asks_for_an_id(arguments[1:]):
        raise CkrError("C_FindObjectsInit", NUMBERS["TEMPLATE_INCONSISTENT"])
    real(*arguments)


def finds_nothing(real: Call, *arguments: Any) -> None:
    if asks_for_an_id(arguments[1:]):
        nobody = function_list.template({1: bytes(1), 0x102: b"nobody's"})
        real(*arguments[:2], nobody, 2)
    else:
        real(*arguments)


def fails_in_it(real: Call, *arguments: Any) -> None:
    """Fails after the search has started."""
    real(*arguments)
    if asks_for_an_id(arguments[1:]):
        raise CkrError("C_FindObjects", NUMBERS["FUNCTION_FAILED"])


@pytest.fixture(params=[ignores_it, refuses_it, fails_in_it, finds_nothing], ids=lambda one: one.__name__)
def odd(request: pytest.FixtureRequest, desk: OpenToken, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the module in this process with the incorrect search by id; return the log of those searches."""
    soft, asked = desk.bench.soft, list[str]()
    faulty = faulty_module(soft.folder / "here", SOFTHSM, copy_target=True)
    desk.bench.module.close()
    desk.bench = Bench(soft, faulty, soft.module(Isolation.IN_PROCESS, faulty.path))
    real = function_list.Functions.call

    def call(self: function_list.Functions, name: str, *arguments: Any) -> None:
        def do(name: str, *arguments: Any) -> None:
            real(self, name, *arguments)

        if name == "C_FindObjectsInit":
            asked.append(name if arguments[2] == 1 else "by id")
            request.param(do, name, *arguments)
        else:
            do(name, *arguments)

    monkeypatch.setattr(function_list.Functions, "call", call)
    return asked


def test_the_key_is_found_all_the_same(desk: OpenToken, odd: list[str]) -> None:
    key_id = known_id(desk)
    odd.clear()
    signed_by_id(desk, key_id)
    assert "by id" in odd


def test_what_is_found_by_an_id_has_it(desk: OpenToken, odd: list[str]) -> None:
    key_id, module, slot = known_id(desk), desk.bench.module, desk.bench.slot
    assert {one.key_id for one in module.contents(slot, key_id=key_id).certificates} <= {key_id}
    assert key_id in {one.key_id for one in module.certificates(slot, key_id)}
    assert len(module.certificates(slot, b"nobody's")) == 3
    assert "by id" in odd


def test_what_was_written_is_found_all_the_same(desk: OpenToken, odd: list[str], bank: Authority) -> None:
    with desk.opened(person(desk)) as session:
        odd.clear()
        write(session, stranger(bank), b"\xbb", "more")
    assert "by id" in odd


# --- cases that a search by id alone cannot decide --------------------------------------------------------------------


def test_a_certificate_with_another_id_than_its_key_is_found_by_either(desk: OpenToken, bank: Authority) -> None:
    with desk.opened(person(desk)) as session:
        old = next(one for one in session.certificates() if one.label == "pay")
        session.link.module.destroy(session.login_id, old.handle)
        write(session, CertificateFacts.read(old.der), b"\x77", "moved")
    assert signed_by_id(desk, b"\x77").certificate == signed_by_id(desk, old.key_id).certificate == old.der


def test_two_certificates_of_one_id_are_told_apart_as_ever(desk: OpenToken, bank: Authority) -> None:
    with desk.opened(person(desk)) as session:
        first = next(one for one in session.certificates() if one.label == "pay")
        of_it = CertificateFacts.read(first.der)
        newer = bank.issue("CN=李四", _public(of_it), key_usage=["nonRepudiation"], serial=77)
        write(session, CertificateFacts.read(der(newer)), first.key_id, "second")
    with pytest.raises(CertificateMultiple):
        signed_by_id(desk, first.key_id)


def test_one_of_two_that_a_third_has_replaced_is_not_taken(desk: OpenToken, bank: Authority) -> None:
    """Only the list of all certificates shows that the newer one with the id was replaced and the older one was not."""
    both = ["digitalSignature", "nonRepudiation"]
    with desk.opened(person(desk)) as session:
        first, other = (next(one for one in session.certificates() if one.label == label) for label in ("pay", "rsa"))
        mine, theirs = CertificateFacts.read(first.der), CertificateFacts.read(other.der)
        name = mine.subject_text()
        later: dict[str, Any] = {"key_usage": both, "not_before": mine.not_before + timedelta(seconds=1)}
        write(
            session, CertificateFacts.read(der(bank.issue(name, _public(mine), serial=77, **later))), first.key_id, "b"
        )
        later["not_before"] += timedelta(seconds=1)
        write(session, CertificateFacts.read(der(bank.issue(name, _public(theirs), serial=78, **later))), b"\x77", "c")
    assert signed_by_id(desk, first.key_id).certificate == first.der


def test_an_id_that_certificates_bear_means_these(desk: OpenToken, bank: Authority) -> None:
    """A search by id and a full list give the same result: the label does not select another certificate."""
    with desk.opened(person(desk)) as session:
        first = next(one for one in session.certificates() if one.label == "pay")
        newer = bank.issue("CN=李四", _public(CertificateFacts.read(first.der)), serial=77)
        write(session, CertificateFacts.read(der(newer)), b"\x77", "second")
    assert signed_by_id(desk, first.key_id).certificate == first.der
    assert signed_by_id(desk, b"\x77").certificate == der(newer)


def test_an_id_that_nothing_has(desk: OpenToken) -> None:
    with pytest.raises(CertificateNotFound) as caught:
        signed_by_id(desk, b"\x66")
    candidates = caught.value.details["candidates"]
    assert isinstance(candidates, list) and len(candidates) == 3


def _public(facts: CertificateFacts) -> Any:
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    return load_der_public_key(facts.spki)
