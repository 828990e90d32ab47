"""CA and CRL files, and the path cache of a trust store."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.unit.cms import pki
from tests.unit.cms.people import P256
from tests.unit.verifier.conftest import DAY, NOW, Scenario
from tests.unit.verifier.test_verify import told
from ushield_hw.errors import InputError, Revoked, UntrustedSigner
from ushield_hw.verifier import TrustStore, path, trust, verify


def refused(make: Callable[[], object], code: str) -> InputError:
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.code == code
    told(caught.value)
    return caught.value


def crl_pem(der: bytes) -> bytes:
    return x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)


def file(folder: Path, content: bytes, name: str = "file.pem") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


# --- files


def test_a_pem_file_may_hold_text_and_several_certificates(scenario: Scenario, tmp_path: Path) -> None:
    content = (
        b"Demo Bank\n" + scenario.bank.issuing.pem + b"and the root\n" + scenario.bank.root.pem.replace(b"\n", b"\r\n")
    )

    store = TrustStore.from_files([file(tmp_path, content)])

    assert verify(scenario.sign(intermediates=[]), trust=store, at=NOW)


def test_a_der_file_holds_one(scenario: Scenario, tmp_path: Path) -> None:
    store = TrustStore.from_files([file(tmp_path, scenario.bank.root.der)])

    assert verify(scenario.sign(), trust=store, at=NOW)


def test_several_files_count_together(scenario: Scenario, tmp_path: Path) -> None:
    files = [
        file(tmp_path, scenario.bank.issuing.pem, "issuing.pem"),
        file(tmp_path, scenario.bank.root.der, "root.der"),
    ]

    assert verify(scenario.sign(intermediates=[]), trust=TrustStore.from_files(files), at=NOW)


def test_only_self_signed_cas_of_a_file_are_trusted_as_with_openssl(scenario: Scenario, tmp_path: Path) -> None:
    issuing = file(tmp_path, scenario.bank.issuing.pem)

    error = refused(lambda: TrustStore.from_files([issuing]), "CA_FILE_INVALID")

    assert (error.problem, error.file) == ("trust_no_root", str(issuing))
    assert not pki.openssl_accepts(scenario.sign(), scenario.bank.issuing.pem, tmp_path)


def test_a_ca_that_has_its_own_name_as_issuer_but_another_s_signature_is_not_self_signed(
    scenario: Scenario, tmp_path: Path
) -> None:
    name = "CN=Demo Root,O=Demo Bank"
    other = pki.authority(name, number=160)
    assert other.certificate.subject == scenario.bank.root.certificate.subject
    cross = pki.Authority(
        other.key, scenario.bank.root.issue(name, other.key.public_key(), ca=True, key_usage=["keyCertSign"])
    )

    assert (
        refused(lambda: TrustStore.from_files([file(tmp_path, cross.pem)]), "CA_FILE_INVALID").problem
        == "trust_no_root"
    )


@pytest.mark.parametrize("kind", ["pem", "der"])
def test_crls_come_from_files_too(scenario: Scenario, kind: str, tmp_path: Path) -> None:
    serial = x509.load_der_x509_certificate(scenario.certificate).serial_number
    crls = [scenario.bank.root.crl(), scenario.bank.issuing.crl({serial: NOW - DAY})]
    if kind == "pem":
        files = [file(tmp_path, b"".join(map(crl_pem, crls)), "crls.pem")]
    else:
        files = [file(tmp_path, der, f"{n}.crl") for n, der in enumerate(crls)]

    store = TrustStore.from_files([file(tmp_path, scenario.bank.root.pem)], files)

    with pytest.raises(Revoked):
        verify(scenario.sign(), trust=store, at=NOW)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "trust_no_certificate"),
        (b"nothing of the kind", "trust_no_certificate"),
        (b"\x30\x03\x02\x01\x00", "trust_no_certificate"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "trust_no_certificate"),
        (b"-----BEGIN CERTIFICATE-----\nMII=B\n-----END CERTIFICATE-----\n", "trust_no_certificate"),
        (b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "trust_no_certificate"),
    ],
)
def test_a_ca_file_without_a_certificate_is_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    ca = file(tmp_path, content)

    error = refused(lambda: TrustStore.from_files([ca]), "CA_FILE_INVALID")

    assert (error.problem, error.file) == (problem, str(ca))


def test_a_ca_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    error = refused(lambda: TrustStore.from_files([tmp_path / "missing.pem"]), "CA_FILE_INVALID")

    assert (error.problem, error.details["why"]) == ("trust_unreadable", "No such file or directory")
    assert refused(lambda: TrustStore.from_files([tmp_path]), "CA_FILE_INVALID").problem == "trust_unreadable"


def test_a_ca_file_that_is_too_large_is_refused(
    scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = file(tmp_path, scenario.bank.root.pem + bytes(4 << 20))

    assert refused(lambda: TrustStore.from_files([ca]), "CA_FILE_INVALID").problem == "trust_too_large"


def test_a_customer_s_certificate_among_the_cas_is_refused(scenario: Scenario, tmp_path: Path) -> None:
    pem = x509.load_der_x509_certificate(scenario.certificate).public_bytes(Encoding.PEM)
    ca = file(tmp_path, scenario.bank.root.pem + pem)

    assert refused(lambda: TrustStore.from_files([ca]), "CA_NOT_A_CA").file == str(ca)


@pytest.mark.parametrize("fields", [{"ca": False}, {"key_usage": ("cRLSign",)}])
def test_a_certificate_that_may_not_sign_certificates_is_no_ca(fields: dict[str, object]) -> None:
    other = pki.authority("CN=A", number=161, **fields)  # type: ignore[arg-type]

    assert refused(lambda: TrustStore([other.der]), "CA_NOT_A_CA").file == "anchors[0]"


def test_an_intermediate_must_be_a_ca_too(scenario: Scenario) -> None:
    error = refused(lambda: TrustStore([scenario.bank.root.der], [scenario.certificate]), "CA_NOT_A_CA")

    assert error.file == "intermediates[0]"


def test_a_store_without_any_trusted_ca_is_refused() -> None:
    assert refused(lambda: TrustStore([]), "CA_FILE_INVALID").problem == "trust_no_root"


@pytest.mark.parametrize("content", [b"", b"no CRL", b"\x30\x03\x02\x01\x00"])
def test_a_crl_file_without_a_crl_is_refused(scenario: Scenario, content: bytes, tmp_path: Path) -> None:
    ca, crl = file(tmp_path, scenario.bank.root.pem), file(tmp_path, content, "file.crl")

    error = refused(lambda: TrustStore.from_files([ca], [crl]), "CRL_FILE_INVALID")

    assert (error.problem, error.file) == ("trust_no_crl", str(crl))


def test_a_certificate_is_no_crl(scenario: Scenario, tmp_path: Path) -> None:
    ca = file(tmp_path, scenario.bank.root.pem)

    refused(lambda: TrustStore.from_files([ca], [ca]), "CRL_FILE_INVALID")


# --- the path cache


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """The moments for which a path was built."""
    moments: list[datetime] = []
    real = path.build

    def counted(*args: object) -> object:
        moments.append(args[-1])  # type: ignore[arg-type]
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(path, "build", counted)
    return moments


def test_a_path_is_looked_for_once(scenario: Scenario, builds: list[datetime]) -> None:
    store = scenario.trust(scenario.bank.root.crl(), scenario.bank.issuing.crl())

    for _ in range(3):
        assert verify(scenario.sign(), trust=store, at=NOW)

    assert builds == [NOW]


def test_a_path_that_does_not_hold_is_looked_for_again(scenario: Scenario, builds: list[datetime]) -> None:
    store = TrustStore([pki.authority("CN=Stranger", number=130).der])

    for _ in range(2):
        with pytest.raises(UntrustedSigner):
            verify(scenario.sign(), trust=store, at=NOW)

    assert len(builds) == 2


def test_a_remembered_path_is_judged_at_each_moment_anew(scenario: Scenario, builds: list[datetime]) -> None:
    store, over = scenario.trust(), NOW + 701 * DAY
    assert verify(scenario.sign(), trust=store, at=NOW)

    with pytest.raises(UntrustedSigner) as caught:
        verify(scenario.sign(), trust=store, at=over)

    assert caught.value.reason == "expired"
    assert verify(scenario.sign(), trust=store, at=NOW)
    assert builds == [NOW, over]


@pytest.mark.parametrize("fields", [{"not_before": NOW - 5 * DAY}, {"not_after": NOW + 5 * DAY}])
def test_a_path_is_remembered_for_as_long_as_all_its_certificates_hold(
    scenario: Scenario, fields: dict[str, datetime]
) -> None:
    root = pki.authority("CN=Root", number=162, **fields)  # type: ignore[arg-type]
    certificate = pki.der(root.issue("CN=A", scenario.private.public_key()))
    signed = pki.sign_order(scenario.order.canonical, scenario.private, certificate, P256)
    store = TrustStore([root.der])
    assert verify(signed, trust=store, at=NOW)

    for moment in (NOW - 6 * DAY, NOW + 6 * DAY):
        outside = (moment < NOW) == ("not_before" in fields)
        if outside:
            with pytest.raises(UntrustedSigner):
                verify(signed, trust=store, at=moment)
        else:
            assert verify(signed, trust=store, at=moment, judge_expiry=False)


def test_revocation_is_judged_at_each_moment_anew(scenario: Scenario, builds: list[datetime]) -> None:
    serial = x509.load_der_x509_certificate(scenario.certificate).serial_number
    store = scenario.trust(scenario.bank.root.crl(), scenario.bank.issuing.crl({serial: NOW}))
    assert verify(scenario.sign(), trust=store, at=NOW - DAY)

    with pytest.raises(Revoked):
        verify(scenario.sign(), trust=store, at=NOW)

    assert len(builds) == 1


def test_a_path_is_remembered_with_what_came_with_the_order(scenario: Scenario, builds: list[datetime]) -> None:
    """Without the issuing CA there is no path, even if one was cached before."""
    store = scenario.trust()
    assert verify(scenario.sign(), trust=store, at=NOW)

    with pytest.raises(UntrustedSigner):
        verify(scenario.sign(intermediates=[]), trust=store, at=NOW)

    assert len(builds) == 2


def test_no_more_than_so_many_paths_are_kept(
    scenario: Scenario, builds: list[datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "PATHS_KEPT", 2)
    store = scenario.trust()
    one, two, three = (scenario.with_certificate(subject=f"CN={n}").sign() for n in range(3))

    for signed in (one, two, one, three, one):  # the third order evicts the second
        verify(signed, trust=store, at=NOW)
    assert len(builds) == 3

    verify(two, trust=store, at=NOW)
    assert len(builds) == 4
