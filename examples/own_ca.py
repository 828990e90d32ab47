"""A CA for tests, in two files: create it, and issue a payment certificate for a request of ``ushield cert request``.

python own_ca.py init CA.key CA.pem
python own_ca.py issue CA.key CA.pem REQUEST.pem CERTIFICATE.pem
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{kind: kind in names for kind in USAGES})


def certificate(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + timedelta(days=days))


def init(key_file: Path, ca_file: Path) -> None:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Demo CA")])
    builder = certificate(name, name, key.public_key(), 3650)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(usage("key_cert_sign", "crl_sign"), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    plain = serialization.NoEncryption()  # a file, for tests; a bank's key is in an HSM
    key_file.touch(mode=0o600)
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    ca_file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def issue(key_file: Path, ca_file: Path, request_file: Path, certificate_file: Path) -> None:
    key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    ca = x509.load_pem_x509_certificate(ca_file.read_bytes())
    request = x509.load_pem_x509_csr(request_file.read_bytes())
    public = request.public_key()
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(public, ec.EllipticCurvePublicKey):
        raise SystemExit("this example issues EC certificates only")
    if not request.is_signature_valid:
        raise SystemExit("the request is not signed by its key")
    builder = certificate(request.subject, ca.subject, public, 365)  # check first who asks for this subject
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(usage("content_commitment"), critical=True)  # nonRepudiation: for payments
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = builder.add_extension(authority, critical=False)
    certificate_file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def main(action: str, *files: str) -> int:
    paths = [Path(file) for file in files]
    if action == "init":
        init(*paths)
    else:
        issue(*paths)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
