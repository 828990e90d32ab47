"""What another program sees of a key: plain python-pkcs11 in a process of its own, nothing of this library.

``python -m tests.contract.witness MODULE SERIAL PIN KEY_ID`` prints the private key's attributes as JSON; those that
the token does not show are left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pkcs11
from pkcs11 import Attribute, ObjectClass

from tests.project.tree import ROOT

_WANTED = (
    *(Attribute.TOKEN, Attribute.PRIVATE, Attribute.SENSITIVE, Attribute.EXTRACTABLE, Attribute.SIGN),
    *(Attribute.DECRYPT, Attribute.UNWRAP, Attribute.DERIVE, Attribute.ALWAYS_AUTHENTICATE, Attribute.LABEL),
    *(Attribute.VALUE, Attribute.PRIVATE_EXPONENT),
)


def attributes(module: Path, serial: str, pin: str, key_id: bytes) -> dict[str, object]:
    """Return the attributes, read in another process."""
    command = [sys.executable, "-m", "tests.contract.witness", str(module), serial, pin, key_id.hex()]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=30)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def _main(module: str, serial: str, pin: str, key_id: str) -> None:
    (token,) = pkcs11.lib(module).get_tokens(token_serial=serial.encode())
    with token.open(user_pin=pin) as session:
        wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: bytes.fromhex(key_id)}
        (found,) = session.get_objects(wanted)
        print(json.dumps({name.name.lower(): found[name] for name in _WANTED if _shown(found, name)}))


def _shown(found: pkcs11.Object, name: Attribute) -> bool:
    try:
        return found[name] is not None
    except (pkcs11.AttributeTypeInvalid, pkcs11.AttributeSensitive):
        return False


if __name__ == "__main__":
    _main(*sys.argv[1:])
