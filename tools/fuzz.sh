#!/usr/bin/env bash
# Makes .venv-fuzz ready (the project and atheris) and fuzzes the readers. Run it as: make fuzz SECONDS=60
# Arguments go to the fuzzer; without .venv there is nothing to start from: make fuzz runs make setup first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE

if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
  echo "fuzz: atheris has a wheel for Python 3.11 only, and .venv has another" >&2
  exit 1
fi

readonly stamp=.venv-fuzz/fuzz.stamp

say() { printf 'fuzz: %s\n' "$*" >&2; }

wanted_stamp() {
  cat .venv/setup.stamp requirements/build.lock requirements/fuzz.lock | sha256sum
}

pip_install() {
  .venv-fuzz/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-input "$@"
}

build_venv() {
  say "making .venv-fuzz with the packages of requirements/fuzz.lock (half a minute)"
  rm -rf .venv-fuzz # and the stamp in it
  .venv/bin/python -m venv .venv-fuzz
  pip_install --require-hashes -r requirements/build.lock
  pip_install --require-hashes --no-build-isolation --only-binary atheris -r requirements/fuzz.lock
  pip_install --no-deps --no-build-isolation --editable .
}

refresh_venv() {
  local wanted
  wanted=$(wanted_stamp)
  if [[ ! -e $stamp || $(<"$stamp") != "$wanted" || ! -x .venv-fuzz/bin/ushield ]]; then
    build_venv
    printf '%s\n' "$wanted" >"$stamp"
  fi
}

exec 9<tools/fuzz.sh
flock 9 # two at once would disturb each other: the second waits
refresh_venv
nice -n 10 .venv-fuzz/bin/python -m fuzz "$@"
