#!/usr/bin/env bash
# Runs every check to its end, pytest last, and fails if one failed. Run it as: make test, or make lint (without pytest)
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

check "ruff check" .venv/bin/ruff check .
check "ruff format" .venv/bin/ruff format --check .
check "mypy" .venv/bin/mypy
check "import walls" .venv/bin/lint-imports --no-logo
if [[ -x .venv/bin/shellcheck ]]; then # only where its package has a wheel
  check "shell scripts" .venv/bin/shellcheck tools/*.sh .ci/run
fi
report "FAILED so far"

if [[ ${1:-all} == all ]]; then
  check "a pcscd that asks polkit" tools/polkit_pcscd.sh
  # A group (pytest.mark.xdist_group) runs in one worker: for tests that share a daemon or a reader.
  check "pytest" .venv/bin/pytest --numprocesses auto --dist loadgroup
fi
[[ ${#failed[@]} == 0 ]]
