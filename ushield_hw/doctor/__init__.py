"""Why a token is not recognized, and what to do about it: from the USB plug to a key that can sign.

:func:`examine` walks all layers and names one cause first. The causes, ``A1`` to ``F77``, are described in
``docs/diagnosis.md``; nothing here spends a PIN try or changes anything.
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
    """Look at everything from the USB bus to the signing key, and name one cause first.

    Args:
        selector: the token that is meant: a PKCS#11 URI, a serial number or a label; None: any.
        module: look at this module's file only; the layers before it are reported all the same.
        key: which key is meant; None: the newest that fits.
        settings: default: the ones in force.

    Returns:
        Every finding, the first cause, and the URIs of the tokens that can sign.

    Raises:
        DescriptorError: a descriptor is wrong.
        InputError: the configuration is wrong.
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
