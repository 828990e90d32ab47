"""A key as another program sees it: plain python-pkcs11 in a separate process, without this library.

``python -m tests.contract.witness MODULE SERIAL KEY_ID`` reads the PIN from stdin and prints the private key's
attributes as JSON; attributes that the token does not show are omitted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pkcs11
from pkcs11 import Attribute, ObjectClass

from tests.project.tree import ROOT

if TYPE_CHECKING:
    from tests.contract.subjects import Subject

_WANTED = (
    *(Attribute.TOKEN, Attribute.PRIVATE, Attribute.SENSITIVE, Attribute.EXTRACTABLE, Attribute.SIGN),
    *(Attribute.DECRYPT, Attribute.UNWRAP, Attribute.DERIVE, Attribute.ALWAYS_AUTHENTICATE, Attribute.LABEL),
    *(Attribute.VALUE, Attribute.PRIVATE_EXPONENT),
)


def attributes(subject: Subject, key_id: bytes) -> dict[str, object]:
    """Return a private key's attributes, read in another process."""
    seen = _run(subject, key_id)
    seen.check_returncode()
    found: dict[str, object] = json.loads(seen.stdout)
    return found


def opens(subject: Subject) -> bool:
    """Tell whether another program can open the token."""
    return _run(subject, b"\x01").returncode == 0


def _run(subject: Subject, key_id: bytes) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.contract.witness", str(subject.module.path), subject.serial, key_id.hex()]
    return subprocess.run(command, cwd=ROOT, check=False, input=subject.pin, capture_output=True, text=True, timeout=30)


def _main(module: str, serial: str, key_id: str) -> None:
    (token,) = pkcs11.lib(module).get_tokens(token_serial=serial.encode())
    with token.open(user_pin=sys.stdin.read()) as session:
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
