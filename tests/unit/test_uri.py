"""PKCS#11 URIs: printed URIs can be parsed, and a URI never contains forbidden attributes (RFC 7512)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ushield_hw.errors import InputError
from ushield_hw.uri import TokenUri

pytestmark = pytest.mark.unit

texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
octets = st.binary(min_size=1, max_size=20).filter(
    lambda name: not set(name) & set(b"\0/") and name not in (b".", b"..")
)
paths = st.none() | st.lists(octets, min_size=1, max_size=3).map(
    lambda names: Path("/" + "/".join(name.decode("utf-8", "surrogateescape") for name in names))
)
uris = st.builds(
    TokenUri,
    token=texts,
    manufacturer=texts,
    serial=texts,
    model=texts,
    id=st.none() | st.binary(max_size=40),
    object=texts,
    module_path=paths,
    slot_description=texts,
    slot_manufacturer=texts,
    library_manufacturer=texts,
    library_description=texts,
    library_version=st.none() | st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3})?", fullmatch=True),
    type=st.sampled_from([None, "cert", "data", "private", "public", "secret-key"]),
    module_name=texts,
)


@given(uris)
@settings(deadline=None)
def test_what_is_printed_is_read_again(uri: TokenUri) -> None:
    assert TokenUri.parse(str(uri)) == uri


@given(uris)
@settings(deadline=None)
def test_what_is_printed_is_a_uri(uri: TokenUri) -> None:
    """Only characters that a URI may contain, and none that a shell or a terminal would interpret."""
    text = str(uri)
    assert text.isascii()
    assert text.isprintable()
    assert not set(text) & set(' "<>\\^`{|}')


@given(
    st.text(max_size=80) | st.binary(max_size=20).map(lambda raw: "serial=" + raw.decode("utf-8", "surrogateescape"))
)
@settings(deadline=None)
def test_anything_is_read_or_refused(text: str) -> None:
    for whole in (text, f"pkcs11:{text}"):
        try:
            TokenUri.parse(whole)
        except InputError as error:
            assert error.code in {"URI_INVALID", "URI_REFUSED"}
            assert error.message != error.code


def test_every_attribute() -> None:
    text = "pkcs11:token=T%20k;manufacturer=M;serial=S;model=v2;id=%01%AB;object=o?module-path=/lib/p.so"
    found = TokenUri.parse(text)
    assert found == TokenUri("T k", "M", "S", "v2", b"\x01\xab", "o", Path("/lib/p.so"))
    assert str(found) == text


def test_the_attributes_of_library_slot_and_object() -> None:
    text = "pkcs11:library-manufacturer=M;library-description=D;library-version=2.6;type=private?module-name=soft"
    found = TokenUri.parse(text)
    named = (found.library_manufacturer, found.library_description, found.library_version, found.type)
    assert (*named, found.module_name) == ("M", "D", "2.6", "private", "soft")
    found = TokenUri.parse("pkcs11:slot-description=Reader%2001;slot-manufacturer=;serial=")
    assert (found.slot_description, found.slot_manufacturer, found.serial) == ("Reader 01", "", "")
    assert found.token is None


@pytest.mark.parametrize("name", ["softhsm2", "SoftHSM2", "libsofthsm2", "libsofthsm2.so", "softhsm2.so.2"])
def test_a_modules_name_is_told_without_what_systems_put_around_it(name: str) -> None:
    assert TokenUri(module_name=name).wants_module(Path("/usr/lib/softhsm/libsofthsm2.so"))
    assert not TokenUri(module_name=name).wants_module(Path("/usr/lib/opensc-pkcs11.so"))
    assert TokenUri().wants_module(Path("/usr/lib/opensc-pkcs11.so"))


def test_a_librarys_version_without_a_minor_number_has_none() -> None:
    assert TokenUri(library_version="2.6").wants_version((2, 6))
    assert TokenUri(library_version="2").wants_version((2, 0))
    assert not TokenUri(library_version="2").wants_version((2, 6))
    assert not TokenUri(library_version="2.60").wants_version((2, 6))


def test_an_empty_uri_says_nothing() -> None:
    assert TokenUri.parse("pkcs11:") == TokenUri()
    assert str(TokenUri()) == "pkcs11:"


@pytest.mark.parametrize("text", ["pkcs11:serial=1", "PKCS11:serial=1", "Pkcs11:serial=1"])
def test_a_schemes_case_does_not_matter(text: str) -> None:
    assert TokenUri.names(text)
    assert TokenUri.parse(text).serial == "1"


@pytest.mark.parametrize("text", ["", "pkcs11", "0123456789abcdef", "my token", "http://pkcs11:"])
def test_what_is_no_uri(text: str) -> None:
    assert not TokenUri.names(text)
    with pytest.raises(InputError) as caught:
        TokenUri.parse(text)
    assert caught.value.details["problem"] == "uri_form"


@pytest.mark.parametrize("attribute", ["pin-value", "pin-source", "slot-id"])
@pytest.mark.parametrize("form", ["pkcs11:{}=1234", "pkcs11:?{}=1234", "pkcs11:token=a;{}=1234", "pkcs11:{}"])
def test_refused_attributes(attribute: str, form: str) -> None:
    with pytest.raises(InputError) as caught:
        TokenUri.parse(form.format(attribute))
    assert (caught.value.code, caught.value.details) == ("URI_REFUSED", {"attribute": attribute})


@pytest.mark.parametrize(
    ("text", "attribute", "problem"),
    [
        ("pkcs11:colour=red", "colour", "unknown_key"),
        ("pkcs11:serial", "serial", "unknown_key"),
        ("pkcs11:module-path=/lib/p.so", "module-path", "unknown_key"),
        ("pkcs11:?serial=1", "serial", "unknown_key"),
        ("pkcs11:serial=1;serial=1", "serial", "repeated"),
        ("pkcs11:serial=%", "serial", "percent"),
        ("pkcs11:serial=%4g", "serial", "percent"),
        ("pkcs11:serial=%FF", "serial", "not_utf8"),
        ("pkcs11:type=thing", "type", "uri_type"),
        ("pkcs11:library-version=2.6.1", "library-version", "version"),
        ("pkcs11:library-version=", "library-version", "version"),
        ("pkcs11:slot-manufacturer", "slot-manufacturer", "unknown_key"),
        ("pkcs11:?module-path=p.so", "module-path", "path_relative"),
        ("pkcs11:?module-path=", "module-path", "path_relative"),
        ("pkcs11:?module-path=/p%00.so", "module-path", "nul"),
        ("pkcs11:serial=" + "1" * 5000, "", "too_long"),
    ],
)
def test_what_is_wrong_is_named_and_no_value_is(text: str, attribute: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        TokenUri.parse(text)
    assert caught.value.code == "URI_INVALID"
    assert caught.value.details.items() >= {"attribute": attribute, "problem": problem}.items()
    assert "uri" not in caught.value.details
