"""A parsed certificate for path validation, with a cache of the keys that signed it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any, Final

from ushield_hw.cms import CertificateFacts, names
from ushield_hw.cms.names import Canonical
from ushield_hw.crypto.der import BIT_STRING, OCTET_STRING, OID, SEQUENCE, DerError, Reader
from ushield_hw.errors import InputError
from ushield_hw.verifier import extensions as ext
from ushield_hw.verifier.signatures import is_right

_MALFORMED: Final = "malformed"
_TRUE: Final = b"\x01\x01\xff"
_BOOLEAN: Final = 0x01
_VERSION, _UNIQUE_IDS, _EXTENSIONS = 0xA0, (0x81, 0x82), 0xA3


class Certificate:
    """A parsed certificate. Immutable except for caches; thread-safe.

    Attributes:
        facts: the fields of the certificate.
        subject: the subject in canonical form.
        issuer: the issuer in canonical form.
        algorithm: the AlgorithmIdentifier of the signature, DER.
        signature: the signature octets.
        signed: the signed bytes (TBSCertificate, DER).
        known_issuers: cache of the path search: for a key (SubjectPublicKeyInfo, DER), whether it signed this
            certificate.

    Raises:
        InputError: ``CERTIFICATE_MALFORMED``.
    """

    def __init__(self, facts: CertificateFacts) -> None:
        self.facts = facts
        self.known_issuers: dict[bytes, bool] = {}
        try:
            self._read()
            self.subject = names.canonical(facts.subject)
            self.issuer: Canonical = names.canonical(facts.issuer)
        except DerError as broken:
            raise InputError("CERTIFICATE_MALFORMED") from broken

    @staticmethod
    def read(der: bytes) -> Certificate:
        """Parse a certificate; recently parsed ones are cached.

        Args:
            der: the certificate, DER.

        Raises:
            InputError: ``CERTIFICATE_MALFORMED``.
        """
        return _kept(der)

    def _read(self) -> None:
        outer = Reader(self.facts.der).enter(SEQUENCE, _MALFORMED)
        self.signed = outer.element(SEQUENCE, _MALFORMED)
        self.algorithm = outer.element(SEQUENCE, _MALFORMED)
        self.signature = outer.content(BIT_STRING, _MALFORMED)[1:]
        fields = Reader(self.signed).enter(SEQUENCE, _MALFORMED)
        self._extensions = _listed(fields) if self.facts.version > 1 else {}

    @property
    def critical(self) -> frozenset[bytes]:
        """The OIDs of the critical extensions."""
        return frozenset(name for name, (is_critical, _) in self._extensions.items() if is_critical)

    @property
    def extensions(self) -> frozenset[bytes]:
        """The OIDs of all extensions."""
        return frozenset(self._extensions)

    @cached_property
    def _values(self) -> Mapping[bytes, Any]:
        found = {}
        for name, (_, value) in self._extensions.items():
            reader = ext.READERS.get(name)
            if reader is not None:
                found[name] = reader(value)
        return found

    def value(self, extension: bytes) -> Any:
        """Return the parsed value of an extension, or None if it is absent or has no parser.

        The parsers are :data:`ushield_hw.verifier.extensions.READERS`.

        Raises:
            DerError: this or another extension is malformed.
        """
        return self._values.get(extension)

    @cached_property
    def key_id(self) -> bytes | None:
        """The subject key identifier; None if absent or malformed."""
        return self._read_alone(ext.SUBJECT_KEY_ID)  # type: ignore[no-any-return]

    @cached_property
    def authority(self) -> ext.AuthorityKeyId | None:
        """The authority key identifier; None if absent or malformed."""
        return self._read_alone(ext.AUTHORITY_KEY_ID)  # type: ignore[no-any-return]

    def _read_alone(self, extension: bytes) -> Any:
        if extension not in self._extensions:
            return None
        try:
            return ext.READERS[extension](self._extensions[extension][1])
        except DerError:
            return None

    def may_be_issuer_of(self, other: Certificate) -> bool:
        """Return whether names and key identifiers allow this certificate to be the issuer of ``other``."""
        said = other.authority
        if self.subject != other.issuer:
            return False
        if said is None:
            return True
        if said.key is not None and self.key_id is not None and said.key != self.key_id:
            return False
        return said.serial is None or self._is_named(said)

    def has_signed(self, other: Certificate) -> bool:
        """Return whether this certificate's subject is the issuer of ``other`` and its key signed ``other``."""
        return self.subject == other.issuer and is_right(
            self.facts.spki, other.algorithm, other.signature, other.signed
        )

    def _is_named(self, said: ext.AuthorityKeyId) -> bool:
        """Return whether an authority key identifier names this certificate by issuer and serial number."""
        if said.serial is None or int.from_bytes(said.serial, "big") != self.facts.serial:
            return False
        directory = [content for tag, content in said.issuer if tag == ext.DIRECTORY]
        try:
            return not directory or any(names.canonical(name) == self.issuer for name in directory)
        except DerError:
            return False

    @property
    def is_self_issued(self) -> bool:
        """Whether issuer and subject are the same name (RFC 5280 section 6.1)."""
        return self.subject == self.issuer

    @property
    def looks_self_signed(self) -> bool:
        """Whether it is self-issued and the key identifiers do not name a different key; openssl ends a path here."""
        said = self.authority
        other_key = said is not None and said.key is not None and self.key_id not in (None, said.key)
        return self.is_self_issued and not other_key

    @property
    def signs_certificates(self) -> bool:
        """Whether it may issue certificates: a CA whose key usage, if present, includes keyCertSign."""
        use = self.facts.key_usage
        return self.facts.is_ca and (use is None or "keyCertSign" in use)

    @property
    def signs_crls(self) -> bool:
        """Whether its key usage, if present, includes cRLSign."""
        use = self.facts.key_usage
        return use is None or "cRLSign" in use


_kept = lru_cache(maxsize=1024)(lambda der: Certificate(CertificateFacts.read(der)))


def _listed(fields: Reader) -> dict[bytes, tuple[bool, bytes]]:
    """Return the extensions by OID: critical flag and value.

    The fields before them were validated by ``CertificateFacts``.
    """
    fields.content(_VERSION, _MALFORMED)
    for _ in range(6):  # serial number, algorithm, issuer, validity, subject, key
        fields.any(_MALFORMED)
    for unique_id in _UNIQUE_IDS:
        if fields.sees(unique_id):
            fields.content(unique_id, _MALFORMED)
    found: dict[bytes, tuple[bool, bytes]] = {}
    if not fields.sees(_EXTENSIONS):
        return found
    listed = fields.enter(_EXTENSIONS, _MALFORMED).enter(SEQUENCE, _MALFORMED)
    while listed.rest():
        extension = listed.enter(SEQUENCE, _MALFORMED)
        name, is_critical = extension.content(OID, _MALFORMED), extension.sees(_BOOLEAN)
        if is_critical:
            extension.constant(_TRUE, _MALFORMED)
        found[name] = is_critical, extension.content(OCTET_STRING, _MALFORMED)
    return found
