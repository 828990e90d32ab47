"""A long-lived session while other processes renew its certificate, remove its key or change a PIN."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

import ushield_hw as us
from tests.soft import OPTIONS, SOFTHSM, Soft
from tests.unit.order.samples import live, payment
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import ModuleOptions
from ushield_hw.backend.module import open_module
from ushield_hw.certificates.certificate import install, request
from ushield_hw.crypto.algorithms import KeySpec
from ushield_hw.errors import PinIncorrect
from ushield_hw.signing.order import Attendance, SignedOrder
from ushield_hw.testing.authority import Authority
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.pin_operations import change_pin
from ushield_hw.token.session import Session, open_session

pytestmark = pytest.mark.stack

LOOKS_AGAIN_S = 2.1


def sign(session: Session) -> SignedOrder:
    order = payment(**live(datetime.now(UTC)), tx_id=str(uuid.uuid4()))
    return us.sign(order, session, attendance=Attendance.NOBODY)


def found(serial: str) -> us.Token:
    return us.find_token(f"pkcs11:serial={serial}?module-path={SOFTHSM}")


@contextmanager
def another_process(soft: Soft) -> Iterator[Session]:
    """A session with the token in another process."""
    module = soft.module(Isolation.PROCESS)
    with open_session(soft.link(module), Scripted(soft.pin), "sign") as session:
        yield session
    module.close()


def renew(session: Session, *, removing: bytes | None = None) -> bytes:
    """Create a newer pair for the same subject; return its certificate. ``removing``: CKA_ID of the pair to delete."""
    made = request(session, KeySpec.EC_P256, "CN=张三,O=Demo Bank")
    pair = install(session, Authority().certify(made.pem, days=200))
    if removing is not None:
        found = [(key.key_id, key.handle) for key in session.keys()]
        found += [(certificate.key_id, certificate.handle) for certificate in session.certificates()]
        for key_id, handle in found:
            if key_id == removing:
                session.link.module.destroy(session.login_id, handle)
    return pair.facts.der


def test_it_signs_with_the_new_pair_once_another_process_has_renewed(certified: Soft) -> None:
    with found(certified.serial).open(Scripted(certified.pin)) as session:
        old = sign(session).certificate
        with another_process(certified) as elsewhere:
            new = renew(elsewhere)
        time.sleep(LOOKS_AGAIN_S)
        assert sign(session).certificate == new != old


def test_a_key_that_another_process_has_removed_is_looked_up_once_more(certified: Soft) -> None:
    with found(certified.serial).open(Scripted(certified.pin)) as session:
        old = sign(session).certificate
        key_id = next(record.key_id for record in session.certificates() if record.der == old)
        with another_process(certified) as elsewhere:
            new = renew(elsewhere, removing=key_id)
        session._seen_at = time.monotonic()  # as if it had just refreshed its view of the token
        assert sign(session).certificate == new != old


def test_the_new_pin_holds_and_the_old_one_does_not_beside_a_session_of_another_token(certified: Soft) -> None:
    (other,) = (file for file in certified.folder.glob("*.pin") if file.read_text().strip() != certified.pin)
    label, old = other.stem, other.read_text().strip()
    new = "".join(reversed(old)) if old != old[::-1] else old[:-1] + "0"
    with found(certified.serial).open(Scripted(certified.pin)) as session:
        token = us.find_token(f"pkcs11:token={label}?module-path={SOFTHSM}")
        module = certified.module(Isolation.PROCESS)
        slot = next(slot.slot_id for slot in module.slots() if slot.token and slot.token.serial == token.serial)
        module.set_pin(slot, old, new)
        with pytest.raises(PinIncorrect):
            token.open(Scripted(old))
        with token.open(Scripted(new)) as second, token.open(Scripted()) as joined:
            assert second.login_id == joined.login_id
            assert sign(session).der
        assert change_pin(token.link, Scripted(new, old)).retries_left
        token.open(Scripted(old)).close()
        assert sign(session).der


# --- other arguments --------------------------------------------------------------------------------------------------


def test_a_module_is_another_one_with_other_arguments(soft: Soft) -> None:
    given = {"SOFTHSM2_CONF": str(soft.conf)}
    usual = open_module(SOFTHSM, Isolation.IN_PROCESS, OPTIONS)
    others = [
        open_module(SOFTHSM, Isolation.PROCESS, OPTIONS),
        open_module(SOFTHSM, Isolation.IN_PROCESS, ModuleOptions()),
        open_module(SOFTHSM, Isolation.IN_PROCESS, OPTIONS, deadline_s=7),
        open_module(SOFTHSM, Isolation.IN_PROCESS, OPTIONS, environment={"SOFTHSM2_CONF": "/nowhere"}),
    ]
    assert len({usual, *others}) == 5
    assert open_module(SOFTHSM, Isolation.IN_PROCESS, OPTIONS) is usual
    assert open_module(SOFTHSM, Isolation.PROCESS, OPTIONS, environment=given) is open_module(
        SOFTHSM, Isolation.PROCESS, OPTIONS, environment=given
    )
    assert others[2].deadline_s == 7


def test_variables_of_its_own_are_never_dropped_in_silence(soft: Soft, tmp_path: os.PathLike[str]) -> None:
    """They cannot be set for this process only, so the module runs in a worker with these variables."""
    empty = soft.folder / "empty"
    empty.mkdir()
    conf = soft.folder / "other.conf"
    conf.write_text(f"directories.tokendir = {empty}\n")
    here = open_module(SOFTHSM, Isolation.IN_PROCESS, OPTIONS)
    there = open_module(SOFTHSM, Isolation.IN_PROCESS, OPTIONS, environment={"SOFTHSM2_CONF": str(conf)})
    assert len(here.slots()) > len(there.slots())


def test_one_file_is_initialised_once_in_this_process_whatever_it_is_called(soft: Soft) -> None:
    first = open_module(SOFTHSM, Isolation.IN_PROCESS, OPTIONS)
    first.slots()
    second = open_module(SOFTHSM, Isolation.IN_PROCESS, ModuleOptions())
    second.slots()
    second.close()
    assert first.slots(), "C_Finalize of the other was another process's"
