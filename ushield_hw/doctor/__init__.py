"""Diagnose why a token is not recognized or cannot sign, from the USB bus to the signing key.

:func:`examine` checks all layers and names one cause first. The causes (``A1`` to ``H78``) are described in
``docs/diagnosis.md``. A diagnosis uses no PIN attempt and changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ushield_hw.config import Settings
    from ushield_hw.doctor.report import Report
    from ushield_hw.token.key_pairs import KeyChoice

__all__ = ["examine"]


def examine(
    selector: str | None = None,
    *,
    module: Path | None = None,
    key: KeyChoice | None = None,
    settings: Settings | None = None,
) -> Report:
    """Check everything from the USB bus to the signing key and name one cause first.

    Uses no PIN attempt and changes nothing.

    Args:
        selector: the token to check: a PKCS#11 URI, a serial number or a label. None: any token.
        module: check only this module file; the layers before it are still reported.
        key: the key to check. None: the newest suitable one.
        settings: default: the settings in effect.

    Returns:
        All findings, the first cause, and the tokens that can sign with their URIs.

    Raises:
        DescriptorError: a descriptor is invalid.
        InputError: the configuration is invalid.
    """
    from ushield_hw.config import load_settings
    from ushield_hw.doctor import runner
    from ushield_hw.doctor.inspect.machine import Machine

    machine = Machine(
        settings or load_settings(),
        selector=selector,
        key_id=key.key_id if key else None,
        certificate=key.certificate if key else None,
    )
    return runner.examine(machine, module)
