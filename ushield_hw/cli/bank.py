"""``ushield bank init|serve|code|revoke|certs``: the reference bank. Its package is imported when a command runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ushield_hw import messages
from ushield_hw.bank.values import PROFILES, REASONS
from ushield_hw.cli import options, output
from ushield_hw.cli.help import Group
from ushield_hw.cli.layout import columns
from ushield_hw.cms.attributes import Confirmation
from ushield_hw.crypto.algorithms import KeySpec
from ushield_hw.errors import InputError

if TYPE_CHECKING:
    from ushield_hw.bank.ca.certificates import Certificate
    from ushield_hw.bank.folder import BankFolder, BankSettings

F = TypeVar("F", bound=Callable[..., Any])

_PACKAGES: Final = ("alembic", "sqlalchemy", "starlette", "uvicorn")
_EXPIRING: Final = 6
_STATE_COLUMNS: Final = 14
_CA_LIFE: Final = timedelta(days=20 * 365)
_KEYS: Final = tuple(spec.value for spec in KeySpec)
_CONFIRMATIONS: Final = tuple(one.value for one in Confirmation)
_SHOWING: Final = frozenset({Confirmation.BUTTON.value, Confirmation.PINPAD.value})


@click.group("bank", cls=Group, help=messages.text("help.bank"))
def bank_command() -> None:
    """Commands of the reference bank."""


@bank_command.group("certs", cls=Group, help=messages.text("help.bank.certs"))
def _certs() -> None:
    """Commands for issued certificates."""


def _folder() -> Callable[[F], F]:
    return click.option(
        "--dir",
        "folder",
        type=click.Path(path_type=Path, file_okay=False),
        required=True,
        metavar="DIR",
        help=options.say("bank_dir"),
    )


def _opened(folder: Path) -> BankFolder:
    """Return the bank's folder; raises with installation advice if the bank's dependencies are missing."""
    _check_packages(*_PACKAGES)
    from ushield_hw.bank.folder import BankFolder

    return BankFolder(folder)


def _check_packages(*names: str) -> None:
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise InputError("BANK_EXTRA_MISSING", package=missing)


# --- init and serve ---------------------------------------------------------------------------------------------------


@bank_command.command("init", help=messages.text("help.bank.init"))
@_folder()
@click.option("--token", "selector", metavar="URI|SERIAL|LABEL", default=None, help=options.say("bank_token"))
@options.pin_source()
@click.option("--id", "bank_id", default="demo-bank", show_default=True, help=options.say("bank_id"))
@click.option("--origin", default=None, metavar="URL", help=options.say("bank_origin"))
@click.option("--database", default=None, metavar="URL", help=options.say("bank_database"))
@click.option("--key", "spec", type=click.Choice(_KEYS), default=_KEYS[0], help=options.say("key"))
@click.option("--subject", default=None, metavar="RFC4514", help=options.say("bank_subject"))
@click.option("--allow-same-key", is_flag=True, help=options.say("bank_same_key"))
@options.as_json()
def _init(
    folder: Path,
    selector: str | None,
    pin_source: str | None,
    bank_id: str,
    origin: str | None,
    database: str | None,
    spec: str,
    subject: str | None,
    allow_same_key: bool,
    as_json: bool,
) -> None:
    where = _opened(folder)
    from ushield_hw.bank.folder import BankSettings
    from ushield_hw.cli import bank_key

    _check_names(bank_id, origin)
    register = None if database is None else _register(database)
    test_only = selector is None
    name = bank_key.ca_name(subject, test_only=test_only)
    where.prepare()
    if selector is None:
        selector, pin_source = bank_key.soft_token(where)
    with bank_key.new_key(selector, pin_source, spec) as (signer, token, key_id):
        certificate = bank_key.root_of(signer, name, _CA_LIFE)
        kept = str(Path(pin_source).absolute()) if pin_source and pin_source != "-" else None
        settings = BankSettings(bank_id, origin, allow_same_key, token, key_id.hex(), register, kept, test_only)
        where.found(settings, certificate)
    _tell_founded(where, settings, as_json=as_json)


def _check_names(bank_id: str, origin: str | None) -> None:
    from ushield_hw.order.values import BANK_ID, ORIGIN, Rules

    BANK_ID.check(bank_id, "--id", Rules())
    if origin is not None:
        ORIGIN.check(origin, "--origin", Rules(demo=True))


def _register(url: str) -> str:
    from ushield_hw.bank.database import checked_url

    _check_packages("psycopg")
    return checked_url(url)


def _tell_founded(where: BankFolder, settings: BankSettings, *, as_json: bool) -> None:
    output.achieved()
    if as_json:
        answer = {"bank_id": settings.bank_id, "origin": settings.origin, "token": settings.token}
        more = {"key_id": settings.key_id, "pin_file": settings.pin_source, "test_only": settings.test_only}
        output.document({"dir": str(where.path), "ca": str(where.ca), **answer, **more})
        return
    if settings.test_only:
        output.hint("bank.test_only", path=where.softhsm)
    output.lines(
        [
            messages.text("bank.founded", bank=settings.bank_id, path=where.path),
            messages.text("bank.founded_ca", ca=where.ca),
        ]
    )
    output.hint("bank.founded_next", path=where.path)


@bank_command.command("serve", help=messages.text("help.bank.serve"))
@_folder()
@click.option("--host", default="127.0.0.1", show_default=True, help=options.say("bank_host"))
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help=options.say("bank_port"))
@click.option("--tls-cert", type=click.Path(path_type=Path), default=None, help=options.say("tls_cert"))
@click.option("--tls-key", type=click.Path(path_type=Path), default=None, help=options.say("tls_key"))
@options.pin_source()
@options.as_json()
def _serve(
    folder: Path,
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    pin_source: str | None,
    as_json: bool,
) -> None:
    where = _opened(folder)
    from ushield_hw.bank import app, server
    from ushield_hw.bank.ca.authority import Authority
    from ushield_hw.bank.ca.routes import CaRoutes
    from ushield_hw.bank.ca.service import CaService, Policy
    from ushield_hw.cli import bank_key

    settings = where.settings()
    if (tls_cert is None) != (tls_key is None):
        raise InputError(
            "USAGE_MISSING", command="ushield bank serve", argument="--tls-key" if tls_cert else "--tls-cert"
        )
    tls = server.Tls(tls_cert, tls_key) if tls_cert and tls_key else None
    with server.listen(host, port, tls) as opened, where.database(settings, migrate=True) as database:
        url = server.url_of(opened, host, tls)
        with bank_key.ca_key(where, settings, pin_source) as signer:
            crl_url = f"{settings.origin}/crl" if settings.origin else None
            authority = Authority(where.certificate(), signer, crl_url)
            policy = Policy(settings.bank_id, settings.origin or url, settings.allow_same_key)
            site = app.application([CaRoutes(CaService(database, authority, policy))])
            server.serve(site, opened, tls, lambda: _tell_ready(url, where, settings, as_json=as_json))
    if not as_json:
        output.hint("bank.stopped")


def _tell_ready(url: str, where: BankFolder, settings: BankSettings, *, as_json: bool) -> None:
    if settings.test_only:
        output.hint("bank.test_only", path=where.softhsm)
    if as_json:
        output.document({"url": url, "pid": os.getpid(), "test_only": settings.test_only}, one_line=True)
    else:
        output.lines([messages.text("bank.serving", url=url)])
        output.hint("bank.serving_hint")
    output.finish()


# --- administration ---------------------------------------------------------------------------------------------------


@bank_command.command("code", help=messages.text("help.bank.code"))
@_folder()
@click.option("--customer", required=True, metavar="ID", help=options.say("bank_customer"))
@click.option("--subject", required=True, metavar="RFC4514", help=options.say("subject"))
@click.option("--profile", type=click.Choice(PROFILES), required=True, help=options.say("bank_profile"))
@click.option("--confirmation", type=click.Choice(_CONFIRMATIONS), required=True, help=options.say("bank_confirmation"))
@click.option("--display/--no-display", default=None, help=options.say("bank_display"))
@click.option("--token-serial", default=None, metavar="SERIAL", help=options.say("bank_token_serial"))
@click.option("--days", type=click.IntRange(1, 90), default=7, show_default=True, help=options.say("code_days"))
@click.option("--certificate-days", type=click.IntRange(1, 3650), default=None, help=options.say("certificate_days"))
@options.as_json()
def _code(
    folder: Path,
    customer: str,
    subject: str,
    profile: str,
    confirmation: str,
    display: bool | None,
    token_serial: str | None,
    days: int,
    certificate_days: int | None,
    as_json: bool,
) -> None:
    where = _opened(folder)
    from ushield_hw.bank.ca import codes

    settings = where.settings()
    now = datetime.now(UTC).replace(microsecond=0)
    grant = codes.Grant(
        customer=customer,
        subject=codes.registered_name(subject),
        profile=profile,
        confirmation=confirmation,
        display=confirmation in _SHOWING if display is None else display,
        token_serial=token_serial,
        certificate_days=certificate_days,
        expires=now + timedelta(days=days),
    )
    code = codes.new_code()
    with where.database(settings) as database, database.writing() as connection:
        codes.give(connection, code, grant, now)
    _tell_code(code, grant, as_json=as_json)


def _tell_code(code: str, grant: Any, *, as_json: bool) -> None:
    expires = _time(grant.expires)
    if as_json:
        device = {"confirmation": grant.confirmation, "display": grant.display, "token_serial": grant.token_serial}
        answer = {"customer": grant.customer, "subject": grant.subject, "profile": grant.profile, **device}
        output.document({"code": code, **answer, "expires": expires})
        return
    output.lines([code])
    output.hint("bank.code", customer=grant.customer, subject=grant.subject, profile=grant.profile, expires=expires)


@bank_command.command("revoke", help=messages.text("help.bank.revoke"))
@click.argument("serial")
@_folder()
@click.option("--reason", type=click.Choice(REASONS), default="unspecified", help=options.say("bank_reason"))
@options.as_json()
def _revoke(serial: str, folder: Path, reason: str, as_json: bool) -> None:
    where = _opened(folder)
    from ushield_hw.bank.ca.revocation import revoke

    with where.database(where.settings()) as database:
        done = revoke(database, serial, reason, datetime.now(UTC))
    output.achieved()
    ended, successor = done.certificate, done.successor
    if as_json:
        also, after = [one.serial for one in done.also], successor.serial if successor else None
        output.document({"revoked": _row(ended), "replayed": done.replayed, "also": also, "successor": after})
        return
    at = _time(ended.revoked)
    rows = [messages.text("bank.revoked", serial=ended.serial, subject=ended.subject, at=at, reason=ended.reason)]
    output.lines(rows + [messages.text("bank.revoked_also", serial=one.serial) for one in done.also])
    if successor is not None:
        output.hint("bank.revoked_successor", serial=successor.serial)


@_certs.command("list", help=messages.text("help.bank.certs.list"))
@_folder()
@options.as_json()
def _list(folder: Path, as_json: bool) -> None:
    _tell_certificates(_found(folder, None), as_json=as_json)


@_certs.command("expiring", help=messages.text("help.bank.certs.expiring"))
@_folder()
@click.option("--days", type=click.IntRange(0, 36500), default=30, show_default=True, help=options.say("bank_days"))
@options.as_json()
def _expiring(folder: Path, days: int, as_json: bool) -> int:
    found = _found(folder, datetime.now(UTC) + timedelta(days=days))
    _tell_certificates(found, as_json=as_json)
    return _EXPIRING if found else 0


def _found(folder: Path, ending: datetime | None) -> tuple[Certificate, ...]:
    where = _opened(folder)
    from ushield_hw.bank.ca.certificates import listed

    with where.database(where.settings()) as database, database.reading() as connection:
        return listed(connection, ending=ending)


def _tell_certificates(found: tuple[Certificate, ...], *, as_json: bool) -> None:
    if as_json:
        output.document({"certificates": [_row(one) for one in found]})
        return
    for one in found:
        shown = messages.text(f"bank.state.{one.state}")
        state = shown + " " * (_STATE_COLUMNS - columns(shown))
        about = f"{one.profile:7}  {one.customer}  {one.subject}"
        output.lines([f"{one.serial:>40}  {_time(one.not_after)}  {state}  {about}"])
    if not found:
        output.hint("bank.certs_none")


def _row(one: Certificate) -> dict[str, object]:
    about = {"serial": one.serial, "subject": one.subject, "customer": one.customer, "state": one.state.value}
    dates = ("not_before", "not_after", "activated", "superseded", "revoked")
    ends = {"reason": one.reason, "replaces": one.replaces}
    return {**about, **one.device, **{name: _time(getattr(one, name)) for name in dates}, **ends}


def _time(moment: datetime | None) -> str | None:
    from ushield_hw.order.times import time_text

    return time_text(moment) if moment else None
