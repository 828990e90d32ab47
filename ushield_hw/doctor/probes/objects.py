"""H: keys and certificates, up to the pair that would sign. No login is made, so private objects may stay invisible.

A problem with one certificate is a failure only if no other certificate can sign, else a warning.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

import ushield_hw
from ushield_hw.backend.model import CertificateRecord, KeyRecord, TokenFlag
from ushield_hw.crypto.algorithms import Feed, KeyKind, suites_for
from ushield_hw.doctor.finding import (
    Outcome,
    Priority,
    Probe,
    Rule,
    Said,
    causes,
    fail,
    ok,
    probe,
    skip,
    unchecked,
    warn,
)
from ushield_hw.doctor.subjects import Loaded, TokenSeen
from ushield_hw.drivers.family import ConfirmKind, HashOn
from ushield_hw.errors import CertificateMultiple, DriverLoadError, LoadOutcome, ModuleHung
from ushield_hw.order import KeyUse
from ushield_hw.token.key_pairs import ANY, Pair
from ushield_hw.token.readiness import Verdict

_TOKEN: Final = Rule(failed=Priority.TOKEN, after=causes("F61"), exits=Outcome.CERTIFICATE)
_USE: Final = KeyUse.PAYMENT
_SIGNING: Final = frozenset({"digitalSignature", "nonRepudiation"})
_ENCRYPTING: Final = frozenset({"keyEncipherment", "dataEncipherment", "keyAgreement"})
_LONG_OVER: Final = timedelta(days=5 * 365)
_SHOWN: Final = 50
_MOST_OWNERS: Final = 20


def usable(seen: TokenSeen) -> Pair | None:
    """Return the pair that ``ushield sign`` would choose if its key becomes visible by a login, or None."""
    return seen.decision.pair


@probe("H68", "key.visible", _TOKEN)
def visible(seen: TokenSeen) -> Said:
    """Check that a private key is visible, or may become visible by a login."""
    private = sum(key.private for key in seen.keys)
    hidden = seen.decision.verdict is Verdict.UNDECIDED
    facts = {"private_keys": private, "hidden_until_login": hidden, "label": seen.token.label, "uri": seen.token.uri}
    if not _is_set_up(seen):
        return skip("not_initialised")
    if hidden and seen.uncertain and seen.able and not seen.bare:  # H71 reports a token that shows nothing
        kind = "certificate" if seen.decision.pair is None else "key"
        return warn(kind=kind, keys=_key_ids(seen.keys), owners=_owners(seen.pairs), **facts)
    waits = seen.token.info.has(TokenFlag.LOGIN_REQUIRED) and not seen.all_shown
    if private or hidden or waits:
        return ok(**facts)
    return fail(owners=_owners(seen.pairs), **facts) if seen.pairs else skip("no_certificate")


@probe("H69", "pair.ids", _TOKEN)
def ids(seen: TokenSeen) -> Said:
    """Check that a certificate and its key have the same CKA_ID and belong together."""
    own = [(pair, _own_ids(seen, pair)) for pair in _people(seen)]
    elsewhere = [(pair, found[0]) for pair, found in own if found and pair.certificate.key_id not in found]
    wrong = [pair for pair, _ in own if _is_of_another_key(seen, pair)]
    if wrong:
        return _judged(seen, kind="another", owners=_owners(wrong), ids=_ids(wrong))
    if elsewhere:
        pairs = [f"{pair.certificate.key_id.hex() or '-'} / {key_id.hex() or '-'}" for pair, key_id in elsewhere]
        return warn(kind="elsewhere", ids=pairs, owners=_owners(pair for pair, _ in elsewhere))
    return ok(certificates=len(seen.pairs)) if seen.pairs else skip("no_certificate")


@probe("H70", "key.label", _TOKEN)
def label(seen: TokenSeen) -> Said:
    """Check that the requested label, id or certificate exists on the token."""
    choice = seen.choice
    objects: list[KeyRecord | CertificateRecord] = [*seen.keys, *(pair.certificate for pair in seen.pairs)]
    unlabelled = sorted({found.key_id.hex() for found in objects if not found.label})
    facts = {"unlabelled": unlabelled, "labels": sorted({found.label for found in objects if found.label})}
    facts["ids"] = sorted({found.key_id.hex() for found in objects})
    if choice == ANY or not objects:
        return ok(**facts) if objects else skip("no_objects")
    if choice.certificate is not None and not any(choice.takes(pair) for pair in seen.pairs):
        known = [pair.brief() for pair in seen.pairs]
        return _judged(seen, kind="certificate", wanted=choice.certificate, certificates=known, **facts)
    by_id = choice.key_id is None or any(found.key_id == choice.key_id for found in objects)
    by_label = choice.label is None or any(found.label == choice.label for found in objects)
    if by_id and by_label:
        return ok(**facts)
    wanted = choice.label if not by_label else (choice.key_id or b"").hex()
    kind = "id" if by_label else "unlabelled" if unlabelled else "label"
    return _judged(seen, kind=kind, wanted=wanted, **facts)


@probe("H71", "certificate.present", _TOKEN)
def present(seen: TokenSeen) -> Said:
    """Check that a certificate is visible, readable and in use; all objects may be private."""
    if not _is_set_up(seen):
        return skip("not_initialised")
    facts = {"label": seen.token.label, "uri": seen.token.uri, "keys": _key_ids(seen.keys)}
    if seen.able and seen.bare:
        return warn(kind="hidden", hidden_until_login=True, owners=_owners(seen.pairs), **facts)
    if not seen.pairs:
        return _none_shows(seen, facts)
    if not _people(seen):
        kind = "authority" if any(pair.activated for pair in seen.pairs) else "pending"
        return fail(kind=kind, owners=_owners(seen.pairs), **facts)
    return ok(certificates=len(seen.pairs))


def _none_shows(seen: TokenSeen, facts: dict[str, Any]) -> Said:
    """Return the finding for a token without a readable certificate."""
    unread = len(seen.certificates)
    kind = "unreadable" if unread else "keys" if facts["keys"] else "nothing"
    if kind == "keys" and seen.able:
        return unchecked("hidden_until_login", **facts)  # reported as H68
    return fail(kind=kind, unread=unread, **facts)


@probe("H72", "certificate.valid", _TOKEN)
def valid(seen: TokenSeen) -> Said:
    """Check validity period and purpose of the certificate that would sign, and the clock."""
    people, pair = _people(seen), usable(seen)
    now = seen.now
    if pair is not None:
        left = pair.facts.not_after - now
        days = seen.loaded.file.machine.settings.warn_days
        return warn(kind="ending", days=left.days, **_dated(pair, now)) if left.days < days else ok(**_dated(pair, now))
    fitting = [pair for pair in people if pair.fits(_USE)]
    if not fitting:
        return _misfit(people)
    if any(pair.valid_at(now) for pair in fitting):
        return skip("another_cause")
    last = max(fitting, key=lambda pair: pair.facts.not_after)
    kind = "clock" if _clock_is_wrong(now, seen.pairs) else "early" if last.facts.not_before > now else "expired"
    return fail(kind=kind, **_dated(last, now))


@probe("H73", "certificate.purpose", _TOKEN)
def purpose(seen: TokenSeen) -> Said:
    """Check that a signing certificate is selected, not the encryption certificate, and that it is unique."""
    people = _people(seen)
    encrypting = [pair for pair in people if _is_for_encryption(pair)]
    signing = [pair for pair in people if pair not in encrypting and pair.fits(_USE)]
    facts = {"signing": _ids(signing), "encrypting": _ids(encrypting)}
    asked = [pair for pair in people if seen.choice.takes(pair)]
    if encrypting and not signing:
        return fail(kind="only", owners=_owners(encrypting), **facts)
    if asked and all(pair in encrypting for pair in asked):
        ways = [f"--key-id {pair.key_id}" if pair.key_id else f"--certificate {pair.fingerprint}" for pair in signing]
        return fail(kind="asked", owners=_owners(asked), ways=ways, **facts)
    barred = [pair for pair in asked if pair.key is not None and pair.key.can_sign is False]
    if barred and usable(seen) is None:
        return fail(kind="barred", owners=_owners(barred), **facts)
    error = seen.decision.error
    if usable(seen) is None and isinstance(error, CertificateMultiple):
        return fail(kind="several", candidates=list(error.candidates), **facts)
    return ok(**facts) if people else skip("no_certificate")


@probe("H74", "token.mechanisms", _TOKEN)
def mechanisms(seen: TokenSeen) -> Said:
    """Check that the token has a mechanism for signed orders, and the certificate a supported key type."""
    people = [pair for pair in _people(seen) if not _is_for_encryption(pair)]
    if not people:
        return skip("no_certificate")
    other = [pair for pair in people if pair.facts.key is None]
    if len(other) == len(people):
        return fail(kind="key", owners=_owners(other), wanted=[kind.value for kind in KeyKind])
    chosen = usable(seen)
    kinds = {pair.facts.key for pair in ([chosen] if chosen else people)} - {None}
    lacking = [kind for kind in kinds if kind is not None and not _ways(seen, kind)]
    facts = {"keys": sorted(kind.value for kind in kinds if kind), "offered": list(seen.mechanisms)[:_SHOWN]}
    if not lacking:
        return ok(**facts)
    on_token = seen.token.driver.sign.hash_on is HashOn.TOKEN
    wanted = sorted({way for kind in lacking for way in _wanted(kind, on_token=on_token)})
    offers_others = any(set(_wanted(kind, on_token=False)) & set(seen.mechanisms) for kind in lacking)
    return fail(kind="on_token" if on_token and offers_others else "none", wanted=wanted, **facts)


@probe("H78", "objects.readable", _TOKEN)
def readable(seen: TokenSeen) -> Said:
    """Check that all objects can be read; unreadable ones are ignored."""
    texts = [one.message for one in seen.token.problems(seen.contents)]
    return warn(objects=texts[:_SHOWN], count=len(texts), label=seen.token.label) if texts else ok(count=0)


@probe("H75", "key.each_signature", _TOKEN)
def each_signature(seen: TokenSeen) -> Said:
    """Report whether the PIN is needed for each signature, which is no error but must be supported by the program."""
    wanting = sorted({key.key_id.hex() for key in seen.keys if key.always_authenticate})
    by_driver = seen.token.driver.sign.always_authenticate
    if wanting or by_driver:
        return ok(each_signature=True, keys=wanting, driver=by_driver)
    shown = any(key.private for key in seen.keys)
    return ok(each_signature=False) if shown else skip("keys_hide_until_login")


@probe("H76", "token.confirmation", _TOKEN)
def confirmation(seen: TokenSeen) -> Said:
    """Report how the token asks the user to confirm, which is no error but needs the user's attention."""
    confirm = seen.token.driver.confirm
    if confirm.kind is ConfirmKind.NONE:
        return ok(asks="none")
    return ok(asks=confirm.kind.value, timeout_s=confirm.timeout_s)


@probe("H76", "token.waiting", Rule(exits=Outcome.CERTIFICATE))
def waiting(loaded: Loaded) -> Said:
    """Check whether a module that does not answer may be waiting for the user to confirm on the token."""
    error, file = loaded.error, loaded.file
    hung = isinstance(error, ModuleHung) or (isinstance(error, DriverLoadError) and error.how is LoadOutcome.HUNG)
    if not hung:
        return skip("answers")
    families = [file.driver, *file.machine.catalogue.driven_by(file.driver)]
    asking = [family.product for family in families if family.confirm.kind is not ConfirmKind.NONE]
    if not asking:
        return skip("asks_nobody")
    return warn(kind="waiting", path=str(file.path), seconds=loaded.module.deadline_s, families=asking)


def _own_ids(seen: TokenSeen, pair: Pair) -> list[bytes]:
    """Return the ids of the visible keys that belong to the certificate."""
    return [key.key_id for key in seen.keys if key.public is not None and key.public in pair.facts.spki]


def _is_of_another_key(seen: TokenSeen, pair: Pair) -> bool:
    """Return whether the visible key with the certificate's id is not the key it was issued for."""
    alike = [key for key in seen.keys if key.public is not None and key.key_id == pair.certificate.key_id]
    return bool(alike) and not _own_ids(seen, pair)


def _is_set_up(seen: TokenSeen) -> bool:
    return seen.token.info.has(TokenFlag.TOKEN_INITIALIZED)


def _people(seen: TokenSeen) -> list[Pair]:
    """Return the activated pairs that are not a CA's: banks store CA certificates on tokens too."""
    return [pair for pair in seen.pairs if pair.activated and not pair.facts.is_ca]


def _is_for_encryption(pair: Pair) -> bool:
    usage = pair.facts.key_usage
    return usage is not None and bool(usage & _ENCRYPTING) and not usage & _SIGNING


def _misfit(people: Sequence[Pair]) -> Said:
    """Return the finding for certificates that may not sign payments."""
    known = [pair for pair in people if pair.facts.key is not None and not _is_for_encryption(pair)]
    if not known:
        return skip("another_cause" if people else "no_certificate")
    weak = [pair for pair in known if replace(pair, facts=replace(pair.facts, key_usage=None)).fits(_USE) is False]
    if len(weak) == len(known):
        return fail(kind="weak", owners=_owners(weak), bits=[pair.facts.key_bits for pair in weak])
    usage = sorted({name for pair in known for name in pair.facts.key_usage or ()})
    return fail(kind="usage", owners=_owners(known), usage=usage)


def _judged(seen: TokenSeen, **evidence: Any) -> Said:
    return (fail if usable(seen) is None else warn)(**evidence)


def _dated(pair: Pair, now: datetime) -> dict[str, Any]:
    about = pair.to_json()
    facts = {name: about[name] for name in ("key_id", "not_before", "not_after")}
    return {**facts, "owner": about["subject"], "clock": now.strftime("%Y-%m-%dT%H:%M:%SZ")}


def _clock_is_wrong(now: datetime, pairs: Iterable[Pair]) -> bool:
    """Return whether the clock is before the installation of this program or years after all certificates."""
    return now < _installed() or all(now > pair.facts.not_after + _LONG_OVER for pair in pairs)


@cache
def _installed() -> datetime:
    """Return when this program was installed on this disk."""
    return datetime.fromtimestamp(Path(ushield_hw.__file__).stat().st_mtime, UTC)


def _ways(seen: TokenSeen, kind: KeyKind) -> bool:
    """Return whether a key of this type can sign an order on this token."""
    on_token = seen.token.driver.sign.hash_on is HashOn.TOKEN
    return bool(set(_wanted(kind, on_token=on_token)) & set(seen.mechanisms))


def _wanted(kind: KeyKind, *, on_token: bool) -> Collection[str]:
    ways = (way for suite in suites_for(kind) for way in suite.ways)
    return [way.mechanism for way in ways if way.feed is Feed.MESSAGE or not on_token]


def _owners(pairs: Iterable[Pair]) -> list[str]:
    """Return the certificate subjects, limited in number, and the number of those left out."""
    of = list(pairs)
    more = len(of) - _MOST_OWNERS
    return sorted({pair.facts.subject_text() for pair in of[:_MOST_OWNERS]}) + ([f"… +{more}"] if more > 0 else [])


def _ids(pairs: Iterable[Pair]) -> list[str]:
    """Return the key id of each pair, or the beginning of the certificate's SHA-256 if it has none."""
    return [pair.key_id or pair.fingerprint for pair in pairs]


def _key_ids(keys: Iterable[KeyRecord]) -> list[str]:
    return sorted({key.key_id.hex() or "-" for key in keys})


TOKEN_PROBES: Final[tuple[Probe[TokenSeen], ...]] = (
    visible,
    ids,
    label,
    present,
    valid,
    purpose,
    mechanisms,
    readable,
    each_signature,
    confirmation,
)
LOADED_PROBES: Final[tuple[Probe[Loaded], ...]] = (waiting,)
PROBES: Final = (*TOKEN_PROBES, *LOADED_PROBES)
