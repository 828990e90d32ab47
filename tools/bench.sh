#!/usr/bin/env bash
# Makes .venv-bench ready (the project, and what it is compared with) and runs the benchmarks. Run it as: make bench
# Arguments go to the benchmarks; without .venv there is nothing to start from: make bench runs make setup first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE

readonly stamp=.venv-bench/bench.stamp

say() { printf 'bench: %s\n' "$*" >&2; }

wanted_stamp() {
  cat .venv/setup.stamp requirements/build.lock requirements/bench.lock | sha256sum
}

pip_install() {
  .venv-bench/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-input "$@"
}

build_venv() {
  say "making .venv-bench with the packages of requirements/bench.lock (half a minute)"
  rm -rf .venv-bench # and the stamp in it
  .venv/bin/python -m venv .venv-bench
  pip_install --require-hashes -r requirements/build.lock
  pip_install --require-hashes --no-build-isolation -r requirements/bench.lock
  pip_install --no-deps --no-build-isolation --editable .
}

refresh_venv() {
  local wanted
  wanted=$(wanted_stamp)
  if [[ ! -e $stamp || $(<"$stamp") != "$wanted" || ! -x .venv-bench/bin/ushield ]]; then
    build_venv
    printf '%s\n' "$wanted" >"$stamp"
  fi
}

exec 9<tools/bench.sh
flock 9 # two at once would disturb each other: the second waits
refresh_venv
.venv-bench/bin/python -m benchmarks "$@"
