"""Programs that fork: before and after enumeration, with an open session, in threads; pools and preloading servers."""

from __future__ import annotations

import pytest

from tests.stack.deployed.conftest import Run

pytestmark = pytest.mark.stack

FORKED = """
def in_a_child(work):
    sys.stdout.flush()
    child = os.fork()
    if not child:
        print("child:", outcome(work), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_after_a_look_the_child_finds_and_signs_and_the_parent_goes_on(run: Run) -> None:
    said = run(
        FORKED
        + """
found = token()
in_a_child(sign)
print("parent:", sign())
"""
    )
    assert said == ["child: signed", "parent: signed"]


def test_a_token_found_before_the_fork_can_be_opened_after_it(run: Run) -> None:
    said = run(
        FORKED
        + """
found = token()

def late():
    with found.open(Scripted(PIN)) as session:
        return "signed" if signed(session) and found.pairs() and found.pin_state() else "?"

in_a_child(late)
print("parent:", late())
"""
    )
    assert said == ["child: signed", "parent: signed"]


def test_a_session_of_the_parent_is_refused_in_the_child_whatever_is_asked_of_it(run: Run) -> None:
    said = run(
        FORKED
        + """
session = token().open(Scripted(PIN))
signed(session)
in_a_child(lambda: signed(session))
in_a_child(session.certificates)
in_a_child(session.keys)
in_a_child(session.pin_state)
in_a_child(lambda: [session.close(), sign()][1])
print("parent:", "signed" if signed(session) else "?")
session.close()
"""
    )
    assert said == ["child: USED_AFTER_FORK"] * 4 + ["child: signed", "parent: signed"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pools(run: Run, method: str) -> None:
    said = run(
        f"""
from multiprocessing import get_context
if __name__ == "__main__":
    token()
    with get_context({method!r}).Pool(3) as pool:
        print(*pool.map(job, range(6)))
    print(sign())
""".replace("if __name__", "def job(number):\n    return outcome(sign)\n\nif __name__")
    )
    assert said == [" ".join(["signed"] * 6), "signed"]


def test_forks_while_other_threads_look_never_wait_for_a_lock(run: Run) -> None:
    said = run(
        """
import signal, threading, time
over = threading.Event()

def look():
    while not over.is_set():
        token()

token()
threads = [threading.Thread(target=look) for _ in range(3)]
for thread in threads:
    thread.start()
ends = []
for _ in range(8):
    child = os.fork()
    if not child:
        signal.alarm(40)  # ends it, should it wait for a lock of a thread that is not here
        os._exit(0 if outcome(token) else 1)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
over.set()
for thread in threads:
    thread.join()
print(ends)
""",
        "-W",
        "ignore",  # Python's own warning about fork in a multi-threaded process
    )
    assert said == [str([0] * 8)]


def test_a_child_of_a_child(run: Run) -> None:
    said = run(
        FORKED
        + """
token()
in_a_child(lambda: [sign(), in_a_child(sign), sign()][2])
"""
    )
    assert said == ["child: signed", "child: signed"]
