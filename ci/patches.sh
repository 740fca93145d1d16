#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks every patch series; with TensorFlow's sources of a release, tries its series too.
set -euo pipefail
readonly CALLED_FROM=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'USAGE'
usage: ci/patches.sh [--source DIR --tensorflow-version V]

Without options: ./build.sh patches check.
With both: checks the series of V against the sources in DIR, and runs the integration tests on
V's released wheel with the patched sources in it.
USAGE
}

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

SOURCE=
VERSION=
while (($#)); do
  case $1 in
    -h | --help) usage; exit ;;
    --source) SOURCE=$(cd "$CALLED_FROM" && realpath "${2:?--source needs a directory}"); shift 2 ;;
    --tensorflow-version) VERSION=${2:?--tensorflow-version needs a version}; shift 2 ;;
    *) usage >&2; fail "unknown argument: $1" ;;
  esac
done

./build.sh patches check
[[ -n $SOURCE$VERSION ]] || exit 0
[[ -n $SOURCE && -n $VERSION ]] || fail "--source and --tensorflow-version go together"
RELEASE=v$(cut -d . -f 1,2 <<<"$VERSION")
./build.sh patches check --release "$RELEASE" --source "$SOURCE"
./build.sh patches verify --source "$SOURCE" --tensorflow-version "$VERSION"
