#!/usr/bin/env bash
# Makes .venv/polkit/pcscd: a pcscd that asks polkit, for the test of a session that polkit does not let in. Debian 12's was
# built without it; then Debian's own source is built with it. Quick when it is there. make test runs this.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly made=.venv/polkit/pcscd
readonly packages=(polkitd dbus-daemon dbus-bin)
readonly build_packages=(bzip2 flex gcc libc6-dev libpolkit-gobject-1-dev make pkg-config xz-utils)

install() {
  tools/setup.sh install "$@"
}

# fetch FOLDER   puts the source of the distribution's pcscd there, whether or not the machine's lists have sources
fetch() {
  local lists=(-o "Dir::Etc::sourcelist=$1/sources.list" -o "Dir::Etc::sourceparts=$1/sources.d" -o "Dir::State::lists=$1/lists")
  mkdir -p "$1/sources.d" "$1/lists/partial"
  sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >"$1/sources.list" 2>/dev/null || true
  local file
  for file in /etc/apt/sources.list.d/*; do
    case $file in
    *.sources) sed 's/^Types:.*/Types: deb-src/' "$file" >"$1/sources.d/${file##*/}" ;;
    *.list) sed -n 's/^deb /deb-src /p' "$file" >"$1/sources.d/${file##*/}" ;;
    esac
  done
  lists+=(-o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=" -o "APT::Sandbox::User=root" -o "Acquire::Retries=3")
  apt-get "${lists[@]}" --quiet=2 update
  (
    cd "$1" && apt-get "${lists[@]}" --quiet=2 --download-only source pcsc-lite &&
      rm -f ./*.asc && tar -xf pcsc-lite_*.orig.tar.*
  )
}

# build FOLDER   builds what fetch put there
build() {
  local with=(--enable-polkit --enable-ipcdir=/run/pcscd)
  local without=(--disable-libusb --disable-libudev --disable-libsystemd --disable-static)
  (cd "$1"/pcsc-lite-*/ && ./configure "${with[@]}" "${without[@]}" && make -C src pcscd) || return
  keep "$1"/pcsc-lite-*/src/pcscd "$1"/pcsc-lite-*/doc/org.debian.pcsc-lite.policy
}

# keep PCSCD POLICY
keep() {
  mkdir -p "${made%/*}"
  cp "$2" "${made%/*}/"
  cp "$1" "$made"
}

main() {
  [[ ! -x $made ]] || return 0
  local own apt
  apt=$(command -v apt-get || true)
  [[ -z $apt ]] || install "${packages[@]}"
  own=$(command -v pcscd || echo /usr/sbin/pcscd)
  if ldd "$own" 2>/dev/null | grep -q libpolkit; then
    keep "$own" /usr/share/polkit-1/actions/org.debian.pcsc-lite.policy
    return
  fi
  if [[ -z $apt ]]; then
    echo "this system's pcscd does not ask polkit, and it is not Debian, whose source could be built" >&2
    return 1
  fi
  echo "building a pcscd that asks polkit, from the distribution's source (half a minute)" >&2
  install "${build_packages[@]}"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  if ! { fetch "$work" && build "$work"; } >"$work/log" 2>&1; then
    tail -n 20 "$work/log" >&2
    echo "a pcscd that asks polkit could not be built" >&2
    return 1
  fi
}

main
