"""``ushield cert enroll``."""

from __future__ import annotations

from pathlib import Path

import click

from ushield_hw import messages
from ushield_hw.certificates.certificate import install
from ushield_hw.cli import options, output
from ushield_hw.cli.help import Command
from ushield_hw.cli.pin_sources import CODE_FILE, read_secret
from ushield_hw.cli.terminal import Terminal
from ushield_hw.crypto import pem
from ushield_hw.crypto.parsing import Unreadable, reading
from ushield_hw.errors import InputError, PinCancelled
from ushield_hw.interaction import PinKind

_PEM_LABELS = ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")


@click.command("enroll", cls=Command, help=messages.text("help.cert.enroll"))
@click.argument("file", metavar="REQUEST.csr", type=click.Path(path_type=Path))
@options.token()
@click.option("--bank", "url", required=True, metavar="URL", help=options.say("enroll_bank"))
@click.option("--bank-ca", type=click.Path(path_type=Path), default=None, metavar="CA.pem", help=options.say("bank_ca"))
@click.option("--customer", required=True, metavar="NUMBER", help=options.say("customer"))
@click.option("--code-source", metavar="FILE", help=options.say("code_source"))
@options.pin_source()
@options.last_try()
@options.as_json()
def enroll_command(
    file: Path,
    selector: str | None,
    url: str,
    bank_ca: Path | None,
    customer: str,
    code_source: str | None,
    pin_source: str | None,
    allow_last_try: bool,
    as_json: bool,
) -> None:
    """Have the bank issue a certificate and install it. Idempotent: a repeated call gets the same certificate."""
    from ushield_hw.certificates.renewal.est_client import EstBank

    request, code = _pkcs10(file), _code(code_source)
    bank = EstBank(url, bank_ca)
    person = options.person({PinKind.USER: pin_source}, allow_last_try=allow_last_try)
    token = options.find(selector)
    certificate = bank.enroll(request, customer, code)
    with token.open(person, purpose="install") as session:
        pair = install(session, certificate)
    output.achieved()
    if as_json:
        output.document({"certificate": pair.to_json(), "key_id": pair.key_id})
    else:
        output.lines([messages.text("cert.installed", subject=pair.facts.subject_text(), key_id=pair.key_id)])


def _code(source: str | None) -> str:
    """Return the one-time code from a file, else from a hidden prompt at the terminal.

    Raises:
        InputError: ``USAGE_MISSING``: there is neither; otherwise as for the file.
        PinCancelled: nothing was entered.
    """
    if source is not None:
        return read_secret(source, CODE_FILE)
    if not Terminal.present():
        raise InputError("USAGE_MISSING", argument="--code-source", command="ushield cert enroll")
    code = options.terminal().secret(messages.text("prompt.enrolment_code"))
    if not code:
        raise PinCancelled()
    return code.strip()


def _pkcs10(file: Path) -> bytes:
    """Read a request in PEM or DER and return it as DER."""
    from cryptography import x509

    data = options.read_file(file)
    try:
        (der,) = pem.blocks(data, *_PEM_LABELS) if pem.is_pem(data) else (data,)
        with reading():
            x509.load_der_x509_csr(der).public_key()
    except (Unreadable, ValueError) as error:  # ValueError: no request or several in one file
        raise InputError("REQUEST_FILE_INVALID", file=str(file)) from error
    return der
