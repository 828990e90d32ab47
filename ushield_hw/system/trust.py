"""Check that only root and the user can change a file, before the file is allowed to control the program.

The rule is that of sshd for its own files: the file, every symbolic link on the path and every parent folder must
belong to root or to the user who runs the program, and must not be writable by others. A root-owned folder with the
sticky bit (``/tmp``) is allowed: others can add files there but not replace the user's. Group write permission is
allowed if the group is the owner's private one: it has the owner's name and no other member (distributions that set
umask 002 rely on that).

The path is checked from the root down. A checked component cannot be replaced, because others cannot write to the
folder that contains it. Therefore the file that is opened afterwards is the file that was checked.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from ushield_hw.errors import DriverNotFound, DriverUntrusted

_MOST_LINKS: Final = 40
_ACL: Final = "system.posix_acl_access"
_ACL_HEAD, _ACL_ENTRY = 4, 8  # octets (linux/posix_acl_xattr.h): version; then tag, permissions, id
_ACL_USER, _ACL_GROUP_OBJ, _ACL_GROUP = 0x02, 0x04, 0x08
_NOT_LISTED: Final = frozenset({0x01, 0x10, 0x20})  # owner, mask, others: contained in the mode
_WRITE: Final = 0o2


class Unsafe(Exception):
    """Other users can change a file.

    Attributes:
        place: the file, link or folder that they can change.
        problem: ``owner``, ``writable``, ``relative`` or ``not_a_file``.
    """

    def __init__(self, place: Path, problem: str) -> None:
        self.place = place
        self.problem = problem
        super().__init__(f"{place}: {problem}")

    @property
    def details(self) -> dict[str, str]:
        """Details for an error of the library; ``problem`` is the id of a message."""
        return {"problem": f"path_{self.problem}", "place": str(self.place)}


def checked(path: Path, *, roots: bool = False) -> tuple[Path, os.stat_result]:
    """Check that only root and the user can change a file or folder.

    Args:
        path: absolute path.
        roots: only root may be able to change it.

    Returns:
        The real path and the stat result that was checked.

    Raises:
        Unsafe: others can change it or a component of the path.
        OSError: it does not exist or is not accessible.
    """
    if not path.is_absolute():
        raise Unsafe(path, "relative")
    owners = {0} if roots else {0, os.geteuid()}
    for current, about in _steps(path):
        if problem := _problem(current, about, owners):
            raise Unsafe(current, problem)
    return current, about


def checked_folder(path: Path) -> Path:
    """Check that only root and the user can change a folder; return its real path.

    Args:
        path: absolute path.

    Raises:
        Unsafe, OSError: as for :func:`checked`.
        NotADirectoryError: it is not a folder.
    """
    real, about = checked(path)
    if not stat.S_ISDIR(about.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    return real


def read(path: Path, most: int, *, roots: bool = False) -> bytes:
    """Read a file after checking that only root and the user can change it.

    Args:
        path: absolute path.
        most: size limit in octets; the rest is not read.
        roots: only root may be able to change it.

    Raises:
        Unsafe, OSError: as for :func:`checked`.
    """
    real, about = checked(path, roots=roots)
    if not stat.S_ISREG(about.st_mode):  # for example, opening a FIFO would block
        raise Unsafe(real, "not_a_file")
    with open(real, "rb", opener=_opened) as file:
        now = os.fstat(file.fileno())
        if (now.st_dev, now.st_ino) != (about.st_dev, about.st_ino):
            raise Unsafe(real, "writable")
        return file.read(most)


def trusted_module(path: Path) -> Path:
    """Check that a module file may be loaded; return its real path. A module runs with all rights of the user.

    Args:
        path: absolute path.

    Raises:
        DriverUntrusted: the path is relative or not a regular file, or others can change the file.
        DriverNotFound: the file does not exist.
    """
    try:
        real, about = checked(path)
        if not stat.S_ISREG(about.st_mode):
            raise Unsafe(real, "not_a_file")
    except Unsafe as error:
        raise DriverUntrusted(path=str(path), reason=error.problem, **error.details) from error
    except OSError as error:
        raise DriverNotFound(searched=[str(path)]) from error
    return real


def make_folder(path: Path) -> None:
    """Create a folder and missing parent folders, accessible by this user only, independent of the umask.

    Args:
        path: absolute path; the folder may exist.

    Raises:
        Unsafe: others can change it or a component of the path; no folder was created in an unsafe one.
        OSError: it cannot be created, or is not a folder.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    if missing:
        checked_folder(missing[-1].parent)
    for folder in reversed(missing):
        with suppress(FileExistsError):  # another process has created it meanwhile, or it is a dangling link
            folder.mkdir(mode=0o700)
            folder.chmod(0o700)
    real = checked_folder(path)
    if real.stat().st_uid != os.geteuid():
        raise Unsafe(real, "owner")


class Grant(NamedTuple):
    """Permissions of one user or group other than the owner; ``bits`` is one octal digit as in a mode."""

    is_user: bool
    number: int
    bits: int


def grants(place: Path | int, about: os.stat_result) -> list[Grant]:
    """Return the users and groups to which the group permissions of a mode apply, including access control lists.

    If the file has an access control list, the group permissions of the mode are the list's mask.

    Args:
        place: the file, or a descriptor of it.
        about: its stat result.
    """
    mask = about.st_mode >> 3 & 0o7
    if not mask:  # the mask limits every entry of a list
        return []
    listed = _listed(place)
    if listed is None:
        return [Grant(False, about.st_gid, mask)]
    given = (
        Grant(tag == _ACL_USER, about.st_gid if tag == _ACL_GROUP_OBJ else number, bits & mask)
        for tag, bits, number in listed
    )
    return [grant for grant in given if grant.bits]


def _others_may_write(place: Path, about: os.stat_result) -> bool:
    if about.st_mode & _WRITE:
        return True
    return any(
        grant.number not in {0, about.st_uid, os.geteuid()}
        if grant.is_user
        else not is_private_group(grant.number, about.st_uid)
        for grant in grants(place, about)
        if grant.bits & _WRITE
    )


def is_private_group(group: int, user: int) -> bool:
    """Return whether a group has the user's name and no other member.

    Args:
        group: the group id.
        user: the user id.
    """
    import grp
    import pwd

    try:
        name, found = pwd.getpwuid(user).pw_name, grp.getgrgid(group)
    except KeyError:
        return False
    if found.gr_name != name or set(found.gr_mem) - {name}:
        return False
    return all(one.pw_uid == user for one in pwd.getpwall() if one.pw_gid == group)


def _listed(place: Path | int) -> list[tuple[int, int, int]] | None:
    """Return the entries (tag, permissions, id) of an access control list that are not in the mode; None: no list."""
    try:
        raw = os.getxattr(place, _ACL)
    except (OSError, AttributeError):  # no list, or not supported by the system
        return None
    entries = [raw[start : start + _ACL_ENTRY] for start in range(_ACL_HEAD, len(raw), _ACL_ENTRY)]
    found = [(_number(entry[:2]), _number(entry[2:4]), _number(entry[4:])) for entry in entries]
    return [(tag, bits, number) for tag, bits, number in found if tag not in _NOT_LISTED]


def _number(octets: bytes) -> int:
    return int.from_bytes(octets, "little")


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _steps(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every folder and link on the path, and the file, with its lstat; resolves the path as the system does."""
    left = deque(path.parts[1:])
    current = Path("/")
    yield current, current.lstat()
    links = 0
    while left:
        step = left.popleft()
        current = current.parent if step == ".." else current / step
        about = current.lstat()
        yield current, about
        if stat.S_ISLNK(about.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = Path(current.readlink())
            left.extendleft(reversed(target.parts[1:] if target.is_absolute() else target.parts))
            current = Path("/") if target.is_absolute() else current.parent


def _problem(place: Path, about: os.stat_result, owners: set[int]) -> str | None:
    if about.st_uid not in owners:
        return "owner"
    if stat.S_ISLNK(about.st_mode):  # the mode of a link has no meaning; its folder was checked
        return None
    if stat.S_ISDIR(about.st_mode) and about.st_mode & stat.S_ISVTX and about.st_uid == 0:
        return None
    return "writable" if _others_may_write(place, about) else None
