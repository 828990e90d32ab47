"""Create a draft descriptor for an unknown token from what is visible on this machine."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from ushield_hw.doctor.inspect.image import read_image
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes.bus import ccid_devices
from ushield_hw.doctor.probes.reader_devices import readers_of
from ushield_hw.messages import shown
from ushield_hw.system.pcsc import Reader, Slot
from ushield_hw.system.usb import UsbDevice

_FOLDERS: Final = ("/usr/lib*", "/opt", "/usr/local/lib")
_NAMES: Final = ("*pkcs11*.so*", "*p11*.so*", "*cryptoki*.so*")
_ENTRIES: Final = frozenset({"C_GetFunctionList", "C_GetInterface"})
# suffixes that pcscd appends to a reader name
_NUMBERS: Final = re.compile(r"( \[[^\]]*\])?( \([^)]*\))?( [0-9A-F]{2} [0-9A-F]{2})?$")
_DEEP: Final = 4  # /opt/vendor/product/lib
_LOOK_S: Final = 2.0
_MOST: Final = 8
_SHORT: Final = 4  # bytes of the ATR used in a file name

_TEXT: Final = """\
# A beginning: everything here was seen on this machine, nothing was tried.
# Save it as ~/.config/ushield/drivers/{id}.toml, complete it (drivers/README.md says how), and check it:
#     ushield driver check ~/.config/ushield/drivers/{id}.toml
id = {quoted_id}
vendor = {vendor}
product = {product}
kind = "token"
interface = "pkcs11"
confidence = "low"
sources = ["seen by ushield doctor"]

[module]
# Which of these is the token's own? Its maker's installation guide says; remove the others.
linux = [{modules}]
"""


def skeleton(machine: Machine) -> str | None:
    """Return a draft descriptor for the first unknown token, or None if there is none."""
    device, card = _unknown_device(machine), _unknown_card(machine)
    if device is None and card is None:
        return None
    name = (device and device.name) or (card and _NUMBERS.sub("", card.name)) or "Unknown token"
    vendor, _, product = (name.strip() or "Unknown token").partition(" ")
    driver_id = _id(machine, name, device, card)
    head = _TEXT.format(
        id=driver_id,
        quoted_id=_quoted(driver_id),
        vendor=_quoted(vendor),
        product=_quoted(product or vendor),
        modules="".join(f"\n    {_quoted(path)}," for path in candidate_modules(machine)) + "\n",
    )
    return head + _usb(device) + _atr(card)


def candidate_modules(machine: Machine) -> list[str]:
    """Return files that may be PKCS#11 modules by name and exports, and that no descriptor lists."""
    until, found = time.monotonic() + _LOOK_S, dict[str, str]()
    for path in _libraries(machine, until):
        if machine.catalogue.for_module(path) is None and _offers_pkcs11(path):
            found.setdefault(os.path.realpath(path), f"/{path.relative_to(machine.root)}")
        if len(found) == _MOST:
            break
    return list(found.values())


def _unknown_device(machine: Machine) -> UsbDevice | None:
    """Return a device that no descriptor matches; one that PC/SC shows as an empty reader is not a token."""
    devices = (one for one in ccid_devices(machine) if not machine.catalogue.for_usb(one.vid, one.pid))
    return next((one for one in devices if not _is_empty(machine, one)), None)


def _is_empty(machine: Machine, device: UsbDevice) -> bool:
    return any(reader.slot is Slot.EMPTY for reader in readers_of(machine, device))


def _unknown_card(machine: Machine) -> Reader | None:
    cards = (reader for reader in machine.reader_list.readers if reader.slot is Slot.CARD and len(reader.atr) > 1)
    return next((reader for reader in cards if not machine.catalogue.for_atr(reader.atr)), None)


def _id(machine: Machine, name: str, device: UsbDevice | None, card: Reader | None) -> str:
    """Return an unused id, made from the name (in any script) and the USB id or ATR."""
    words = re.findall("[a-z0-9]+", name.lower())
    number = f"{device.vid}-{device.pid}" if device else card.atr.hex()[-2 * _SHORT :] if card else ""
    plain = "-".join(words)[:40].strip("-")
    return (
        plain if plain and plain not in machine.catalogue.ids() else "-".join(filter(None, (plain or "token", number)))
    )


def _libraries(machine: Machine, until: float) -> Iterator[Path]:
    roots = [folder for pattern in _FOLDERS for folder in sorted(machine.root.glob(pattern.lstrip("/")))]
    for root in roots:
        if root.is_symlink():
            continue  # /usr/lib64 -> lib
        for folder, folders, names in os.walk(root):
            if time.monotonic() > until:
                return
            folders.sort()
            if len(Path(folder).relative_to(root).parts) >= _DEEP:
                folders.clear()
            yield from (Path(folder, name) for name in sorted(names) if _may_be(name))


def _offers_pkcs11(path: Path) -> bool:
    """Return whether a library exports a PKCS#11 entry point; True if its exports are unknown."""
    image = read_image(path)
    return image is None or image.exports is None or not _ENTRIES.isdisjoint(image.exports)


def _may_be(name: str) -> bool:
    return any(fnmatch(name.lower(), pattern) for pattern in _NAMES)


def _usb(device: UsbDevice | None) -> str:
    if device is None:
        return ""
    name = _quoted(device.name or device.id)
    return f'\n[[match.usb]]\nvid = "{device.vid}"\npid = "{device.pid}"\nname = {name}\nbinding = "ccid"\n'


def _atr(card: Reader | None) -> str:
    return f'\n[[match.atr]]\natr = "{card.atr.hex()}"\n' if card else ""


def _quoted(text: str) -> str:
    """Return a TOML string; the text comes from a token and is untrusted."""
    return json.dumps(shown(text), ensure_ascii=False)
