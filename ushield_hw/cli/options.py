"""Options that several commands share, and the objects they stand for."""

from __future__ import annotations

import errno
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ushield_hw import messages
from ushield_hw.cli import output
from ushield_hw.cli.app import App
from ushield_hw.cli.pin_sources import STDIN, Sources
from ushield_hw.cli.terminal import Terminal
from ushield_hw.config import Settings
from ushield_hw.errors import InputError, StorageError, UShieldError
from ushield_hw.interaction import PinKind
from ushield_hw.system import files
from ushield_hw.token.choice import find_token
from ushield_hw.token.token import Token

if TYPE_CHECKING:
    from ushield_hw.order import Order, Rules

F = TypeVar("F", bound=Callable[..., Any])

_LARGEST_FILE = 4 << 20
_STDIN_S = 600.0  # what writes to it may wait for a person


def say(name: str) -> str:
    """Return an option's help text."""
    return messages.text(f"help.option.{name}")


def as_json() -> Callable[[F], F]:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help=say("json"))


def token(*, required: bool = False) -> Callable[[F], F]:
    """``--token``."""
    return click.option("--token", "selector", metavar="URI|SERIAL|LABEL", required=required, help=say("token"))


def key_id() -> Callable[[F], F]:
    """``--key-id``."""
    return click.option("--key-id", metavar="HEX", default=None, help=say("key_id"))


def certificate() -> Callable[[F], F]:
    """``--certificate``."""
    return click.option("--certificate", metavar="HEX", default=None, help=say("certificate"))


def pin_source() -> Callable[[F], F]:
    """``--pin-source``."""
    return click.option("--pin-source", metavar="FILE|-", default=None, help=say("pin_source"))


def out(*, required: bool = False) -> Callable[[F], F]:
    """``-o``."""
    return click.option("-o", "--out", type=click.Path(path_type=Path), required=required, help=say("out"))


def last_try() -> Callable[[F], F]:
    """``--allow-last-try``."""
    return click.option("--allow-last-try", is_flag=True, help=say("allow_last_try"))


def settings() -> Settings:
    """Return the settings of the command that is running."""
    app: App = click.get_current_context().find_object(App)  # type: ignore[assignment]
    return app.settings


def find(selector: str | None) -> Token:
    """Return the token that ``--token`` names; without it, the only one."""
    with output.progress("cli.looking"):
        return find_token(selector, settings=settings())


def person(given: dict[PinKind, str | None], *, allow_last_try: bool = False) -> Sources:
    """Return who is asked for PINs: the sources given, then the terminal. The sources are checked at once."""
    limits = settings()
    terminal = Terminal(limits.pin_timeout_s, limits.confirm_timeout_s)
    named = {kind: name for kind, name in given.items() if name}
    if sys.stdin is not None and sys.stdin.isatty():  # a PIN typed there would be seen: the prompt hides it
        named = {kind: name for kind, name in named.items() if name != STDIN}
    sources = Sources(named, terminal, allow_last_try)
    click.get_current_context().call_on_close(sources.forget)
    sources.check()
    return sources


def rules() -> Rules:
    """Return the rules for orders that are in force."""
    from ushield_hw.order import Rules

    return Rules(demo=settings().demo)


def read_order(path: Path) -> Order:
    """Read an order file.

    Raises:
        InputError: it cannot be read, or is no order; names the place in it.
    """
    from ushield_hw.order import Order

    data = read_file(path)
    with naming(path):
        return Order.parse(data, rules=rules())


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the name of the file into every error about what is in it."""
    try:
        yield
    except UShieldError as error:
        error.details.setdefault("file", str(path))
        raise


def read_file(path: Path) -> bytes:
    """Return what a file holds; ``-`` is stdin.

    Raises:
        InputError: ``FILE_UNREADABLE``, ``FILE_TOO_LARGE``, ``INPUT_TIMED_OUT``.
    """
    try:
        if str(path) == STDIN:
            data = files.read_opened(sys.stdin.fileno(), _LARGEST_FILE + 1, _STDIN_S) if sys.stdin else b""
        else:
            data = files.read(path, _LARGEST_FILE + 1)
    except files.Silent as error:
        raise InputError("INPUT_TIMED_OUT", file=str(path), waited_s=round(error.waited_s)) from error
    except OSError as error:
        raise InputError("FILE_UNREADABLE", file=str(path), reason=error.strerror) from error
    if len(data) > _LARGEST_FILE:
        raise InputError("FILE_TOO_LARGE", file=str(path), most=_LARGEST_FILE)
    return data


def is_there(path: Path) -> bool:
    """Tell whether an output file exists; a link counts, wherever it leads.

    Raises:
        InputError: ``OUTPUT_NAME``: no file can have this name; ``-``, which elsewhere is stdout, is none either.
        StorageError: ``OUTPUT_NOT_WRITTEN``: the folder may not be looked into.
    """
    if str(path) == STDIN:
        raise InputError("OUTPUT_NAME", file=str(path))
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError("OUTPUT_NAME", file=str(path)) from error
        raise StorageError("OUTPUT_NOT_WRITTEN", path=str(path), reason=error.strerror) from error
    return True


def refuse_existing(path: Path) -> None:
    """Refuse an output file that exists, before anything is done for it.

    Raises:
        InputError: ``OUTPUT_EXISTS``, ``OUTPUT_NAME``.
    """
    if is_there(path):
        raise InputError("OUTPUT_EXISTS", file=str(path))


def check_folder(path: Path) -> None:
    """Refuse an output that nobody could write, before anything is done for it.

    Raises:
        InputError: ``OUTPUT_FOLDER_MISSING``, ``OUTPUT_NAME``.
        StorageError: ``OUTPUT_NOT_WRITTEN``: the folder is read-only.
    """
    there, folder = is_there(path), path.absolute().parent
    if not folder.is_dir():
        raise InputError("OUTPUT_FOLDER_MISSING", file=str(path), folder=str(folder))
    if not there and not os.access(folder, os.W_OK | os.X_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        reason = os.strerror(errno.EROFS if read_only else errno.EACCES)
        raise StorageError("OUTPUT_NOT_WRITTEN", path=str(path), reason=reason)


def write_new(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file that must not exist, with the rights of ``mode`` at most; it appears whole or not at all.

    Others never get to change it, whatever the umask is: a request or a signed order is handed on as it was made.

    Raises:
        InputError: ``OUTPUT_EXISTS``: it has appeared meanwhile.
        StorageError: ``OUTPUT_NOT_WRITTEN``.
    """
    draft = path.absolute().with_name(f".ushield-{secrets.token_hex(8)}")
    try:
        try:
            _write_whole(draft, data, mode)
            _link(draft, path, data, mode)
        finally:
            with suppress(OSError):  # the file is written, or why not is on its way
                draft.unlink(missing_ok=True)
    except FileExistsError as error:
        raise InputError("OUTPUT_EXISTS", file=str(path)) from error
    except OSError as error:
        raise StorageError("OUTPUT_NOT_WRITTEN", path=str(path), reason=error.strerror) from error


def _write_whole(path: Path, data: bytes, mode: int) -> None:
    """Write a file that did not exist; one that is half written does not stay."""
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _link(draft: Path, path: Path, data: bytes, mode: int) -> None:
    """Give the draft its name; unlike a rename, a link never replaces a file. A FAT stick knows no links."""
    try:
        os.link(draft, path)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
        _write_whole(path, data, mode)
