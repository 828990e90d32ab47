#!/usr/bin/env bash
# Makes dist/ushield-hw_VERSION_ARCHITECTURE.deb for this Debian release: the program with its Python packages in a folder
# of its own, manual pages, completions, a polkit rule to copy, and an SBOM. It needs no pip and no network to install.
# Run it as: make deb
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONHOME PYTHONPATH
umask 022

readonly python=/usr/bin/python3 # that of the release, whatever is first on PATH
readonly home=/usr/lib/ushield-hw
say() { printf 'deb: %s\n' "$*" >&2; }

# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "${ID}${VERSION_ID}")
architecture=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
readonly house=$scratch/wheelhouse root=$scratch/root
readonly doc=$root/usr/share/doc/ushield-hw

tools/wheelhouse.sh "$python" "$house" pcsc
version=$(cd "$house" && printf '%s\n' ushield_hw-*.whl | cut -d- -f2)
minor=$("$python" -c 'import sys; print(sys.version_info.minor)')

say "putting the package together"
"$python" -m venv "$scratch/pip"
"$scratch/pip/bin/python" -m pip --quiet --quiet --disable-pip-version-check install --no-index --no-compile \
  --find-links "$house" --target "$root$home" 'ushield-hw[pcsc]'
rm -rf "${root:?}$home/bin"
find "$root$home" -name '*.so' -exec strip --strip-unneeded {} +
install -D -m 755 packaging/debian/ushield "$root/usr/bin/ushield"

run() { PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$root$home" "$python" "$@"; }
for language in en zh; do run -m ushield_hw.cli.manual "$root/usr/share/man" "$language"; done
find "$root/usr/share/man" -name '*.1' -exec gzip -9n {} +
complete() { # SHELL FILE
  install -d "$(dirname "$root$2")"
  run -c 'import sys; from ushield_hw.cli import main; main(["completion", sys.argv[1]])' "$1" >"$root$2"
}
complete bash /usr/share/bash-completion/completions/ushield
complete zsh /usr/share/zsh/vendor-completions/_ushield
complete fish /usr/share/fish/vendor_completions.d/ushield.fish

install -D -m 644 packaging/debian/README.Debian "$doc/README.Debian"
install -D -m 644 packaging/debian/60-ushield.rules "$doc/examples/60-ushield.rules"
gzip -9nc "$house/ushield-hw-$version.cdx.json" >"$doc/ushield-hw.cdx.json.gz"
gzip -9nc CHANGELOG.md >"$doc/changelog.gz"
{
  printf 'Files: *\nCopyright: the ushield_hw contributors\nLicense: Apache-2.0\n\n'
  printf 'The Python packages in %s have their own licences, in their *.dist-info folders and in the SBOM.\n\n' "$home"
  printf 'License: Apache-2.0\n On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.\n'
} >"$doc/copyright"

install -d "$root/DEBIAN"
install -m 755 packaging/debian/postinst packaging/debian/prerm "$root/DEBIAN"
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
cat >"$root/DEBIAN/control" <<CONTROL
Package: ushield-hw
Version: $version-1~$release
Architecture: $architecture
Maintainer: ushield_hw contributors <noreply@ushield-hw.invalid>
Installed-Size: $(du -sk "$root" | cut -f1)
Depends: python3 (>= 3.$minor~), python3 (<< 3.$((minor + 1))~), libpcsclite1, libc6 (>= 2.34)
Recommends: pcscd, libccid
Suggests: opensc-pkcs11, softhsm2, openssl
Section: utils
Priority: optional
Homepage: $(sed -n 's/^Homepage = "\(.*\)"/\1/p' pyproject.toml)
Description: use bank USB tokens (U-shield) and soft tokens through PKCS#11
 The command ushield finds a bank's USB token (U盾), explains why a token is not
 recognized, handles its PIN without wasting an attempt, enrols and renews
 certificates, shows an order, has it confirmed, signs it, and verifies signed
 orders. SoftHSM2 is used in the same way.
CONTROL
mkdir -p dist
find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
package=dist/ushield-hw_$version-1~${release}_$architecture.deb
dpkg-deb --root-owner-group --build "$root" "$package" >/dev/null
cp "$house/ushield-hw-$version.cdx.json" "${package%.deb}.cdx.json"
say "ready: $package ($(du -h "$package" | cut -f1), $(dpkg-deb --field "$package" Installed-Size) KB installed)"
