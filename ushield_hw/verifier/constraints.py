"""Name constraints (RFC 5280 sections 4.2.1.10 and 6.1): which names the CAs of a path allow below them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from ushield_hw.cms import names
from ushield_hw.crypto.der import OID, SEQUENCE, SET, DerError, Reader, oid
from ushield_hw.verifier import extensions as ext
from ushield_hw.verifier.budget import Budget
from ushield_hw.verifier.certificate import Certificate
from ushield_hw.verifier.extensions import GeneralName, NameConstraints

_MALFORMED: Final = "malformed"
_MAIL, _DNS, _URI, _ADDRESS = 0x81, 0x82, 0x86, 0x87
_EMAIL_ATTRIBUTE: Final = oid("1.2.840.113549.1.9.1")[2:]

_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_URI_HOST: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?([^/?#:\[\]]+)(?::[0-9]*)?(?:[/?#]|$)")
_ADDRESS_LENGTHS: Final = frozenset({4, 16})


def names_of(certificate: Certificate) -> list[GeneralName]:
    """Return all names of a certificate's subject: the subject DN, e-mail addresses in it, and SubjectAltName.

    Raises:
        DerError: a name cannot be parsed.
    """
    subject = certificate.facts.subject
    found: list[GeneralName] = [(ext.DIRECTORY, subject)] if certificate.subject else []
    found += [(_MAIL, address) for address in _mail_attributes(subject)]
    return [*found, *(certificate.value(ext.ALT_NAMES) or ())]


def _mail_attributes(subject: bytes) -> list[bytes]:
    relatives, found = Reader(subject).enter(SEQUENCE, _MALFORMED), []
    while relatives.rest():
        inside = relatives.enter(SET, _MALFORMED)
        while inside.rest():
            pair = inside.enter(SEQUENCE, _MALFORMED)
            if pair.content(OID, _MALFORMED) == _EMAIL_ATTRIBUTE:
                found.append(pair.any(_MALFORMED)[1])
    return found


def allow(limits: Sequence[NameConstraints], named: Sequence[GeneralName], budget: Budget) -> bool:
    """Return whether names satisfy the name constraints of every CA above.

    A name whose type is constrained but cannot be compared here (otherName, X.400…) is rejected.

    Args:
        limits: the constraints of the CAs above, one entry per CA.
        named: the names in the certificate.
        budget: charged for each comparison.

    Raises:
        DerError: a name or a constraint is malformed for its type.
        VerificationError: ``PATH_TOO_COMPLEX``.
    """
    for limit in limits:
        permitted, excluded = _by_kind(limit.permitted), _by_kind(limit.excluded)
        for tag, content in named:
            here, not_here = permitted.get(tag, ()), excluded.get(tag, ())
            if not here and not not_here:
                continue
            budget.spend("comparisons", len(here) + len(not_here))
            rule = _RULES.get(tag)
            if rule is None or not rule(content, here, not_here):
                return False
    return True


def _by_kind(subtrees: Sequence[GeneralName]) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for tag, content in subtrees:
        found.setdefault(tag, []).append(content)
    return found


Rule = Callable[[bytes, Sequence[bytes], Sequence[bytes]], bool]


def _directory(name: bytes, permitted: Sequence[bytes], excluded: Sequence[bytes]) -> bool:
    whole = names.canonical(name)

    def within(subtree: bytes) -> bool:
        above = names.canonical(subtree)
        return whole[: len(above)] == above

    return not any(map(within, excluded)) and (not permitted or any(map(within, permitted)))


def _dns(name: bytes, permitted: Sequence[bytes], excluded: Sequence[bytes]) -> bool:
    host, is_wildcard = _host(name, wildcard=True)
    left_out = [_host(subtree)[0] for subtree in excluded]
    if is_wildcard and any(_below(one, host[1:]) and len(one) == len(host) for one in left_out):
        return False  # the wildcard would match an excluded name
    here = [_host(subtree)[0] for subtree in permitted]
    return not any(_below(host, one) for one in left_out) and (not here or any(_below(host, one) for one in here))


def _host(name: bytes, *, wildcard: bool = False) -> tuple[tuple[str, ...], bool]:
    """Return the labels of a host name in lower case, and whether it is a wildcard.

    An empty name has no labels and matches every host as a subtree.
    """
    text = _ascii(name)
    if not text and not wildcard:
        return (), False
    labels = text.lower().split(".")
    is_wildcard = wildcard and labels[0] == "*"
    if not all(_LABEL.fullmatch(label) for label in labels[is_wildcard:]) or labels == ["*"]:
        raise DerError(_MALFORMED)
    return tuple(labels), is_wildcard


def _below(host: tuple[str, ...], subtree: tuple[str, ...]) -> bool:
    return not subtree or host[-len(subtree) :] == subtree


def _ascii(name: bytes) -> str:
    try:
        return name.decode("ascii")
    except UnicodeDecodeError as broken:
        raise DerError(_MALFORMED) from broken


def _mail(name: bytes, permitted: Sequence[bytes], excluded: Sequence[bytes]) -> bool:
    local, at, domain = _ascii(name).rpartition("@")
    if not at or not local or "@" in local.strip('"'):
        raise DerError(_MALFORMED)
    host, _ = _host(domain.encode())
    if not host:
        raise DerError(_MALFORMED)

    def within(subtree: bytes) -> bool:
        mailbox, at, area = _ascii(subtree).rpartition("@")
        return (not at or mailbox == local) and _in_area(host, area)

    return not any(map(within, excluded)) and (not permitted or any(map(within, permitted)))


def _in_area(host: tuple[str, ...], area: str) -> bool:
    """Return whether ``host`` matches a constraint on mail addresses or URIs.

    A constraint that begins with a dot matches only hosts below it; any other matches exactly that host.
    """
    labels, _ = _host(area.removeprefix(".").encode())
    if not labels:
        return True
    return host != labels and _below(host, labels) if area.startswith(".") else host == labels


def _uri(name: bytes, permitted: Sequence[bytes], excluded: Sequence[bytes]) -> bool:
    found = _URI_HOST.match(_ascii(name))
    if found is None or found[1].rpartition(".")[2].isdigit():  # an IP address is not a host name (section 4.2.1.10)
        return False
    host, _ = _host(found[1].encode())

    def within(subtree: bytes) -> bool:
        return _in_area(host, _ascii(subtree))

    return not any(map(within, excluded)) and (not permitted or any(map(within, permitted)))


def _address(name: bytes, permitted: Sequence[bytes], excluded: Sequence[bytes]) -> bool:
    if len(name) not in _ADDRESS_LENGTHS:
        raise DerError(_MALFORMED)

    def within(subtree: bytes) -> bool:
        size = len(subtree) // 2
        if size not in _ADDRESS_LENGTHS or len(subtree) % 2:
            raise DerError(_MALFORMED)
        base, mask = subtree[:size], subtree[size:]
        return size == len(name) and all((a ^ b) & m == 0 for a, b, m in zip(name, base, mask, strict=True))

    return not any([within(one) for one in excluded]) and (not permitted or any([within(one) for one in permitted]))


_RULES: Final[dict[int, Rule]] = {
    _MAIL: _mail,
    _DNS: _dns,
    ext.DIRECTORY: _directory,
    _URI: _uri,
    _ADDRESS: _address,
}
