"""A user's machine, tested from outside: the installed command, SoftHSM2 in a folder, and openssl as the bank's CA.

:meth:`Home.ushield` also checks what holds for every command: the exit code, no traceback, and with ``--json`` exactly
one document on stdout; an error document has code, message, remedy and details.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import uuid
from base64 import urlsafe_b64encode
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from tests.unit.order.samples import live, make_payment

USHIELD: Final = str(Path(sys.executable).parent / "ushield")
TIMEOUT_S: Final = 60
# A shell starts background jobs with SIGINT ignored, and tests started that way inherit it. Commands that get a signal
# from a test are therefore started with the default dispositions.
AT_A_TERMINAL: Final = ("env", "--default-signal=HUP,INT,QUIT,TERM,TSTP")
ERROR_KEYS: Final = ["code", "message", "remedy", "details"]


@dataclass(frozen=True)
class Done:
    """A completed command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document on stdout."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Token:
    """A soft token, as reported by ``softhsm init``; paths are relative to the home."""

    label: str
    serial: str
    uri: str
    pin_file: str
    so_pin_file: str


class Home:
    """A user's folders, configuration, state and soft tokens."""

    def __init__(self, folder: Path, tokens: tuple[Token, ...] = ()) -> None:
        self.folder = folder
        self.tokens = tokens
        self.prefix: tuple[str, ...] = ()  # prefix that starts the command
        self.environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "SOFTHSM2_CONF": str(folder / "softhsm" / "softhsm2.conf"),
        }

    # --- the command --------------------------------------------------------------------------------------------------

    def ushield(self, *words: object, exits: int = 0, stdin: str | bytes = b"", **environment: str) -> Done:
        """Run the command without a terminal, in the home, and check what holds for every call."""
        ended = subprocess.run(
            [*self.prefix, USHIELD, *map(str, words)],
            cwd=self.folder,
            env=self.environment | environment,
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=TIMEOUT_S,
            start_new_session=True,  # no controlling terminal
            check=False,
        )
        return checked(Done(ended.returncode, ended.stdout.decode(), ended.stderr.decode()), words, exits)

    def json(self, *words: object, exits: int = 0, stdin: str | bytes = b"", **environment: str) -> Any:
        """Run a command with ``--json``; return its document."""
        return self.ushield(*words, "--json", exits=exits, stdin=stdin, **environment).document

    def fails(self, exits: int, code: str, *words: object, stdin: str | bytes = b"", **environment: str) -> Any:
        """Run a command with ``--json`` that must fail with one error; return the error's details."""
        error = self.json(*words, exits=exits, stdin=stdin, **environment)["error"]
        assert error["code"] == code, error
        return error["details"]

    # --- files and tokens ---------------------------------------------------------------------------------------------

    @property
    def token(self) -> Token:
        """The first token."""
        return self.tokens[0]

    @property
    def other_token(self) -> Token:
        """The second token."""
        return self.tokens[1]

    def file(self, name: str) -> Path:
        """Return the path of a file in the home."""
        return self.folder / name

    def content(self, name: str) -> bytes:
        """Return the content of a file in the home."""
        return self.file(name).read_bytes()

    def write(self, name: str, content: str | bytes, mode: int = 0o600) -> str:
        """Write a file in the home; return its name."""
        path = self.file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return name

    def pin(self, content: str | bytes = "99999", name: str = "typed.pin", mode: int = 0o600) -> str:
        """Write a PIN file, by default with a wrong PIN."""
        return self.write(name, content, mode)

    def order(self, name: str = "order.json", **changes: object) -> str:
        """Write an order that can be signed for the next five minutes; return its name."""
        document = make_payment(**{"tx_id": str(uuid.uuid4()), "nonce": nonce(), **live(datetime.now(UTC)), **changes})
        return self.write(name, json.dumps(document, ensure_ascii=False, indent=2))

    def document(self, name: str) -> Any:
        """Return the content of a JSON file in the home."""
        return json.loads(self.content(name))

    def tries_left(self, token: Token | None = None) -> int:
        """Return the attempts remaining, as the command reports them."""
        left: int = self.json("pin", "status", "--token", (token or self.token).uri)["pin"]["retries_left"]
        return left

    def copy(self, folder: Path) -> Home:
        """Return a copy of this home, with its tokens and its state."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        conf = folder / "softhsm" / "softhsm2.conf"
        if conf.exists():
            conf.write_text(conf.read_text().replace(str(self.folder), str(folder)))
        return Home(folder, self.tokens)

    def softhsm_init(self) -> Home:
        """Return this home with the soft tokens of softhsm-config/."""
        made = self.json("softhsm", "init", "--dir", "softhsm")["tokens"]
        tokens = (Token(**{name: token[name] for name in Token.__dataclass_fields__}) for token in made)
        return Home(self.folder, tuple(self._relative(token) for token in tokens))

    def _relative(self, token: Token) -> Token:
        pin, so_pin = (Path(name).relative_to(self.folder) for name in (token.pin_file, token.so_pin_file))
        return replace(token, pin_file=str(pin), so_pin_file=str(so_pin))

    # --- common operations --------------------------------------------------------------------------------------------

    def enrol(self, bank: Bank, token: Token, subject: str, **options: Any) -> str:
        """Generate a key on a token and install its certificate; return the key's id."""
        name, kind = secrets.token_hex(4), options.pop("key", "ec-p256")
        own = ("--token", token.uri, "--pin-source", token.pin_file)
        made = self.json("cert", "request", *own, "--key", kind, "--subject", subject, "-o", f"{name}.csr")
        certificate = bank.certify(self.file(f"{name}.csr"), self.file(f"{name}.pem"), **options)
        self.json("cert", "install", certificate, *own)
        key_id: str = made["key_id"]
        return key_id

    def sign(self, order: str, out: str, *words: object, token: Token | None = None, exits: int = 0) -> Any:
        """Sign an order unattended; return the document."""
        own = token or self.token
        known = ("--token", own.uri, "--pin-source", own.pin_file)
        return self.json("sign", order, *known, "--unattended", "-o", out, *words, exits=exits)


class Bank:
    """A certificate authority: ``openssl ca`` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def opened(cls, folder: Path, name: str = "Demo CA") -> Bank:
        """Return a new bank."""
        folder.mkdir(parents=True)
        (folder / "ca.cnf").write_text(_CA_CONF)
        (folder / "index.txt").touch()
        (folder / "crlnumber").write_text("01\n")
        made = Bank(folder)
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key"]
        made.openssl("req", "-new", *curve, "-out", "ca.csr", "-subj", f"/CN={name}", "-config", "ca.cnf")
        ends = ["-selfsign", "-extensions", "root", *_dates("-startdate", "-enddate", (-10, 3650))]
        made.openssl("ca", "-batch", "-config", "ca.cnf", "-notext", "-in", "ca.csr", "-out", "ca.pem", *ends)
        return made

    def copy(self, folder: Path) -> Bank:
        """Return a copy in which certificates can be revoked without affecting other tests."""
        shutil.copytree(self.folder, folder)
        return Bank(folder)

    @property
    def ca(self) -> Path:
        """The CA's certificate, PEM."""
        return self.folder / "ca.pem"

    def openssl(self, *words: object) -> None:
        """Run openssl in the bank's folder."""
        run_openssl(*words, folder=self.folder)

    def certify(
        self,
        csr: Path,
        out: Path,
        *,
        usage: str = "nonRepudiation",
        days: tuple[float, float] = (-1, 365),
    ) -> Path:
        """Issue a certificate for a request; the validity is given in days from now."""
        extensions = f"basicConstraints=critical,CA:FALSE\nkeyUsage=critical,{usage}\n"
        (self.folder / "extensions.cnf").write_text(extensions)
        words = ["-notext", "-preserveDN", "-extfile", "extensions.cnf", "-in", csr, "-out", out]
        self.openssl("ca", "-batch", "-config", "ca.cnf", *words, *_dates("-startdate", "-enddate", days))
        return out

    def revoke(self, certificate: Path) -> None:
        """Revoke a certificate."""
        self.openssl("ca", "-batch", "-config", "ca.cnf", "-revoke", certificate)

    def crl(self, out: Path, *, days: tuple[float, float] = (-1, 30)) -> Path:
        """Issue a CRL; the validity is given in days from now."""
        dates = _dates("-crl_lastupdate", "-crl_nextupdate", days)
        self.openssl("ca", "-batch", "-config", "ca.cnf", "-gencrl", "-out", out, *dates)
        return out

    def accepts(self, signed: Path, *options: str) -> bool:
        """Tell whether ``openssl cms -verify`` accepts a signed order."""
        words = ["cms", "-verify", "-binary", "-inform", "DER", "-purpose", "any", *options]
        command = ["openssl", *words, "-CAfile", str(self.ca), "-in", str(signed), "-out", os.devnull]
        return subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False).returncode == 0


_CA_CONF = """\
[ca]
default_ca = bank
[bank]
dir = .
database = index.txt
new_certs_dir = .
certificate = ca.pem
private_key = ca.key
crlnumber = crlnumber
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
string_mask = utf8only
[any]
commonName = supplied
organizationName = optional
[req]
distinguished_name = name
x509_extensions = root
[name]
[root]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
"""


def _dates(first: str, last: str, days: tuple[float, float]) -> tuple[str, ...]:
    begin, end = (f"{datetime.now(UTC) + timedelta(days=n):%Y%m%d%H%M%SZ}" for n in days)
    return (first, begin, last, end)


def run_openssl(*words: object, folder: Path, stdin: str = "") -> str:
    """Run openssl; return its stdout."""
    ended = subprocess.run(
        ["openssl", *map(str, words)],
        cwd=folder,
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
        text=True,
    )
    assert ended.returncode == 0, f"{words}: {ended.stderr}"
    return ended.stdout


def checked(done: Done, words: tuple[object, ...], exits: int) -> Done:
    """Check what holds for every command; return its result."""
    told = f"ushield {' '.join(map(str, words))}\nexit {done.code}\n--- stdout\n{done.out}\n--- stderr\n{done.err}"
    assert done.code == exits, told
    assert "Traceback" not in done.out + done.err, told
    if "--json" in words:
        assert_one_document(done, told)
    elif exits not in (0, 6):
        assert done.out == "", told
    return done


def assert_one_document(done: Done, told: str) -> None:
    """Assert that the document is that of a success or of an error."""
    document = json.loads(done.out)
    assert isinstance(document, dict), told
    if done.code not in (0, 6) or "error" in document:
        assert list(document) == ["error"], told
        error = document["error"]
        assert list(error) == ERROR_KEYS, told
        assert error["message"] and error["remedy"] and isinstance(error["details"], dict), told
        assert error["code"] not in (error["message"], error["remedy"].removesuffix(".remedy")), told


def nonce() -> str:
    """Return a fresh nonce in the format of an order."""
    return urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
