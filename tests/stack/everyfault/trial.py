"""Injects one fault into one call of a job, and checks the guarantees that hold for every job."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.rotation import share
from tests.stack.bench import CONTEXT, open_sessions
from tests.stack.everyfault.ground import SLOW_S
from ushield_hw.backend.pkcs11.ckr import GONE, name_of
from ushield_hw.errors import (
    DriverLoadError,
    OutcomeUnknown,
    SoftTokenNotWritten,
    TokenError,
    TokenFull,
    TokenNotFound,
    TokenRemoved,
    UShieldError,
)
from ushield_hw.testing.faulty import Action, Call, Fault, ckr_number, crashes, hangs, returns

if TYPE_CHECKING:
    from tests.stack.everyfault.jobs import Job

FAILED_BEFORE: Final = 2  # distinguishes an undone attempt (2), a reset (0) and one more failure (3)
_QUICK_S: Final = 0.1  # for calls that will hang
_MARGIN_S: Final = 10.0  # for a new worker and a slow exit of the module
_REMOVED: Final = frozenset(f"CKR_{name}" for name in GONE)
_NO_PIN_CHECKED: Final = {"CKR_USER_ALREADY_LOGGED_IN", "CKR_USER_ANOTHER_ALREADY_LOGGED_IN"}
_LOST: Final = {"MODULE_HUNG", "MODULE_CRASHED", "PIN_CHANGE_UNKNOWN"}

CODES: Final[dict[int | str, type[UShieldError]]] = {
    "CKR_DEVICE_REMOVED": TokenRemoved,
    "CKR_DEVICE_ERROR": TokenError,
    "CKR_DEVICE_MEMORY": TokenFull,
    "CKR_TOKEN_NOT_PRESENT": TokenRemoved,
    "CKR_SESSION_HANDLE_INVALID": TokenRemoved,
    "CKR_GENERAL_ERROR": TokenError,
    0x8000BAD0: TokenError,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a job: a function and the number of the call."""

    function: str
    number: int

    def __str__(self) -> str:
        return f"{self.function} #{self.number}"


@dataclass(frozen=True, slots=True)
class Trouble:
    """The fault injected at a step.

    Attributes:
        name: for messages.
        action: what the module does.
        kind: the expected error; None if the call does not return and the worker is lost.
    """

    name: str
    action: Action
    kind: type[UShieldError] | None = None

    @property
    def deadly(self) -> bool:
        """Whether the worker is lost."""
        return self.kind is None


def answers(*, after: bool = False) -> list[Trouble]:
    """Return a fault for each error code; ``after``: the call takes effect and returns the code all the same."""
    return [Trouble(name_of(ckr_number(code)), returns(code, after=after), kind) for code, kind in CODES.items()]


HANG: Final = Trouble("hang", hangs())
CRASH: Final = Trouble("crash", crashes())
CRASH_AFTER: Final = Trouble("crash after the work", crashes(after=True))


@dataclass(frozen=True, slots=True)
class Attempt:
    """A run of a job with one fault: its result or its error, and the calls made."""

    step: Step
    trouble: Trouble
    result: object
    error: UShieldError | None
    calls: tuple[Call, ...]
    failures: int

    def of(self, *functions: str) -> list[Call]:
        """Return the calls of some functions."""
        return [call for call in self.calls if call.function in functions]

    def lost_in(self, operation: str) -> bool:
        """Tell whether the worker was lost during a module operation, so that its progress is unknown."""
        return self.trouble.deadly and self.error is not None and self.error.details.get("function") == operation

    @property
    def struck(self) -> bool:
        """Whether the job reached the step."""
        return any(call.call == self.step.number for call in self.of(self.step.function))


def recorded(job: Job) -> list[Step]:
    """Run a job without a fault and return its calls."""
    job.prepare()
    job.ground.faulty.clear()
    result = job.run(job.person())
    calls = [Step(call.function, call.call) for call in job.ground.faulty.calls]
    job.finish(result)
    return calls


def each(job: Job, steps: Sequence[Step], troubles: Sequence[Trouble]) -> None:
    """Inject faults at every step and assert the guarantees; report each violation.

    A run injects a third of the faults at each step, another third at the next step.
    """
    wrong, tried = [], 0
    for number, step in enumerate(steps):
        turned = [*troubles[number % len(troubles) :], *troubles[: number % len(troubles)]]
        chosen = share(turned, 3)
        for trouble in chosen:
            tried += 1
            try:
                attempt = _attempted(job, step, trouble)
                _judge(job, attempt)
                job.judge(attempt)
                if not job.afresh or trouble is chosen[-1]:
                    job.again(attempt)
            except Exception as error:
                wrong.append(f"{step} {trouble.name}: {type(error).__name__}: {error}")
                job.ground.restore()
    assert not wrong, "\n".join([f"{len(wrong)} of {tried}", *wrong])


def _attempted(job: Job, step: Step, trouble: Trouble) -> Attempt:
    """Run a job with one fault. On a slow machine the hanging call may not be reached before the first deadline."""
    limit_s = _QUICK_S if trouble is HANG else SLOW_S
    attempt = _attempted_within(limit_s, job, step, trouble)
    while not attempt.struck and limit_s < SLOW_S:
        limit_s *= 8
        attempt = _attempted_within(limit_s, job, step, trouble)
    return attempt


def _attempted_within(limit_s: float, job: Job, step: Step, trouble: Trouble) -> Attempt:
    job.prepare()
    ground, person, result, error = job.ground, job.person(), None, None
    ground.count_failures(FAILED_BEFORE)
    ground.faulty.clear()
    ground.faulty.plan([Fault(step.function, step.number, trouble.action)])
    ground.module.deadline_s, began = limit_s, time.monotonic()
    try:
        result = job.run(person)
    except UShieldError as caught:
        error = caught
    finally:
        ground.module.deadline_s = SLOW_S
        ground.faulty.plan([])
    assert time.monotonic() - began < limit_s + _MARGIN_S, "not within its time"
    return Attempt(step, trouble, result, error, tuple(ground.faulty.calls), ground.failures())


def _judge(job: Job, attempt: Attempt) -> None:
    """Assert the guarantees that hold for every job."""
    assert attempt.struck, f"the job never came so far: {attempt.error!r}"
    tries = [call for call in attempt.of("C_Login", "C_SetPIN") if call.user_type != CONTEXT]
    assert len([call for call in tries if call.rv_name not in _NO_PIN_CHECKED]) <= 1
    assert len(attempt.of("C_Sign")) <= 1
    if not attempt.trouble.deadly:
        # A module that reports the removal of the token has closed its sessions (PKCS#11 v2.40, section 5.6).
        removed = attempt.error is None and attempt.trouble.name in _REMOVED
        assert len(open_sessions(attempt.calls)) <= job.leaves + removed, "a session was left open"
    assert attempt.failures == _failures_due(attempt), f"{attempt.failures} failed tries after {attempt.error!r}"
    if attempt.error is None:
        assert attempt.step.function not in job.decisive, "that cannot have gone well"
        job.check(attempt.result)
    else:
        _judge_error(attempt.trouble, attempt.error)


def _failures_due(attempt: Attempt) -> int:
    """Return the expected number of failed attempts: an unsent PIN does not count, a correct one resets the count."""
    sent = [call for call in attempt.of("C_Login", "C_SetPIN") if call.rv_name not in _NO_PIN_CHECKED]
    if sent and sent[0].rv == 0:
        return 0
    return FAILED_BEFORE + bool(sent or attempt.lost_in("login") or attempt.lost_in("set_pin"))


def _judge_error(trouble: Trouble, error: UShieldError) -> None:
    if isinstance(error, DriverLoadError):
        assert trouble.deadly or error.reason == trouble.name
    elif isinstance(error, TokenNotFound):
        assert error.findings == [trouble.name]
    elif trouble.kind is None:
        assert isinstance(error, OutcomeUnknown) or error.code in _LOST, repr(error)
    else:
        special = SoftTokenNotWritten if trouble.kind is TokenError else trouble.kind  # a TokenError subclass
        assert type(error) in {trouble.kind, special}, repr(error)
        assert error.details["ckr"] == trouble.name
