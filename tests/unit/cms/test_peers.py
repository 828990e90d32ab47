"""Third-party programs verify signed orders: GnuTLS, gpgsm, and others where installed.

BouncyCastle (Debian's libbcpkix-java and default-jdk-headless, 275 MB) and Go (golang-go, 464 MB) are too large to
install for two tests, which run only where they are present. Their subject, names with arcs that fit into 31 bits, is
also tested in test_build.py. pyHanko 0.38, which needs aiohttp and more, verified the same files once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.unit.cms import pki
from tests.unit.cms.people import CONTENT, Bank
from ushield_hw.cms import CONFIRMATION_OID, Profile
from ushield_hw.crypto.algorithms import SUITES, Suite

HERE: Final = Path(__file__).parent / "peers"
JARS: Final = [Path(f"/usr/share/java/{name}.jar") for name in ("bcpkix", "bcprov", "bcutil")]
SIGNED: Final = sorted([f"1.2.840.113549.1.9.{n}" for n in ("3", "4", "5", "16.2.47")] + [CONFIRMATION_OID])
# GnuTLS 3.7 assumes SHA-256 as the hash of RSA-PSS in CMS, whatever the parameters say.
IN_GNUTLS: Final = [suite for suite in SUITES if suite.name not in {"rsa-pss-sha384", "rsa-pss-sha512"}]


def signed(bank: Bank, suite: Suite, profile: Profile) -> bytes:
    someone = bank.customer(suite.key)
    inside = [bank.issuing.der]
    return pki.sign_order(CONTENT, someone.private, someone.certificate, suite, profile=profile, intermediates=inside)


@pytest.fixture(scope="session")
def files(bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one signed order per suite and profile, and the root."""
    folder = tmp_path_factory.mktemp("signed")
    (folder / "root.pem").write_bytes(bank.root.pem)
    (folder / "issuing.pem").write_bytes(bank.issuing.pem)
    for suite in SUITES:
        for profile in Profile:
            (folder / f"{suite.name}-{profile.value}.p7m").write_bytes(signed(bank, suite, profile))
    return folder


def run(*words: object, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, words)),
        cwd=folder,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=100,
        check=False,
        text=True,
    )


# --- GnuTLS -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: str(suite.name))
def test_gnutls_reads_every_attribute(files: Path, suite: Suite) -> None:
    told = run("certtool", "--p7-info", "--inder", "--infile", f"{suite.name}-cades.p7m", folder=files)
    assert told.returncode == 0, told.stderr
    assert f"{CONFIRMATION_OID}: 0c04{b'host'.hex()}" in told.stdout
    assert "Signing time: Tue Nov 24 02:01:00 UTC 2026" in told.stdout


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("suite", IN_GNUTLS, ids=lambda suite: str(suite.name))
def test_gnutls_verifies_it(files: Path, suite: Suite, profile: Profile) -> None:
    name = f"{suite.name}-{profile.value}.p7m"
    assert gnutls(files, name).returncode == 0


def gnutls(files: Path, name: str) -> subprocess.CompletedProcess[str]:
    words = ("--p7-verify", "--inder", "--infile", name, "--load-ca-certificate", "root.pem")
    return run("certtool", *words, folder=files)


def test_gnutls_refuses_what_was_changed(files: Path) -> None:
    genuine = (files / "ecdsa-p256-sha256-cades.p7m").read_bytes()
    (files / "changed").write_bytes(genuine.replace(b"host", b"none"))
    assert gnutls(files, "changed").returncode != 0


# --- gpgsm ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def gpg_home(files: Path) -> Iterator[dict[str, str]]:
    """A GnuPG home that trusts the root; its path is short because of the socket path limit."""
    folder = Path(tempfile.mkdtemp(prefix="gpg-"))
    environment = {"GNUPGHOME": str(folder)}
    try:
        (folder / "gpgsm.conf").write_text("disable-crl-checks\ndisable-dirmngr\n")
        root = ssl.PEM_cert_to_DER_cert((files / "root.pem").read_text())
        (folder / "trustlist.txt").write_text(f"{hashlib.sha1(root, usedforsecurity=False).hexdigest()} S relax\n")
        run("gpgsm", "--batch", "--import", "root.pem", "issuing.pem", folder=files, **environment)
        yield environment
    finally:
        run("gpgconf", "--kill", "gpg-agent", folder=files, **environment)
        shutil.rmtree(folder)


def test_gpgsm_verifies_it(files: Path, gpg_home: dict[str, str]) -> None:
    for name in sorted(files.glob("*.p7m")):
        told = run("gpgsm", "--batch", "--status-fd", "1", "--verify", name, folder=files, **gpg_home)
        assert told.returncode == 0, (name, told.stderr)
        assert "[GNUPG:] GOODSIG" in told.stdout and "[GNUPG:] TRUST_FULLY" in told.stdout, name


def test_gpgsm_refuses_what_was_changed(files: Path, gpg_home: dict[str, str]) -> None:
    genuine = (files / "ecdsa-p256-sha256-cades.p7m").read_bytes()
    (files / "changed").write_bytes(genuine.replace(b"261124020100Z", b"261124020101Z"))
    told = run("gpgsm", "--batch", "--status-fd", "1", "--verify", "changed", folder=files, **gpg_home)
    assert told.returncode != 0
    assert "GOODSIG" not in told.stdout


# --- tools that read the attributes -----------------------------------------------------------------------------------


def bouncy_castle(names: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return run("java", "-cp", ":".join(map(str, JARS)), HERE / "BouncyCastle.java", *names, folder=folder)


def go(names: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return run("go", "run", HERE / "asn1.go", *names, folder=folder, GOFLAGS="-mod=mod", GOCACHE=str(folder / "go"))


Reader = Callable[[list[str], Path], subprocess.CompletedProcess[str]]
THERE: Final[list[Reader]] = [
    *([bouncy_castle] if shutil.which("javac") and all(jar.exists() for jar in JARS) else []),
    *([go] if shutil.which("go") else []),
]


def test_who_else_is_there_reads_the_same_attributes(files: Path) -> None:
    names = sorted(file.name for file in files.glob("*.p7m"))
    for reader in THERE:
        told = reader(names, files)
        assert told.returncode == 0, told.stderr
        rows = [sorted(row.split()) for row in told.stdout.splitlines()]
        assert rows == [SIGNED if "cades" in name else ["none"] for name in names], reader.__name__
