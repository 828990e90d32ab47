#!/usr/bin/env bash
# Runs a Python module that needs packages which .venv must not have, in .venv-NAME: the packages of
# requirements/NAME.lock and the project, made again when a lock file or .venv has changed.
# Run it as: tools/side_venv.sh NAME MODULE [ARGUMENT…]; without .venv there is nothing to start from: make setup.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE

readonly name=$1 module=$2
readonly venv=.venv-$name lock=requirements/$name.lock stamp=.venv-$name/$name.stamp
shift 2

pip_install() {
  "$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --no-input "$@"
}

build_venv() {
  echo "$name: making $venv with the packages of $lock (half a minute)" >&2
  rm -rf "$venv" # and the stamp in it
  .venv/bin/python -m venv "$venv"
  pip_install --require-hashes -r requirements/build.lock
  pip_install --require-hashes --no-build-isolation --only-binary atheris -r "$lock" # atheris: needs clang to build
  pip_install --no-deps --no-build-isolation --editable .
}

refresh_venv() {
  local wanted
  wanted=$(cat .venv/setup.stamp requirements/build.lock "$lock" | sha256sum)
  if [[ ! -e $stamp || $(<"$stamp") != "$wanted" || ! -x $venv/bin/ushield ]]; then
    build_venv
    printf '%s\n' "$wanted" >"$stamp"
  fi
}

exec 9<"$lock"
if ! flock --nonblock 9; then # two at once would disturb each other
  echo "$name: another run in this folder has not ended; waiting for it" >&2
  flock 9
fi
refresh_venv
exec "$venv/bin/python" -m "$module" "$@" # in its place: who ends this script ends the run, and the next does not wait
