"""The comparisons and the project's targets."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Final

from benchmarks import commands, doctors, ours, peers, signers
from benchmarks.race import Make, Runner, Timed, race, race_apart
from benchmarks.rows import Better, Group, Row, Times, compare
from benchmarks.stage import Stage

_SLICE_S: Final = 0.06
_ROUNDS: Final = 31
_ROUNDS_OF_COMMANDS: Final = 21
_ROUNDS_OF_SLOW_SYNCS: Final = 11  # a round takes half a second, and many times that when other processes use the disk
_RAW: Final = "raw python-pkcs11 C_Sign"
_RAW_VERIFY: Final = "raw cryptography ECDSA verify"
_YKMAN: Final = "ykman --version"
_PYTHON: Final = "python -c pass"
_PKCS11_TOOL: Final = "pkcs11-tool -L, for each module"
_ROUNDS_OF_DIAGNOSES: Final = 11


def signing(stage: Stage) -> Group:
    """Orders per second, compared with the bare loop and the peers."""
    makers: dict[str, Make] = {
        "raw": peers.raw,
        "in-process": ours.in_process,
        "worker": ours.in_worker,
        "anew": ours.prepared_anew,
        "pykcs11": peers.pykcs11,
        "pyca": peers.pyca,
        "pyhanko": peers.pyhanko,
    }
    times = race_apart(makers, stage, _ROUNDS, _SLICE_S)
    rows = (
        Row("order to signed CAdES order", _RAW, compare(times, "in-process", "raw"), target=0.7),
        Row("the same, module in a worker", _RAW, compare(times, "worker", "raw"), target=0.35),
        Row("order to signed order", "prepared anew for each order", compare(times, "in-process", "anew")),
        Row("PyKCS11, digest only", _RAW, compare(times, "pykcs11", "raw"), ours=False),
        Row("cryptography PKCS7 builder", _RAW, compare(times, "pyca", "raw"), ours=False),
        Row("pyHanko CAdES", _RAW, compare(times, "pyhanko", "raw"), ours=False),
    )
    note = (
        "EC P-256 on SoftHSM2, session open. The bare loop and PyKCS11 sign a digest; the others make a whole CMS of "
        "an order, hashing and encoding included."
    )
    return Group("Signing", note, rows)


def threads(stage: Stage) -> Group:
    """The gain of a second thread."""
    makers: dict[str, Make] = {
        "one": ours.one_thread,
        "two": ours.two_threads,
        "one-worker": ours.one_thread_in_worker,
        "two-worker": ours.two_threads_in_worker,
        "one-core": peers.one_core,
        "two-cores": peers.two_cores,
    }
    times = race_apart(makers, stage, _ROUNDS, _SLICE_S)
    rows = (
        Row("two threads, module in this process", "one thread", compare(times, "two", "one"), target=1.8),
        Row("two threads, module in a worker", "one thread", compare(times, "two-worker", "one-worker"), target=1.8),
        Row("two threads of PBKDF2", "one thread", compare(times, "two-cores", "one-core"), ours=False),
    )
    note = "RSA-2048 on SoftHSM2, order to signed order. PBKDF2 shows what a second core was worth in the same rounds."
    return Group("Threads", note, rows)


def verifying(stage: Stage) -> Group:
    """Signed orders verified per second by a bank."""
    makers: dict[str, Make] = {
        "raw": peers.raw_verify,
        "expected": ours.verify_expected,
        "strictly": ours.verify_strictly,
        "unknown": ours.verify_unknown,
        "first": ours.verify_first,
        "few": signers.few_cas,
        "many": signers.many_cas,
        "short": signers.short_crl,
        "long": signers.long_crl,
    }
    times = race_apart(makers, stage, _ROUNDS, _SLICE_S)
    rows = (
        Row("verify, order expected, path known", _RAW_VERIFY, compare(times, "expected", "raw"), target=0.75),
        Row("verify, order read from it, path known", _RAW_VERIFY, compare(times, "unknown", "raw")),
        Row("verify, order expected, path known", "each read strictly", compare(times, "expected", "strictly")),
        Row("verify with a new trust store", _RAW_VERIFY, compare(times, "first", "raw")),
        Row("a new signer, 10,000 CAs in the store", "one CA", compare(times, "many", "few"), target=0.8),
        Row("a new signer, 500,000 entries in the CRL", "one entry", compare(times, "long", "short"), target=0.8),
    )
    return Group("Verifying", "EC P-256. The bare loop checks the same signatures over the same bytes.", rows)


def journal(stage: Stage) -> Group:
    """The cost of the journal on disk."""
    makers: dict[str, Make] = {
        "with": ours.with_journal,
        "without": ours.in_process,
        "raw": peers.raw_synced,
        "with-disk": ours.with_journal_on_a_disk,
        "raw-disk": peers.raw_synced_on_a_disk,
    }
    times = race_apart(makers, stage, _ROUNDS, _SLICE_S)
    slow_makers: dict[str, Make] = {"one": ours.journaled_one_thread, "sixteen": ours.journaled_sixteen_threads}
    slow = race_apart(slow_makers, stage, _ROUNDS_OF_SLOW_SYNCS, _SLICE_S)
    rows = (
        Row("order to signed order, recorded", "bare C_Sign, as many syncs", compare(times, "with", "raw"), target=0.8),
        Row("the same, each sync 2 ms slower", "the same", compare(times, "with-disk", "raw-disk"), target=0.8),
        Row("sixteen threads, each sync 5 ms slower", "one thread", compare(slow, "sixteen", "one"), target=6.0),
        Row("order to signed order, recorded", "without the journal", compare(times, "with", "without")),
    )
    note = (
        "EC P-256, module in this process. The record is on the disk before C_Sign, and again after it: two syncs an "
        "order, which threads share."
    )
    return Group("Journal", note, rows)


def whole_commands(stage: Stage) -> Group:
    """From start to exit; less is better."""
    runners = {
        "sign": commands.ushield_sign(stage),
        "sign-worker": commands.ushield_sign_in_worker(stage),
        "pkcs11-tool": commands.pkcs11_tool(stage),
        "ykman": commands.ykman_version(stage),
    }
    times = race(runners, _ROUNDS_OF_COMMANDS, 0)
    rows = (
        _command("ushield sign", _YKMAN, times, ("sign", "ykman"), 1.0),
        _command("ushield sign, module in a worker", _YKMAN, times, ("sign-worker", "ykman")),
        _command("pkcs11-tool --sign, digest only", _YKMAN, times, ("pkcs11-tool", "ykman"), ours=False),
    )
    note = "Time, so less is better. Cold: a fresh order each time, PIN from a file, one login, journal on the disk."
    return Group("Whole commands", note, rows)


def starting(stage: Stage) -> Group:
    """Time to the first line of output; less is better."""
    runners = {
        "help": commands.ushield_help(stage),
        "click": commands.python_with_click(stage),
        "python": commands.bare_python(stage),
    }
    times = race(runners, _ROUNDS_OF_COMMANDS, 0)
    rows = (
        _command("ushield --help", _PYTHON, times, ("help", "python"), 6.0),
        _command("python -c 'import click'", _PYTHON, times, ("click", "python"), ours=False),
    )
    return Group("Starting", "Time, so less is better.", rows)


def diagnosis(stage: Stage) -> Group:
    """Diagnosis time for a token that is not recognised; less is better."""
    with doctors.ward(stage) as environment, closing(Runner(doctors.walk, stage)) as walk:
        runners: dict[str, Timed] = {
            "walk": walk,
            "doctor": doctors.whole(stage, environment),
            "pkcs11-tool": doctors.pkcs11_tool_each(stage, environment),
            "help": commands.ushield_help(stage),
            "imports": doctors.imports(environment),
        }
        times = race(runners, _ROUNDS_OF_DIAGNOSES, 0)
    hung = race_apart({"one": doctors.one_hangs, "five": doctors.five_hang}, stage, _ROUNDS_OF_DIAGNOSES, 0)
    rows = (
        _command("the walk, from a program that runs", _PKCS11_TOOL, times, ("walk", "pkcs11-tool"), 3.0),
        _command("ushield doctor, all of it", _PKCS11_TOOL, times, ("doctor", "pkcs11-tool"), 3.0),
        _command("python, and what it imports for that", _PKCS11_TOOL, times, ("imports", "pkcs11-tool")),
        _command("ushield --help", _PKCS11_TOOL, times, ("help", "pkcs11-tool")),
        _command("five modules that hang", "one that hangs", hung, ("five", "one"), 1.3),
    )
    note = (
        "Time, so less is better. Two soft tokens and a virtual U-shield are plugged in and well; pkcs11-tool runs "
        "once for each of the five modules that the doctor loads. A module that hangs is given up after two seconds."
    )
    return Group("Diagnosis", note, rows)


def _command(
    what: str, against: str, times: Times, names: tuple[str, str], target: float | None = None, *, ours: bool = True
) -> Row:
    return Row(what, against, compare(times, *names, Better.LOWER), Better.LOWER, target, ours)


Measure = Callable[[Stage], Group]

GROUPS: Final[tuple[Measure, ...]] = (
    signing,
    threads,
    verifying,
    journal,
    whole_commands,
    starting,
    diagnosis,
)
