#!/usr/bin/env bash
# Makes .venv ready: missing system packages, the pinned dependencies, the project itself (editable).
# Quick when nothing changed. Run it as: make setup (all that the tests need), tools/setup.sh demo (what the demo needs),
# tools/setup.sh package (the system packages that building packages needs), or tools/setup.sh install PACKAGE...
# Starts no service: what a package would start or enable stays off.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONHOME PYTHONPATH

readonly profile=${1:-test}
readonly stamp=.venv/setup.stamp
readonly oldest="3.11"
readonly demo_packages=(softhsm2 openssl) # the soft tokens and the CA of the demo
readonly to_build=(gcc libc6-dev swig libpcsclite-dev pkg-config) # builds pyscard, and the C parts of the test tools
readonly test_packages=(
  "${to_build[@]}"
  softhsm2 opensc p11-kit pcscd openssl         # tokens, readers and a CA
  ykcs11                                        # a second module that drives virtual cards
  opencryptoki libnss3                          # other tokens that pass the same contract: docs/tokens.md
  swtpm tpm2-abrmd libtpm2-pkcs11-1 libtss2-tcti-tabrmd0 dbus # a TPM in software, its resource manager and its module
  postgresql curl gnutls-bin gpgsm gpg-agent    # the bank: its other database, and peers that are not ours
)

case $profile in
  demo) readonly system_packages=("${demo_packages[@]}") locks=(requirements/build.lock requirements/demo.lock) ;;
  test) readonly system_packages=("${test_packages[@]}") locks=(requirements/build.lock requirements/dev.lock) ;;
  package) readonly system_packages=("${to_build[@]}" dpkg-dev python3 python3-dev python3-venv) locks=() ;;
  install) readonly system_packages=("${@:2}") locks=() ;;
  *)
    echo "setup: $profile is not a profile: demo, test, package, install" >&2
    exit 2
    ;;
esac

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

# needed_gaps   prints those gaps that matter: headers are for building pyscard, which the demo does without
needed_gaps() {
  if [[ $profile == demo ]]; then python_gaps | sed '/^dev$/d'; else python_gaps; fi
}

# python_packages   prints the system packages that close the gaps of Python
python_packages() {
  if ! find_python; then
    command -v python3 >/dev/null || printf 'python3\npython3-venv\n'
    [[ $profile == demo ]] || command -v python3 >/dev/null || printf 'python3-dev\n'
    return
  fi
  [[ $python == /usr/bin/* ]] || return 0
  needed_gaps | sed "s/^/python${version%.*}-/"
}

check_python() {
  find_python || die "no Python $oldest or newer was found (python3 is $(python3 --version 2>&1 || true))." \
    "Install one, for example python3.12 with python3.12-venv and python3.12-dev, put it on PATH, and run make setup again."
  local gaps
  gaps=$(needed_gaps)
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
  [[ $profile == package || $profile == install ]] || python_packages
}

as_root() {
  if [[ $(id -u) == 0 ]]; then "$@"; else sudo "$@"; fi
}

# apt COMMAND ARGUMENT...
apt() {
  as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a LC_ALL=C apt-get "$1" \
    --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "${@:2}" </dev/null
}

# announce PACKAGE...   says what apt will install and how large it is, before it does
announce() {
  local plan new download disk
  plan=$(apt install --assume-no "$@" 2>/dev/null) || true # it says what it would do, and ends
  new=$(sed -n 's/.* \([0-9]*\) newly installed.*/\1/p' <<<"$plan" | head -1)
  download=$(sed -n 's/^Need to get \(.*\) of archives.*/\1/p' <<<"$plan" | head -1)
  disk=$(sed -n 's/^After this operation, \(.*\) of additional disk space.*/\1/p' <<<"$plan" | head -1)
  say "installing system packages: $*"
  [[ -z $new ]] || say "  with what they need: $new packages, ${download:-nothing} to download, ${disk:-nothing} on disk; no service is started"
}

# progress   shows the percentage of apt's status lines, where there is a terminal to show it on
progress() {
  local percent
  while IFS=: read -r _ _ percent _; do
    [[ ! -t 2 || ! $percent =~ ^[0-9]+ ]] || printf '\rsetup:   %3s %% ' "${BASH_REMATCH[0]}" >&2
  done
  [[ ! -t 2 ]] || printf '\r\033[K' >&2
}

enabled_units() {
  find /etc/systemd/system -path '*.wants/*' -type l 2>/dev/null | sort
}

readonly no_start=/usr/sbin/policy-rc.d # invoke-rc.d asks it before it starts a service
readonly no_cluster=/etc/postgresql-common/createcluster.d/ushield-hw.conf
units_before="" own_no_start=""

# Packages must not start or enable their services, and PostgreSQL must not create a database cluster of its own.
hold_services() {
  units_before=$(enabled_units)
  if [[ ! -e $no_start ]]; then
    own_no_start=yes
    printf '#!/bin/sh\nexit 101\n' | as_root install -m 755 /dev/stdin "$no_start"
  fi
  if [[ " $* " == *" postgresql "* ]]; then
    echo 'create_main_cluster = false' | as_root install -D -m 644 /dev/stdin "$no_cluster"
  fi
  trap release_services EXIT
}

release_services() {
  local unit
  [[ -z $own_no_start ]] || as_root rm -f "$no_start"
  as_root rm -f "$no_cluster"
  while read -r unit; do
    [[ -z $unit ]] || as_root rm -f "$unit"
  done < <(comm -13 <(printf '%s\n' "$units_before") <(enabled_units))
  trap - EXIT
}

# apt_install PACKAGE...   installs with apt's words in a log, which is shown only if it fails
apt_install() {
  local log ended=0
  log=$(mktemp)
  announce "$@"
  hold_services "$@"
  { apt install --yes -o APT::Status-Fd=3 "$@" 3>&1 >"$log" 2>&1 || echo $? >"$log.failed"; } | progress
  [[ ! -e $log.failed ]] || ended=1
  release_services
  [[ $ended == 0 ]] || cat "$log" >&2
  rm -f "$log" "$log.failed"
  return "$ended"
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  [[ ${#missing[@]} -gt 0 ]] || return 0
  local by_hand="apt-get update && apt-get install ${missing[*]}"
  [[ $(id -u) == 0 ]] || command -v sudo >/dev/null ||
    die "these system packages are missing: ${missing[*]}" "You are not root and there is no sudo. Have an administrator run: $by_hand"
  apt update --quiet=2 >/dev/null 2>&1 || say "apt-get update failed; the package lists of this machine are used"
  apt_install "${missing[@]}" || die "failed: apt-get install ${missing[*]}" \
    "apt's messages are above. By hand: $by_hand   Then run make again."
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
  { printf '%s\n' "$PWD" "$python" "$version" "$(uname -m)" && cat "${locks[@]}"; } | sha256sum
  cat pyproject.toml hatch_build.py | sha256sum
}

venv_works() {
  .venv/bin/python -I -c '' 2>/dev/null && [[ $profile == demo || -x .venv/bin/pytest ]]
}

pip_install() {
  .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-input "$@"
}

build_venv() {
  local advice="Is the package registry reachable? pip's configuration on this machine is used as it is; PIP_VERBOSE=3 make setup shows more."
  rm -rf .venv # and the stamp in it
  local size="320 MB"
  [[ $profile != demo ]] || size="90 MB"
  step "making .venv with $python ($version); about $size with its packages" "Try another Python: put it first on PATH." "$python" -m venv .venv
  local lock
  for lock in "${locks[@]}"; do
    step "installing the $(grep -c '^[a-z]' "$lock") packages of $lock" "$advice" pip_install --require-hashes --no-build-isolation -r "$lock"
  done
}

install_project() {
  step "installing the project itself" "See the words above; make clean, then make setup, starts afresh." \
    pip_install --no-deps --no-build-isolation --editable .
}

# serves_demo   whether .venv was made for the tests, from this checkout: then the demo needs no other
serves_demo() {
  [[ $profile == demo && -x .venv/bin/pytest && -x .venv/bin/ushield && -e $stamp ]] && venv_works
}

refresh_venv() {
  local wanted had=""
  ! serves_demo || return 0
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
  [[ $profile != package && $profile != install ]] || return 0
  check_python
  refresh_venv
  refresh_messages
}

main
