"""The content of the source archive and the wheel; both can be built."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from hatch_build import compile_language, languages, read_language, singular
from tests.project.tree import ROOT, project_files
from ushield_hw.drivers import index

pytestmark = [pytest.mark.unit, pytest.mark.xdist_group("packaging")]

# Adding a name requires a decision record in docs/decisions/.
DEPENDENCIES = {
    "asn1crypto",
    "click",
    "cryptography",
    "pyelftools",
    "pyscard",
    "python-pkcs11",
}


@pytest.fixture(scope="session")
def wheel_names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def below(folder: str) -> set[Path]:
    return {path for path in project_files() if path.is_relative_to(folder)}


@pytest.mark.parametrize("folder", ["drivers", "softhsm-config"])
def test_wheel_holds_the_data_folders(folder: str, wheel_names: set[str]) -> None:
    expected = {f"ushield_hw/_data/{path.as_posix()}" for path in below(folder)}
    assert expected
    assert expected <= wheel_names


def test_wheel_holds_all_of_the_package_but_the_po_files(wheel_names: set[str]) -> None:
    sources = {path.as_posix() for path in below("ushield_hw") if path.suffix != ".po"}
    assert "ushield_hw/py.typed" in sources
    assert sources <= wheel_names
    assert not [name for name in wheel_names if name.endswith(".po")]


def test_wheel_holds_nothing_else(wheel_names: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel_names} == {"ushield_hw", "ushield_hw-0.1.0.dist-info"}


def test_wheel_holds_the_texts_of_this_tree(wheel: Path) -> None:
    assert languages(ROOT) == ["en", "zh"]
    with zipfile.ZipFile(wheel) as archive:
        for language in languages(ROOT):
            assert archive.read(f"ushield_hw/messages/{language}.mo") == compile_language(ROOT, language)


def test_wheel_holds_the_index_of_this_trees_descriptors(wheel: Path, wheel_names: set[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(f"ushield_hw/_data/drivers/{index.NAME}") == index.build(ROOT / "drivers")
    assert f"ushield_hw/_data/drivers/{index.IN_CHECKOUT}" not in wheel_names


def test_wheel_is_whole(wheel: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(wheel, tmp_path, "zip")
    message = singular(read_language(ROOT, "zh")[0])
    look = f"import ushield_hw.messages as m; print(m.__file__, m.known({message!r}, 'en'), m.known({message!r}, 'zh'))"
    seen = subprocess.run(
        [sys.executable, "-c", look],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert seen.stdout.split() == [str(tmp_path / "ushield_hw/messages/__init__.py"), "True", "True"], seen.stderr


def test_metadata(metadata: Message) -> None:
    assert metadata["Name"] == "ushield-hw"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"


def test_readme_has_no_relative_links(metadata: Message) -> None:
    text = str(metadata.get_payload())
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) > 10
    assert all(target.startswith(("https://", "#")) for target in targets)
    assert "blob/main/docs/architecture.md)" in text
    assert re.search(r"!\[[^\]]*\]\(https://[^)]*/raw/main/docs/pictures/", text)


def test_project_urls(metadata: Message) -> None:
    labels = {line.split(",")[0] for line in metadata.get_all("Project-URL", [])}
    assert labels == {"Homepage", "Documentation", "Changelog", "Issues", "Source"}


def test_few_dependencies(metadata: Message) -> None:
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    assert {one.name for one in requirements if "extra" not in str(one.marker)} == DEPENDENCIES
    assert all(one.specifier for one in requirements), "every dependency has a lowest version"
    capped = {
        one.name for one in requirements if any(part.operator in {"<", "<=", "==", "~="} for part in one.specifier)
    }
    assert capped == {"python-pkcs11"}, "an upper bound makes the project impossible to install beside newer packages"


def test_no_compiler_is_needed_on_linux(metadata: Message) -> None:
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    plain = {
        one.name
        for one in requirements
        if one.marker is None or one.marker.evaluate({"extra": "", "platform_system": "Linux"})
    }
    assert plain == DEPENDENCIES - {"pyscard"}
    extra = {
        one.name
        for one in requirements
        if one.marker and one.marker.evaluate({"extra": "pcsc", "platform_system": "Linux"})
    }
    assert "pyscard" in extra


def test_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        points = archive.read("ushield_hw-0.1.0.dist-info/entry_points.txt").decode()
    assert "ushield = ushield_hw.cli:main" in points


def test_sdist_can_build_and_test_itself(archives: Path) -> None:
    (sdist,) = archives.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {Path(name).relative_to(Path(name).parts[0]).as_posix() for name in archive.getnames()}
    assert {"Makefile", "hatch_build.py", "tools/setup.sh", "requirements/dev.lock", "tests/ci_rules.py"} <= names
    assert {path.as_posix() for path in below("drivers") | below("ushield_hw")} <= names
    assert not [name for name in names if name.endswith((".mo", ".pyc")) or name.startswith(".venv")]
