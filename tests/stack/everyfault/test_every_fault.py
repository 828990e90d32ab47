"""Each PKCS#11 call of a job fails once in each way: a typed error, no lost state, and the next attempt succeeds.

The calls are those that the faulty module recorded in a run without faults, not a fixed list. In this process the
module gets SoftHSM2's options and is re-initialised before each login; in a worker it gets those of a vendor module.
"""

from __future__ import annotations

from typing import Final

import pytest

from tests.stack.everyfault.ground import Ground
from tests.stack.everyfault.jobs import JOBS
from tests.stack.everyfault.trial import CRASH, CRASH_AFTER, HANG, Trouble, answers, each, recorded
from ushield_hw.backend.interface import Isolation

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]  # several hundred attempts each, possibly on a busy machine

HERE, WORKER = Isolation.IN_PROCESS, Isolation.PROCESS
EACH_JOB: Final = pytest.mark.parametrize("name", JOBS)
EACH_ISOLATION: Final = pytest.mark.parametrize("isolation", [HERE, WORKER], ids=lambda isolation: isolation.value)


@EACH_JOB
@EACH_ISOLATION
def test_a_job_makes_the_same_calls_each_time(ground: Ground, name: str) -> None:
    job = JOBS[name](ground)
    assert recorded(job) == recorded(job)


@EACH_JOB
@EACH_ISOLATION
def test_every_call_answers_with_every_error(ground: Ground, name: str) -> None:
    job = JOBS[name](ground)
    each(job, recorded(job), answers())


@EACH_JOB
@pytest.mark.parametrize("trouble", [HANG, CRASH], ids=["hang", "crash"])
@pytest.mark.parametrize("isolation", [WORKER], ids=["process"])
def test_every_call_is_the_end_of_its_worker(ground: Ground, name: str, trouble: Trouble) -> None:
    job = JOBS[name](ground)
    each(job, recorded(job), [trouble])


@pytest.mark.parametrize("name", [name for name, job in JOBS.items() if job.decisive])
@EACH_ISOLATION
def test_every_call_that_changes_something_does_its_work_and_the_answer_is_lost(ground: Ground, name: str) -> None:
    job = JOBS[name](ground)
    steps = [step for step in recorded(job) if step.function in job.decisive]
    each(job, steps, answers(after=True) + [CRASH_AFTER] * (not ground.in_process))
