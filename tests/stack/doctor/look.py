"""Runs the module file probes in a separate process with fewer privileges; prints the findings."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.soft import SETTINGS
from ushield_hw.doctor.finding import ask_all
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes.module_file import FILE_PROBES, module_files

if __name__ == "__main__":
    (file,) = module_files(Machine(SETTINGS), Path(sys.argv[1]))
    print(json.dumps([finding.to_json() for finding in ask_all(FILE_PROBES, file)]))
