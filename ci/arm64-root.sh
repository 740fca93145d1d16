#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Puts Debian's arm64 Python and C++ library into a folder, for qemu-user to run programs with.
set -euo pipefail

if (($# != 1)) || [[ $1 == -h || $1 == --help ]]; then
  cat <<'USAGE'
usage: ci/arm64-root.sh DIRECTORY

Then, for a program of 64-bit Arm: qemu-aarch64 -L DIRECTORY PROGRAM. Needs no root: apt's state is
in DIRECTORY too, and nothing of the host changes.
USAGE
  [[ ${1:-} == -h || ${1:-} == --help ]] && exit 0 || exit 2
fi

# The suite whose Python is the one of the wheels that are tested.
readonly SUITE=bookworm
readonly KEYS=/usr/share/keyrings/debian-archive-keyring.gpg
readonly PACKAGES=(libc6 libgcc-s1 libstdc++6 python3-minimal libpython3.11-stdlib
  python3-distutils) # that of TensorFlow 2.15

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 1
}

for tool in apt-get dpkg-deb; do
  command -v "$tool" >/dev/null || fail "$tool not found; this needs a Debian or Ubuntu"
done
[[ -f $KEYS ]] || fail "$KEYS not found; install it: apt-get install debian-archive-keyring"
mkdir -p "$1"
ROOT=$(realpath "$1")
if [[ -e $ROOT/complete ]]; then exit 0; fi
APT=$ROOT/var/apt
mkdir -p "$APT"/{lists/partial,archives/partial,etc/preferences.d}
: >"$APT/status"
echo "deb [signed-by=$KEYS] http://deb.debian.org/debian $SUITE main" >"$APT/sources.list"
apt() {
  apt-get -q -y -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User= \
    -o Dir::State="$APT" -o Dir::State::status="$APT/status" -o Dir::State::lists="$APT/lists" \
    -o Dir::Cache="$APT" -o Dir::Cache::archives="$APT/archives" -o Dir::Etc="$APT/etc" \
    -o Dir::Etc::sourcelist="$APT/sources.list" -o Dir::Etc::sourceparts=- \
    -o APT::Install-Recommends=false -o Debug::NoLocking=1 "$@" >&2
}
apt update
apt install --download-only "${PACKAGES[@]}"
for package in "$APT"/archives/*.deb; do dpkg-deb -x "$package" "$ROOT"; done
touch "$ROOT/complete"
