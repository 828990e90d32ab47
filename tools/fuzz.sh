#!/usr/bin/env bash
# Fuzzes the readers, as a guest on the machine. Run it as: make fuzz SECONDS=60. Arguments go to the fuzzer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
  echo "fuzz: atheris has a wheel for Python 3.11 only, and .venv has another" >&2
  exit 1
fi
exec nice -n 10 tools/side_venv.sh fuzz fuzz "$@"
