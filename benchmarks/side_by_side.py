"""Output of common tools and of ``ushield doctor`` for ten broken set-ups: ``make side-by-side``.

Each set-up is real: a separate pcscd, a virtual card, files on disk. Every tool is started for each set-up and its
output is shown verbatim; omissions are marked with …. A tool learns about a set-up only through its own options.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key

from ushield_hw.config import data_dir
from ushield_hw.drivers.catalogue import Catalogue
from ushield_hw.testing.authority import person
from ushield_hw.testing.readers import PcscHost
from ushield_hw.testing.shield import VirtualShield
from ushield_hw.testing.softhsm import CONF_VARIABLE

_DEADLINE_S: Final = 60
_SHOWN: Final = 150
_MOST_LINES: Final = 3
_SERIAL: Final = "US20260001"
_BIN: Final = Path(sys.executable).parent
_TEMPORARY: Final = re.compile(re.escape(tempfile.gettempdir()) + r"/ushield-\w+-\w+")
_AARCH64: Final = 183
_CERTIFICATE: Final = 0xCE01
_STUB: Final = "unsigned long C_GetFunctionList(void **list) { *list = 0; return 5; }\n"
_SKF: Final = "unsigned SKF_EnumDev(int all, char *names, unsigned *size) { return 0; }\n"
_HOLDER: Final = """
import sys
from smartcard import scard
context = scard.SCardEstablishContext(scard.SCARD_SCOPE_USER)[1]
reader = scard.SCardListReaders(context, [])[1][0]
rv = scard.SCardConnect(context, reader, scard.SCARD_SHARE_EXCLUSIVE, scard.SCARD_PROTOCOL_ANY)[0]
print("has it" if rv == 0 else hex(rv), flush=True)
sys.stdin.read()
"""

_INTRO: Final = """\
# Side by side: what is said of a broken set-up

Made by `make side-by-side WRITE=1`. Ten set-ups are broken for real, one at a time, and each tool is asked: the ones
that people have, and `ushield doctor`. The words are verbatim; … marks what is left out: of many lines decisive ones
are shown, long ones are shortened, and so are the paths of temporary folders; several blanks are one. Where a module
file is at fault, it is given to the tools that take one; the reader is empty then. The p11-kit of Debian 12 has no
`list-tokens`, and its `list-modules` lists tokens too. `ykman` is for YubiKeys and is here because people try it.
"""


@dataclass
class Setup:
    """A broken set-up.

    Attributes:
        folder: its files.
        desk: a pcscd with a reader.
        environment: the environment of every tool.
        module: the module file given to the tools; None: none.
    """

    folder: Path
    desk: PcscHost
    environment: dict[str, str]
    module: Path | None = None


Break = Callable[[Setup], "Iterator[None]"]


@dataclass(frozen=True)
class Answer:
    """A tool's command line, its exit status or signal, and the relevant lines of its output."""

    words: str
    ended: str
    lines: str


# --- the set-ups ------------------------------------------------------------------------------------------------------


def pcscd_is_stopped(setup: Setup) -> Iterator[None]:
    """The smart card service does not run"""
    setup.desk.stop()
    yield


def the_card_is_unknown(setup: Setup) -> Iterator[None]:
    """A card that no driver knows"""
    setup.desk.insert(_Stranger())
    yield


def another_program_has_the_card(setup: Setup) -> Iterator[None]:
    """Another program keeps the card to itself"""
    with VirtualShield(serial=_SERIAL, host=setup.desk) as shield:
        setup.environment |= shield.env
        command = [sys.executable, "-c", _HOLDER]
        with subprocess.Popen(  # noqa: S603 - this interpreter
            command, env={**os.environ, **shield.env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as program:
            if program.stdout is None or (said := program.stdout.readline().strip()) != "has it":
                raise RuntimeError(f"the card could not be taken: {said}")
            yield
            program.kill()


def half_a_module(setup: Setup) -> Iterator[None]:
    """Half of the module's file: a download that broke off"""
    whole = _softhsm().read_bytes()
    setup.module = setup.folder / "libbank.so"
    setup.module.write_bytes(whole[: len(whole) // 2])
    yield


def a_module_for_another_processor(setup: Setup) -> Iterator[None]:
    """A module for another processor"""
    raw = bytearray(_softhsm().read_bytes())
    raw[18:20] = _AARCH64.to_bytes(2, sys.byteorder)  # e_machine
    setup.module = setup.folder / "libbank.so"
    setup.module.write_bytes(raw)
    yield


def an_skf_library(setup: Setup) -> Iterator[None]:
    """An SKF library (GM/T 0016) in place of a PKCS#11 module"""
    setup.module = _built(setup.folder / "libbank_skf.so", _SKF)
    yield


def a_library_is_missing(setup: Setup) -> Iterator[None]:
    """A module that needs a library which is not there"""
    library = _built(setup.folder / "libbankvendor.so.3", "int there;\n", "-Wl,-soname,libbankvendor.so.3")
    source = _STUB + "extern int there; int *use(void) { return &there; }\n"
    setup.module = _built(setup.folder / "libbank.so", source, str(library))
    library.unlink()
    yield


def softhsm_without_configuration(setup: Setup) -> Iterator[None]:
    """SoftHSM2 whose configuration is not there"""
    setup.environment[CONF_VARIABLE] = str(setup.folder / "softhsm2.conf")
    setup.module = _softhsm()
    yield


def the_pin_is_locked(setup: Setup) -> Iterator[None]:
    """The PIN is locked"""
    with VirtualShield(serial=_SERIAL, host=setup.desk) as shield:
        setup.environment |= shield.env
        shield.card.memory.secrets["user"].left = 0
        yield


def the_certificate_has_expired(setup: Setup) -> Iterator[None]:
    """The certificate has expired"""
    with VirtualShield(serial=_SERIAL, host=setup.desk) as shield:
        setup.environment |= shield.env
        shield.card.memory.files[_CERTIFICATE] = _expired(shield)
        yield


SETUPS: Final[tuple[Break, ...]] = (
    pcscd_is_stopped,
    the_card_is_unknown,
    another_program_has_the_card,
    half_a_module,
    a_module_for_another_processor,
    an_skf_library,
    a_library_is_missing,
    softhsm_without_configuration,
    the_pin_is_locked,
    the_certificate_has_expired,
)


class _Stranger:
    """A card with an unknown ATR that rejects every command."""

    atr = bytes.fromhex("3b021450")

    def reset(self) -> None:
        """No state to reset."""

    def transmit(self, command: bytes) -> bytes:
        """Reject every command."""
        return b"\x6d\x00"

    def pulled_out(self) -> None:
        """Nothing to cancel."""


def _softhsm() -> Path:
    return Catalogue([data_dir("drivers")]).get("softhsm2").module_files()[0]


def _built(made: Path, source: str, *options: str) -> Path:
    file = made.with_suffix(".c")
    file.write_text(source, encoding="utf-8")
    subprocess.run(  # noqa: S603
        ["cc", "-shared", "-fPIC", "-o", str(made), str(file), *options],  # noqa: S607
        check=True,
        timeout=_DEADLINE_S,
    )
    return made


def _expired(shield: VirtualShield) -> bytes:
    """Return a certificate for the U-shield's payment key that expired two days ago."""
    key = load_der_private_key(shield.card.memory.keys[1], None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("a virtual U-shield has an EC key")
    now, issuer = datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(person("Test CA"), person("张三"), key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=90)).not_valid_after(now - timedelta(days=2))
    return builder.sign(issuer, SHA256()).public_bytes(Encoding.DER)


# --- running the tools ------------------------------------------------------------------------------------------------


@contextmanager
def standing(breaks: Break) -> Iterator[Setup]:
    """Create a broken set-up and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="side-by-side-") as folder, PcscHost() as desk:
        home = Path(folder) / "home"
        home.mkdir()
        own = home / ".config" / "softhsm2" / "softhsm2.conf"  # hides soft tokens of the current user
        own.parent.mkdir(parents=True)
        (home / "tokens").mkdir()
        own.write_text(f"directories.tokendir = {home / 'tokens'}\n", encoding="utf-8")
        path = f"{os.environ['PATH']}:/usr/sbin"
        environment = {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", **desk.env}
        setup = Setup(Path(folder), desk, environment)
        with contextmanager(breaks)(setup):
            yield setup


def tools(setup: Setup) -> Iterator[Sequence[str]]:
    """Yield the command lines: common tools, then this project's."""
    named = ("--module", str(setup.module)) if setup.module is not None else ()
    yield ("pkcs11-tool", *named, "-L")
    yield ("p11-kit", "list-modules")
    yield (str(_BIN / "ykman"), "list")
    yield ("opensc-tool", "-l")
    yield (str(_BIN / "ushield"), "doctor", *named)


def ask(words: Sequence[str], setup: Setup) -> Answer:
    """Run a tool and return its output."""
    done = subprocess.run(  # noqa: S603
        words, env=setup.environment, capture_output=True, text=True, errors="replace", timeout=_DEADLINE_S, check=False
    )
    tool = Path(words[0]).name
    told = _of_doctor(done.stdout) if tool == "ushield" else _decisive(tool, done.stdout, done.stderr)
    ended = signal.Signals(-done.returncode).name if done.returncode < 0 else str(done.returncode)
    return Answer(_shortened(" ".join([tool, *words[1:]]), setup), ended, _shortened(told, setup))


def _of_doctor(out: str) -> str:
    """Return the first cause and its remedy."""
    lines = out.splitlines()
    cause = next((number for number, line in enumerate(lines) if line.startswith("[")), 0)
    return "\n".join(_cut(line.strip(), 3 * _SHOWN) for line in lines[cause : cause + 2])


_TROUBLE: Final = r"error|fail|cannot|no slots|not recognized|warning"
# Patterns of the relevant output lines of each tool: an error, otherwise the token or reader concerned.
_DECISIVE: Final = {
    "pkcs11-tool": (_TROUBLE, "token flags"),
    "p11-kit": (_TROUBLE, "^token:|user-pin-locked"),
    "ykman": (_TROUBLE,),
    "opensc-tool": (_TROUBLE, r"^\d+ +Yes", r"^\d+ +No"),
}


def _decisive(tool: str, out: str, err: str) -> str:
    """Return the relevant lines, at most three; the first lines if none match."""
    lines = [" ".join(line.split()) for line in (*err.splitlines(), *out.splitlines()) if line.strip()]
    if not lines:
        return "(nothing)"
    kinds = ([line for line in lines if re.search(kind, line, re.IGNORECASE)] for kind in _DECISIVE[tool])
    shown = next((found for found in kinds if found), lines)[:_MOST_LINES]
    return " … ".join(_cut(line, _SHOWN) for line in shown) + ("" if len(lines) == len(shown) else " …")


def _cut(line: str, most: int) -> str:
    return line if len(line) <= most else line[:most].rstrip() + "…"


def _shortened(text: str, setup: Setup) -> str:
    return _TEMPORARY.sub("…", text.replace(str(setup.folder), "…"))


# --- the page ---------------------------------------------------------------------------------------------------------


def page(answers: Mapping[str, Sequence[Answer]]) -> str:
    """Return the page in Markdown."""
    parts = [_INTRO]
    for number, (title, said) in enumerate(answers.items(), start=1):
        parts += [f"## {number}. {title}", "", "| asked | exit | says |", "|---|---:|---|"]
        parts += [f"| `{one.words}` | {one.ended} | {_cell(one.lines)} |" for one in said]
        parts.append("")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return "<br>".join(f"`{line.replace('`', chr(39)).replace('|', chr(92) + '|')}`" for line in text.split("\n"))


def everything() -> str:
    """Run all tools on all set-ups and return the page."""
    answers: dict[str, list[Answer]] = {}
    for breaks in SETUPS:
        title = (breaks.__doc__ or "").strip()
        sys.stderr.write(f"side by side: {title}\n")
        with standing(breaks) as setup:
            answers[title] = [ask(words, setup) for words in tools(setup)]
    return page(answers)
