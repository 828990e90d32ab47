"""Verify a signed order: signature, path to a CA, purpose of the key, and that it is the order that was issued.

python verify_order.py SIGNED.p7m ORDER.json CA.pem [CRL…]
"""

from __future__ import annotations

import sys
from pathlib import Path

import ushield_hw as us


def main(signed_file: str, order_file: str, ca_file: str, *crls: str) -> int:
    trust = us.TrustStore.from_files([Path(ca_file)], [Path(crl) for crl in crls])
    expected = us.Order.parse(Path(order_file).read_bytes())
    try:
        found = us.verify(Path(signed_file).read_bytes(), trust=trust, expected=expected)
    except us.errors.Mismatch as error:
        print(f"another order: {', '.join(error.fields)}", file=sys.stderr)
        return 10
    except us.errors.InvalidError as error:
        print(f"invalid: {error.message}", file=sys.stderr)
        return 10
    except us.errors.VerificationError as error:
        print(f"could not be checked: {error.message}", file=sys.stderr)
        return 11
    confirmed = found.confirmation.value if found.confirmation else "not stated"
    print(
        f"{found.order.tx_id} by {found.signer.subject}, confirmed: {confirmed}, revocation: {found.revocation.value}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
