#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# For build.sh and ci/release.sh to source, at the top of the checkout: one of them at a time makes
# environments and wheels there.

# Takes the lock of the checkout, unless this process has it, and removes what a killed build left.
# Without flock, or where it does not work, there is no lock.
lock_checkout() {
  if [[ -n ${LOCK:-} ]]; then return; fi
  local status
  mkdir -p .build
  while command -v flock >/dev/null; do
    exec {LOCK}>>.build/lock
    status=0
    flock --nonblock "$LOCK" || status=$?
    if ((status == 1)); then
      echo "wait for another build in this checkout, which holds .build/lock" >&2
      status=0
      flock "$LOCK" || status=$?
    fi
    if ((status != 0)) || [[ /proc/self/fd/$LOCK -ef .build/lock ]]; then break; fi
    # `clean` removed the file meanwhile, and others lock the new one.
    unlock_checkout
    mkdir -p .build
  done
  remove_leftovers
}

unlock_checkout() {
  if [[ -n ${LOCK:-} ]]; then exec {LOCK}>&-; fi
  LOCK=''
}

# Their names have the process that makes them (workspace.py, files.py).
remove_leftovers() {
  local path process
  for path in .build/work-* .build/cache/work-* dist/.*.partial-*; do
    process=${path##*/work-}
    process=${process##*.partial-}
    process=${process%%-*}
    if [[ -e $path && ! -d /proc/$process ]]; then rm -rf "$path"; fi
  done
}
