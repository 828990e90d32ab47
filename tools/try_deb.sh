#!/usr/bin/env bash
# Installs the Debian package in a bare root of this release and uses it. Run it as: make test-packages (as root)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
  printf 'try_deb: %s\n' "$*" >&2
  exit 1
}

[[ $(id -u) == 0 ]] || die "needs root: it makes a root file system"
command -v debootstrap >/dev/null || apt-get install --yes --quiet=2 debootstrap >/dev/null
tools/deb.sh
# shellcheck source=/dev/null
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
# shellcheck disable=SC2016 # apt's own variable
mirror=$(apt-get indextargets --format '$(SITE)' "Codename: $codename" "Created-By: Packages" | head -1)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
readonly bare=$scratch/root
debootstrap --variant=minbase "$codename" "$bare" "$mirror" >"$scratch/log" || die "debootstrap failed: $(tail -3 "$scratch/log")"
cp dist/ushield-hw_*.deb "$bare/root"

# inside COMMAND...   runs a command in the bare root, with its own /proc
inside() {
  unshare --mount --pid --fork chroot "$bare" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    sh -c 'mount -t proc proc /proc && exec "$@"' sh "$@"
}
# says TEXT COMMAND...   whether a command prints a text, whatever its exit code
says() {
  local said
  said=$(inside "${@:2}" 2>&1) || true
  [[ $said == *"$1"* ]]
}

inside sh -c 'apt-get install --yes --quiet=2 --no-install-recommends /root/*.deb softhsm2 man-db bash-completion >/dev/null 2>&1' ||
  die "the package does not install"

says "ushield 0" ushield --version || die "it does not start"
says "[B11]" ushield doctor || die "the doctor does not name the missing service"
# shellcheck disable=SC2016 # for the shell inside
says ushield-demo sh -c 'eval "$(ushield softhsm init --dir /root/tokens 2>/dev/null)"; ushield list' ||
  die "it does not list a soft token"
inside sh -c '! command -v pip' || die "pip came with it"
[[ -z $(inside dpkg --verify ushield-hw) ]] || die "files differ from those of the package"
inside man -w ushield-sign >/dev/null || die "there is no manual page"
says zh_CN man -w -L zh_CN ushield-sign || die "there is no Chinese manual page"
says _ushield_completion bash -c '. /usr/share/bash-completion/completions/ushield; complete -p ushield' || die "nothing is completed"
inside test -s /usr/share/doc/ushield-hw/ushield-hw.cdx.json.gz || die "there is no SBOM"
inside dpkg --purge ushield-hw >/dev/null
[[ ! -e $bare/usr/lib/ushield-hw ]] || die "files are left after a removal"
echo "try_deb: installed, used and removed on bare $codename"
