#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the patched TensorFlow wheel in dist/, and proves or tests it in a virtual environment.
set -euo pipefail
readonly CALLED_FROM=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

readonly STATE=.build
readonly BUILD_VENV=$STATE/venv      # the build requirements
readonly ENV=$STATE/env              # the patched wheel
readonly STOCK=$STATE/stock          # the released wheel, for comparison
readonly PRELOAD=$STATE/preload      # the library for the released wheel
PYTHON=${PYTHON:-python3}
TENSORFLOW_VERSION=${TENSORFLOW_VERSION:-2.21.0}
PACKAGE=${PACKAGE:-}

usage() {
  cat <<'USAGE'
usage: ./build.sh [STAGE]

  (none)               make the wheel, install it, load two versions of a model and print where
                       their memory lies, then serve through updates and print the latencies
  wheel                make the wheel and print its path
  test [ARGUMENTS]     make the wheel, then run the C++ tests (plain and under sanitizers) and
                       pytest, which gets ARGUMENTS; if they name tests, such as tests/unit, only
                       what those need is made, and no C++ test runs
  library              also make the distribution for an untouched TensorFlow, for
                       python -m tf_model_pool run, and print its path
  pool-tests [FILTER]  the C++ tests alone; those that GoogleTest's FILTER names, e.g. 'ModelPool*'
  patches ACTION       the patch series for a TensorFlow of your own: import, export, check, verify,
                       write, sources; patches -h
  build [OPTIONS]      make a wheel of another release, Python, machine or file; build -h
  env                  make the wheel and the environment with it; print its interpreter
  serving --serving DIR [--revert | --check]
                       make a TensorFlow Serving checkout build with model pools, or undo that
  source --tensorflow DIR|TAG [--python-version V] [--dry-run]
                       build a wheel from TensorFlow's sources, with Bazel
  has-pools FILE...    say whether a binary, such as a TensorFlow Serving of your own, has the pools
  clean                remove .build/ and dist/
  -h, --help           this text

Everything is reused where its inputs did not change. A stage that makes something waits for another
in the same checkout; tests and the demonstration run without waiting. Another route to the same
library: a build of TensorFlow with patches/ applied.

environment:
  PYTHON               interpreter of the wheel's Python version (python3)
  TENSORFLOW_VERSION   released version to start from (2.21.0)
  PACKAGE              distribution to start from (tensorflow-cpu; on 64-bit Arm, which has none,
                       tensorflow)
  CXX                  compiler (g++, else clang++)
USAGE
}

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 1
}

need_interpreter() {
  command -v "$PYTHON" >/dev/null || {
    [[ $PYTHON == python3 ]] || fail "PYTHON=$PYTHON is not a program; expected an interpreter of Python 3.10 or later"
    fail "$PYTHON not found; install it: apt-get install python3"
  }
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
    || fail "$PYTHON is older than Python 3.10; set PYTHON to a newer one"
}

need_python() {
  need_interpreter
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null \
    || fail "$PYTHON cannot make virtual environments; install: apt-get install python3-venv"
}

need_package() {
  [[ ${PACKAGE:-tensorflow} =~ ^tensorflow(-cpu(-aws)?)?$ ]] \
    || fail "PACKAGE=$PACKAGE: expected tensorflow-cpu, tensorflow or tensorflow-cpu-aws"
}

need_compiler() {
  [[ -z ${CXX:-} ]] || command -v "$CXX" >/dev/null \
    || fail "CXX=$CXX is not a program; install it, or unset CXX"
  command -v "${CXX:-g++}" >/dev/null || command -v "${CXX:-clang++}" >/dev/null \
    || fail "no C++ compiler found; install one: apt-get install g++"
}

need_googletest() {
  local compiler
  compiler=$(command -v "${CXX:-g++}" || command -v clang++)
  echo '#include <gtest/gtest.h>' | "$compiler" -E -x c++ - >/dev/null 2>&1 \
    || fail "GoogleTest is missing; install it: apt-get install libgtest-dev"
}

digest() {
  sha256sum | cut -d ' ' -f 1
}

requirements() {
  PYTHONPATH=python "$PYTHON" -m tf_model_pool_build.requirements "$@"
}

# The marker is written last: without it an environment counts as half made. It holds a digest of
# what was installed.
marker_says() {
  [[ -x $1/bin/python && -f $1/complete && $(<"$1/complete") == "$2" ]]
}

new_venv() {
  rm -rf "$1"
  "$PYTHON" -m venv "$1"
}

pip_install() {
  local venv=$1
  shift
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2
}

make_build_venv() {
  local pins key
  lock_checkout # all that is made is made after this
  pins=$(requirements build)
  key=$({ "$PYTHON" -VV; echo "$pins"; } | digest)
  marker_says "$BUILD_VENV" "$key" && return
  echo "install the build requirements into $BUILD_VENV" >&2
  new_venv "$BUILD_VENV"
  pip_install "$BUILD_VENV" -r /dev/stdin <<<"$pins"
  echo "$key" >"$BUILD_VENV/complete"
}

# The tooling, in the environment of its requirements.
tooling() {
  PYTHONPATH=$PWD/python "$BUILD_VENV/bin/python" -m tf_model_pool_build "$@"
}

# The same for the user: paths among ARGUMENTS are relative to where the caller is.
tooling_for_caller() {
  local root=$PWD
  make_build_venv
  cd "$CALLED_FROM"
  PYTHONPATH=$root/python exec "$root/$BUILD_VENV/bin/python" -m tf_model_pool_build "$@"
}

# Sets WHEEL.
make_wheel() {
  need_package
  need_compiler
  make_build_venv
  WHEEL=$(tooling build --reuse \
    --tensorflow-version "$TENSORFLOW_VERSION" ${PACKAGE:+--package "$PACKAGE"} --output dist)
}

# Sets LIBRARY_WHEEL.
make_library() {
  need_package
  need_compiler
  make_build_venv
  LIBRARY_WHEEL=$(tooling build --reuse --library-only \
    --tensorflow-version "$TENSORFLOW_VERSION" ${PACKAGE:+--package "$PACKAGE"} --output dist)
}

# make_env DIRECTORY KEY REQUIREMENT: an environment with a wheel and its dependencies.
make_env() {
  local venv=$1 key=$2 requirement=$3 name kind
  name=$(basename "$requirement")
  kind=$({ "$PYTHON" -VV; echo "${name%%-*}"; } | digest)
  key="$kind $(digest <<<"$key")"
  marker_says "$venv" "$key" && return
  echo "install $name into $venv" >&2
  if [[ -f $venv/complete && $(<"$venv/complete") == "$kind "* ]]; then
    # Whole, but of another wheel: the dependencies stay. Not for another Python, nor for another
    # distribution, which would own the same files as the one that is there.
    rm -f "$venv/complete" "$venv/complete-extras"
    pip_install "$venv" --force-reinstall --no-deps "$requirement"
  else
    new_venv "$venv"
  fi
  pip_install "$venv" "$requirement"
  echo "$key" >"$venv/complete"
}

# add_extras DIRECTORY EXTRA...: further requirements into an environment of make_env's. Those of
# bench-recorded come without their dependencies, which name a TensorFlow of their own.
add_extras() {
  local venv=$1 pins alone key
  shift
  pins=$(requirements "$@")
  alone=$(requirements bench-recorded)
  key=$(digest <<<"$pins $alone")
  if [[ -f $venv/complete-extras && $(<"$venv/complete-extras") == "$key" ]]; then return; fi
  echo "install the requirements of the tests into $venv" >&2
  pip_install "$venv" -r /dev/stdin <<<"$pins"
  pip_install "$venv" --no-deps -r /dev/stdin <<<"$alone"
  echo "$key" >"$venv/complete-extras"
}

make_patched_env() {
  make_wheel
  make_env "$ENV" "$(sha256sum <"$WHEEL")" "$WHEEL"
}

# The released wheel that the patched one was made from.
make_stock_env() {
  local base
  base=$(PYTHONPATH=python "$BUILD_VENV/bin/python" -m tf_model_pool_build.wheel.base "$WHEEL")
  make_env "$STOCK" "$(build_info base_wheel_sha256)" "$base"
}

# The distribution for an untouched TensorFlow, in a directory of its own: the stock environment
# stays as released.
make_preload_site() {
  local key
  make_library
  key=$(digest <"$LIBRARY_WHEEL")
  if [[ -f $PRELOAD/complete && $(<"$PRELOAD/complete") == "$key" ]]; then return; fi
  rm -rf "$PRELOAD"
  pip_install "$BUILD_VENV" --no-deps --target "$PRELOAD" "$LIBRARY_WHEEL"
  echo "$key" >"$PRELOAD/complete"
}

build_info() {
  "$BUILD_VENV/bin/python" - "$WHEEL" "$1" <<'CODE'
import json
import sys
import zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel:
    print(json.loads(wheel.read("tf_model_pool/build_info.json"))[sys.argv[2]])
CODE
}

demo() {
  unlock_checkout
  (cd "$STATE" && env -u PYTHONPATH env/bin/python -m tf_model_pool demo)
}

# pool_tests [FILTER], as --gtest_filter takes it.
pool_tests() {
  local name sanitize run build program listed matching filter=${1:-*}
  need_compiler
  need_googletest
  make_build_venv
  for name in plain address,undefined thread; do
    sanitize=$name
    run=()
    if [[ $name == plain ]]; then sanitize=""; fi
    # ThreadSanitizer's shadow memory does not fit every layout that address randomization gives.
    if [[ $name == thread ]] && setarch "$(uname -m)" -R true 2>/dev/null; then
      run=(setarch "$(uname -m)" -R)
    fi
    build=$STATE/pool-tests/$name
    lock_checkout
    mkdir -p "$STATE/pool-tests"
    echo "C++ tests: $name" >&2
    "$BUILD_VENV/bin/cmake" -S tf_allocator -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
      -DCMAKE_MAKE_PROGRAM="$PWD/$BUILD_VENV/bin/ninja" -DSANITIZE="$sanitize" >"$build.log" 2>&1 \
      || { cat "$build.log" >&2; fail "cmake failed"; }
    "$BUILD_VENV/bin/ninja" -C "$build" pool_tests bench_tests
    unlock_checkout
    matching=()
    for program in pool_tests bench_tests; do
      listed=$("${run[@]}" "$build/$program" --gtest_list_tests --gtest_filter="$filter")
      if [[ $listed == *"  "* ]]; then matching+=("$program"); fi
    done
    ((${#matching[@]})) \
      || fail "no C++ test matches '$filter'; list them: $build/pool_tests --gtest_list_tests"
    # Not by ctest, which counts programs.
    for program in "${matching[@]}"; do
      GTEST_BRIEF=1 "${run[@]}" "$build/$program" --gtest_filter="$filter"
    done
  done
}

# named_tests ARGUMENT...: the folders below tests/ that pytest's arguments name, one per line.
named_tests() {
  local argument
  for argument in "$@"; do
    if [[ $argument =~ ^(\./)?tests/([a-z]+) ]]; then echo "${BASH_REMATCH[2]}"; fi
  done
}

# Tests of what needs no TensorFlow: on the checkout's package, in the environment of the tooling.
run_tests_of_the_checkout() {
  make_build_venv
  add_extras "$BUILD_VENV" test examples operating
  unlock_checkout
  PYTHONPATH=python "$BUILD_VENV/bin/python" -m pytest "$@"
}

run_tests() {
  local named argument
  for argument in "$@"; do
    [[ $argument != tests/* || -e ${argument%%::*} ]] \
      || fail "$argument does not exist; tests/ has: $(cd tests && echo */)"
  done
  named=$(named_tests "$@")
  if [[ -n $named ]] && ! grep -qvxE 'docs|operating|releases|series|unit' <<<"$named"; then
    run_tests_of_the_checkout "$@"
    return
  fi
  [[ -n $named ]] || need_googletest
  make_patched_env
  add_extras "$ENV" build test bench examples operating
  if [[ -z $named ]] || grep -qvxE 'checkouts|docs|operating|releases|series|unit|wheel' <<<"$named"; then
    make_stock_env
    make_preload_site
  fi
  unlock_checkout
  if [[ -z $named ]]; then pool_tests; fi
  # The tests import the package of the wheel, never the checkout's.
  env -u PYTHONPATH PATCHED_WHEEL="$WHEEL" TF_MODEL_POOL_STOCK_PYTHON="$PWD/$STOCK/bin/python" \
    TF_MODEL_POOL_PRELOAD_SITE="$PWD/$PRELOAD" "$ENV/bin/python" -m pytest "$@"
}

# The routes for people's own builds need the standard library alone; their -h says more. Paths
# are relative to where the caller is.
checkouts() {
  need_interpreter
  local root=$PWD
  cd "$CALLED_FROM"
  PYTHONPATH=$root/python exec "$PYTHON" -m tf_model_pool_build "$@"
}

main() {
  case ${1:-} in
    clean | wheel | env | library) (($# == 1)) || fail "$1 takes no arguments, got: ${*:2}" ;;
    pool-tests) (($# <= 2)) || fail "pool-tests takes one filter, got: ${*:2}" ;;
  esac
  case ${1:-} in
    serving | source | has-pools) checkouts "$@" ;;
    -h | --help) usage; return ;;
  esac
  # shellcheck source=ci/lock.sh
  source ci/lock.sh
  if [[ ${1:-} == clean ]]; then
    lock_checkout
    rm -rf "$STATE" dist
    return
  fi
  need_python
  case ${1:-} in
    "")
      make_patched_env
      echo "$WHEEL"
      demo
      ;;
    wheel) make_wheel; echo "$WHEEL" ;;
    env) make_patched_env; echo "$PWD/$ENV/bin/python" ;;
    library) make_library; echo "$LIBRARY_WHEEL" ;;
    pool-tests) shift; pool_tests "$@" ;;
    build | patches) tooling_for_caller "$@" ;;
    test) shift; run_tests "$@" ;;
    *) usage >&2; fail "unknown stage: $1" ;;
  esac
}

main "$@"
