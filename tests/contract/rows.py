"""The kinds of token under the contract, and the rows available on this machine."""

from __future__ import annotations

from typing import Final

from tests.contract.subjects import Kind, Row
from tests.contract.tokens import nss, opencryptoki, p11_kit, piv, shield, softhsm, tpm2

KINDS: Final[tuple[Kind, ...]] = (
    softhsm.KIND,
    opencryptoki.KIND,
    nss.KIND,
    p11_kit.KIND,
    shield.KIND,
    piv.OPENSC_KIND,
    piv.YKCS11_KIND,
    tpm2.KIND,
)

# By name, why a kind is not available here. The header of each test run shows it, and CI fails if there is one.
ABSENT: Final = {kind.name: reason for kind in KINDS if (reason := kind.absent())}
ROWS: Final = tuple(Row(kind, way) for kind in KINDS if kind.name not in ABSENT for way in kind.ways)
