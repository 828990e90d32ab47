"""Tokens with ambiguous CKA_IDs: either the right key signs or none does, and no other key is deleted."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.person import Person
from tests.cli.world import Bank, Home, run_openssl
from tests.soft import SOFTHSM

EC = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
RSA = ("rsa", "-pkeyopt", "rsa_keygen_bits:2048")


class Odd:
    """A soft token whose objects are written one by one by other programs."""

    def __init__(self, home: Home, bank: Bank) -> None:
        self.home = home
        self.bank = bank
        self._number = itertools.count()
        self._pin = home.content(home.token.pin_file).decode().strip()

    def key(self, kind: tuple[str, ...] = EC) -> str:
        """Generate a key in a file."""
        name = f"key{next(self._number)}"
        self._openssl("genpkey", "-algorithm", *kind, "-out", f"{name}.pem")
        self._openssl("pkey", "-in", f"{name}.pem", "-pubout", "-outform", "DER", "-out", f"{name}.pub")
        self._openssl("req", "-new", "-key", f"{name}.pem", "-subj", "/CN=odd", "-out", f"{name}.csr")
        self.bank.certify(self.home.file(f"{name}.csr"), self.home.file(f"{name}.cert"))
        self._openssl("x509", "-in", f"{name}.cert", "-outform", "DER", "-out", f"{name}.der")
        return name

    def pair(self, name: str, key_id: str = "12", label: str = "pay", *, public: bool = True) -> None:
        """Write a private key to the token, with or without its public key object."""
        more = () if public else ("--no-public-key",)
        words = ("--import", f"{name}.pem", "--token", self.home.token.label, "--label", label, "--id", key_id)
        self._run("softhsm2-util", *words, "--pin", self._pin, "--force", *more)

    def put(self, name: str, kind: str, key_id: str = "12", label: str = "pay") -> None:
        """Write a key's certificate (``cert``) or public key object (``pubkey``)."""
        file = f"{name}.{'der' if kind == 'cert' else 'pub'}"
        words = ("--module", SOFTHSM, "--token-label", self.home.token.label, "--login", "--pin", self._pin)
        self._run("pkcs11-tool", *words, "-w", file, "-y", kind, "--id", key_id, "-a", label)

    def sign(self, *words: str, exits: int = 0, uri: str = "", order: str = "") -> Any:
        """Sign; openssl must accept the result, and a failure leaves no file."""
        out = self.home.file(f"signed{next(self._number)}.p7m")
        own = ("--token", uri or self.home.token.uri, "--pin-source", self.home.token.pin_file)
        order = order or self.home.order()
        done = self.home.json("sign", order, *own, "--unattended", "-o", out.name, *words, exits=exits)
        assert out.exists() is (exits == 0)
        assert exits or self.bank.accepts(out)
        return done

    def keys(self) -> list[tuple[str, str, str, bool]]:
        words = ("--token", self.home.token.uri, "--pin-source", self.home.token.pin_file)
        found = self.home.json("key", "list", *words)["keys"]
        return sorted((one["key_id"], one["label"], one["kind"], one["has_certificate"]) for one in found)

    def delete(self, *words: str, uri: str = "", exits: int = 0) -> Any:
        own = ("--token", uri or self.home.token.uri, "--pin-source", self.home.token.pin_file)
        return self.home.json("key", "delete", *own, *words, exits=exits)

    def labelled(self, label: str) -> str:
        return self.home.token.uri.replace("?", f";object={label}?")

    def _openssl(self, *words: str) -> None:
        run_openssl(*words, folder=self.home.folder)

    def _run(self, *words: str | Path) -> None:
        environment = self.home.environment
        subprocess.run(words, cwd=self.home.folder, env=environment, check=True, capture_output=True, timeout=60)


@pytest.fixture
def odd(blank: Home, bank: Bank, tmp_path: Path) -> Odd:
    return Odd(blank.copy(tmp_path / "odd"), bank)


# --- one id, several keys ---------------------------------------------------------------------------------------------


def test_two_ec_pairs_with_one_id(odd: Odd) -> None:
    first, second = odd.key(), odd.key()
    for name, label in ((first, "first"), (second, "second")):
        odd.pair(name, label=label)
    odd.put(second, "cert")
    error = odd.sign(exits=6)["error"]
    assert error["code"] == "KEYS_AMBIGUOUS"
    assert sorted(error["details"]["candidates"]) == ["12 first", "12 second"]
    order = odd.home.order()
    wrong = odd.sign(exits=3, uri=odd.labelled("first"), order=order)["error"]
    assert wrong["code"] == "MODULE_MISBEHAVES"
    assert "security" not in wrong["message"] + wrong["remedy"]
    odd.sign(uri=odd.labelled("second"), order=order)  # nothing was signed before: the outcome is not unknown
    odd.delete("--yes", "--key-id", "12", exits=6)
    odd.delete("--yes", uri=odd.labelled("first"))
    assert odd.keys() == [("12", "second", "ec-p256", True)]
    odd.sign()


def test_two_rsa_pairs_with_one_id_show_their_modulus(odd: Odd) -> None:
    for name in (names := [odd.key(RSA), odd.key(RSA)]):
        odd.pair(name)
    odd.put(names[1], "cert")
    odd.sign()
    assert [entry[3] for entry in odd.keys()] == [False, True]


@pytest.mark.parametrize("of", ["ec", "rsa"])
def test_pairs_of_two_kinds_with_one_id(odd: Odd, of: str) -> None:
    names = {"ec": odd.key(), "rsa": odd.key(RSA)}
    for name in names.values():
        odd.pair(name)
    odd.put(names[of], "cert")
    odd.sign()
    odd.delete("--yes", "--key-id", "12", exits=6)


def test_a_certificate_whose_id_no_key_bears(odd: Odd) -> None:
    name = odd.key()
    odd.pair(name, "01", public=False)
    odd.put(name, "cert", "07")
    odd.sign()


def test_a_public_object_that_is_another_keys(odd: Odd) -> None:
    mine, another = odd.key(), odd.key()
    odd.pair(mine, public=False)
    odd.put(another, "pubkey")
    odd.put(mine, "cert")
    assert odd.sign(exits=6)["error"]["details"]["left_out"][0]["why"] == "other-key"
    odd.put(another, "cert", label="other")
    assert odd.sign(exits=3)["error"]["code"] == "MODULE_MISBEHAVES"


# --- one key, several certificates ------------------------------------------------------------------------------------


def test_the_advice_chooses_among_certificates_of_one_key(odd: Odd) -> None:
    name = odd.key()
    odd.pair(name)
    odd.put(name, "cert")
    run_openssl("req", "-new", "-key", f"{name}.pem", "-subj", "/CN=again", "-out", "again.csr", folder=odd.home.folder)
    odd.bank.certify(odd.home.file("again.csr"), odd.home.file("again.pem"))
    own = ("--token", odd.home.token.uri)
    odd.home.json("cert", "install", "again.pem", *own, "--pin-source", odd.home.token.pin_file)
    error = odd.sign(exits=6)["error"]
    assert error["code"] == "CERTIFICATE_MULTIPLE"
    choices = [candidate.partition("--certificate ")[2] for candidate in error["details"]["candidates"]]
    signers = {odd.sign("--certificate", choice)["signer"]["subject"] for choice in choices}
    assert signers == {"CN=odd", "CN=again"}
    (known,) = odd.home.json("cert", "list", *own, "--certificate", choices[0])["certificates"]
    digits = known["serial"].rjust(40, "0").upper()
    spelt = ":".join(digits[at : at + 2] for at in range(0, 40, 2))
    for asked in (known["serial"], f"000{known['serial']}", spelt, known["sha256"][:8].upper(), known["sha256"]):
        assert odd.home.json("cert", "export", *own, "--certificate", asked)["certificate"].startswith("-----BEGIN")
    for command in (("cert", "list"), ("cert", "export")):
        odd.home.fails(6, "CERTIFICATE_NONE_MATCHES", *command, *own, "--certificate", "00ff00ff00ff")
        odd.home.fails(2, "CERTIFICATE_CHOICE_INVALID", *command, *own, "--certificate", "nonsense")
    assert len(odd.sign("--certificate", "00ff00ff00ff", exits=6)["error"]["details"]["candidates"]) == 2


# --- keys without a certificate ---------------------------------------------------------------------------------------


def test_an_orphan_key_is_listed_and_deleted(odd: Odd) -> None:
    own = ("--token", odd.home.token.uri, "--pin-source", odd.home.token.pin_file)
    made = odd.home.json("cert", "request", *own, "--subject", "CN=orphan", "-o", "orphan.csr")["key_id"]
    assert odd.keys() == [(made, "orphan", "ec-p256", False)]
    assert odd.home.json("key", "list", "--token", odd.home.token.uri)["keys"][0]["key_id"] == made
    odd.home.fails(7, "DELETION_NOT_CONFIRMED", "key", "delete", *own, "--key-id", made)
    odd.home.fails(6, "KEY_NONE_MATCHES", "key", "delete", *own, "--key-id", "00", "--yes")
    assert odd.delete("--key-id", made, "--yes")["deleted"]["key_id"] == made
    assert odd.keys() == []


def test_a_person_is_shown_what_goes_and_asked(odd: Odd) -> None:
    name = odd.key()
    odd.pair(name, label="old")
    own = ("--token", odd.home.token.uri, "--pin-source", odd.home.token.pin_file, "--key-id", "12")
    for answer, exits, left in (("n", 7, 1), ("y", 0, 0)):
        person = Person(odd.home, "key", "delete", *own)
        try:
            person.sees("Delete it? [y/N]")
            assert "old" in person.screen
            person.types(answer)
            person.ends(exits)
        finally:
            person.leaves()
        assert len(odd.keys()) == left


def test_a_key_that_signs_is_not_deleted(home: Home) -> None:
    own = ("--token", home.token.uri, "--pin-source", home.token.pin_file)
    (pair,) = home.json("cert", "list", *own[:2])["certificates"]
    details = home.fails(6, "KEY_IN_USE", "key", "delete", *own, "--key-id", pair["key_id"], "--yes")
    assert pair["sha256"][:16] in details["candidates"][0]
    home.sign(home.order(), "signed.p7m")
