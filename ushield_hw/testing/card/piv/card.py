"""A virtual PIV card (NIST SP 800-73-4, part 2): the commands that OpenSC and similar software send.

Options chosen where the standard allows several: the card has a PIN but no global PIN, requires SELECT first, and
allows one use of the key in slot 9C per PIN verification. Other commands may come in between, because OpenSC checks the
selected application before each signature.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from ushield_hw.testing.card import apdu
from ushield_hw.testing.card.apdu import Chaining, Command, Refused, tlv, tlvs
from ushield_hw.testing.card.memory import Memory, Secret
from ushield_hw.testing.card.panel import Answer, Panel
from ushield_hw.testing.card.piv.contents import (
    APPLICATION,
    DISCOVERY,
    Reference,
    Slot,
    set_touch,
    wants_touch,
    well_formed,
)
from ushield_hw.testing.card.piv.keys import Key

VERIFY: Final = 0x20
CHANGE_REFERENCE_DATA: Final = 0x24
RESET_RETRY_COUNTER: Final = 0x2C
GENERATE_ASYMMETRIC: Final = 0x47
GENERAL_AUTHENTICATE: Final = 0x87
SELECT: Final = 0xA4
GET_DATA: Final = 0xCB
PUT_DATA: Final = 0xDB

TRIPLE_DES: Final = 0x03
MANAGEMENT_KEY: Final = 0x9B
_CHAINED: Final = 0x10
_WHOLE_OBJECT: Final = 0x3FFF
_WITNESS, _CHALLENGE, _RESPONSE, _EXPONENTIATION = 0x80, 0x81, 0x82, 0x85  # table 7
_TOUCH_POLICY, _NEVER = 0xAB, b"\x01"  # a YubiKey extension; nothing sends it to other cards
_BLOCK: Final = 8  # length in bytes of a management key challenge
_HISTORY: Final = 1000
_TOUCH_S: Final = 15.0
_SECRETS: Final = {Reference.PIN: "pin", Reference.PUK: "puk"}


class Answered(NamedTuple):
    """A processed command: instruction, length of its data, and status word."""

    ins: int
    length: int
    sw: int


class PivCard:
    """A PIV card.

    Args:
        memory: its non-volatile memory, created with :func:`blank` and :func:`hold`.
        panel: simulates touching the card: OK is a touch. Default: one with a timeout of 15 seconds.

    Attributes:
        history: the latest commands, without their data.
    """

    _untouched = apdu.NOT_SATISFIED

    # Not an ATR that OpenSC knows: for those it uses special cases instead of the standard.
    atr = bytes.fromhex("3B8A800155536869656C645049562E")  # 55…56 is "UShieldPIV"

    def __init__(self, memory: Memory, panel: Panel | None = None) -> None:
        self.memory = memory
        self.panel = panel or Panel(_TOUCH_S)
        self.history: deque[Answered] = deque(maxlen=_HISTORY)
        self._chaining = Chaining()
        self._commands: dict[int, Callable[[Command], bytes]] = {
            SELECT: self._select,
            VERIFY: self._verify,
            CHANGE_REFERENCE_DATA: self._change,
            RESET_RETRY_COUNTER: self._reset_retries,
            GENERAL_AUTHENTICATE: self._authenticate,
            GENERATE_ASYMMETRIC: self._generate,
            GET_DATA: self._get,
            PUT_DATA: self._put,
        }
        self.reset()

    def reset(self) -> None:
        """Clear the volatile state: logins and incomplete commands."""
        self._chaining.clear()
        self._selected = self._manager = False
        self._forget_pin()
        self._witness = self._challenge = b""

    def pulled_out(self) -> None:
        """End the wait for a touch, because the card was removed."""
        self.panel.pulled_out()

    def transmit(self, command: bytes) -> bytes:
        """Return the response APDU for a command APDU."""
        try:
            parsed = Command.parse(command)
        except Refused as refused:
            return refused.sw.to_bytes(2)
        try:
            answer = self._answer(parsed)
        except Refused as refused:
            answer = refused.data + refused.sw.to_bytes(2)
        self.history.append(Answered(parsed.ins, len(parsed.data), int.from_bytes(answer[-2:])))
        return answer

    def _answer(self, command: Command) -> bytes:
        if command.cla & ~_CHAINED:
            raise Refused(apdu.CLA_NOT_SUPPORTED)
        if command.ins == apdu.GET_RESPONSE:
            return self._chaining.more(command)
        run = self._commands.get(command.ins)
        if run is None or not (self._selected or command.ins == SELECT):
            raise Refused(apdu.INS_NOT_SUPPORTED)
        whole = self._chaining.collect(command)
        return apdu.OK.to_bytes(2) if whole is None else self._chaining.answer(run(whole), whole)

    # -- application and data objects -----------------------------------------------------------------------------

    def _select(self, command: Command) -> bytes:
        """Handle SELECT (part 2, section 3.1.1). The AID may be truncated; a wrong one changes nothing."""
        if command.p1p2 not in {0x0400, 0x040C}:
            raise Refused(apdu.WRONG_PARAMETERS)
        if len(command.data) < 5 or not APPLICATION.startswith(command.data):
            raise Refused(apdu.FILE_NOT_FOUND)
        self._selected = True
        authority = tlv(0x79, tlv(0x4F, APPLICATION[:5]))
        return tlv(0x61, tlv(0x4F, APPLICATION[5:]), authority, tlv(0x50, self._label), tlv(0xAC, self._algorithms))

    @property
    def _label(self) -> bytes:
        return b"PIV Card Application"

    @property
    def _algorithms(self) -> bytes:
        held = (TRIPLE_DES, 0x07, 0x11, 0x14)
        return b"".join(tlv(0x80, bytes((number,))) for number in held) + tlv(0x06, b"\0")

    def _get(self, command: Command) -> bytes:
        """Handle GET DATA (part 2, section 3.1.2). Certificates and other objects are public."""
        tag = self._tag(command)
        if tag == DISCOVERY:
            policy = tlv(0x5F2F, b"\x40\0")  # application PIN only
            return tlv(DISCOVERY, tlv(0x4F, APPLICATION), policy)
        if tag not in self.memory.files:
            raise Refused(apdu.FILE_NOT_FOUND)
        return tlv(0x53, self.memory.files[tag])

    def _put(self, command: Command) -> bytes:
        """Handle PUT DATA (part 2, section 3.3.2)."""
        self._needs_manager()
        tag = self._tag(command)
        if tag == DISCOVERY:
            raise Refused(apdu.WRONG_DATA)
        content = _one(command.data, 0x53)
        with self.memory.writing():
            self.memory.files[tag] = content
            if not content:
                del self.memory.files[tag]
        return b""

    def _tag(self, command: Command) -> int:
        if command.p1p2 != _WHOLE_OBJECT:
            raise Refused(apdu.WRONG_PARAMETERS)
        return int.from_bytes(_one(command.data, 0x5C))

    # -- PIN and PUK ----------------------------------------------------------------------------------------------

    def _verify(self, command: Command) -> bytes:
        """Handle VERIFY (part 2, section 3.2.1). Without data it returns the attempts remaining and uses none."""
        if command.p2 != Reference.PIN:
            raise Refused(apdu.REFERENCE_NOT_FOUND)
        if command.p1 == 0xFF and not command.data:
            self._forget_pin()
        elif command.p1:
            raise Refused(apdu.WRONG_PARAMETERS)
        elif command.data:
            self._present(Reference.PIN, command.data)
            self._verified = self._fresh = True
        elif not self._verified:
            raise _counted(self.secret(Reference.PIN))
        return b""

    def _change(self, command: Command) -> bytes:
        """Handle CHANGE REFERENCE DATA (part 2, section 3.2.2)."""
        self._replace(command, command.p2, command.p2)
        return b""

    def _reset_retries(self, command: Command) -> bytes:
        """Handle RESET RETRY COUNTER (part 2, section 3.2.3): sets a new PIN, authorized by the PUK."""
        if command.p2 != Reference.PIN:
            raise Refused(apdu.REFERENCE_NOT_FOUND)
        self._replace(command, Reference.PUK, Reference.PIN)
        return b""

    def _replace(self, command: Command, shown: int, replaced: int) -> None:
        if command.p1:
            raise Refused(apdu.WRONG_PARAMETERS)
        self.secret(shown)
        old, new = command.data[:8], command.data[8:]
        if not well_formed(replaced, new):  # check before the old one uses an attempt
            raise Refused(apdu.WRONG_DATA)
        self._present(shown, old)
        self.secret(replaced).set(new)
        self.memory.save()

    def _present(self, reference: int, value: bytes) -> None:
        if not well_formed(reference, value):
            raise Refused(apdu.WRONG_DATA)
        if reference == Reference.PIN:
            self._forget_pin()
        secret = self.secret(reference)
        right = secret.check(value)
        self.memory.save()  # persist the counter before responding
        if not right:
            raise _counted(secret)

    def secret(self, reference: int) -> Secret:
        """Return the PIN or the PUK.

        Raises:
            Refused: ``REFERENCE_NOT_FOUND``.
        """
        if reference not in set(Reference):
            raise Refused(apdu.REFERENCE_NOT_FOUND)
        return self.memory.secrets[_SECRETS[Reference(reference)]]

    def _forget_pin(self) -> None:
        self._verified = self._fresh = False

    # -- keys -----------------------------------------------------------------------------------------------------

    def _authenticate(self, command: Command) -> bytes:
        """Handle GENERAL AUTHENTICATE (part 2, section 3.2.4)."""
        parts = dict(tlvs(_one(command.data, 0x7C)))
        if command.p2 == MANAGEMENT_KEY:
            return self._manage(command.p1, parts)
        key = self.key(command.p2)
        if command.p1 != key.algorithm:
            raise Refused(apdu.WRONG_PARAMETERS)
        self._needs_pin(command.p2)
        if _EXPONENTIATION in parts:
            return tlv(0x7C, tlv(_RESPONSE, key.agree(parts[_EXPONENTIATION])))
        if not parts.get(_CHALLENGE) or parts.get(_RESPONSE) != b"":
            raise Refused(apdu.WRONG_DATA)
        return tlv(0x7C, tlv(_RESPONSE, key.use(parts[_CHALLENGE])))

    def _needs_pin(self, slot: int) -> None:
        fresh, self._fresh = self._fresh, False
        allowed = fresh if slot == Slot.SIGNATURE else self._verified
        if not allowed and slot != Slot.CARD_AUTHENTICATION:
            raise Refused(apdu.SECURITY_NOT_SATISFIED)
        if wants_touch(self.memory, slot) and self.panel.ask([["touch"]]) is not Answer.OK:
            raise Refused(self._untouched)

    def key(self, slot: int) -> Key:
        """Return the key of a slot.

        Raises:
            Refused: ``REFERENCE_NOT_FOUND``: the slot is empty.
        """
        if slot not in self.memory.keys:
            raise Refused(apdu.REFERENCE_NOT_FOUND)
        return Key.read(self.memory.keys[slot])

    def _manage(self, algorithm: int, parts: dict[int, bytes]) -> bytes:
        """Authenticate with the card management key (part 2, appendix A.1; mutual or external authentication)."""
        if algorithm not in {0, TRIPLE_DES}:
            raise Refused(apdu.WRONG_PARAMETERS)
        witness, self._witness = self._witness, b""
        challenge, self._challenge = self._challenge, b""
        cipher = Cipher(TripleDES(bytes.fromhex(self.memory.notes["management"])), modes.ECB())  # noqa: S305 - the standard's
        if parts == {_WITNESS: b""}:
            self._witness = secrets.token_bytes(_BLOCK)
            return tlv(0x7C, tlv(_WITNESS, cipher.encryptor().update(self._witness)))
        if parts == {_CHALLENGE: b""}:
            self._challenge = secrets.token_bytes(_BLOCK)
            return tlv(0x7C, tlv(_CHALLENGE, self._challenge))
        if witness and parts.get(_WITNESS) == witness and len(parts.get(_CHALLENGE, b"")) == _BLOCK:
            self._manager = True
            return tlv(0x7C, tlv(_RESPONSE, cipher.encryptor().update(parts[_CHALLENGE])))
        if challenge and parts.get(_RESPONSE) == cipher.encryptor().update(challenge):
            self._manager = True
            return b""
        self._manager = False
        raise Refused(apdu.SECURITY_NOT_SATISFIED)

    def _generate(self, command: Command) -> bytes:
        """Handle GENERATE ASYMMETRIC KEY PAIR (part 2, section 3.3.3)."""
        self._needs_manager()
        if command.p1 or command.p2 not in set(Slot):
            raise Refused(apdu.WRONG_PARAMETERS)
        wanted = dict(tlvs(_one(command.data, 0xAC)))
        key = Key.generate(int.from_bytes(wanted.get(0x80, b"")))
        with self.memory.writing():
            self.memory.keys[command.p2] = key.saved
            set_touch(self.memory, command.p2, wanted=wanted.get(_TOUCH_POLICY, _NEVER) != _NEVER)
        return tlv(0x7F49, key.public)

    def _needs_manager(self) -> None:
        if not self._manager:
            raise Refused(apdu.SECURITY_NOT_SATISFIED)


def _one(data: bytes, wanted: int) -> bytes:
    """Return the content of the data object with this tag."""
    for tag, value in tlvs(data):
        if tag == wanted:
            return value
    raise Refused(apdu.WRONG_DATA)


def _counted(secret: Secret) -> Refused:
    """Return the response to a wrong or missing PIN."""
    return Refused(apdu.PIN_TRIES | secret.left if secret.left else apdu.PIN_BLOCKED)
