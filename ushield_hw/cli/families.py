"""Text output of token families: proven, known, installed or not supported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Final

from ushield_hw import messages
from ushield_hw.cli.layout import columns
from ushield_hw.drivers.catalogue import Catalogue
from ushield_hw.drivers.family import Driver, Interface
from ushield_hw.drivers.match import CHIP_MAKERS, Binding, UsbId

_WIDTH: Final = 80
_ID_WIDTH: Final = 26
_TIED: Final = "\xa0"  # a space without a line break; printed as a normal space
_CLOSING: Final = "，。；：、）」”"  # characters that must not begin a line
_GROUPS: Final = ("proven", "here", "through", "elsewhere", "no_module", "undriven")
_READER: Final = {Binding.CCID: "expected", Binding.NO_CCID: "switched_off"}


def listed(catalogue: Catalogue) -> Iterator[str]:
    """Yield the catalogue as lines, grouped by support in this version and on this machine."""
    groups: dict[str, list[Driver]] = {name: [] for name in _GROUPS}
    for driver in catalogue:
        groups[_group(driver)].append(driver)
    for name, drivers in groups.items():
        if drivers:
            yield messages.text(f"driver.group.{name}", n=len(drivers))
            for driver in drivers:
                yield from _row(driver, catalogue, name)
            yield ""
    yield from _wrapped("", messages.text("driver.known_is_not_supported"), "")


def matched(drivers: Sequence[Driver], remarks: Iterable[str], catalogue: Catalogue) -> Iterator[str]:
    """Yield what is known about the matching families, then the remarks."""
    for driver in drivers:
        yield from _wrapped("", f"{driver.id}  {_title(driver)}", "    ")
        for text in (_standing(driver), _module(driver, catalogue)):
            yield from _wrapped("    ", text, "    ")
    for remark in remarks:
        yield from _wrapped("", remark, "")


def reader(usb: UsbId) -> str:
    """Return whether PC/SC shows a reader for a USB id: ``expected``, ``switched_off`` or ``none``."""
    return _READER.get(usb.binding, "none")


def usb_remarks(usb: str, rows: Sequence[UsbId]) -> Iterator[str]:
    """Yield remarks about a known USB id."""
    for row in dict.fromkeys(rows):
        name = row.name or str(row)
        yield messages.text(
            f"driver.reader.{reader(row)}", usb=usb, name=name, binding=messages.text(f"binding.{row.binding.value}")
        )
        if row.pinpad:
            yield messages.text("driver.pinpad", name=name)
    if (vid := usb.partition(":")[0]) in CHIP_MAKERS:
        yield messages.text("driver.chip_maker", vid=vid, maker=CHIP_MAKERS[vid])


def through(driver: Driver, catalogue: Catalogue) -> list[Driver]:
    """Return the families whose modules show this family's tokens.

    Raises:
        DriverNotFound: the catalogue lacks one of them.
    """
    others = (*([driver.module.via] if driver.module.via else []), *driver.module.also_via)
    return [catalogue.get(other) for other in others]


def is_skf(driver: Driver, name: str) -> bool:
    """Return whether a file of this name is a family's SKF library."""
    return any(fnmatchcase(name.lower(), known.lower()) for known in driver.module.skf)


def _group(driver: Driver) -> str:
    if driver.interface is not Interface.PKCS11:
        return "undriven"
    if driver.proven_with:
        return "proven"
    if driver.module_files():
        return "here"
    if driver.module.paths:
        return "elsewhere"
    return "through" if driver.module.via or driver.module.also_via else "no_module"


def _row(driver: Driver, catalogue: Catalogue, group: str) -> Iterator[str]:
    others = through(driver, catalogue) if group in ("through", "proven") else []
    tags = [messages.text("driver.through", ids=", ".join(one.id for one in others))] if others else []
    if group in ("through", "proven") and any(one.module_files() for one in (driver, *others)):
        tags.append(messages.text("driver.installed"))
    head = "  " + driver.id + " " * (_ID_WIDTH - len(driver.id)) + "  "
    yield from _wrapped(head, _title(driver, *tags), " " * len(head))
    for proof in driver.proven_with:
        yield from _wrapped(" " * len(head) + "= ", proof, " " * (len(head) + 2))


def _title(driver: Driver, *tags: str) -> str:
    bank = [messages.text("driver.bank")] if driver.bank_token else []
    kept = [tag.replace(" ", _TIED) for tag in (*bank, *tags)]
    return f"{_TIED}· ".join((f"{driver.vendor}: {driver.product}", *kept))


def _standing(driver: Driver) -> str:
    if driver.interface is not Interface.PKCS11:
        return messages.text("driver.undriven", interface=driver.interface.value.upper())
    if driver.proven_with:
        return messages.text("driver.proven", proof="; ".join(driver.proven_with))
    return messages.text("driver.known", confidence=messages.text(f"confidence.{driver.confidence}"))


def _module(driver: Driver, catalogue: Catalogue) -> str:
    others = through(driver, catalogue)
    if files := [str(file) for one in (driver, *others) for file in one.module_files()]:
        return messages.text("driver.module_here", files=", ".join(files))
    if driver.module.paths and driver.interface is Interface.PKCS11:
        return messages.text("driver.module_absent", files=", ".join(driver.module.paths))
    if others:
        return messages.text("driver.module_through", ids=", ".join(one.id for one in others))
    if names := driver.module.names + driver.module.skf:
        return messages.text("driver.module_names", files=", ".join(dict.fromkeys(names)))
    return messages.text("driver.module_unknown")


def _wrapped(head: str, text: str, indent: str) -> Iterator[str]:
    """Yield ``head`` and a text, wrapped at the line width."""
    line, fresh = head, True
    for piece in _pieces(text):
        if fresh or columns(line + piece) <= _WIDTH:
            line, fresh = line + piece, False
        else:
            yield line.replace(_TIED, " ")
            line = indent + piece.lstrip(" ")
    yield line.replace(_TIED, " ")


def _pieces(text: str) -> Iterator[str]:
    """Yield the units between which a line may be broken: words with a leading space, and wide characters."""
    piece = ""
    for letter in text:
        if piece.strip(" ") and (letter == " " or (columns(letter) > 1 and letter not in _CLOSING)):
            yield piece
            piece = ""
        piece += letter
    yield piece
