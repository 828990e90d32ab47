#!/usr/bin/env bash
# Pins every dependency with its hashes, for all Pythons and platforms the project runs on. Run it as: make lock
# Arguments go to the resolver: --upgrade takes the newest versions that pyproject.toml allows.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
# The resolver is pinned by hash itself, by the resolver that was pinned before it.
"$scratch/venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --only-binary :all: \
  --require-hashes --requirement requirements/uv.lock

compile() {
  "$scratch/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-header "$@"
}

compile requirements/uv.in --output-file requirements/uv.lock "$@"
compile pyproject.toml --all-extras --group dev --output-file requirements/dev.lock "$@"
compile pyproject.toml --constraint requirements/dev.lock --output-file requirements/demo.lock
compile pyproject.toml --extra pcsc --extra bank --extra postgresql --constraint requirements/dev.lock --output-file requirements/run.lock
compile requirements/dist.in --output-file requirements/dist.lock "$@"
compile --group build --constraint requirements/dev.lock --output-file requirements/build.lock
compile pyproject.toml requirements/bench.in --constraint requirements/dev.lock --output-file requirements/bench.lock "$@"
compile pyproject.toml requirements/fuzz.in --constraint requirements/dev.lock --output-file requirements/fuzz.lock "$@"
compile pyproject.toml requirements/docs.in --constraint requirements/dev.lock --output-file requirements/docs.lock "$@"
if grep --line-number '://' requirements/*.lock; then
  echo "lock: an address got into a lock file" >&2
  exit 1
fi
