"""``ushield cert list|request|enroll|install|renew|export``."""

from __future__ import annotations

from pathlib import Path

import click

from ushield_hw import messages
from ushield_hw.certificates.certificate import (
    PinPolicy,
    expiring,
    export,
    install,
    matches,
    read_installable,
    remove_quietly,
    request,
)
from ushield_hw.cli import options, output
from ushield_hw.cli.enroll import enroll_command
from ushield_hw.cli.expiry import warn_of
from ushield_hw.cli.help import Group
from ushield_hw.cli.renew import is_under_way, renew_command
from ushield_hw.cli.tokens import certificate_rows, say_problems
from ushield_hw.crypto.algorithms import KeySpec
from ushield_hw.errors import UShieldError
from ushield_hw.interaction import PinKind
from ushield_hw.token.choice import key_choice
from ushield_hw.token.key_pairs import ANY, KeyChoice, Pair

_EXPIRING = 6


@click.group("cert", cls=Group, help=messages.text("help.cert"))
def cert_command() -> None:
    """Commands for certificates on a token."""


@cert_command.command("list", help=messages.text("help.cert.list"))
@options.token()
@options.key_id()
@options.certificate()
@click.option("--expiring", "days", type=click.IntRange(min=0), default=None, help=options.say("expiring"))
@options.as_json()
def _list(selector: str | None, key_id: str | None, certificate: str | None, days: int | None, as_json: bool) -> int:
    choice = key_choice(selector, key_id, certificate)
    token = options.find(selector)
    contents = token.contents()
    found, problems = _chosen(token.pairs(contents), choice), token.problems(contents)
    may_hide = token.certificates_may_hide(contents)
    shown = found if days is None else tuple(expiring(found, days))
    if as_json:
        document = {"certificates": [pair.to_json() for pair in shown], "may_hide": may_hide, "problems": problems}
        output.document(document)
    else:
        rows = certificate_rows(shown)
        output.lines(_row(pair, text) for pair, (_, text) in zip(shown, rows, strict=True))
        warn_of(shown, token.uri)
        say_problems(problems)
        if is_under_way(token):
            output.hint("cert.renewal_under_way", uri=token.uri)
        elif not shown and not problems:
            output.hint("cert.none")
        if may_hide:
            output.hint("cert.may_hide")
    return _EXPIRING if days is not None and shown else 0


def _chosen(found: tuple[Pair, ...], choice: KeyChoice) -> tuple[Pair, ...]:
    """Return the requested certificates."""
    return found if choice == ANY else tuple(matches(found, choice))


def _row(pair: Pair, text: str) -> str:
    about = messages.text("cert.names", serial=pair.facts.serial_hex, fingerprint=pair.fingerprint)
    return f"{pair.key_id}  {text} · {about}"


@cert_command.command("request", help=messages.text("help.cert.request"))
@options.token()
@click.option(
    "--key",
    "spec",
    type=click.Choice([spec.value for spec in KeySpec]),
    default=KeySpec.EC_P256.value,
    help=options.say("key"),
)
@click.option("--subject", required=True, metavar="RFC4514", help=options.say("subject"))
@click.option("--pin-per-signature", is_flag=True, help=options.say("pin_per_signature"))
@options.pin_source()
@options.last_try()
@options.out(required=True)
@options.as_json()
def _request(
    selector: str | None,
    spec: str,
    subject: str,
    pin_per_signature: bool,
    pin_source: str | None,
    allow_last_try: bool,
    out: Path,
    as_json: bool,
) -> None:
    options.refuse_existing(out)
    options.check_folder(out)
    person = options.person({PinKind.USER: pin_source}, allow_last_try=allow_last_try)
    token = options.find(selector)
    policy = PinPolicy.SIGNATURE if pin_per_signature else None  # None: as the driver specifies
    with token.open(person, purpose="request") as session, output.progress("cli.generating"):
        made = request(session, KeySpec(spec), subject, pin_policy=policy)
        try:
            options.write_new(out, made.pem)
        except UShieldError:
            # without the request the key is useless and only uses space on the token
            remove_quietly(session, made.key_id)
            raise
    output.achieved()
    if as_json:
        output.document({"csr": str(out), "key_id": made.key_id, "key": spec})
    else:
        output.lines([messages.text("cert.requested", file=out, key_id=made.key_id.hex())])


@cert_command.command("install", help=messages.text("help.cert.install"))
@click.argument("file", metavar="CERT.pem", type=click.Path(path_type=Path))
@options.token()
@options.pin_source()
@options.last_try()
@options.as_json()
def _install(file: Path, selector: str | None, pin_source: str | None, allow_last_try: bool, as_json: bool) -> None:
    data = options.read_file(file)
    with options.naming(file):
        facts = read_installable(data)  # before prompting for a PIN
    if facts.key_usage is None:
        output.note(messages.text("cli.warning", message=messages.text("cert.no_key_usage", serial=facts.serial_hex)))
    person = options.person({PinKind.USER: pin_source}, allow_last_try=allow_last_try)
    with options.find(selector).open(person, purpose="install") as session, options.naming(file):
        pair = install(session, data)
    output.achieved()
    if as_json:
        output.document({"certificate": pair.to_json(), "key_id": pair.key_id})
    else:
        output.lines([messages.text("cert.installed", subject=pair.facts.subject_text(), key_id=pair.key_id)])


cert_command.add_command(enroll_command)
cert_command.add_command(renew_command)


@cert_command.command("export", help=messages.text("help.cert.export"))
@options.token()
@options.key_id()
@options.certificate()
@options.out()
@options.as_json()
def _export(selector: str | None, key_id: str | None, certificate: str | None, out: Path | None, as_json: bool) -> None:
    choice = key_choice(selector, key_id, certificate)
    if out is not None:
        options.refuse_existing(out)
        options.check_folder(out)
    pem = export(options.find(selector).pairs(), choice)
    if out is not None:
        options.write_new(out, pem)
        output.achieved()
    if as_json:
        output.document({"certificate": pem.decode(), "file": str(out) if out else None})
    elif out is None:
        output.lines(pem.decode().splitlines())
    else:
        output.lines([messages.text("cert.exported", file=out)])
