"""The jobs under fault injection, and the guarantees that hold for each after a fault."""

from __future__ import annotations

import shutil
import uuid
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pytest

from tests.stack.everyfault.ground import Ground
from tests.stack.everyfault.trial import Attempt
from tests.unit.order.samples import live, payment
from ushield_hw.certificates.certificate import install
from ushield_hw.errors import OutcomeUnknown, PinIncorrect, TokenNotFound
from ushield_hw.order import Order
from ushield_hw.signing.journal import Journal
from ushield_hw.signing.order import SignedOrder, sign
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.key_pairs import Pair
from ushield_hw.token.pin_operations import change_pin, verify_pin
from ushield_hw.token.session import Session, open_session
from ushield_hw.verifier import TrustStore, verify


class Job:
    """An operation on a token that is run repeatedly with different faults.

    Attributes:
        decisive: the functions whose failure always fails the job.
        leaves: how many sessions the module may keep open for reuse.
    """

    decisive: frozenset[str] = frozenset()
    leaves = 0

    @property
    def afresh(self) -> bool:
        """Whether every attempt starts with a new worker, so that attempts are independent."""
        return False

    def __init__(self, ground: Ground) -> None:
        self.ground = ground

    def prepare(self) -> None:
        """Restore the state that the job starts from."""

    def person(self) -> Scripted:
        """Return the user who answers the prompts."""
        return self.ground.person()

    def run(self, person: Scripted) -> Any:
        """Run the job."""
        raise NotImplementedError

    def check(self, result: Any) -> None:
        """Assert that the result is correct."""

    def judge(self, attempt: Attempt) -> None:
        """Assert the job's guarantees after a fault. No fault is active when this is called."""

    def again(self, attempt: Attempt) -> None:
        """Assert that the next attempt succeeds."""
        self.finish(self.run(self.person()))

    def finish(self, result: Any) -> None:
        """Assert that an attempt without a fault is correct, and record what it changed."""
        self.check(result)


class Load(Job):
    """Load the module, read the token, close the module."""

    @property
    def afresh(self) -> bool:
        return not self.ground.in_process

    def prepare(self) -> None:
        self.ground.let_go()

    def run(self, person: Scripted) -> Any:
        module = self.ground.module
        module.info()
        info = module.token(self.ground.link.slot_id)
        module.close()
        return info

    def check(self, result: Any) -> None:
        assert result.serial == self.ground.soft.serial


class Find(Job):
    """Find the token."""

    def run(self, person: Scripted) -> Any:
        serial, slots = self.ground.soft.serial, self.ground.module.slots()
        found = [slot.token for slot in slots if slot.token and slot.token.serial == serial]
        if not found:  # as discovery does
            raise TokenNotFound(findings=[slot.problem for slot in slots if slot.problem])
        return found

    def check(self, result: Any) -> None:
        assert len(result) == 1


class Sign(Job):
    """Sign an order, with a journal."""

    decisive = frozenset({"C_Login", "C_SignInit", "C_Sign"})

    def prepare(self) -> None:
        shutil.rmtree(self.journals, ignore_errors=True)
        self.order = self.fresh()

    def fresh(self) -> Order:
        """Return an order that has not been signed."""
        return payment(**{**live(datetime.now(UTC)), "tx_id": str(uuid.uuid4())})

    def person(self) -> Scripted:
        return self.ground.person(confirms=1)

    def run(self, person: Scripted) -> Any:
        with open_session(self.ground.link, person, "sign") as session:
            return sign(self.order, session)

    def check(self, result: Any) -> None:
        verify(result, trust=self.trust, expected=self.order)

    def judge(self, attempt: Attempt) -> None:
        asked = attempt.of("C_Sign")
        if not asked:
            assert self.journal() in {None, "prepared", "rejected"}
            assert not isinstance(attempt.error, OutcomeUnknown)
        elif asked[0].rv == 0:
            assert self.journal() == "signed"
        elif asked[0].rv is None:
            assert isinstance(attempt.error, OutcomeUnknown)
            assert attempt.error.tx_id == self.order.tx_id
            assert self.journal() == "unknown"
        else:  # the token returned an error code
            assert not isinstance(attempt.error, OutcomeUnknown)
            assert self.journal() == "rejected"

    def again(self, attempt: Attempt) -> None:
        before = self.journal()
        self.ground.faulty.clear()
        if before == "unknown":
            with pytest.raises(OutcomeUnknown) as caught:
                self.run(self.person())
            assert caught.value.code == "OUTCOME_STILL_UNKNOWN"
            assert self.ground.faulty.count("C_Sign") == 0
            self.order = self.fresh()
        signed: SignedOrder = self.run(self.person())
        self.check(signed)
        assert signed.replayed == (before == "signed")
        assert self.ground.faulty.count("C_Sign") == (0 if signed.replayed else 1)

    @property
    def journals(self) -> Path:
        """The journal's folder."""
        return self.ground.soft.state / "journal"

    def journal(self) -> str | None:
        """Return the journal's state for the order, None if there is no record."""
        found = [one for one in Journal.of(self.ground.link.settings).entries() if one.tx_id == self.order.tx_id]
        return found[-1].state.value if found else None

    @cached_property
    def trust(self) -> TrustStore:
        """The CA that issued the certificate."""
        return TrustStore([self.ground.bank.der])


class ChangePin(Job):
    """Change the PIN."""

    decisive = frozenset({"C_SetPIN"})
    leaves = 1  # the session that changed it

    def person(self) -> Scripted:
        return self.ground.person(self.ground.pins[1])

    def run(self, person: Scripted) -> Any:
        return change_pin(self.ground.link, person)

    def judge(self, attempt: Attempt) -> None:
        sent, code = attempt.of("C_SetPIN"), attempt.error and attempt.error.code
        if sent and sent[0].rv == 0:
            assert attempt.error is None, "the PIN was changed, and that is not what was said"
        else:
            assert (code == "PIN_CHANGE_UNKNOWN") == bool(sent or attempt.lost_in("set_pin"))
        if sent and sent[0].target_rv == 0:
            self.changed()
        if sent:
            now, other = self.ground.pins
            verify_pin(self.ground.link, Scripted(now))
            with pytest.raises(PinIncorrect):
                verify_pin(self.ground.link, Scripted(other))

    def finish(self, result: Any) -> None:
        self.changed()
        verify_pin(self.ground.link, Scripted(self.ground.pins[0]))

    def changed(self) -> None:
        """Record that the PIN was changed."""
        now, other = self.ground.pins
        self.ground.pins = other, now


class Install(Job):
    """Install a certificate."""

    decisive = frozenset({"C_Login", "C_CreateObject"})
    clean = False  # whether the token is known to hold no certificate

    def prepare(self) -> None:
        if not self.clean:
            with open_session(self.ground.link, self.ground.person(), "remove") as session:
                self.remove(session)
        self.clean = False

    def run(self, person: Scripted) -> Any:
        with open_session(self.ground.link, person, "install") as session:
            return install(session, self.ground.certificate)

    def check(self, result: Any) -> None:
        assert isinstance(result, Pair)
        assert (result.has_key, result.facts.der) == (True, self.ground.certificate)

    def judge(self, attempt: Attempt) -> None:
        if made := attempt.of("C_CreateObject"):
            assert self.installed() == [self.ground.certificate] * (made[0].target_rv == 0)

    def again(self, attempt: Attempt) -> None:
        with open_session(self.ground.link, self.person(), "install") as session:
            self.check(install(session, self.ground.certificate))
            self.remove(session)
        self.clean = True  # and no tokens or sessions are cached, as before the job

    def remove(self, session: Session) -> None:
        """Delete the certificate from the token."""
        (record,) = session.certificates()  # there is exactly one
        self.ground.module.destroy(session.login_id, record.handle)

    def installed(self) -> list[bytes]:
        """Return the certificates on the token."""
        return [record.der for record in self.ground.module.certificates(self.ground.link.slot_id)]


JOBS: Final[dict[str, type[Job]]] = {
    "load": Load,
    "find": Find,
    "sign": Sign,
    "change-pin": ChangePin,
    "install": Install,
}
