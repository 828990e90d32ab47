"""HTTP client for the bank's CA, based on EST (RFC 7030) sections 4.1 and 4.2, with two additional calls.

========================================  =====================================================================
``POST /.well-known/est/simplereenroll``  a renewal request, base64 -> certificate, base64 certs-only CMS
``POST /.well-known/est/simpleenroll``    PKCS#10, base64, HTTP Basic -> certificate, base64 certs-only CMS
``GET /renewals/SPKI``                    what the new key must sign: ``ushield.renewal/1``
``POST /renewals/SPKI/activation``        that document, signed: CMS in DER
========================================  =====================================================================

``SPKI``: SHA-256 of the new key's SubjectPublicKeyInfo, lower-case hex. A failed call may be retried: the bank returns
the same certificate for the same request.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import ssl
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ushield_hw.cms import CertificateFacts
from ushield_hw.crypto.parsing import Unreadable, reading
from ushield_hw.errors import InputError, NetworkError, RenewalRejected
from ushield_hw.order import Rules

DEADLINE_S: Final = 30.0

_EST: Final = "/.well-known/est/"
_MOST_BYTES: Final = 1 << 20
_OK, _ACCEPTED = 200, 202
_LATER: Final = frozenset({_ACCEPTED, 408, 425, 429, 500, 502, 503, 504})
_REFUSALS: Final = {
    **dict.fromkeys(("CODE_WRONG", "CODE_USED", "CODE_EXPIRED"), "BANK_CODE_REFUSED"),
    "RENEWAL_CERTIFICATE_EXPIRED": "RENEWAL_REJECTED_EXPIRED",
    "RENEWAL_CERTIFICATE_REVOKED": "RENEWAL_REJECTED_REVOKED",
}
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes


class EstBank:
    """A bank's CA, reached over HTTP.

    Every call raises ``NetworkError`` (``BANK_UNREACHABLE``, ``BANK_LATER``, ``BANK_ANSWER``) if it gets no valid
    answer, and ``RenewalRejected`` if the bank refused; ``.reason`` is its code.

    Args:
        url: The URL of the CA: ``https://…``, or ``http://`` on the loopback interface.
        trusted: A file of CA certificates, PEM, for the server's certificate; None: those of the system.
        deadline_s: The timeout of one call, in seconds, everything included.

    Attributes:
        rules: The rules for the bank's documents (allowed origins).

    Raises:
        InputError: ``BANK_URL``, ``CA_FILE_INVALID``.
    """

    def __init__(self, url: str, trusted: Path | None = None, deadline_s: float = DEADLINE_S) -> None:
        self._url = url.rstrip("/")
        self._deadline_s = deadline_s
        try:
            parts = urlsplit(self._url)
            self._host, self._port, self._base = parts.hostname or "", parts.port, parts.path
        except ValueError as error:
            raise InputError("BANK_URL", url=url) from error
        local = self._host in _LOOPBACK
        odd = parts.query or parts.fragment or parts.username or not self._host
        if odd or parts.scheme not in ({"http", "https"} if local else {"https"}):
            raise InputError("BANK_URL", url=url)
        self.rules = Rules(demo=local)  # a CA on the loopback interface may name loopback origins
        self._tls = _context(trusted) if parts.scheme == "https" else None

    def certify(self, request: bytes) -> bytes:
        """Return the certificate for a renewal request.

        Args:
            request: CMS SignedData by the old key, DER.

        Returns:
            The certificate, DER.
        """
        answer = self._call("POST", _EST + "simplereenroll", "application/pkcs7-mime", base64.b64encode(request))
        return self._certificate(answer)

    def enroll(self, request: bytes, customer: str, code: str) -> bytes:
        """Return the first certificate for a PKCS#10 request.

        Args:
            request: The PKCS#10 request, DER.
            customer: The bank's customer number.
            code: The one-time code that the bank issued for this request.

        Returns:
            The certificate, DER.
        """
        login = base64.b64encode(f"{customer}:{code}".encode()).decode()
        headers = {"Authorization": f"Basic {login}"}
        body = base64.b64encode(request)
        return self._certificate(self._call("POST", _EST + "simpleenroll", "application/pkcs10", body, headers))

    def document(self, spki: bytes) -> bytes:
        """Return the document that the new key must sign.

        Args:
            spki: The new key, SubjectPublicKeyInfo, DER.
        """
        return self._call("GET", f"/renewals/{_name(spki)}").body

    def activate(self, spki: bytes, signed: bytes) -> None:
        """Submit the document, signed by the new key.

        Args:
            spki: The new key, SubjectPublicKeyInfo, DER.
            signed: The signed document, CMS SignedData, DER.
        """
        path = f"/renewals/{_name(spki)}/activation"
        answer = self._call("POST", path, "application/pkcs7-mime", signed)
        try:
            if json.loads(answer.body)["state"] == "active":
                return
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise NetworkError("BANK_ANSWER", url=self._url, path=path)

    def _certificate(self, answer: _Answer) -> bytes:
        """Return the end-entity certificate of a certs-only CMS (RFC 7030 section 4.2.3)."""
        try:
            return certificate_in(answer.body)
        except Unreadable as error:
            raise NetworkError("BANK_ANSWER", url=self._url, path=_EST) from error

    def _call(
        self, method: str, path: str, kind: str | None = None, body: bytes = b"", more: Mapping[str, str] | None = None
    ) -> _Answer:
        headers = {"Content-Type": kind} if kind else {}
        answer = self._answered(method, path, body, headers | dict(more or {}))
        if answer.status == _OK:
            return answer
        if answer.status in _LATER:
            raise NetworkError("BANK_LATER", url=self._url, status=answer.status)
        code, said = _refusal(answer.body)
        facts = {"reason": code or f"HTTP {answer.status}", "said": said, "status": answer.status, "url": self._url}
        raise RenewalRejected(_REFUSALS.get(code), **facts)

    def _answered(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> _Answer:
        connection = self._connection()
        ended = threading.Event()

        def end() -> None:
            ended.set()
            if connection.sock is not None:
                with suppress(OSError):
                    connection.sock.shutdown(2)  # both directions: wakes up the blocked call

        timer = threading.Timer(self._deadline_s, end)
        timer.daemon = True
        timer.start()
        try:
            connection.request(method, self._base + path, body or None, dict(headers))
            answer = connection.getresponse()
            content = answer.read(_MOST_BYTES + 1)
            if ended.is_set() or len(content) > _MOST_BYTES:
                raise TimeoutError if ended.is_set() else http.client.HTTPException("too long")
            return _Answer(answer.status, content)
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: the response head is not HTTP
            late = ended.is_set() or isinstance(error, TimeoutError)
            reason = "timed out" if late else getattr(error, "strerror", None) or str(error) or repr(error)
            raise NetworkError("BANK_UNREACHABLE", url=self._url, reason=reason) from error
        finally:
            timer.cancel()
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._deadline_s)
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._deadline_s, context=self._tls)


def _context(trusted: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(trusted) if trusted else None)
    except OSError as error:  # includes ssl.SSLError
        raise InputError("CA_FILE_INVALID", file=str(trusted), problem="trust_no_certificate") from error


def _name(spki: bytes) -> str:
    return hashlib.sha256(spki).hexdigest()


def certificate_in(body: bytes) -> bytes:
    """Return the end-entity certificate of a certs-only CMS in base64 (RFC 7030 section 4.2.3), as DER.

    Raises:
        Unreadable: It is invalid, or does not hold exactly one.
    """
    try:
        found = _certificates(base64.b64decode(body, validate=False))
        (certificate,) = (der for der in found if not CertificateFacts.read(der).is_ca)
    except (ValueError, InputError) as error:  # includes binascii.Error
        raise Unreadable(str(error)) from error
    return certificate


def _certificates(der: bytes) -> list[bytes]:
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.hazmat.primitives.serialization.pkcs7 import load_der_pkcs7_certificates

    with reading(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some servers send BER, which is accepted
        return [one.public_bytes(Encoding.DER) for one in load_der_pkcs7_certificates(der)]


def _refusal(body: bytes) -> tuple[str, str]:
    """Return code and message of an error document; empty strings if there is none."""
    try:
        error = json.loads(body)["error"]
        return str(error["code"])[:64], str(error.get("message", ""))[:300]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", ""
