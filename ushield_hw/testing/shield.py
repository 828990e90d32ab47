"""A virtual U-shield for tests: a card with a screen and buttons in a real pcscd reader, used through OpenSC.

::

    with VirtualShield() as shield:
        shield.answer("ok", after_s=0.1)                       # simulates a user who always confirms
        command = ["ushield", "sign", "order.json", "--token", shield.uri, "--pin-source", "pin", "-o", "signed.p7m"]
        subprocess.run(command, env={**os.environ, **shield.env}, check=True)
        assert shield.signatures == 1

Its keys are in files or in memory: TEST ONLY.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Literal, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ushield_hw.config import data_dir
from ushield_hw.drivers.catalogue import Catalogue
from ushield_hw.errors import InputError
from ushield_hw.messages import Language
from ushield_hw.testing.authority import Authority, person
from ushield_hw.testing.card.apdu import tlv
from ushield_hw.testing.card.memory import Memory
from ushield_hw.testing.card.panel import TIMEOUT_S, Answer, Button, Panel
from ushield_hw.testing.card.schsm import blank
from ushield_hw.testing.card.ushield import Model, Outcome, UShieldCard
from ushield_hw.testing.readers import Insertion, PcscHost
from ushield_hw.uri import TokenUri

__all__ = ["Model", "Outcome", "VirtualShield"]

AnswerName = Literal["ok", "refuse", "timeout"]
ButtonName = Literal["ok", "c", "up", "down"]

TRIES: Final = 3  # the value that OpenSC assumes for a SmartCard-HSM when it sets the PIN flags
_KEY: Final = 1
_POLL_S: Final = 0.005
_LABEL: Final = "pay"


class VirtualShield:
    """An inserted virtual U-shield. A context manager. Needs Linux, pcscd, a C compiler and OpenSC.

    Args:
        model: ``display`` shows what it signs, ``button`` only asks, ``none`` signs without asking.
        serial: upper-case letters and digits, at most 11; default: random.
        lang: the language of its screen.
        timeout_s: how long it waits for a button, in seconds.
        certified: whether it has an EC P-256 payment key and a certificate for it.
        host: the host it is inserted in; default: a new one.
        reader: the number of the host's reader.
        keep: a folder in which it is stored for reuse; default: deleted when it is closed.
        holder: the holder named in the certificate. An order is signed once per holder, whatever the token.

    Attributes:
        pin: the initial user PIN.
        so_pin: the initial SO PIN, 16 hexadecimal digits.
        pin_file: a file with the user PIN, for ``--pin-source``.
        so_pin_file: a file with the SO PIN.
        ca_pem: the file with the certificate of the CA that issued its certificate.
        card: the virtual card.

    Raises:
        InputError: ``PCSCD_MISSING``, ``COMPILER_MISSING``, ``COMPILER_FAILED``, ``PCSC_HOST_REFUSED``.
    """

    def __init__(  # noqa: PLR0913 - all have defaults
        self,
        *,
        model: Model | str = Model.DISPLAY,
        serial: str | None = None,
        lang: Language = "zh",
        timeout_s: float = TIMEOUT_S,
        certified: bool = True,
        host: PcscHost | None = None,
        reader: int = 0,
        keep: Path | None = None,
        holder: str = "张三",
    ) -> None:
        self._module = _opensc()
        with ExitStack() as undo:
            self.folder = keep or Path(tempfile.mkdtemp(prefix="ushield-virtual-"))
            if keep is None:
                undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.pin_file, self.so_pin_file = self.folder / "pin", self.folder / "so-pin"
            self.ca_pem = self.folder / "ca.pem"
            if (self.folder / "card.json").exists():
                memory = Memory.load(self.folder / "card.json")
            else:
                memory = self._issue(Model(model), serial or f"US{_digits(8)}", certified=certified, holder=holder)
            self.pin, self.so_pin = (file.read_text().strip() for file in (self.pin_file, self.so_pin_file))
            self.card = UShieldCard(memory, Panel(timeout_s), Model(memory.notes["model"]), lang)
            self._host = host or undo.enter_context(PcscHost())
            self._reader = reader
            self._insertion: Insertion | None = self._host.insert(self.card, reader)
            undo.callback(self.eject)
            self._undo = undo.pop_all()

    def _issue(self, model: Model, serial: str, *, certified: bool, holder: str) -> Memory:
        """Create a new card as issued by a bank."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        pin, so_pin = _digits(6), secrets.token_hex(8)
        for file, secret in ((self.pin_file, pin), (self.so_pin_file, so_pin)):
            file.touch(mode=0o600)
            file.write_text(f"{secret}\n")
        memory = blank(serial, pin, so_pin, tries=TRIES)
        if certified:
            self.ca_pem.write_bytes(_certify(memory, holder, each=model is not Model.NONE).pem)
        memory.path = self.folder / "card.json"
        memory.notes["model"] = model.value
        memory.save()
        return memory

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove it, and close its host unless it was passed in. May be called twice."""
        self._undo.close()

    @property
    def serial(self) -> str:
        """Its serial number."""
        return self.card.memory.serial

    @property
    def uri(self) -> str:
        """The URI that selects it."""
        named = {"serial": self.serial, "manufacturer": f"ushield_hw {self.card.model.value}"}
        return str(TokenUri(**named, model="PKCS#15 emulated", module_path=self._module))  # type: ignore[arg-type]

    @property
    def env(self) -> dict[str, str]:
        """The environment variables for a child process: this host's pcscd, and a separate state folder."""
        return {**self.host_env, "XDG_STATE_HOME": str(self.folder / "state")}

    @property
    def host_env(self) -> dict[str, str]:
        """The environment variables with which a program finds its reader."""
        return self._host.env

    @property
    def signatures(self) -> int:
        """The number of signatures it has made."""
        return self.card.signatures

    @property
    def outcome(self) -> Outcome:
        """The result of the last attempt to sign, as seen by the token."""
        return self.card.outcome

    @property
    def asked(self) -> int:
        """How often it asked for confirmation."""
        return self.card.panel.asked

    @property
    def plugged(self) -> bool:
        """Whether it is inserted."""
        return self._insertion is not None and self._insertion.present

    def screen(self) -> list[str]:
        """Return the rows on its screen; empty if it asks nothing."""
        return self.card.panel.screen()

    def press(self, button: ButtonName) -> None:
        """Press a button."""
        self.card.panel.press(Button(button))

    def answer(self, answer: AnswerName | None, after_s: float = 0) -> None:
        """Answer every question automatically from now on.

        Args:
            answer: the answer; None: wait for a button.
            after_s: delay after the question in seconds.
        """
        self.card.panel.answer(None if answer is None else Answer(answer), after_s)

    def wait_for_screen(self, deadline_s: float = 20) -> list[str]:
        """Wait until it asks a question, and return the rows on its screen.

        Args:
            deadline_s: timeout in seconds.

        Raises:
            TimeoutError: it asked nothing in time.
        """
        until = time.monotonic() + deadline_s
        while self.card.panel.place() is None:
            if time.monotonic() > until:
                raise TimeoutError(f"the virtual U-shield {self.serial} asked nothing within {deadline_s} s")
            time.sleep(_POLL_S)
        return self.screen()

    def eject(self) -> None:
        """Remove it immediately."""
        insertion, self._insertion = self._insertion, None
        if insertion is not None:
            insertion.eject()

    def insert(self) -> None:
        """Insert it again."""
        if not self.plugged:
            self._insertion = self._host.insert(self.card, self._reader)

    def delay(self, seconds: float) -> None:
        """Delay each signature by ``seconds`` after OK."""
        self.card.delay_s = seconds

    def fill(self) -> None:
        """Limit its memory to what is used, so that no key or certificate can be added."""
        memory = self.card.memory
        memory.capacity = memory.used

    def claim(self, serial: str) -> None:
        """Change its serial number; programs see it after the next :meth:`insert`."""
        self.card.memory.serial = serial
        self.card.memory.save()


def _opensc() -> Path:
    driver = Catalogue([data_dir("drivers")]).get("opensc")
    files = driver.module_files()
    if not files:
        raise InputError("PCSCD_MISSING", program="opensc", path=driver.module.paths[0])
    return files[0]


def _digits(count: int) -> str:
    return str(secrets.randbelow(9 * 10 ** (count - 1)) + 10 ** (count - 1))


def _certify(memory: Memory, holder: str, *, each: bool) -> Authority:
    """Store a payment key and its certificate on a card, as OpenSC would write them."""
    authority, key = Authority(), ec.generate_private_key(ec.SECP256R1())
    certificate = authority.issue(person(holder), key.public_key())
    with memory.writing():
        memory.keys[_KEY] = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        memory.files[0xC400 | _KEY] = _private_key_info(secrets.token_bytes(20), each=each)
        memory.files[0xCE00 | _KEY] = certificate.public_bytes(Encoding.DER)
    return authority


def _private_key_info(key_id: bytes, *, each: bool) -> bytes:
    """Return the PrivateKeyType of an EC key (ISO/IEC 7816-15) with label, identifier and userConsent."""
    consent = tlv(0x02, b"\1") if each else b""
    common = tlv(0x30, tlv(0x0C, _LABEL.encode()), tlv(0x03, b"\x06\xc0"), tlv(0x04, b"\1"), consent)
    about = tlv(0x30, tlv(0x04, key_id), tlv(0x03, b"\x06\x20\x40"), tlv(0x03, b"\x03\xb8"), tlv(0x02, bytes((_KEY,))))
    kind = tlv(0xA1, tlv(0x30, tlv(0x30, tlv(0x04, b"")), tlv(0x02, b"\x01\x00")))
    return tlv(0xA0, common, about, kind)
