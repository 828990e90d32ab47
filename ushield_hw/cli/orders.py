"""``ushield show``, ``ushield sign`` and ``ushield verify``."""

from __future__ import annotations

import sys
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from ushield_hw import messages
from ushield_hw.cli import options, output, signals
from ushield_hw.cli.expiry import warn
from ushield_hw.cli.help import Command
from ushield_hw.cli.layout import coloured, local_time, painted
from ushield_hw.cli.pin_sources import Sources
from ushield_hw.cli.terminal import Terminal
from ushield_hw.cms import CertificateFacts, Profile
from ushield_hw.drivers.family import ConfirmText
from ushield_hw.errors import (
    AlreadySigned,
    CertificateNotFound,
    ConfirmationRejected,
    InputError,
    OutcomeUnknown,
    SignedNotKept,
    StorageError,
    UShieldError,
)
from ushield_hw.interaction import PinKind
from ushield_hw.order import Line, Order, message_format, screen_lines
from ushield_hw.signing.journal import Journal
from ushield_hw.signing.order import Attendance, SignedOrder, check_profile, sign, signatory, stored
from ushield_hw.token.choice import key_choice
from ushield_hw.token.key_pairs import KeyChoice
from ushield_hw.token.token import Token

if TYPE_CHECKING:
    from ushield_hw.verifier import Verified


@click.command("show", cls=Command, help=messages.text("help.show"))
@click.argument("file", metavar="ORDER.json", type=click.Path(path_type=Path))
@options.as_json()
def show_command(file: Path, as_json: bool) -> None:
    """Show the lines that the token would show."""
    order = options.read_order(file)
    rows = screen_lines(
        message_format("jcs").encode(order, messages.language()), messages.language(), rules=options.rules()
    )
    try:
        order.check_live(datetime.now(UTC))
    except InputError as error:
        output.note(messages.text("cli.warning", message=error.message))
    if as_json:
        lines = [{"label": label, "value": value} for label, value in rows]
        output.document({"lines": lines, "canonical_sha256": order.canonical_sha256, "type": order.type})
    else:
        output.lines(output.table([*rows, *_in_local_time(order)]))


@click.command("sign", cls=Command, help=messages.text("help.sign"))
@click.argument("file", metavar="ORDER.json", type=click.Path(path_type=Path))
@options.token()
@options.key_id()
@options.certificate()
@options.pin_source()
@options.last_try()
@click.option("--unattended", is_flag=True, help=options.say("unattended"))
@options.out(required=True)
@click.option(
    "--profile",
    type=click.Choice([profile.value for profile in Profile]),
    default=None,
    help=options.say("profile"),
)
@options.as_json()
def sign_command(
    file: Path,
    selector: str | None,
    key_id: str | None,
    certificate: str | None,
    pin_source: str | None,
    allow_last_try: bool,
    unattended: bool,
    out: Path,
    profile: str | None,
    as_json: bool,
) -> None:
    """Sign an order after confirmation."""
    order = options.read_order(file)
    with signals.Signing(order.tx_id, as_json=as_json):
        person = options.person({PinKind.USER: pin_source}, allow_last_try=allow_last_try)
        choice = key_choice(selector, key_id, certificate)
        options.check_folder(out)
        token = options.find(selector)
        signed = _kept(order, token, choice)
        if options.is_there(out):
            signed = _the_same(out, signed)
        else:
            how = _How(Profile(profile) if profile else None, unattended, choice)
            _write(out, signed := signed or _signed(order, token, person, how, out))
    output.achieved()
    _report(order, signed, out, profile, as_json)
    warn(CertificateFacts.read(signed.certificate), token.uri)


class _How(NamedTuple):
    """Options for signing an order."""

    profile: Profile | None
    unattended: bool
    choice: KeyChoice


def _signed(order: Order, token: Token, person: Sources, how: _How, out: Path) -> SignedOrder:
    """Have the order signed; refuses what can be refused before a PIN is requested."""
    order.check_live(datetime.now(UTC))
    check_profile(token.driver, how.profile)
    attendance = _attendance(token, how.unattended)
    try:
        with token.open(person, purpose="sign") as session:
            signed = sign(order, session, profile=how.profile, attendance=attendance, key=how.choice)
        person.forget()
        return signed
    except SignedNotKept as error:
        _hand_out(out, bytes(error.signed_order))  # type: ignore[call-overload]
        raise
    except CertificateNotFound as error:
        from ushield_hw.cli.renew import is_under_way

        if is_under_way(token):
            raise CertificateNotFound("CERTIFICATE_BEING_RENEWED", serial=token.serial) from error
        raise


def _kept(order: Order, token: Token, choice: KeyChoice) -> SignedOrder | None:
    """Return an existing signed order, or raise if another signature is not allowed; needs no PIN."""
    journal, refusals = Journal.of(token.settings), []
    pairs = [pair for pair in token.pairs() if choice.takes(pair) and pair.fits(order.purpose_of_key)]
    for pair in pairs:
        try:
            der = journal.signed(order, signatory(token, token.info, pair))
        except (AlreadySigned, OutcomeUnknown) as refusal:
            refusals.append(refusal)
            continue
        if der is not None:
            return stored(der, order)
    if len(refusals) == len(pairs) > 0:  # every matching key of this user is refused
        raise refusals[0]
    return None


def _the_same(out: Path, signed: SignedOrder | None) -> SignedOrder:
    """Return the signed order if the file contains exactly it; any other existing file is an error."""
    if signed is None or not out.is_file() or options.read_file(out) != signed.der:
        raise InputError("OUTPUT_EXISTS", file=str(out))
    return signed


def _attendance(token: Token, unattended: bool) -> Attendance:
    """Return the kind of confirmation; raises before the PIN prompt if no user can confirm."""
    if unattended:
        return Attendance.NOBODY
    if token.driver.confirm.text is ConfirmText.HOST and not Terminal.present():
        raise ConfirmationRejected("NOBODY_TO_CONFIRM")
    return Attendance.PERSON


def _write(out: Path, signed: SignedOrder) -> None:
    try:
        options.write_new(out, signed.der)
    except StorageError as error:
        raise StorageError("SIGNED_NOT_WRITTEN", **error.details) from error


def _hand_out(out: Path, only_copy: bytes) -> None:
    """Write a signed order that the journal could not store, or print it on stderr if that fails too."""
    try:
        options.write_new(out, only_copy)
    except UShieldError as error:
        output.hint("sign.only_copy", file=out, code=error.code)
        output.note(b64encode(only_copy).decode())


def _report(order: Order, signed: SignedOrder, out: Path, profile: str | None, as_json: bool) -> None:
    if signed.replayed:
        output.hint("sign.again", tx_id=order.tx_id)
    if signed.replayed and profile not in (None, signed.profile.value):
        output.hint("sign.other_profile", profile=signed.profile.value)
    signer = CertificateFacts.read(signed.certificate)
    if as_json:
        output.document(
            {
                "signed": str(out),
                "tx_id": order.tx_id,
                "canonical_sha256": order.canonical_sha256,
                "profile": signed.profile,
                "confirmation": signed.confirmation,
                "signer": {"subject": signer.subject_text(), "serial": signer.serial_hex},
                "replayed": signed.replayed,
            }
        )
        return
    confirmation = messages.text(f"confirmation.{signed.confirmation.value if signed.confirmation else 'plain'}")
    output.lines([messages.text("sign.done", file=out, tx_id=order.tx_id), confirmation])


@click.command("verify", cls=Command, help=messages.text("help.verify"))
@click.argument("file", metavar="SIGNED.p7m", type=click.Path(path_type=Path))
@click.option("--ca", multiple=True, required=True, type=click.Path(path_type=Path), help=options.say("ca"))
@click.option("--order", "expected", type=click.Path(path_type=Path), help=options.say("order"))
@click.option("--crl", multiple=True, type=click.Path(path_type=Path), help=options.say("crl"))
@click.option("--at", metavar="TIME", default=None, help=options.say("at"))
@options.as_json()
def verify_command(
    file: Path, ca: tuple[Path, ...], expected: Path | None, crl: tuple[Path, ...], at: str | None, as_json: bool
) -> None:
    """Verify a signed order."""
    from ushield_hw.verifier import TrustStore, verify

    order = options.read_order(expected) if expected else None
    trust = TrustStore.from_files(ca, crl)
    moment, signed = _time(at), options.read_file(file)
    with options.naming(file):
        verified = verify(signed, trust=trust, expected=order, at=moment, rules=options.rules())
    if not verified.signer.states_purpose:
        warning = messages.text("cert.no_key_usage", serial=verified.signer.serial)
        output.note(messages.text("cli.warning", message=warning))
    if as_json:
        output.document(verified.to_json())
    else:
        _show_verified(_verified_rows(verified, compared=order is not None), verified)


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError("TIME_INVALID", argument="--at", value=text) from error
    if moment.tzinfo is None:
        raise InputError("TIME_INVALID", argument="--at", value=text)
    return moment


def _lines(order: Order) -> tuple[Line, ...]:
    lang = messages.language()
    return screen_lines(message_format("jcs").encode(order, lang), lang, rules=options.rules())


def _in_local_time(order: Order) -> list[tuple[str, str]]:
    """Return the expiry in local time, which is not part of what is signed."""
    local = local_time(order.expires)
    return [(messages.text("show.expires_local"), local)] if local else []


def _claimed(verified: Verified) -> str:
    if verified.claimed_signing_time is None:
        return ""
    local = local_time(verified.claimed_signing_time)
    time = f"{verified.claimed_signing_time:%Y-%m-%d %H:%M:%S} UTC{f' = {local}' if local else ''}"
    return messages.text("verify.signing_time_claimed", time=time)


def _show_verified(rows: list[str], verified: Verified) -> None:
    from ushield_hw.verifier import Revocation

    if not coloured(sys.stdout):
        output.lines(rows)
        return
    style = "good" if verified.revocation is Revocation.GOOD else "warning"
    first, *others = map(messages.shown, rows)
    output.lines([painted(first, style), *others], colour=True)


def _verified_rows(verified: Verified, *, compared: bool) -> list[str]:
    from ushield_hw.verifier import Revocation

    lines = _lines(verified.order)
    confirmation = verified.confirmation.value if verified.confirmation else "plain"
    facts = [
        (messages.text("verify.signer"), f"{verified.signer.subject} ({verified.signer.serial})"),
        (messages.text("verify.confirmation"), messages.text(f"confirmation.{confirmation}")),
        (messages.text("verify.signing_time"), _claimed(verified)),
        (messages.text("verify.revocation"), messages.text(f"revocation.{verified.revocation}")),
        (messages.text("verify.compared"), messages.text("verify.same" if compared else "verify.not_compared")),
    ]
    first = "verify.good" if verified.revocation is Revocation.GOOD else "verify.good_unchecked"
    return [messages.text(first), *output.table([*facts, *lines, *_in_local_time(verified.order)], "  ")]
