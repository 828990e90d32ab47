"""Request a certificate for a new key pair on a token, or install the one that a CA has issued.

python request_certificate.py SERIAL PIN_FILE request "CN=张三,O=Demo Bank" REQUEST.pem
python request_certificate.py SERIAL PIN_FILE install CERTIFICATE.pem
"""

from __future__ import annotations

import sys
from pathlib import Path

import ushield_hw as us


class PinFromFile(us.Silent):
    """Gives the PIN, and refuses whatever else would need a person."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def request_pin(self, ask: us.PinRequest) -> str | None:
        return self._file.read_text().strip()


def main(serial: str, pin_file: str, action: str, *arguments: str) -> int:
    with us.find_token(serial=serial).open(PinFromFile(Path(pin_file)), purpose=action) as session:
        if action == "request":
            subject, file = arguments
            made = us.certificates.request(session, us.certificates.KeySpec.EC_P256, subject)
            Path(file).write_bytes(made.pem)
            print(made.key_id.hex())
        else:
            pair = us.certificates.install(session, Path(arguments[0]).read_bytes())
            print(pair.subject, pair.key_id)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
