"""``ushield cert renew``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from ushield_hw import messages
from ushield_hw.certificates import renewal
from ushield_hw.certificates.certificate import read_certificate
from ushield_hw.cli import options, output
from ushield_hw.cli.help import Command
from ushield_hw.cms import CertificateFacts
from ushield_hw.errors import InputError, StorageError
from ushield_hw.interaction import PinKind
from ushield_hw.token.choice import key_choice
from ushield_hw.token.key_pairs import KeyChoice
from ushield_hw.token.token import Token

_WAYS = "--out, --in, --bank, --abandon"


@click.command("renew", cls=Command, help=messages.text("help.cert.renew"))
@options.token()
@options.key_id()
@options.certificate()
@click.option("--out", type=click.Path(path_type=Path), default=None, metavar="REQUEST", help=options.say("renew_out"))
@click.option(
    "--in", "received", type=click.Path(path_type=Path), default=None, metavar="CERT.pem", help=options.say("renew_in")
)
@click.option("--bank", "url", default=None, metavar="URL", help=options.say("bank"))
@click.option("--abandon", is_flag=True, help=options.say("abandon"))
@click.option("--bank-ca", type=click.Path(path_type=Path), default=None, metavar="CA.pem", help=options.say("bank_ca"))
@click.option(
    "--ca", "ca", type=click.Path(path_type=Path), multiple=True, metavar="CA.pem", help=options.say("renew_ca")
)
@click.option("--same-key", is_flag=True, help=options.say("same_key"))
@click.option("--keep-old", is_flag=True, help=options.say("keep_old"))
@options.pin_source()
@options.last_try()
@options.as_json()
def renew_command(
    selector: str | None,
    key_id: str | None,
    certificate: str | None,
    out: Path | None,
    received: Path | None,
    url: str | None,
    abandon: bool,
    bank_ca: Path | None,
    ca: tuple[Path, ...],
    same_key: bool,
    keep_old: bool,
    pin_source: str | None,
    allow_last_try: bool,
    as_json: bool,
) -> None:
    """Renew a certificate."""
    if sum((out is not None, received is not None, url is not None, abandon)) != 1:
        raise InputError("USAGE_ONE_OF", argument=_WAYS)
    came, bank = _given(received), _bank(url, bank_ca)
    authorities = [der for file in ca for der in _authorities(file)]
    person = options.person({PinKind.USER: pin_source}, allow_last_try=allow_last_try)
    token, choice = options.find(selector), key_choice(selector, key_id, certificate)
    if out is not None and _is_there(token, choice, out):
        return _say_requested(out, token, as_json)
    retire = renewal.Retire.KEEP if keep_old else renewal.Retire.REMOVE
    with token.open(person, purpose="renew") as session:
        if not any(key.always_authenticate for key in session.keys()):
            person.forget()  # before waiting for the bank
        if out is not None:
            options.write_new(out, renewal.request(session, choice, same_key=same_key, on_step=_on_step))
            return _say_requested(out, token, as_json)
        if abandon:
            return _say_abandoned(renewal.abandon(session, choice), as_json)
        more: dict[str, Any] = {"authorities": authorities, "retire": retire, "on_step": _on_step}
        if bank is not None:
            done = renewal.renew(session, bank, choice, same_key=same_key, **more)
        else:
            assert came is not None and received is not None  # noqa: S101 - one of the ways
            with options.naming(received):
                done = renewal.install(session, came, choice, **more)
    person.forget()
    return _say_renewed(done, as_json)


def _on_step(step: renewal.Step) -> None:
    if messages.known(f"renewal.step.{step.value}"):
        output.hint(f"renewal.step.{step.value}")


def _given(file: Path | None) -> bytes | None:
    """Read the certificate before a PIN is requested."""
    if file is None:
        return None
    data = options.read_file(file)
    with options.naming(file):
        CertificateFacts.read(read_certificate(data))
    return data


def _authorities(file: Path) -> list[bytes]:
    from ushield_hw.verifier.trust import certificates_of

    return certificates_of(file)


def _bank(url: str | None, trusted: Path | None) -> renewal.Bank | None:
    if url is None:
        return None
    from ushield_hw.certificates.renewal.est_client import EstBank

    return EstBank(url, trusted)


def _is_there(token: Token, choice: KeyChoice, out: Path) -> bool:
    """Return whether the file already contains the request; needs no login because nothing has to be signed then."""
    if not options.is_there(out):
        options.check_folder(out)
        return False
    known = renewal.requested(token.settings, token.info.identity, choice)
    if known is None or options.read_file(out) != known:
        raise InputError("OUTPUT_EXISTS", file=str(out))
    return True


def is_under_way(token: Token) -> bool:
    """Return whether a renewal is in progress on a token; False if the state cannot be read."""
    with suppress(StorageError):
        return renewal.is_under_way(token.settings, token.info.identity)
    return False


def _say_requested(out: Path, token: Token, as_json: bool) -> None:
    output.achieved()
    if as_json:
        output.document({"request": str(out), "token": token.uri})
    else:
        output.lines([messages.text("cert.renewal_requested", file=out)])


def _say_abandoned(there_was_one: bool, as_json: bool) -> None:
    output.achieved()
    if as_json:
        output.document({"abandoned": there_was_one})
    else:
        output.lines([messages.text("cert.renewal_abandoned" if there_was_one else "cert.renewal_none")])


def _say_renewed(done: renewal.Renewed, as_json: bool) -> None:
    output.achieved()
    if as_json:
        output.document({"renewed": done})
        return
    facts = done.certificate
    said = "cert.renewed_before" if done.replayed else "cert.renewed"
    output.lines(
        [
            messages.text(
                said,
                subject=facts.subject_text(),
                serial=facts.serial_hex,
                until=f"{facts.not_after:%Y-%m-%d}",
                key_id=done.key_id,
            )
        ]
    )
