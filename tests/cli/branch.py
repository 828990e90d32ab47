"""A reference bank tested from outside: served by the installed command, with curl and openssl as clients."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.cli.world import TIMEOUT_S, USHIELD, Home, run_openssl

SUBJECT: Final = "CN=张三,O=Demo Bank"
EST: Final = "/.well-known/est"
PKCS10, PKCS7 = "application/pkcs10", "application/pkcs7-mime"


@dataclass(frozen=True)
class Answer:
    """The response that curl received."""

    status: int
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error code; ``""`` if there is none."""
        return str(self.document["error"]["code"]) if self.status >= 400 else ""

    @property
    def certificate(self) -> bytes:
        """The certificate in a certs-only CMS, extracted by openssl (PEM)."""
        assert self.status == 200, self
        printed = openssl("pkcs7", "-inform", "DER", "-print_certs", stdin=base64.b64decode(self.body))
        (found,) = re.findall(rb"-----BEGIN.*?END CERTIFICATE-----\n", printed, re.DOTALL)
        return bytes(found)


def openssl(*words: object, stdin: bytes = b"") -> bytes:
    """Run openssl; return its stdout."""
    done = subprocess.run(
        ["openssl", *map(str, words)], input=stdin, capture_output=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Counter:
    """A running server."""

    def __init__(self, process: subprocess.Popen[bytes], told: dict[str, Any], scheme_options: list[str]) -> None:
        self.process, self.told, self._options = process, told, scheme_options
        self.url: str = told["url"]

    def ask(self, path: str, *options: str, body: bytes | None = None, kind: str = "") -> Answer:
        """Send a request with curl; status 0: no answer, or an incomplete one."""
        sent = ["--data-binary", "@-"] if body is not None else []
        words = ["--silent", "--max-time", "30", *self._options, "-w", "\n%{http_code}", *options, *sent]
        done = subprocess.run(
            ["curl", *words, "-H", f"Content-Type: {kind}", f"{self.url}{path}"],
            input=body or b"",
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        content, _, status = done.stdout.rpartition(b"\n")
        whole = done.returncode == 0 or int(status) >= 400  # a refusal may come before the whole request was sent
        return Answer(int(status) if whole else 0, content)

    def enroll(self, request: bytes, code: str, customer: str = "C1") -> Answer:
        return self.ask(f"{EST}/simpleenroll", "--user", f"{customer}:{code}", body=b64(request), kind=PKCS10)

    def reenroll(self, cms: bytes) -> Answer:
        return self.ask(f"{EST}/simplereenroll", body=b64(cms), kind=PKCS7)

    def document(self, spki: str) -> Answer:
        return self.ask(f"/renewals/{spki}")

    def activate(self, spki: str, cms: bytes) -> Answer:
        return self.ask(f"/renewals/{spki}/activation", body=cms, kind=PKCS7)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """Send a signal; return exit code, the rest of stdout, and stderr."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out.decode(), err.decode()


def b64(data: bytes) -> bytes:
    return base64.encodebytes(data)


class Branch:
    """A bank in a folder of a home."""

    def __init__(self, home: Home, folder: str = "bank") -> None:
        self.home, self.folder = home, folder

    @classmethod
    def founded(cls, home: Home, *options: object) -> Branch:
        home.folder.mkdir(exist_ok=True)
        home.json("bank", "init", "--dir", "bank", *options)
        return cls(home)

    @property
    def ca(self) -> Path:
        return self.home.file(f"{self.folder}/ca.pem")

    def code(self, customer: str = "C1", profile: str = "payment", *options: object, subject: str = SUBJECT) -> str:
        about = ("--customer", customer, "--subject", subject, "--profile", profile, "--confirmation", "button")
        made: str = self.home.json("bank", "code", "--dir", self.folder, *about, *options)["code"]
        return made

    def certificates(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.home.json("bank", "certs", "list", "--dir", self.folder)["certificates"]
        return found

    def revoke(self, serial: str, reason: str = "keyCompromise") -> Any:
        return self.home.json("bank", "revoke", serial, "--dir", self.folder, "--reason", reason)

    @contextmanager
    def serving(
        self,
        *options: object,
        curl: list[str] | None = None,
        drivers: Path | None = None,
        log: Path | None = None,
    ) -> Iterator[Counter]:
        """Serve the bank; the server is killed at the end if it is still running."""
        before = ["--drivers", str(drivers)] if drivers else []
        before += ["--log-file", str(log)] if log else []
        words = [USHIELD, *before, "bank", "serve", "--dir", self.folder, "--json", *map(str, options)]
        process = subprocess.Popen(
            words,
            cwd=self.home.folder,
            env=self.home.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        deadline = threading.Timer(TIMEOUT_S, process.kill)
        deadline.start()
        try:
            assert process.stdout is not None and process.stderr is not None
            line = process.stdout.readline()
            assert line, process.stderr.read().decode()
            deadline.cancel()
            yield Counter(process, json.loads(line), curl or [])
        finally:
            deadline.cancel()
            process.kill()
            process.wait(TIMEOUT_S)
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


class Customer:
    """A customer with openssl and a folder of keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def request(self, name: str = "key", subject: str = "/O=Demo Bank/CN=张三", *, key: str = "ec") -> bytes:
        """Return a certificate request (DER) with a new key, or with the existing one."""
        file = self.folder / f"{name}.key"
        kind = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"] if key == "ec" else ["-algorithm", "RSA"]
        if not file.exists():
            run_openssl("genpkey", *kind, "-out", file, folder=self.folder)
        return openssl("req", "-new", "-utf8", "-key", file, "-subj", subject, "-outform", "DER")

    def cms(self, name: str, certificate: bytes, content: bytes) -> bytes:
        """Sign: CMS (DER) without signed attributes."""
        signer = self.folder / f"{name}.pem"
        signer.write_bytes(certificate)
        form = ["-binary", "-nodetach", "-noattr", "-md", "sha256", "-outform", "DER"]
        return openssl("cms", "-sign", *form, "-signer", signer, "-inkey", self.folder / f"{name}.key", stdin=content)

    def spki(self, name: str) -> str:
        public = openssl("pkey", "-in", self.folder / f"{name}.key", "-pubout", "-outform", "DER")
        return hashlib.sha256(public).hexdigest()


def serial_of(certificate: bytes) -> str:
    """Return a certificate's serial number in the bank's format."""
    shown = openssl("x509", "-noout", "-serial", stdin=certificate).decode()
    return f"{int(shown.partition('=')[2], 16):x}"


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
