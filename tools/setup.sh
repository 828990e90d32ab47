#!/usr/bin/env bash
# Makes .venv ready: missing system packages, the pinned dependencies, the project itself (editable).
# Quick when nothing changed. Run it as: make setup
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONHOME PYTHONPATH

readonly stamp=.venv/setup.stamp
readonly oldest="3.11"
readonly system_packages=(
  gcc libc6-dev swig libpcsclite-dev pkg-config # builds pyscard, and the C parts of the test tools
  softhsm2 opensc p11-kit pcscd openssl         # what the tokens, the demo and the tests run
  ykcs11                                        # a second module that drives virtual cards
  opencryptoki libnss3                          # other tokens that pass the same contract: docs/tokens.md
  swtpm tpm2-abrmd libtpm2-pkcs11-1 libtss2-tcti-tabrmd0 dbus # a TPM in software, its resource manager and its module
  postgresql curl gnutls-bin gpgsm gpg-agent    # the bank: its other database, and peers that are not ours
)

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
  printf 'setup: %s\n' "$@" >&2
  exit 1
}

# step WHAT ADVICE COMMAND...   runs the command; if it fails, says what to do
step() {
  say "$1"
  "${@:3}" || die "failed: $1" "$2"
}

# --- Python -----------------------------------------------------------------------------------------------------------

# probe NAME   prints "VERSION PATH" of the interpreter behind a name, if it can be used (of a virtual environment: its base)
probe() {
  "$1" -I -c '
import os, sys
if sys.implementation.name != "cpython" or sys.version_info < tuple(map(int, sys.argv[1].split("."))):
    sys.exit(1)
print("%d.%d.%d" % sys.version_info[:3], os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
' "$oldest" 2>/dev/null
}

find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11 python3.14; do
    if read -r version python < <(probe "$name"); then
      return 0
    fi
  done
  return 1
}

# python_gaps   prints which of "venv" and "dev" the chosen interpreter is missing
python_gaps() {
  "$python" -I -c '
import importlib.util, pathlib, sysconfig
if not all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
    print("venv")
if not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists():
    print("dev")
'
}

# python_packages   prints the system packages that close the gaps of Python
python_packages() {
  if ! find_python; then
    command -v python3 >/dev/null || printf 'python3\npython3-venv\npython3-dev\n'
    return
  fi
  [[ $python == /usr/bin/* ]] || return 0
  python_gaps | sed "s/^/python${version%.*}-/"
}

check_python() {
  find_python || die "no Python $oldest or newer was found (python3 is $(python3 --version 2>&1 || true))." \
    "Install one, for example python3.12 with python3.12-venv and python3.12-dev, put it on PATH, and run make setup again."
  local gaps
  gaps=$(python_gaps)
  [[ $gaps != *venv* ]] || die "$python cannot make virtual environments (its modules venv or ensurepip are missing)." \
    "Install them, or put another Python first on PATH, and run make setup again."
  [[ $gaps != *dev* ]] || die "$python has no header files (Python.h), which building pyscard needs." \
    "Install its development package, or put another Python first on PATH, and run make setup again."
}

# --- system packages --------------------------------------------------------------------------------------------------

missing_packages() {
  local installed
  installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "${system_packages[@]}" 2>/dev/null | sed -n 's/ installed$//p' || true)
  printf '%s\n' "${system_packages[@]}" | grep -vxF -e "$installed" || true
  python_packages
}

as_root() {
  if [[ $(id -u) == 0 ]]; then "$@"; else sudo "$@"; fi
}

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a \
    apt-get install --yes --quiet=2 --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" </dev/null
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  [[ ${#missing[@]} -gt 0 ]] || return 0
  local by_hand="apt-get update && apt-get install ${missing[*]}"
  [[ $(id -u) == 0 ]] || command -v sudo >/dev/null ||
    die "these system packages are missing: ${missing[*]}" "You are not root and there is no sudo. Have an administrator run: $by_hand"
  say "system packages missing: ${missing[*]}"
  as_root apt-get update --quiet=2 -o DPkg::Lock::Timeout=300 </dev/null || say "apt-get update failed; trying with the lists that are here"
  step "apt-get install ${missing[*]}" "See apt's words above. By hand: $by_hand   Then run make setup again." apt_install "${missing[@]}" >&2
}

check_system() {
  if command -v apt-get dpkg-query >/dev/null; then
    install_packages
  elif [[ ! -e $stamp ]]; then
    say "this is neither Debian nor Ubuntu. Make sure that you have the equivalents of: ${system_packages[*]}"
  fi
}

# --- the virtual environment ------------------------------------------------------------------------------------------

# Two lines: what .venv as a whole depends on, and what the installed project depends on.
wanted_stamp() {
  { printf '%s\n' "$PWD" "$python" "$version" "$(uname -m)" && cat requirements/build.lock requirements/dev.lock; } | sha256sum
  cat pyproject.toml hatch_build.py | sha256sum
}

venv_works() {
  .venv/bin/python -I -c '' 2>/dev/null && [[ -x .venv/bin/pytest ]]
}

pip_install() {
  .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-input "$@"
}

build_venv() {
  local advice="Is the package registry reachable? pip's configuration on this machine is used as it is; PIP_VERBOSE=3 make setup shows more."
  rm -rf .venv # and the stamp in it
  step "making .venv with $python ($version)" "Try another Python: put it first on PATH." "$python" -m venv .venv
  step "installing the build tools of requirements/build.lock" "$advice" pip_install --require-hashes -r requirements/build.lock
  step "installing the packages of requirements/dev.lock (about a minute)" "$advice" \
    pip_install --require-hashes --no-build-isolation -r requirements/dev.lock
}

install_project() {
  step "installing the project itself" "See the words above; make clean, then make setup, starts afresh." \
    pip_install --no-deps --no-build-isolation --editable .
}

refresh_venv() {
  local wanted had=""
  wanted=$(wanted_stamp)
  [[ ! -e $stamp ]] || had=$(<"$stamp")
  if [[ $had == "$wanted" && -x .venv/bin/ushield ]] && venv_works; then
    return
  fi
  if [[ ${had%%$'\n'*} != "${wanted%%$'\n'*}" ]] || ! venv_works; then
    build_venv
    printf '%s\n' "${wanted%%$'\n'*}" >"$stamp"
  fi
  install_project
  printf '%s\n' "$wanted" >"$stamp"
  say "ready: .venv/bin/ushield"
}

# Texts are compiled by the installation; this is for those edited since.
refresh_messages() {
  local language compiled
  for language in ushield_hw/messages/*/; do
    compiled=${language%/}.mo
    if [[ -n $(find "$language" -name '*.po' -newer "$compiled" -print -quit 2>/dev/null || true) ]] ||
      [[ ! -e $compiled && -n $(find "$language" -name '*.po' -print -quit) ]]; then
      step "compiling the texts" "Mend the .po file named above." .venv/bin/python hatch_build.py >&2
      return
    fi
  done
}

main() {
  exec 9<tools/setup.sh
  flock 9 # two makes at once: the second waits
  check_system
  check_python
  refresh_venv
  refresh_messages
}

main
