#!/bin/sh
# Import a minimal Debian as an image, where none can be pulled. Usage: base.sh [NAME [SUITE]]
# Needs root, debootstrap and a package mirror (MIRROR, else the first of this machine's).
set -eu
name=${1:-debian:13-slim}
suite=${2:-trixie}
docker=${DOCKER:-docker}
"$docker" image inspect "$name" >/dev/null 2>&1 && exit
command -v debootstrap >/dev/null || {
  echo "error: as root: apt-get install --no-install-recommends debootstrap" >&2
  exit 1
}
mirror=${MIRROR:-$(sed -n 's/^URIs: *//p; s/^deb \(http[^ ]*\).*/\1/p' \
  /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1)}
folder=$(mktemp -d /var/tmp/esp-base.XXXXXX)
trap 'rm -rf --one-file-system "$folder"' EXIT
debootstrap --variant=minbase "$suite" "$folder/system" "$mirror" >"$folder/log" 2>&1 || {
  tail -n 20 "$folder/log" >&2
  echo "error: debootstrap could not make $suite" >&2
  exit 1
}
# What Debian's slim image leaves out as well.
rm -rf "$folder"/system/var/cache/apt/archives/*.deb "$folder"/system/var/lib/apt/lists/* "$folder"/system/var/log/* \
  "$folder"/system/usr/share/doc/* "$folder"/system/usr/share/man/* "$folder"/system/usr/share/locale/*
tar --directory "$folder/system" --create . | "$docker" import - "$name" >/dev/null
echo "imported $name"
