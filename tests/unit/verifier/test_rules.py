"""Path rules that openssl cannot confirm: names, curves, trusted CAs' own certificates."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.unit.cms import forge, pki
from tests.unit.cms.people import P256
from tests.unit.verifier.conftest import NOW, Scenario
from tests.unit.verifier.test_path import untrusted
from ushield_hw.cms import parse
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.crypto.der import OID, SEQUENCE, SET, oid, tlv
from ushield_hw.errors import InputError, UntrustedSigner
from ushield_hw.verifier import TrustStore, signatures, verify
from ushield_hw.verifier.signatures import Algorithm

CN = b"\x55\x04\x03"
OTHER = x509.OtherName(x509.ObjectIdentifier("1.2.3.4"), b"\x0c\x01x")
DN = x509.DirectoryName(x509.Name.from_rfc4514_string("CN=A"))


def signed_by(scenario: Scenario, issuer: pki.Authority, **fields: object) -> bytes:
    fields.setdefault("subject", "CN=A")
    certificate = pki.der(issuer.issue(public_key=scenario.private.public_key(), **fields))  # type: ignore[arg-type]
    return pki.sign_order(scenario.order.canonical, scenario.private, certificate, P256)


def why(scenario: Scenario, signed: bytes, trust: TrustStore) -> str:
    with pytest.raises(UntrustedSigner) as caught:
        verify(signed, trust=trust, at=NOW)
    broken: object = caught.value.details["why"]
    return str(broken.rule)  # type: ignore[attr-defined]


# --- names in older encodings -----------------------------------------------------------------------------------------


def common_name(value: bytes) -> bytes:
    return tlv(SEQUENCE, tlv(SET, tlv(SEQUENCE, tlv(OID, CN), value)))


def renamed(certificate: bytes, own: pki.Key, old: bytes, new: bytes) -> bytes:
    """Return the certificate with ``old`` replaced by ``new``, lengths adjusted, signed by the CA's key."""
    changed = asn1_x509.Certificate.load(certificate)
    parts = [changed["tbs_certificate"][name].dump() for name in _FIELDS]
    body = tlv(SEQUENCE, *(part.replace(common_name(old), common_name(new)) for part in parts))
    return tlv(SEQUENCE, body, changed["signature_algorithm"].dump(), tlv(0x03, b"\0", pki.sign_der(own, body)))


_FIELDS = (
    *("version", "serial_number", "signature", "issuer", "validity"),
    *("subject", "subject_public_key_info", "extensions"),
)


@pytest.mark.parametrize(
    ("tag", "content", "shown"),
    [
        (0x14, "M\xfcller Bank".encode("latin-1"), "CN=Müller Bank"),  # T61String
        (0x13, "工行".encode("gbk"), "CN=工行"),  # PrintableString with GBK content
        (0x13, b"041@Bank@1", "CN=041@Bank@1"),  # with a character that the type forbids
        (0x1E, "工行".encode("utf-16-be"), "CN=工行"),  # BMPString
    ],
    ids=["T61String", "GBK", "@", "BMPString"],
)
def test_names_as_older_cas_write_them_chain_and_are_shown(
    scenario: Scenario, tag: int, content: bytes, shown: str
) -> None:
    root = pki.authority("CN=Root", number=200)
    old, new = b"\x0c\x04Root", tlv(tag, content)
    own = pki.der(root.issue("CN=Zhao", scenario.private.public_key()))
    anchor = renamed(root.der, root.key, old, new)
    signer = renamed(renamed(own, root.key, old, new), root.key, b"\x0c\x04Zhao", tlv(tag, content + content))

    signed = pki.sign_order(scenario.order.canonical, scenario.private, signer, P256)
    verified = verify(signed, trust=TrustStore([anchor]), at=NOW)
    assert (verified.signer.issuer, verified.signer.subject) == (shown, shown + shown.removeprefix("CN="))


@pytest.mark.parametrize("where", ["the signer", "its CA"])
def test_a_name_that_is_no_text_is_the_reason(scenario: Scenario, where: str) -> None:
    root = pki.authority("CN=Root", number=201)
    old, new = b"\x0c\x04Root", b"\x0c\x04R\xff\xfft"
    own = pki.der(root.issue("CN=A" if where == "its CA" else "CN=Root", scenario.private.public_key()))
    anchor = renamed(root.der, root.key, old, new) if where == "its CA" else root.der
    signer = renamed(own, root.key, old, new) if where == "its CA" else own
    if where == "the signer":
        other = pki.authority("CN=Other", number=202)
        own = pki.der(other.issue("CN=Root", scenario.private.public_key()))
        anchor, signer = other.der, renamed(own, other.key, old, new)

    signed = pki.sign_order(scenario.order.canonical, scenario.private, signer, P256)
    assert untrusted(signed, TrustStore([anchor])) == "name_encoding"


def test_names_that_differ_in_case_and_kind_of_string_are_one(scenario: Scenario) -> None:
    root = pki.authority("CN=Root", number=203)
    own = pki.der(root.issue("CN=A", scenario.private.public_key()))
    signer = renamed(own, root.key, b"\x0c\x04Root", b"\x13\x06 rOOT ")

    signed = pki.sign_order(scenario.order.canonical, scenario.private, signer, P256)
    assert verify(signed, trust=TrustStore([root.der]), at=NOW)


def test_the_certificates_inside_may_write_the_name_of_one_otherwise(scenario: Scenario) -> None:
    root = pki.authority("CN=Root", number=203)
    between = root.subordinate("CN=Between", number=204)
    own = pki.der(between.issue("CN=A", scenario.private.public_key()))
    signer = renamed(own, between.key, b"\x0c\x07Between", b"\x13\x09 bETWEEN ")

    order = forge.plain(scenario.private, signer, P256, scenario.order.canonical)
    signed = order.but(certificates=sorted([signer, between.der])).der()
    assert parse(signed).intermediates == (between.der,)
    assert verify(signed, trust=TrustStore([root.der]), at=NOW)


# --- curves -----------------------------------------------------------------------------------------------------------


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, capture_output=True, timeout=60, check=True)


@pytest.mark.parametrize("where", ["root", "between"])
def test_a_curve_that_is_spelt_out_is_refused_wherever_it_stands(
    scenario: Scenario, where: str, tmp_path: Path
) -> None:
    """A lenient reader may take other parameters for the named curve (CVE-2020-0601)."""
    explicit = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit"]
    usual = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    made = ["-x509", "-out", "root.pem", "-subj", "/CN=R", "-days", "9000"]
    openssl(tmp_path, "req", *(usual if where == "between" else explicit), "-nodes", "-keyout", "root.key", *made)
    (tmp_path / "ca.ext").write_text("basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n")
    (tmp_path / "leaf.ext").write_text("keyUsage=critical,nonRepudiation\n")
    issuer = "root"
    if where == "between":
        openssl(tmp_path, "req", *explicit, "-nodes", "-keyout", "ca.key", "-out", "ca.csr", "-subj", "/CN=C")
        words = "x509 -req -in ca.csr -CA root.pem -CAkey root.key -days 9000 -extfile ca.ext -out ca.pem"
        openssl(tmp_path, *words.split())
        issuer = "ca"
    openssl(tmp_path, "req", *usual, "-nodes", "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=A")
    words = f"x509 -req -in leaf.csr -CA {issuer}.pem -CAkey {issuer}.key -days 9000 -extfile leaf.ext -out leaf.pem"
    openssl(tmp_path, *words.split())
    (tmp_path / "order").write_bytes(scenario.order.canonical)
    words = "cms -sign -binary -nodetach -noattr -md sha256 -outform DER -in order -signer leaf.pem -inkey leaf.key"
    openssl(tmp_path, *words.split(), "-out", "order.p7m")

    signed, others = (tmp_path / "order.p7m").read_bytes(), ["ca.pem"] if where == "between" else []
    trust = TrustStore([tmp_path / "root.pem"], [tmp_path / name for name in others])
    with pytest.raises(UntrustedSigner) as caught:
        verify(signed, trust=trust)
    assert caught.value.details["why"].rule == "explicit_curve"  # type: ignore[attr-defined]


# --- trusted CAs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sha1", "unknown"])
def test_a_trusted_ca_s_own_signature_does_not_matter(scenario: Scenario, kind: str, tmp_path: Path) -> None:
    """Also for CAs read from a file, where self-signed certificates are the trusted ones."""
    root = pki.authority("CN=Root", number=210)
    weak = pki.signed_with_sha1(root.der, asn1_x509.Certificate, root.key)
    other = root.der.replace(bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06082a811ccf55018375"))  # SM2
    anchor = weak if kind == "sha1" else other
    assert anchor != root.der
    file = tmp_path / "ca.der"
    file.write_bytes(anchor)

    for trust in (TrustStore([anchor]), TrustStore.from_files([file])):
        assert verify(signed_by(scenario, root), trust=trust, at=NOW)


def test_a_ca_between_is_not_signed_with_sha1(scenario: Scenario) -> None:
    issuing = scenario.bank.root.subordinate("CN=Issuing", number=211)
    weak = pki.signed_with_sha1(issuing.der, asn1_x509.Certificate, scenario.bank.root.key)

    assert untrusted(signed_by(scenario, issuing), TrustStore([scenario.bank.root.der], [weak])) == "weak_algorithm"


@pytest.mark.parametrize(
    ("permitted", "excluded", "passes"),
    [
        ([x509.DNSName("bank.example")], [], True),  # does not apply to a signer without such a name
        ([], [x509.DNSName("bank.example")], True),
        ([], [OTHER], True),
        ([x509.RFC822Name("bank.example")], [x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))], True),
        ([DN], [], True),
        ([], [DN], False),
    ],
)
@pytest.mark.parametrize("where", ["root", "between"])
def test_name_constraints_of_every_kind_bind_and_refuse_nobody_else(
    scenario: Scenario,
    where: str,
    permitted: Sequence[x509.GeneralName],
    excluded: Sequence[x509.GeneralName],
    passes: bool,
    tmp_path: Path,
) -> None:
    limits = x509.NameConstraints(permitted or None, excluded or None)
    root = pki.authority("CN=Root", number=212, extensions=[(limits, True)] if where == "root" else ())
    issuer = root
    if where == "between":
        issuer = root.subordinate("CN=Issuing", number=213, extensions=[(limits, True)])
    certificate = pki.der(issuer.issue("CN=A", scenario.private.public_key()))
    sent = [issuer.der] if where == "between" else []
    signed = pki.sign_order(scenario.order.canonical, scenario.private, certificate, P256, intermediates=sent)

    assert pki.openssl_accepts(signed, root.pem, tmp_path) is passes
    if passes:
        assert verify(signed, trust=TrustStore([root.der]), at=NOW)
    else:
        assert why(scenario, signed, TrustStore([root.der])) == "name_constraints"


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


def net(text: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_network(text))


def ip(text: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    ("limit", "name", "within"),
    [
        (x509.DNSName("bank.cn"), x509.DNSName("a.bank.cn"), True),
        (x509.DNSName("bank.cn"), x509.DNSName("BANK.cn"), True),
        (x509.DNSName("bank.cn"), x509.DNSName("evilbank.cn"), False),
        (x509.DNSName(""), x509.DNSName("any.cn"), True),
        (x509.RFC822Name("a@bank.cn"), x509.RFC822Name("a@BANK.cn"), True),
        (x509.RFC822Name("a@bank.cn"), x509.RFC822Name("A@bank.cn"), False),
        (x509.RFC822Name("bank.cn"), x509.RFC822Name("x@bank.cn"), True),
        (x509.RFC822Name("bank.cn"), x509.RFC822Name("x@a.bank.cn"), False),
        (x509.RFC822Name(".bank.cn"), x509.RFC822Name("x@a.bank.cn"), True),
        (x509.RFC822Name(".bank.cn"), x509.RFC822Name("x@bank.cn"), False),
        (uri("bank.cn"), uri("https://bank.cn/x"), True),
        (uri("bank.cn"), uri("https://u@bank.cn:8443?x"), True),
        (uri("bank.cn"), uri("https://a.bank.cn/"), False),
        (uri(".bank.cn"), uri("https://a.bank.cn/"), True),
        (uri("bank.cn"), uri("https://10.0.0.1/"), False),
        (uri("bank.cn"), uri("urn:x"), False),
        (net("10.0.0.0/8"), ip("10.1.2.3"), True),
        (net("10.0.0.0/8"), ip("11.1.2.3"), False),
        (net("10.0.0.0/8"), ip("::1"), False),
        (net("2001:db8::/32"), ip("2001:db8::1"), True),
        (OTHER, OTHER, False),  # comparison not supported
        (x509.RegisteredID(x509.ObjectIdentifier("1.2.3")), x509.RegisteredID(x509.ObjectIdentifier("1.2.3")), False),
    ],
)
def test_what_is_within_a_name_constraint(
    scenario: Scenario, limit: x509.GeneralName, name: x509.GeneralName, within: bool
) -> None:
    names = x509.SubjectAlternativeName([name])
    root = pki.authority("CN=Root", number=214, extensions=[(x509.NameConstraints([limit], None), True)])

    signed = signed_by(scenario, root, extensions=[(names, False)])
    if within:
        assert verify(signed, trust=TrustStore([root.der]), at=NOW)
    else:
        assert why(scenario, signed, TrustStore([root.der])) == "name_constraints"


@pytest.mark.parametrize("host", ["*.bank.cn", "a..bank.cn", "-a.bank.cn"])
def test_a_wildcard_or_a_name_that_is_none_gets_round_no_exclusion(scenario: Scenario, host: str) -> None:
    names = x509.SubjectAlternativeName([x509.DNSName(host)])
    limits = x509.NameConstraints(None, [x509.DNSName("secret.bank.cn")])
    root = pki.authority("CN=Root", number=215, extensions=[(limits, True)])

    rule = why(scenario, signed_by(scenario, root, extensions=[(names, False)]), TrustStore([root.der]))
    assert rule in {"name_constraints", "name_malformed"}


# --- contradictory certificates ---------------------------------------------------------------------------------------


def test_a_signer_that_is_for_signing_certificates_but_no_ca(scenario: Scenario) -> None:
    signed = scenario.with_certificate(key_usage=("nonRepudiation", "keyCertSign")).sign()

    assert why(scenario, signed, scenario.trust()) == "ca_use"


def test_a_signer_with_name_constraints(scenario: Scenario) -> None:
    limits = x509.NameConstraints([DN], None)

    assert (
        why(scenario, scenario.with_certificate(extensions=[(limits, True)]).sign(), scenario.trust())
        == "ca_constraints"
    )


def test_a_signer_without_a_name(scenario: Scenario) -> None:
    assert why(scenario, scenario.with_certificate(subject="").sign(), scenario.trust()) == "nameless"


# --- algorithms -------------------------------------------------------------------------------------------------------


def test_another_algorithm_is_one_more_entry(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pki.authority("CN=Root", number=216)
    certificate = pki.der(root.issue("CN=A", scenario.private.public_key()))
    sm2 = bytes.fromhex("06082a811ccf55018375")
    foreign = certificate.replace(bytes.fromhex("06082a8648ce3d040302"), sm2)
    signed = pki.sign_order(scenario.order.canonical, scenario.private, foreign, P256)
    assert untrusted(signed, TrustStore([root.der])) == "weak_algorithm"

    seen: list[bytes] = []

    def check(spki: bytes, signature: bytes, message: bytes) -> bool:
        seen.append(message)
        return True

    signatures.algorithm.cache_clear()
    monkeypatch.setattr(signatures, "_known", dict(signatures._known))
    signatures.register("1.2.156.10197.1.501", lambda _: Algorithm(False, check))
    assert verify(signed, trust=TrustStore([root.der]), at=NOW)
    assert len(seen) == 1
    signatures.algorithm.cache_clear()


@pytest.mark.parametrize("kind", KeyKind)
def test_a_wrong_kind_of_signature_is_not_right(kind: KeyKind) -> None:
    own = pki.authority("CN=R", number=217, kind=kind)
    spki = own.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for identifier in ("1.2.840.10045.4.3.2", "1.2.840.113549.1.1.11", "1.2.840.113549.1.1.10", "1.3.101.112"):
        for parameters in (b"", b"\x05\x00", b"\x30\x00", b"\x04\x01"):
            assert not signatures.is_right(spki, tlv(SEQUENCE, oid(identifier), parameters), bytes(70), b"x")


def test_a_store_with_something_that_is_no_certificate(scenario: Scenario) -> None:
    with pytest.raises(InputError):
        TrustStore([scenario.bank.root.der, b"\x30\x00"])
