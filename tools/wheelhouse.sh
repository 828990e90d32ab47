#!/usr/bin/env bash
# Makes dist/wheelhouse: the wheels of the project and of everything that it needs at run time, for the Python given (or
# python3) and this system, so that it installs without a network and without a compiler. Beside it an SBOM (CycloneDX).
# Run it as: make wheelhouse, or tools/wheelhouse.sh [PYTHON [FOLDER [EXTRAS]]]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONHOME PYTHONPATH

readonly python=${1:-python3} house=${2:-dist/wheelhouse} extras=${3:-pcsc,bank,postgresql}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

say() { printf 'wheelhouse: %s\n' "$*" >&2; }
# pip VENV ARGUMENT...
pip() { "$scratch/$1/bin/python" -m pip --quiet --quiet --disable-pip-version-check --no-input "${@:2}"; }

rm -rf "$house"
mkdir -p "$house"
"$python" -m venv "$scratch/venv"
say "building the wheels of requirements/run.lock with $("$scratch/venv/bin/python" --version)"
pip venv install --require-hashes -r requirements/build.lock
pip venv wheel --require-hashes --no-build-isolation --no-deps -r requirements/run.lock --wheel-dir "$house"
pip venv wheel --no-build-isolation --no-deps . --wheel-dir "$house"
version=$(cd "$house" && printf '%s\n' ushield_hw-*.whl | cut -d- -f2)

say "installing them without a network, as a user would"
"$python" -m venv "$scratch/try"
pip try install --no-index --find-links "$house" "ushield-hw[$extras]"
pip try check
"$scratch/try/bin/ushield" --version >&2

say "writing the SBOM"
pip try uninstall --yes setuptools pip 2>/dev/null # they are not part of the program; Python 3.12 brings no setuptools
"$python" -m venv "$scratch/sbom"
pip sbom install --require-hashes -r requirements/dist.lock
"$scratch/sbom/bin/cyclonedx-py" environment --pyproject pyproject.toml --output-reproducible --of JSON \
  --output-file "$house/ushield-hw-$version.cdx.json" "$scratch/try/bin/python"
(cd "$house" && sha256sum -- *.whl >SHA256SUMS)
cat >"$house/INSTALL.txt" <<TEXT
ushield-hw $version for $("$python" -c 'import platform, sysconfig; print(f"Python {platform.python_version()}, {sysconfig.get_platform()}")')

  sha256sum --check SHA256SUMS
  python3 -m venv /opt/ushield-hw
  /opt/ushield-hw/bin/pip install --no-index --find-links . 'ushield-hw[pcsc]'
  /opt/ushield-hw/bin/ushield doctor

Extras: pcsc (readers and cards; needs libpcsclite1 and pcscd), bank, postgresql.
TEXT
say "ready: $house ($(du -sh "$house" | cut -f1), $(find "$house" -name '*.whl' | wc -l) wheels)"
