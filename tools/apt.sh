# shellcheck shell=bash
# Debian's packages, for the scripts beside this one, which read it with "source".

# not_installed PACKAGE...   prints those that are missing
not_installed() {
  local installed
  installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null | sed -n 's/ installed$//p' || true)
  printf '%s\n' "$@" | grep -vxF -e "$installed" || true
}

as_root() {
  if [[ $(id -u) == 0 ]]; then "$@"; else sudo "$@"; fi
}

apt_update() {
  as_root apt-get update --quiet=2 -o DPkg::Lock::Timeout=300 </dev/null
}

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a \
    apt-get install --yes --quiet=2 --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" </dev/null
}
