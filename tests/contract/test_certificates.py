"""Certificate objects, in each isolation mode."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.contract.checks import self_signed, write
from tests.contract.subjects import Can, Subject, needs
from ushield_hw.errors import TokenError

pytestmark = pytest.mark.contract


@needs(Can.WRITE_CERTIFICATE)
def test_a_certificate_is_read_back_as_written_also_without_a_login(subject: Subject) -> None:
    made, login = self_signed(), subject.login()
    write(subject, login, made)
    subject.module.logout(login)
    (found,) = subject.module.certificates(subject.slot)
    assert (found.der, found.key_id, found.label) == (made.public_bytes(Encoding.DER), b"\x01", "pay")


@needs(Can.WRITE_CERTIFICATE)
def test_a_certificate_is_destroyed_by_the_handle_that_writing_gave(subject: Subject) -> None:
    login = subject.login()
    handle = write(subject, login, self_signed())
    subject.module.destroy(login, handle)
    assert subject.module.certificates(subject.slot) == ()


@needs(Can.WRITE_CERTIFICATE)
def test_a_certificate_needs_the_login_to_be_written(subject: Subject) -> None:
    login = subject.login()
    subject.module.logout(login)
    with pytest.raises(TokenError) as caught:
        write(subject, login, self_signed())
    assert caught.value.code == "LOGIN_ENDED"
