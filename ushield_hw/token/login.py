"""The logins of this process: one per token, shared by all sessions of the token."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from ushield_hw import errors
from ushield_hw.backend.model import TokenFlag, TokenInfo, User
from ushield_hw.interaction import Interaction, PinKind
from ushield_hw.system.log import LOG
from ushield_hw.token.link import Key, Link

_NO_LOGIN_THERE: Final = errors.Trait.NO_LOGIN | errors.Trait.LOGGED_IN


class Standing(Enum):
    """Whether an open token is logged in."""

    LOGGED_IN = "logged-in"
    NOT_NEEDED = "not-needed"  # its private keys are visible without a login; none was attempted
    REFUSED = "refused"  # the token does not support a login


@dataclass(slots=True)
class Owner:
    """The login of one token.

    Attributes:
        link: The link that is logged in, see :func:`fresh`.
        lock: Held while the login changes.
        login_id: The id of the login; None: not logged in.
        users: The number of open sessions.
        standing: Whether the token is logged in.
        info: The token information read at login.
        replaced: The id in use before a later login; sessions with this id then use the new one.
    """

    link: Link
    lock: threading.RLock = field(default_factory=threading.RLock)
    login_id: int | None = None
    users: int = 0
    standing: Standing = Standing.LOGGED_IN
    info: TokenInfo | None = None  # as read at login
    replaced: int | None = None  # the id before a later login

    def stands(self) -> bool:
        """Tell whether this process is logged in, according to the backend."""
        return self.login_id is not None and self.link.module.logged_in(self.login_id)

    def hold(self, opened: Opened) -> None:
        """Store the result of a login, or of opening without one."""
        self.link, self.login_id, self.standing, self.info = opened

    def logout(self) -> None:
        """Log out."""
        login_id, self.login_id = self.login_id, None
        logout(self.link, login_id)


_owners: Final[dict[Key, Owner]] = {}
_owners_lock = threading.Lock()


def _another_stands(link: Link) -> bool:
    """Tell whether this process is logged in to another token of a module."""
    with _owners_lock:
        others = [owner for key, owner in _owners.items() if key[0] is link.module and key != link.key]
    return any(owner.link.module is link.module and owner.stands() for owner in others)


def _after_fork() -> None:
    """Reset in a forked child: the logins are the parent's, and another thread may have held the lock."""
    global _owners_lock  # noqa: PLW0603
    _owners_lock = threading.Lock()
    _owners.clear()


os.register_at_fork(after_in_child=_after_fork)


Opened = tuple[Link, int, Standing, TokenInfo]
"""The link in use, the login id, whether the token is logged in, and the token information."""


def fresh(link: Link) -> Link:
    """Return the link to log in with, so that the current PIN of the token applies.

    Some modules detect changes by other processes only when they are initialized again, which is not possible while
    there is a login to another of their tokens. In this case the token is opened through a worker process of its own.

    Args:
        link: The token.
    """
    if not link.module.needs_relist or not _another_stands(link):
        return link
    return replace(link, found_by=link.module.separate(repr(link.identity or link.serial)))


def timeout_s(link: Link, pin: str | None, *, entries: int = 1) -> float | None:
    """Return how long to wait for PIN entries on the token, in seconds; None if the host sends the PIN.

    Args:
        link: The token.
        pin: The PIN that the host sends; None: the user enters it on the token.
        entries: The number of PIN entries.
    """
    return float(link.driver.confirm.timeout_s * entries) if pin is None else None


def opened(link: Link, interaction: Interaction, purpose: str) -> Opened:
    """Log in, or open a token that needs no login.

    A token with CKF_LOGIN_REQUIRED clear may show its private keys without a login, and may refuse every C_Login.

    Args:
        link: The token.
        interaction: Prompts for the PIN.
        purpose: Shown in the prompt. Only ``sign`` can open a token without a login.
    """
    with link.noticing_removal():
        info = link.info()
        if info.has(TokenFlag.LOGIN_REQUIRED):
            place, login_id, said = login(link, interaction, purpose, info)
            return place, login_id, Standing.LOGGED_IN, said
        if purpose == "sign" and any(key.private for key in link.module.keys(link.slot_id)):
            return link, link.module.open_without_login(link.slot_id), Standing.NOT_NEEDED, info
    return logged_in(link, interaction, purpose, info)


def logged_in(link: Link, interaction: Interaction, purpose: str, info: TokenInfo | None) -> Opened:
    """Log in to a token that reports that it needs no login; open it without one if it does not support a login.

    Args:
        link: The token.
        interaction: Prompts for the PIN.
        purpose: Shown in the prompt.
        info: Token information that was just read; None: read it now.
    """
    info = info or link.info()
    try:
        place, login_id, said = login(link, interaction, purpose, info)
        return place, login_id, Standing.LOGGED_IN, said
    except (errors.TokenError, errors.PinError) as error:
        if not error.failed_as(_NO_LOGIN_THERE):
            raise
        LOG.info("no login: %s", error.ckr)
        return link, link.module.open_without_login(link.slot_id), Standing.REFUSED, info


def login(
    link: Link, interaction: Interaction, purpose: str, info: TokenInfo | None = None
) -> tuple[Link, int, TokenInfo]:
    """Log in; if anything fails after C_Login has succeeded, log out again.

    Args:
        link: The token.
        interaction: Prompts for the PIN.
        purpose: Shown in the prompt.
        info: Token information that was just read; None: read it now.

    Returns:
        The link that is logged in, the login id, and the current token information.
    """
    info, logins = info or link.info(), list[tuple[Link, int]]()

    def send(pin: str | None) -> None:
        place = fresh(link)  # after the prompt: another token may have been logged in
        logins.append((place, place.module.login(link.slot_id, User.USER, pin, deadline_s=timeout_s(link, pin))))

    try:
        link.pin.use(interaction, PinKind.USER, purpose, send, info)
        place, login_id = logins[0]
        return place, login_id, said_after(place, info)  # fails if the slot now holds another token
    except BaseException as error:
        for place, login_id in logins:
            logout(place, login_id)
        if isinstance(error, errors.UShieldError) and link.is_gone_after(error):
            raise errors.TokenRemoved(serial=link.serial) from error
        raise


def said_after(place: Link, before: TokenInfo) -> TokenInfo:
    """Return the token information after a login; if the present token can no longer be read, the previous one.

    Raises:
        TokenRemoved: The slot is empty or holds another token.
    """
    try:
        return place.info()
    except errors.TokenError as error:
        if not error.failed_as(errors.Trait.VAGUE) or place.is_gone_after(error):
            raise
        LOG.warning("the token cannot be read after the login: %s", error.ckr)
        return before


def logout(link: Link, login_id: int | None) -> None:
    """Log out, and end a worker process that served only this login (see :func:`fresh`).

    Errors are logged, not raised: what was done while logged in stands.
    """
    if login_id is None:
        return
    try:
        link.module.logout(login_id)
    except errors.UShieldError as error:
        expected = isinstance(error, errors.TokenRemoved | errors.LoginEnded | errors.ModuleLost)
        LOG.log(logging.INFO if expected else logging.WARNING, "no logout: %s", error.code)
    finally:
        if link.module.name:
            link.module.close()


def owner_of(link: Link) -> Owner:
    """Return the login record of a token; create it if there is none."""
    with _owners_lock:
        return _owners.setdefault(link.key, Owner(link))


@contextmanager
def alone(link: Link) -> Iterator[None]:
    """Refuse if this process is logged in to the token, and prevent a login during the block."""
    owner = owner_of(link)
    with owner.lock:
        if owner.stands():
            raise errors.TokenBusy(holder="this process")
        yield
