"""PIN handling: the state of a PIN, format checks, and the rules that prevent wasted attempts.

A PIN's length is checked before it is sent to the token. An incorrect PIN is sent once, never retried. The last attempt
needs the user's consent. For a token that never locks (SoftHSM2), failed attempts are counted on this host. Other
programs can bypass this counter: it limits the attempts of this library and does not protect the token.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from ushield_hw.backend.model import Identity, TokenFlag, TokenInfo
from ushield_hw.config import Settings
from ushield_hw.drivers.family import Driver, PinEncoding, PinFlags
from ushield_hw.errors import (
    DriverError,
    InputError,
    LastTryNotConfirmed,
    LoginEnded,
    PinCancelled,
    PinChangeRequired,
    PinError,
    PinFormatError,
    PinIncorrect,
    PinLocked,
    Step,
    StorageError,
    TokenError,
    TokenNotInitialized,
    TokenRemoved,
    Trait,
    UShieldError,
)
from ushield_hw.interaction import CountSource, Interaction, Pin, PinKind, PinRequest, PinState
from ushield_hw.system import storage as kept
from ushield_hw.system.log import LOG

T = TypeVar("T")
E = TypeVar("E", bound=UShieldError)

_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

_UNUSABLE: Final = "PIN_COUNTER_UNUSABLE"
_FOLDER: Final = "pin"
_LONGEST: Final = 255  # bytes; no token accepts more

_PROTECTED: Final = TokenFlag.PROTECTED_AUTHENTICATION_PATH


class PinGuard:
    """The PIN of one token: its state, its format, and its use.

    Args:
        info: Returns the current token information (its flags change with every attempt).
        identity: The identity reported by the token; None: as reported at the first read.
        driver: States how reliable the token's PIN flags are, and whether this host counts attempts.
        settings: Where the counter is stored.
        module: The module path; together with the identity it names the counter.
    """

    def __init__(
        self, info: Callable[[], TokenInfo], identity: Identity | None, driver: Driver, settings: Settings, module: Path
    ) -> None:
        self._info = info
        self._identity = identity
        self._driver = driver
        self._settings = settings
        self._module = module

    @property
    def counter(self) -> TryCounter | None:
        """The attempt counter on this host, for a token that never locks; otherwise None."""
        tries = self._driver.pin.policy_tries
        if tries is None:
            return None
        name = self._name()
        return TryCounter(lambda: kept.state_folder(self._settings.state_dir, _FOLDER) / f"{name}.json", tries)

    def state(self, info: TokenInfo | None = None) -> PinState:
        """Return the state of the PIN. Uses no attempt.

        Args:
            info: Token information that was just read; None: read it now.

        Raises:
            StorageError: The attempt counter on this host cannot be read.
        """
        info = info or self._info()
        self._identity = self._identity or info.identity
        counter = self.counter
        return replace(self._state(counter.failures() if counter else None, info), changed_at=self._changed_at())

    def note_changed(self) -> None:
        """Record on this host that the PIN was changed now; tokens do not report this time."""
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            file = kept.state_folder(self._settings.state_dir, _FOLDER) / self._changed_name()
            kept.write_atomically(file, json.dumps({"version": 1, "changed_at": moment}).encode())
        except (OSError, StorageError) as error:  # the PIN was changed; do not raise
            LOG.warning("when the PIN was changed cannot be kept: %s", error)

    def _changed_at(self) -> str | None:
        try:
            folder = kept.existing_folder(self._settings.state_dir, _FOLDER)
            said = json.loads((folder / self._changed_name()).read_bytes())["changed_at"] if folder else None
        except (OSError, StorageError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return said if isinstance(said, str) and _MOMENT.fullmatch(said) else None

    def _changed_name(self) -> str:
        return f"{self._name()}.changed"

    def _name(self) -> str:
        """Return the file name for this token: a digest of module path and identity; serial numbers may repeat."""
        self._identity = self._identity or self._info().identity
        said = [str(self._module.resolve()), *self._identity]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]

    def use(
        self,
        interaction: Interaction,
        kind: PinKind,
        purpose: str,
        send: Callable[[str | None], T],
        info: TokenInfo | None = None,
    ) -> T:
        """Prompt for a PIN and send it once.

        Args:
            interaction: Prompts for the PIN, and for consent to the last attempt.
            kind: ``USER`` or ``CONTEXT``.
            purpose: Shown in the prompt.
            send: Sends the PIN to the token in one C_Login. Gets None if the PIN is entered on the token.
            info: Token information that was just read; None: read it now.

        Returns:
            The result of ``send``.

        Raises:
            PinIncorrect: The PIN was incorrect. ``.state`` has the attempts remaining.
            PinLocked: The PIN is locked, or this attempt locked it.
            LastTryNotConfirmed, PinCancelled, PinFormatError: Nothing was sent.
            StorageError: The attempt cannot be counted; nothing was sent.
        """
        info = info or self._info()
        ask = self.request(kind, purpose, info)
        pin = None if info.has(_PROTECTED) else self._ask(interaction, ask, info)
        if ask.state.final_try and not interaction.confirm_last_try(ask):
            raise LastTryNotConfirmed(state=ask.state, serial=ask.serial)
        return self._send(ask, pin, send, info)

    def request(self, kind: PinKind, purpose: str, info: TokenInfo) -> PinRequest:
        """Return the prompt for a PIN, or raise an error if the PIN cannot be used.

        A clear CKF_USER_PIN_INITIALIZED is not a reason to refuse: some tokens clear it although a PIN is set
        (tpm2-pkcs11#235). The token decides when it receives a PIN.

        Args:
            kind: The kind of PIN.
            purpose: Shown in the prompt.
            info: The token information.

        Raises:
            PinLocked: The PIN is locked.
            PinChangeRequired: The PIN must be changed before it can be used to sign.
            StorageError: The attempt counter on this host cannot be read.
        """
        state = self.state(info)
        error = refusal(info, state, self._driver, self._settings, purpose)
        if error is not None:
            raise error
        return PinRequest(kind, info.serial, info.label, state, purpose)

    def limits(self, info: TokenInfo | None = None) -> PinState:
        """Return a state with only the allowed PIN lengths, for a PIN that is to be set.

        Args:
            info: Token information that was just read; None: read it now.
        """
        return self._blank(info or self._info())

    def check_characters(self, pin: str, info: TokenInfo) -> None:
        """Refuse a PIN, SO PIN or PUK with invalid characters before it is sent to the token.

        Args:
            pin: The PIN, SO PIN or PUK.
            info: The token information.

        Raises:
            PinFormatError: ``PIN_CHARACTERS``; ``PIN_NOT_ASCII``: an input method in full-width mode enters digits and
                spaces that look correct, but would use up an attempt.
        """
        limits = self._bounds(info)
        if any(unicodedata.category(character) in {"Cc", "Cs"} for character in pin):  # controls and surrogates
            raise PinFormatError("PIN_CHARACTERS", **limits)
        if self._driver.pin.encoding is PinEncoding.ASCII and not pin.isascii():
            raise PinFormatError("PIN_NOT_ASCII", **limits)

    def check_format(self, pin: str, info: TokenInfo) -> None:
        """Refuse a PIN that cannot be correct before it is sent to the token.

        Args:
            pin: The PIN.
            info: The token information.

        Raises:
            PinFormatError: As for :meth:`check_characters`, or the PIN is too short or too long.
        """
        limits = self._bounds(info)
        fits = limits["min"] <= len(pin.encode("utf-8", "replace")) <= limits["max"]
        wrong_width = not (pin.isprintable() and unicodedata.is_normalized("NFKC", pin))
        if fits or wrong_width:  # full-width characters may be why the PIN is too long
            self.check_characters(pin, info)
        if not fits:
            raise PinFormatError(**limits)

    @contextlib.contextmanager
    def naming_limits(self) -> Iterator[None]:
        """Add the allowed lengths to the token's own refusal of a PIN format."""
        try:
            yield
        except PinFormatError as error:
            raise _restated(error, PinFormatError, error.code, **self._bounds(self._info())) from error

    def _ask(self, interaction: Interaction, ask: PinRequest, info: TokenInfo) -> str:
        pin = interaction.request_pin(ask)
        if pin is None:
            raise PinCancelled(serial=ask.serial)
        self.check_format(pin, info)
        return Pin(pin)

    def _send(self, ask: PinRequest, pin: str | None, send: Callable[[str | None], T], info: TokenInfo) -> T:
        counter = self.counter
        trying = counter.trying(consented=bool(ask.state.final_try)) if counter else contextlib.nullcontext()
        done: list[T] = []
        try:
            with trying, self.naming_limits():
                done.append(send(pin))
            return done[0]
        except StorageError as error:
            if not done or not (ask.kind is PinKind.CONTEXT or ask.purpose == "change"):
                raise
            LOG.warning("the try was not given back: %s", error.code)  # the signature or new PIN exists; do not raise
            return done[0]
        except LastTryNotConfirmed as error:
            raise LastTryNotConfirmed(state=self.state(), serial=ask.serial) from error
        except PinIncorrect as error:
            state = self._state_after(info)
            if state.locked:
                raise self._locked(state, error) from error
            raise _restated(error, PinIncorrect, state=state, n=state.retries_left) from error
        except PinLocked as error:
            raise self._locked(self._state_after(info), error) from error
        except PinChangeRequired as error:
            raise _restated(error, PinChangeRequired) from error
        except TokenNotInitialized as error:
            raise error.restated(TokenNotInitialized, "PIN_NOT_SET", serial=ask.serial) from error

    def _state_after(self, before: TokenInfo) -> PinState:
        """Return the state after the token refused a PIN; if the token cannot be read, derive it from ``before``."""
        try:
            return self.state()
        except TokenRemoved:
            raise
        except TokenError as error:
            LOG.warning("the token cannot be read after the PIN was refused: %s", error.code)
            return self.state(before)

    def _locked(self, state: PinState, error: PinError) -> PinLocked:
        return _locked(self._driver, state, error)

    def _state(self, failures: int | None, info: TokenInfo) -> PinState:
        blank = self._blank(info)
        if failures is not None:
            left = max(0, (self._driver.pin.policy_tries or 0) - failures)
            return replace(
                blank,
                retries_left=left,
                source=CountSource.POLICY,
                locked=left == 0,
                final_try=left == 1,
                low=failures > 0,
            )
        return self._from_flags(blank, info)

    def _from_flags(self, blank: PinState, info: TokenInfo) -> PinState:
        belief = self._driver.pin.flags
        if belief is PinFlags.NONE:
            return blank
        locked = info.has(TokenFlag.USER_PIN_LOCKED)
        final = info.has(TokenFlag.USER_PIN_FINAL_TRY) and not locked
        low = info.has(TokenFlag.USER_PIN_COUNT_LOW) or final or locked
        if belief is PinFlags.PARTIAL and not low:  # a clear flag has no meaning for this family
            return replace(blank, source=CountSource.FLAGS)
        trusted = belief is PinFlags.TRUSTED
        # The flags' own meaning (PKCS#11 v2.40, CK_TOKEN_INFO): final try is one left, locked is none.
        left = 0 if locked else 1 if final else None
        return replace(
            blank,
            retries_left=left,
            source=CountSource.FLAGS,
            locked=locked or (False if trusted or final else None),
            final_try=final or (False if trusted or locked else None),
            low=low,
        )

    def _blank(self, info: TokenInfo) -> PinState:
        least, most = self._lengths(info)
        return PinState(min_length=least or None, max_length=most or None)

    def _bounds(self, info: TokenInfo) -> dict[str, int]:
        least, most = self._lengths(info)
        return {"min": least or 1, "max": most or _LONGEST}

    def _lengths(self, info: TokenInfo) -> tuple[int, int]:
        """Return the minimum and maximum PIN length in bytes; 0 if neither the token nor its driver states it.

        If the token's minimum is greater than its maximum, both are ignored.
        """
        pin, least, most = self._driver.pin, info.min_pin, info.max_pin
        if most and least > most:
            least = most = 0
        longest = [length for length in (most, pin.max_length) if length]
        return max(least, pin.min_length or 0), min(longest, default=0)


def refusal(
    info: TokenInfo, state: PinState, driver: Driver, settings: Settings, purpose: str
) -> PinLocked | PinChangeRequired | None:
    """Return the reason not to prompt for a PIN, or None.

    Args:
        info: The current token information.
        state: The state of the PIN.
        driver: The driver of the token's family.
        settings: The settings in force.
        purpose: The purpose of the PIN. An initial PIN, which was delivered with the token, cannot be used to sign.
    """
    if state.locked:
        return _locked(driver, state)
    if purpose != "sign":
        return None
    if info.has(TokenFlag.USER_PIN_TO_BE_CHANGED):
        return PinChangeRequired(serial=info.serial)
    if settings.change_first_pin and state.changed_at is None:
        return PinChangeRequired("PIN_FIRST_USE", serial=info.serial)
    return None


def _locked(driver: Driver, state: PinState, error: PinError | None = None) -> PinLocked:
    facts = {"state": replace(state, locked=True), "unblock": driver.pin.unblock.value}
    return PinLocked(**facts) if error is None else _restated(error, PinLocked, **facts)


def _restated(error: PinError, kind: type[E], code: str | None = None, /, **details: object) -> E:
    """Return another error for the same answer of the token, keeping only its code, function and failure."""
    answer = {name: value for name, value in error.details.items() if name in {"ckr", "function"}}
    made = kind(code, **details, **answer)
    made.failure = error.failure
    return made


def _unsent(error: UShieldError) -> bool:
    """Tell whether no PIN was checked: refused locally, module not loaded, or an error before the PIN was needed."""
    if isinstance(error, (DriverError, InputError, LoginEnded)) or error.failed_as(Trait.NO_LOGIN):
        return True
    return error.failure is not None and error.failure.step not in {Step.LOGIN, Step.SET_PIN}


class TryCounter:
    """The failed attempts of one PIN, counted on this host across processes and crashes.

    The count is incremented under a lock before the PIN is sent, and reset only when the token accepts the PIN. If an
    error occurs before the PIN is sent, the attempt is not counted. A crash in between costs one attempt; it never
    grants an additional one.

    Every method raises ``StorageError`` if the count cannot be read or written.

    Args:
        file: Returns the path of the counter file.
        tries: The number of attempts allowed.
    """

    def __init__(self, file: Callable[[], Path], tries: int) -> None:
        self._file = file
        self._tries = tries

    def failures(self) -> int:
        """Return the number of failed attempts since the last success."""
        return self._read(self._file())

    @contextlib.contextmanager
    def trying(self, *, consented: bool) -> Iterator[None]:
        """Count an attempt during the block; reset the count on success, restore it if no PIN was checked.

        Args:
            consented: Whether the user agreed to use the last attempt.

        Raises:
            PinLocked: No attempts remain.
            LastTryNotConfirmed: One attempt remains and the user has not agreed to use it.
        """
        file = self._file()
        with kept.exclusive(file, _UNUSABLE, "another ushield process"):
            failed = self._read(file)
            if failed >= self._tries:
                raise PinLocked
            if failed == self._tries - 1 and not consented:  # another process used an attempt meanwhile
                raise LastTryNotConfirmed
            self._write(file, failed + 1)
            try:
                yield
            except UShieldError as error:
                if _unsent(error):
                    with contextlib.suppress(StorageError):  # raise the first error
                        self._write(file, failed)
                raise
            self._write(file, 0)

    def reset(self) -> None:
        """Reset the count, even if the file cannot be read: the SO has set a new PIN."""
        file = self._file()
        with kept.exclusive(file, _UNUSABLE, "another ushield process"):
            self._write(file, 0)

    def _read(self, file: Path) -> int:
        try:
            count = json.loads(file.read_bytes())["failures"]
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StorageError(_UNUSABLE, path=str(file), reason=str(error)) from error
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise StorageError(_UNUSABLE, path=str(file), reason="not a count")
        return count

    def _write(self, file: Path, failures: int) -> None:
        try:
            kept.write_atomically(file, json.dumps({"version": 1, "failures": failures}).encode())
        except OSError as error:
            raise StorageError(_UNUSABLE, path=str(file), reason=error.strerror) from error
