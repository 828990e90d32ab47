"""Map missing files to Debian packages: a short list of what token software needs, not a search.

The names are those of Debian 12, which Ubuntu and later Debian releases accept too.
"""

from __future__ import annotations

from typing import Final

# Key: the module's file name up to its first dot.
MODULES: Final = {
    "libsofthsm2": "softhsm2",
    "opensc-pkcs11": "opensc-pkcs11",
    "onepin-opensc-pkcs11": "opensc-pkcs11",
    "libykcs11": "ykcs11",
    "libtpm2_pkcs11": "libtpm2-pkcs11-1",
    "libopencryptoki": "opencryptoki",
    "libsoftokn3": "libnss3",
    "p11-kit-client": "p11-kit-modules",
}

LIBRARIES: Final = {
    "libcrypto.so.3": "libssl3",
    "libssl.so.3": "libssl3",
    "libpcsclite.so.1": "libpcsclite1",
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libusb-0.1.so.4": "libusb-0.1-4",
    "libhidapi-libusb.so.0": "libhidapi-libusb0",
    "libhidapi-hidraw.so.0": "libhidapi-hidraw0",
    "libudev.so.1": "libudev1",
    "libp11-kit.so.0": "libp11-kit0",
    "libstdc++.so.6": "libstdc++6",
    "libgcc_s.so.1": "libgcc-s1",
    "libz.so.1": "zlib1g",
    "libsqlite3.so.0": "libsqlite3-0",
    "libnspr4.so": "libnspr4",
    "libnss3.so": "libnss3",
    "libxml2.so.2": "libxml2",
    "libcurl.so.4": "libcurl4",
    "libdbus-1.so.3": "libdbus-1-3",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libX11.so.6": "libx11-6",
    "libgtk-3.so.0": "libgtk-3-0",
    "libgtk-x11-2.0.so.0": "libgtk2.0-0",
    "libQt5Core.so.5": "libqt5core5a",
    "libQt5Gui.so.5": "libqt5gui5",
    "libQt5Widgets.so.5": "libqt5widgets5",
    "libncurses.so.5": "libncurses5",
    "libtinfo.so.5": "libtinfo5",
    "libopensc.so.8": "opensc-pkcs11",
    "libykpiv.so.2": "libykpiv2",
}

# Libraries of older systems without a package in Debian 12: the vendor has to provide a newer build.
GONE: Final = frozenset(
    {
        "libcrypto.so.1.1",
        "libssl.so.1.1",
        "libcrypto.so.1.0.0",
        "libssl.so.1.0.0",
        "libcrypto.so.10",
        "libssl.so.10",
        "libpng12.so.0",
        "libstdc++.so.5",
        "libQtCore.so.4",
        "libQtGui.so.4",
        "libopensc.so.6",
        "libopensc.so.7",
    }
)


def module_package(name: str) -> str | None:
    """Return the package that contains a module, by the module's file name, or None."""
    return MODULES.get(name.split(".", maxsplit=1)[0])
