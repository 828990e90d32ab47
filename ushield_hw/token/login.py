"""The logins of this process: one for each token, shared by all sessions of that token."""

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
    """How an open token stands."""

    LOGGED_IN = "logged-in"
    NOT_NEEDED = "not-needed"  # its private keys show without a login, and none was tried
    REFUSED = "refused"  # it takes no login


@dataclass(slots=True)
class Owner:
    """The login of one token. ``link``: where it was logged in to, see :func:`fresh`."""

    link: Link
    lock: threading.RLock = field(default_factory=threading.RLock)
    login_id: int | None = None
    users: int = 0
    standing: Standing = Standing.LOGGED_IN
    info: TokenInfo | None = None  # as the token said when it was opened
    replaced: int | None = None  # what stood for the login before there was one

    def stands(self) -> bool:
        """Tell whether this process is logged in, as far as the module's side knows."""
        return self.login_id is not None and self.link.module.logged_in(self.login_id)

    def hold(self, opened: Opened) -> None:
        """Keep what a login, or what stands for one, gave."""
        self.link, self.login_id, self.standing, self.info = opened

    def logout(self) -> None:
        """End the login."""
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
    """In a forked child: the logins are the parent's, and another thread may have held the lock."""
    global _owners_lock  # noqa: PLW0603
    _owners_lock = threading.Lock()
    _owners.clear()


os.register_at_fork(after_in_child=_after_fork)


Opened = tuple[Link, int, Standing, TokenInfo]
"""Where a token is held, what stands for the login, how it stands, and what the token says then."""


def fresh(link: Link) -> Link:
    """Return where to log in so that the token's PIN is the one that holds now.

    A module that sees only what was there when it was initialised cannot be initialised again while there is a login
    to another of its tokens. Then the token is reached through a worker of its own.
    """
    if not link.module.needs_relist or not _another_stands(link):
        return link
    return replace(link, found_by=link.module.apart(repr(link.identity or link.serial)))


def patience_s(link: Link, pin: str | None, *, entries: int = 1) -> float | None:
    """Return how long to wait for a person who types at the token so many times; None: the PIN comes from here."""
    return float(link.driver.confirm.timeout_s * entries) if pin is None else None


def opened(link: Link, interaction: Interaction, purpose: str) -> Opened:
    """Log in, or hold a token that needs no login.

    A token whose CKF_LOGIN_REQUIRED is clear may show its private keys all the same, and may refuse every C_Login.
    """
    with link.noticing_removal():
        info = link.info()
        if info.has(TokenFlag.LOGIN_REQUIRED):
            place, login_id, said = login(link, interaction, purpose, info)
            return place, login_id, Standing.LOGGED_IN, said
        if purpose == "sign" and any(key.private for key in link.module.keys(link.slot_id)):
            return link, link.module.attend(link.slot_id), Standing.NOT_NEEDED, info
    return logged_in(link, interaction, purpose, info)


def logged_in(link: Link, interaction: Interaction, purpose: str, info: TokenInfo | None) -> Opened:
    """Log in to a token that says that it needs no login; hold it without one if it takes none."""
    info = info or link.info()
    try:
        place, login_id, said = login(link, interaction, purpose, info)
        return place, login_id, Standing.LOGGED_IN, said
    except (errors.TokenError, errors.PinError) as error:
        if not error.failed_as(_NO_LOGIN_THERE):
            raise
        LOG.info("no login: %s", error.ckr)
        return link, link.module.attend(link.slot_id), Standing.REFUSED, info


def login(
    link: Link, interaction: Interaction, purpose: str, info: TokenInfo | None = None
) -> tuple[Link, int, TokenInfo]:
    """Log in; if anything goes wrong after the token said yes, log out again.

    Args:
        link: the token.
        interaction: asked for the PIN.
        purpose: said in the prompt.
        info: what the token has just said; None: it is asked.

    Returns:
        Where, the login, and what the token says now.
    """
    info, logins = info or link.info(), list[tuple[Link, int]]()

    def send(pin: str | None) -> None:
        place = fresh(link)  # now, not before the person was asked
        logins.append((place, place.module.login(link.slot_id, User.USER, pin, deadline_s=patience_s(link, pin))))

    try:
        link.pin.use(interaction, PinKind.USER, purpose, send, info)
        place, login_id = logins[0]
        return place, login_id, said_after(place, info)  # the token that was asked for is still the one in the slot
    except BaseException as error:
        for place, login_id in logins:
            logout(place, login_id)
        if isinstance(error, errors.UShieldError) and link.is_gone_after(error):
            raise errors.TokenRemoved(serial=link.serial) from error
        raise


def said_after(place: Link, before: TokenInfo) -> TokenInfo:
    """Return what a token says after a login; what it said before where it cannot say any more, and is still there.

    Raises:
        TokenRemoved: it is not, or it is another one.
    """
    try:
        return place.info()
    except errors.TokenError as error:
        if not error.failed_as(errors.Trait.VAGUE) or place.is_gone_after(error):
            raise
        LOG.warning("the token cannot be read after the login: %s", error.ckr)
        return before


def logout(link: Link, login_id: int | None) -> None:
    """End a login, and a worker that was there for it alone (see :func:`fresh`).

    What fails here is logged: it undoes nothing of what was done while logged in.
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
    """Return the login of a token, made or not."""
    with _owners_lock:
        return _owners.setdefault(link.key, Owner(link))


@contextmanager
def alone(link: Link) -> Iterator[None]:
    """Refuse if this process is logged in to the token, and keep it from logging in meanwhile."""
    owner = owner_of(link)
    with owner.lock:
        if owner.stands():
            raise errors.TokenBusy(holder="this process")
        yield
