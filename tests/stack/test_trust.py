"""Which module files may be loaded: only those that no one except root and the current user can change."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.soft import DRIVER, SOFTHSM
from ushield_hw.errors import DriverNotFound, DriverUntrusted
from ushield_hw.system.trust import trusted_module

pytestmark = pytest.mark.stack

SOMEBODY = 4242
SHARED = Path("/tmp")  # noqa: S108 - the sticky folder is what is tested


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "lib"
    folder.mkdir(mode=0o755)
    made = folder / "module.so"
    made.write_bytes(b"")
    made.chmod(0o644)
    return made


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make another user the owner; when not running as root, act as another user instead."""
    if os.geteuid() == 0:
        os.lchown(path, SOMEBODY, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)


def refusal(path: Path) -> tuple[object, object]:
    """Return why a file is refused and which path component is at fault."""
    with pytest.raises(DriverUntrusted) as caught:
        trusted_module(path)
    assert str(caught.value)
    return caught.value.reason, caught.value.place


def test_our_own_file_is_trusted_and_comes_back_as_its_real_path(file: Path) -> None:
    link = file.parent.parent / "link.so"
    link.symlink_to(file)
    assert trusted_module(link) == file


def test_a_file_of_roots_is_trusted() -> None:
    assert trusted_module(DRIVER.module_files()[0]) == SOFTHSM


def test_a_relative_path_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert refusal(Path("module.so"))[0] == "relative"


def test_a_name_that_only_the_dynamic_loader_would_find_is_refused() -> None:
    assert refusal(Path("libsofthsm2.so"))[0] == "relative"


@pytest.mark.parametrize("mode", [0o646, 0o777])
def test_a_file_that_others_can_write_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert refusal(file) == ("writable", str(file))


@pytest.mark.parametrize("mode", [0o757, 0o777])
def test_a_folder_that_others_can_write_is_refused(file: Path, mode: int) -> None:
    file.parent.chmod(mode)
    assert refusal(file) == ("writable", str(file.parent))


def test_a_folder_far_above_that_others_can_write_is_refused(file: Path) -> None:
    deep = file.parent / "a" / "b"
    deep.mkdir(parents=True)
    inside = Path(file.rename(deep / "module.so"))
    file.parent.chmod(0o777)
    assert refusal(inside) == ("writable", str(file.parent))


def test_a_link_in_a_folder_that_others_can_write_is_refused(file: Path, tmp_path: Path) -> None:
    public = tmp_path / "public"
    public.mkdir()
    (public / "link.so").symlink_to(file)
    public.chmod(0o777)
    assert refusal(public / "link.so") == ("writable", str(public))


def test_a_link_through_a_folder_that_others_can_write_is_refused(file: Path, tmp_path: Path) -> None:
    public = tmp_path / "public"
    public.mkdir()
    (public / "link.so").symlink_to(file)
    (tmp_path / "outer.so").symlink_to("public/../public/link.so")
    public.chmod(0o777)
    assert refusal(tmp_path / "outer.so") == ("writable", str(public))


def test_a_file_of_somebody_else_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_away(file, monkeypatch)
    assert refusal(file)[0] == "owner"


def test_a_folder_of_somebody_else_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_away(file.parent, monkeypatch)
    assert refusal(file)[0] == "owner"


def test_a_link_of_somebody_else_is_refused(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link.so").symlink_to(file)
    give_away(tmp_path / "link.so", monkeypatch)
    assert refusal(tmp_path / "link.so")[0] == "owner"


@pytest.fixture
def in_shared() -> Iterator[Path]:
    assert SHARED.stat().st_mode & stat.S_ISVTX, "this machine's /tmp is not sticky"
    assert SHARED.stat().st_uid == 0
    descriptor, name = tempfile.mkstemp(dir=SHARED, suffix=".so")
    os.close(descriptor)
    yield Path(name)
    Path(name).unlink()


def test_our_file_in_roots_sticky_folder_is_trusted(in_shared: Path) -> None:
    assert trusted_module(in_shared) == in_shared.resolve()


def test_a_file_of_somebody_else_in_roots_sticky_folder_is_refused(
    in_shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_away(in_shared, monkeypatch)
    assert refusal(in_shared) == ("owner", str(in_shared))


def test_a_sticky_file_that_others_can_write_is_refused(file: Path) -> None:
    file.chmod(0o1666)
    assert refusal(file) == ("writable", str(file))


# --- group write and access control lists ----------------------------------------------------------------------------


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the members of this user's group."""

    def known(
        name: str = "me", members: Sequence[str] = (), others: Sequence[int] = (), *, known_group: bool = True
    ) -> None:
        gid, uid = os.getegid(), os.geteuid()
        found = {gid: grp.struct_group((name, "x", gid, list(members)))} if known_group else {}
        users = [pwd.struct_passwd(("me", "x", number, gid, "", "/", "")) for number in (uid, *others)]
        monkeypatch.setattr(grp, "getgrgid", found.__getitem__)
        monkeypatch.setattr(pwd, "getpwuid", lambda number: users[0])
        monkeypatch.setattr(pwd, "getpwall", lambda: users)

    return known


def test_group_write_passes_for_the_owners_private_group(file: Path, groups: Callable[..., None]) -> None:
    file.chmod(0o664)
    file.parent.chmod(0o775)
    groups()
    assert trusted_module(file) == file
    groups(members=["me"])
    assert trusted_module(file) == file


@pytest.mark.parametrize(
    "group", [{"known_group": False}, {"name": "staff"}, {"members": ["me", "bob"]}, {"others": [4711]}]
)
def test_group_write_is_refused_for_any_other_group(
    file: Path, groups: Callable[..., None], group: dict[str, Any]
) -> None:
    file.chmod(0o664)
    groups(**group)
    assert refusal(file) == ("writable", str(file))
    file.chmod(0o644)
    file.parent.chmod(0o775)
    assert refusal(file) == ("writable", str(file.parent))


def grant(file: Path, who: str, permission: int) -> None:
    """Add an ACL entry; the mode shows the ACL mask as the group's permissions."""
    tag, number = {"user": 0x02, "group": 0x08}[who.split(":", maxsplit=1)[0]], int(who.split(":")[1])
    entries = [(0x01, 6, -1), (tag, permission, number), (0x04, 4, -1), (0x10, permission | 4, -1), (0x20, 4, -1)]
    packed = b"".join(struct.pack("<HHi", *entry) for entry in sorted(entries))
    os.setxattr(file, "system.posix_acl_access", struct.pack("<I", 2) + packed)


@pytest.mark.parametrize(
    ("who", "permission", "safe"),
    [("user:4711", 6, False), ("group:4711", 6, False), ("user:4711", 4, True), ("user:0", 6, True)],
)
def test_an_access_control_list_is_read(
    file: Path, groups: Callable[..., None], who: str, permission: int, safe: bool
) -> None:
    groups()  # the owning group is private: only the ACL matters
    try:
        grant(file, who, permission)
    except OSError:
        pytest.xfail("no access control lists on this file system")
    if safe:
        assert trusted_module(file) == file
    else:
        assert refusal(file) == ("writable", str(file))


# --- not a regular file -----------------------------------------------------------------------------------------------


def test_a_folder_is_no_module(file: Path) -> None:
    assert refusal(file.parent)[0] == "not_a_file"


def test_a_pipe_is_no_module(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.so", 0o600)
    assert refusal(tmp_path / "pipe.so")[0] == "not_a_file"


def test_links_in_a_circle_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a.so").symlink_to("b.so")
    (tmp_path / "b.so").symlink_to("a.so")
    with pytest.raises(DriverNotFound):
        trusted_module(tmp_path / "a.so")


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(DriverNotFound):
        trusted_module(tmp_path / "none.so")
