#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that building and testing need, where they are missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  echo "usage: ci/setup-debian.sh    as root, installs what is missing of: g++, GoogleTest, python3-venv, python3-dev,
strace, Prometheus, and to build and run for 64-bit Arm a cross compiler and qemu-user"
  exit 0
fi

missing=()
command -v g++ >/dev/null || missing+=(g++)
[[ -e /usr/include/gtest/gtest.h ]] || missing+=(libgtest-dev)
"${PYTHON:-python3}" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
"${PYTHON:-python3}" -c 'import os, sys, sysconfig
sys.exit(not os.path.isfile(sysconfig.get_path("include") + "/Python.h"))' 2>/dev/null || missing+=(python3-dev)
command -v strace >/dev/null || missing+=(strace)
command -v promtool >/dev/null || missing+=(prometheus)
if [[ $(uname -m) != aarch64 ]]; then
  command -v aarch64-linux-gnu-g++ >/dev/null || missing+=(g++-aarch64-linux-gnu)
  command -v qemu-aarch64 >/dev/null || missing+=(qemu-user)
fi
if ((${#missing[@]} == 0)); then exit 0; fi

if [[ $(id -u) != 0 ]]; then
  echo "error: run as root: apt-get install ${missing[*]}" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends "${missing[@]}"
