"""HTTP routes of the CA: enrolment as in EST (RFC 7030), activation of renewals, and the CRL."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import serialize_certificates
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ushield_hw.bank.ca import enrolment, renewal, revocation
from ushield_hw.bank.ca.service import CaService
from ushield_hw.bank.http import json_response, read_body, route, waited
from ushield_hw.errors import RequestRefused

_PKCS10: Final = "application/pkcs10"
_PKCS7: Final = "application/pkcs7-mime"
_EST: Final = "/.well-known/est"
_DIGEST: Final = re.compile("[0-9a-f]{64}")


class CaRoutes:
    """The CA's area of the bank's server.

    Args:
        service: the CA service.
    """

    statuses: Mapping[str, int] = {
        "CODE_WRONG": 401,
        "PROOF_WRONG": 403,
        "SUBJECT_MISMATCH": 403,
        "KEY_TOO_WEAK": 403,
        "CERTIFICATE_UNKNOWN": 403,
        "RENEWAL_CERTIFICATE_EXPIRED": 403,
        "RENEWAL_CERTIFICATE_REVOKED": 403,
        "RENEWAL_NOT_ACTIVE": 403,
        "AUTHORITY_ENDS": 403,
        "RENEWAL_NOT_FOUND": 404,
        "KEY_REUSED": 409,
        "CODE_USED": 409,
        "RENEWAL_SUPERSEDED": 409,
        "DOCUMENT_MISMATCH": 409,
        "CODE_EXPIRED": 410,
        "DOCUMENT_EXPIRED": 410,
        "CODES_TOO_MANY": 429,
        "RENEWAL_TOO_MANY": 429,
    }

    def __init__(self, service: CaService) -> None:
        self._service = service

    def routes(self) -> Sequence[Route]:
        """Return the routes of the CA."""
        return [
            route("GET", f"{_EST}/cacerts", self._cacerts),
            route("POST", f"{_EST}/simpleenroll", self._enroll),
            route("POST", f"{_EST}/simplereenroll", self._reenroll),
            route("GET", "/renewals/{spki}", self._document),
            route("POST", "/renewals/{spki}/activation", self._activation),
            route("GET", "/crl", self._crl),
        ]

    async def _cacerts(self, request: Request) -> Response:
        return _pkcs7(_PKCS7, self._service.authority.certificate)

    async def _enroll(self, request: Request) -> Response:
        customer, code = _login(request)
        der = await read_body(request, _PKCS10)
        found = await waited(request, lambda: enrolment.enrol(self._service, der, customer, code))
        return _pkcs7(f"{_PKCS7}; smime-type=certs-only", found.signed)

    async def _reenroll(self, request: Request) -> Response:
        der = await read_body(request, _PKCS7, _PKCS10)  # RFC 7030 specifies PKCS#10 here
        found = await waited(request, lambda: renewal.renew(self._service, der))
        return _pkcs7(f"{_PKCS7}; smime-type=certs-only", found.signed)

    async def _document(self, request: Request) -> Response:
        spki = _spki(request)
        canonical = await waited(request, lambda: renewal.document(self._service, spki))
        return Response(canonical, media_type="application/json")

    async def _activation(self, request: Request) -> Response:
        spki = _spki(request)
        signed = await read_body(request, _PKCS7)
        done = await waited(request, lambda: renewal.activate(self._service, spki, signed))
        return json_response(200, done.to_json())

    async def _crl(self, request: Request) -> Response:
        der = await waited(request, lambda: revocation.crl(self._service))
        return Response(der, media_type="application/pkix-crl", headers={"Cache-Control": "no-cache"})


def _login(request: Request) -> tuple[str, str]:
    """Return customer number and code (RFC 7617). The number may contain a colon, the code does not."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    try:
        customer, colon, code = base64.b64decode(encoded.strip(), validate=True).decode().rpartition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise RequestRefused("CODE_WRONG") from error
    if scheme.lower() != "basic" or not colon:
        raise RequestRefused("CODE_WRONG")
    return customer, code


def _spki(request: Request) -> str:
    spki: str = request.path_params["spki"]
    if not _DIGEST.fullmatch(spki):
        raise RequestRefused("RENEWAL_NOT_FOUND")
    return spki


def _pkcs7(kind: str, certificate: bytes) -> Response:
    der = serialize_certificates([x509.load_der_x509_certificate(certificate)], Encoding.DER)
    headers = {"Content-Type": kind, "Content-Transfer-Encoding": "base64"}
    return Response(base64.encodebytes(der), headers=headers)
