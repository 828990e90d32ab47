"""Options shared by several commands, and the objects they refer to."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ushield_hw import messages
from ushield_hw.cli import candidates, output
from ushield_hw.cli.global_options import App
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
_STDIN_S = 600.0  # the program that writes to it may wait for its user


def say(name: str) -> str:
    """Return an option's help text."""
    return messages.text(f"help.option.{name}")


def as_json() -> Callable[[F], F]:
    """Return the option ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help=say("json"))


def token(*, required: bool = False) -> Callable[[F], F]:
    """Return the option ``--token``."""
    how: dict[str, Any] = {"required": required, "shell_complete": candidates.tokens}
    return click.option("--token", "selector", metavar="URI|SERIAL|LABEL", help=say("token"), **how)


def key_id() -> Callable[[F], F]:
    """Return the option ``--key-id``."""
    return click.option("--key-id", metavar="HEX", shell_complete=candidates.key_ids, help=say("key_id"))


def certificate() -> Callable[[F], F]:
    """Return the option ``--certificate``."""
    return click.option("--certificate", metavar="HEX", default=None, help=say("certificate"))


def pin_source() -> Callable[[F], F]:
    """Return the option ``--pin-source``."""
    return click.option("--pin-source", metavar="FILE|-", default=None, help=say("pin_source"))


def out(*, required: bool = False) -> Callable[[F], F]:
    """Return the option ``-o``."""
    return click.option("-o", "--out", type=click.Path(path_type=Path), required=required, help=say("out"))


def last_try() -> Callable[[F], F]:
    """Return the option ``--allow-last-try``."""
    return click.option("--allow-last-try", is_flag=True, help=say("allow_last_try"))


def settings() -> Settings:
    """Return the settings of the running command."""
    app: App = click.get_current_context().find_object(App)  # type: ignore[assignment]
    return app.settings


def find(selector: str | None) -> Token:
    """Return the token selected by ``--token``; without a selector the only token."""
    with output.progress("cli.looking"):
        return find_token(selector, settings=settings())


def terminal() -> Terminal:
    """Return the terminal with the timeouts of the settings."""
    limits = settings()
    return Terminal(limits.pin_timeout_s, limits.confirm_timeout_s)


def person(given: dict[PinKind, str | None], *, allow_last_try: bool = False) -> Sources:
    """Return the sources of PINs: those of the command line, then the terminal. The sources are checked at once.

    Args:
        given: ``--pin-source`` and similar options by kind of PIN.
        allow_last_try: whether the last attempt may be used.
    """
    named = {kind: name for kind, name in given.items() if name}
    if sys.stdin is not None and sys.stdin.isatty():  # a PIN typed on stdin would be visible; the prompt hides it
        named = {kind: name for kind, name in named.items() if name != STDIN}
    sources = Sources(named, terminal(), allow_last_try)
    click.get_current_context().call_on_close(sources.forget)
    sources.check()
    return sources


def rules() -> Rules:
    """Return the order rules of the settings."""
    from ushield_hw.order import Rules

    return Rules(demo=settings().demo)


def read_order(path: Path) -> Order:
    """Read an order file.

    Raises:
        InputError: it cannot be read or is not a valid order; names the place in the file.
    """
    from ushield_hw.order import Order

    data = read_file(path)
    with naming(path):
        return Order.parse(data, rules=rules())


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file name to every error about its content."""
    try:
        yield
    except UShieldError as error:
        error.details.setdefault("file", str(path))
        raise


def read_file(path: Path) -> bytes:
    """Return the content of a file; ``-`` is stdin.

    Raises:
        InputError: ``FILE_UNREADABLE``, ``FILE_TOO_LARGE``, ``INPUT_TIMED_OUT``.
    """
    try:
        if str(path) == STDIN:
            data = files.read_opened(sys.stdin.fileno(), _LARGEST_FILE + 1, _STDIN_S) if sys.stdin else b""
        else:
            data = files.read(path, _LARGEST_FILE + 1)
    except files.ReadTimeout as error:
        raise InputError("INPUT_TIMED_OUT", file=str(path), waited_s=round(error.waited_s)) from error
    except OSError as error:
        raise InputError("FILE_UNREADABLE", file=str(path), reason=error.strerror) from error
    if len(data) > _LARGEST_FILE:
        raise InputError("FILE_TOO_LARGE", file=str(path), most=_LARGEST_FILE)
    return data


def is_there(path: Path) -> bool:
    """Return whether an output file exists, also as a dangling link.

    Raises:
        InputError: ``OUTPUT_NAME``: not a possible file name, or ``-``.
        StorageError: ``OUTPUT_NOT_WRITTEN``: the folder is not searchable.
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
    """Raise if an output file exists, before any work is done.

    Raises:
        InputError: ``OUTPUT_EXISTS``, ``OUTPUT_NAME``.
    """
    if is_there(path):
        raise InputError("OUTPUT_EXISTS", file=str(path))


def check_folder(path: Path) -> None:
    """Raise if an output file cannot be written, before any work is done.

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
    """Write a new file atomically, with at most the permissions of ``mode``.

    Other users never get write permission, whatever the umask is, because requests and signed orders are passed on
    unchanged.

    Args:
        path: the file, which must not exist.
        data: its content.
        mode: the maximum permissions.

    Raises:
        InputError: ``OUTPUT_EXISTS``: it was created meanwhile.
        StorageError: ``OUTPUT_NOT_WRITTEN``.
    """
    draft = path.absolute().with_name(f".ushield-{os.urandom(8).hex()}")
    try:
        try:
            _write_whole(draft, data, mode)
            _link(draft, path, data, mode)
        finally:
            with suppress(OSError):  # the file is written, or the error is being raised
                draft.unlink(missing_ok=True)
    except FileExistsError as error:
        raise InputError("OUTPUT_EXISTS", file=str(path)) from error
    except OSError as error:
        raise StorageError("OUTPUT_NOT_WRITTEN", path=str(path), reason=error.strerror) from error


def _write_whole(path: Path, data: bytes, mode: int) -> None:
    """Write a new file; it is deleted again if writing fails."""
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _link(draft: Path, path: Path, data: bytes, mode: int) -> None:
    """Link the draft to its name: unlike a rename, a link never replaces a file.

    A file system without links, such as FAT, gets a copy.
    """
    try:
        os.link(draft, path)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
        _write_whole(path, data, mode)
