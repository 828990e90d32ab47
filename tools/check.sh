#!/usr/bin/env bash
# Runs checks to their end and fails if one failed. Run it as: make lint, check, test-core, test-bank, test-docs, test or
# test-full. Temporary files of tests are in memory where that is possible: a sync to a disk takes longer than most tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failed=()

# check TITLE COMMAND...
check() {
  printf '\n===== %s =====\n' "$1"
  "${@:2}" || failed+=("$1")
}

report() {
  [[ ${#failed[@]} == 0 ]] || printf '\n%s: %s\n' "$1" "$(printf '%s; ' "${failed[@]}")" >&2
}

lint() {
  check "ruff check" .venv/bin/ruff check .
  check "ruff format" .venv/bin/ruff format --check .
  check "mypy" .venv/bin/mypy
  check "import walls" .venv/bin/lint-imports --no-logo
  if [[ -x .venv/bin/shellcheck ]]; then # only where its package has a wheel
    check "shell scripts" .venv/bin/shellcheck tools/*.sh packaging/debian/p*st packaging/debian/prerm .ci/run
  fi
  report "FAILED so far"
}

# in_memory   makes a folder for temporary files in memory, if there is room and programs may run from it
in_memory() {
  local free folder
  free=$(df --output=avail /dev/shm 2>/dev/null | tail -1)
  [[ ${free:-0} -gt 4000000 ]] || return 0
  folder=$(mktemp -d /dev/shm/u-XXXX) || return 0 # short: paths of sockets are limited to 107 octets
  chmod 755 "$folder" # PostgreSQL runs as another user
  printf '#!/bin/sh\n' >"$folder/runs" && chmod +x "$folder/runs"
  if "$folder/runs" 2>/dev/null; then
    export TMPDIR=$folder
    # shellcheck disable=SC2064 # the folder of now
    trap "rm -rf '$folder'" EXIT
  else
    rm -rf "$folder"
  fi
}

# tests ARGUMENT...   A group (pytest.mark.xdist_group) runs in one process: for tests that share a daemon or a reader.
tests() {
  in_memory
  check "pytest" .venv/bin/pytest --numprocesses auto --dist loadgroup --durations=15 --durations-min=2 \
    ${JUNIT:+--junitxml="$JUNIT"} "$@"
}

case ${1:-all} in
  lint) lint ;;
  check)
    lint
    tests -m "unit and not bank and not slow" tests/unit
    ;;
  core) tests -m "not bank and not device" --ignore=tests/docs ;;
  bank) tests -m "bank and not device" ;;
  docs) tests tests/docs ;;
  all | full)
    [[ $1 == all ]] || export USHIELD_TEST_SHARE=all
    lint
    check "a pcscd that asks polkit" tools/polkit_pcscd.sh
    tests
    ;;
  *)
    echo "check: lint, check, core, bank, docs, all or full, not $1" >&2
    exit 2
    ;;
esac
[[ ${#failed[@]} == 0 ]]
