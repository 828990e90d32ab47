"""The command that installs an extra fits the system and the Python environment."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from ushield_hw.system.installation import command_for

pytestmark = pytest.mark.unit

DEV = "apt-get install gcc python3-dev swig libpcsclite-dev pkg-config && "


@pytest.fixture(autouse=True)
def debian(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user on Debian, in a virtual environment."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "prefix", "/venv")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setattr(sys, "executable", "/venv/bin/python3")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def test_in_a_virtual_environment_it_is_built() -> None:
    assert command_for("pcsc") == f"sudo {DEV}/venv/bin/python3 -m pip install 'ushield-hw[pcsc]'"


def test_root_needs_no_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert command_for("pcsc").startswith(DEV)


def test_the_system_s_python_gets_the_system_s_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/usr")
    assert command_for("pcsc") == "sudo apt-get install python3-pyscard"


@pytest.mark.parametrize(("platform", "apt"), [("darwin", True), ("win32", True), ("linux", False)])
def test_elsewhere_pip_is_enough(monkeypatch: pytest.MonkeyPatch, platform: str, apt: bool) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(shutil, "which", lambda name: name if apt else None)
    assert command_for("pcsc") == "/venv/bin/python3 -m pip install 'ushield-hw[pcsc]'"


def test_an_extra_with_wheels_needs_pip_alone() -> None:
    assert command_for("bank") == "/venv/bin/python3 -m pip install 'ushield-hw[bank]'"
