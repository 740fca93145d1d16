#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# One TensorFlow release, end to end: build its wheel, test it, and gate a short benchmark.
set -euo pipefail
readonly CALLED_FROM=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=ci/lock.sh
source ci/lock.sh

readonly TOOLS=.build/release-tools # the builder's and the benchmark's requirements, no TensorFlow
TOOLS_PYTHON=${TOOLS_PYTHON:-python3}
readonly MARK=.ci-release # in a directory of results that this script made
# What can be read in a wheel that this machine cannot run.
readonly READABLE="record_says or build_tooling or larger or replaced_functions or largest_pages or \
find_each_other or platform_tag_is or where_it_was"
# What holds for every release; the rest of the suite tests the builder, not its result.
readonly TESTS=(tests/integration tests/unit/test_api.py tests/unit/test_doctor.py
  tests/unit/test_stats.py)

usage() {
  cat <<'USAGE'
usage: ci/release.sh [OPTIONS] VERSION [-- BENCH-ARGUMENTS]

Builds the patched wheel of TensorFlow VERSION (e.g. 2.20.0 or 2.22.0rc0), installs it and the
released one in environments of their own, runs the isolation suite, then a short benchmark and its
gate. Ends with status 0 only if all of it passed. BENCH-ARGUMENTS go to
`python -m tf_model_pool bench`.

  --new               VERSION came out after this checkout: first write its row and its patch series,
                      from its wheels, and say what was found (docs/new-release.md)
  --python PROGRAM    interpreter of the wheel's Python version (python3)
  --package NAME      distribution to start from (the first that there is of tensorflow-cpu,
                      tensorflow-cpu-aws and tensorflow)
  --arch NAME         x86_64 or aarch64 (this machine's). For another than this machine's the wheel
                      is cross-built and its libraries are read; under qemu-user its C++ driver
                      runs, patched and preloaded, and for cp311 the tests of integration that
                      match EXPRESSION (isolation). There is no benchmark
  --wheel FILE        a patched wheel of VERSION that is there, in place of building one
  --output DIR        where the results go (.build/ci/VERSION); those of an earlier run are removed
  --build-only        stop when the wheel is made
  --tests EXPRESSION  the tests that match this expression of pytest's -k alone, e.g. 'onednn' for
                      one allocator; the result says so
  --skip-tests        no test suite
  --skip-bench        no benchmark
  --model DIR         benchmark your own SavedModel, or directory of numbered versions, in place of
                      the generated model; may be given more than once
  -h, --help          this text

results, in the output directory:
  release.json        what was built and what became of it; docs/releases.json collects these
  junit.xml           the test suite
  bench/              result.json, report.html and raw records of the benchmark
  gate.txt            the gate's findings

environment:
  TOOLS_PYTHON        interpreter (3.10 or later) of the builder and the benchmark, which need
                      newer packages than older releases of TensorFlow allow (python3)
  CXX                 compiler (g++, else clang++)
USAGE
}

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

say() {
  printf '== %s\n' "$1" >&2
}

# Sets the options and VERSION.
parse() {
  PYTHON=python3 PACKAGE='' ARCH=$(uname -m) OUTPUT='' VERSION='' WHEEL='' SELECTION='' MODELS=() BENCH_ARGUMENTS=()
  NEW='' RUN_BUILD_ONLY='' RUN_TESTS=1 RUN_BENCH=1
  while (($#)); do
    case $1 in
      -h | --help) usage; exit 0 ;;
      --new) NEW=1 ;;
      --build-only) RUN_BUILD_ONLY=1 ;;
      --skip-tests) RUN_TESTS='' ;;
      --skip-bench) RUN_BENCH='' ;;
      --python | --package | --arch | --wheel | --output | --tests | --model)
        (($# >= 2)) || fail "$1 needs a value; see ci/release.sh -h"
        case $1 in
          --python) PYTHON=$2 ;;
          --package) PACKAGE=$2 ;;
          --arch) ARCH=$2 ;;
          --wheel) WHEEL=$2 ;;
          --output) OUTPUT=$2 ;;
          --tests) SELECTION=$2 ;;
          --model) MODELS+=("$2") ;;
        esac
        shift
        ;;
      --) shift; BENCH_ARGUMENTS=("$@"); break ;;
      -*) fail "unknown option $1; see ci/release.sh -h" ;;
      *)
        [[ -z $VERSION ]] || fail "two versions, $VERSION and $1; one at a time"
        VERSION=$1
        ;;
    esac
    shift
  done
  # Paths are the caller's; a program without a slash is searched for.
  [[ -z $WHEEL ]] || WHEEL=$(callers "$WHEEL")
  [[ -z $OUTPUT ]] || OUTPUT=$(callers "$OUTPUT")
  [[ $PYTHON != */* ]] || PYTHON=$(callers "$PYTHON")
  [[ $TOOLS_PYTHON != */* ]] || TOOLS_PYTHON=$(callers "$TOOLS_PYTHON")
  [[ $VERSION =~ ^[0-9]+\.[0-9]+\.[0-9]+(rc[0-9]+)?$ ]] \
    || fail "expected a TensorFlow version such as 2.20.0, got '${VERSION:-nothing}'"
  [[ -z $WHEEL || $WHEEL == *-"$VERSION"+modelpool.*.whl && -f $WHEEL ]] \
    || fail "--wheel $WHEEL is not a file of a patched wheel of $VERSION"
  local i
  for i in "${!MODELS[@]}"; do
    MODELS[i]=$(callers "${MODELS[i]}")
    [[ -d ${MODELS[i]} ]] || fail "--model ${MODELS[i]} is not a directory"
  done
}

# callers PATH: the same, absolute.
callers() {
  if [[ $1 == /* ]]; then echo "$1"; else echo "$CALLED_FROM/$1"; fi
}

need_python() {
  command -v "$1" >/dev/null || fail "$1 not found; install it, or name another with $2"
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
    || fail "$1 does not run or is older than Python 3.10; name another with $2"
  "$1" -c 'import ensurepip, venv' 2>/dev/null \
    || fail "$1 cannot make virtual environments; install: apt-get install python3-venv"
}

requirements() {
  PYTHONPATH=python "$TOOLS_PYTHON" -m tf_model_pool_build.requirements "$@"
}

# make_env DIRECTORY INTERPRETER KEY REQUIREMENT...: an environment, made anew where the key differs.
# The marker is written last: without it an environment counts as half made.
make_env() {
  local venv=$1 interpreter=$2 key
  key=$({ "$interpreter" -VV; echo "$3"; } | sha256sum)
  shift 3
  if [[ -x $venv/bin/python && -f $venv/complete && $(<"$venv/complete") == "$key" ]]; then return; fi
  say "install into $venv"
  rm -rf "$venv"
  mkdir -p "$(dirname "$venv")"
  "$interpreter" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2
  echo "$key" >"$venv/complete"
}

tool() {
  PYTHONPATH=python "$TOOLS/bin/python" -m "$@"
}

make_tools() {
  local pins
  lock_checkout # all that is made is made after this
  pins=$(requirements build bench test)
  make_env "$TOOLS" "$TOOLS_PYTHON" "$pins" -r <(echo "$pins")
  if [[ " ${BENCH_ARGUMENTS[*]} " == *" --recorded "* ]]; then
    # Its protos alone: it names a TensorFlow of its own.
    "$TOOLS/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
      -r <(requirements bench-recorded) >&2
  fi
}

# Before anything is installed: is there such a wheel? Prints its package.
need_release() {
  PYTHONPATH=python "$TOOLS_PYTHON" -W ignore - "$VERSION" "$PACKAGE" "$TAG" "$ARCH" <<'CODE'
import sys

from tf_model_pool_build.errors import UnsupportedWheelError
from tf_model_pool_build.releases import releases

version, package, tag, arch = sys.argv[1:]
try:
    release = releases.find_release(version)
    print(releases.find_wheel(release, package or None, tag, arch).package)
except UnsupportedWheelError as error:
    sys.exit(f"error: {error}")
CODE
}

# Sets WHEEL, unless it was named, and BASE, the released wheel that it was made from.
build() {
  if [[ -z $WHEEL ]]; then
    say "build the wheel of $PACKAGE $VERSION for $TAG on $ARCH"
    WHEEL=$(builder)
  fi
  BASE=$(tool tf_model_pool_build.wheel.base "$WHEEL")
}

builder() {
  tool tf_model_pool_build build --reuse --tensorflow-version "$VERSION" --package "$PACKAGE" \
    --arch "$ARCH" --python-tag "$TAG" --python "$PYTHON" --output dist "$@"
}

build_info() {
  "$TOOLS/bin/python" - "$WHEEL" "$1" <<'CODE'
import json
import sys
import zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel:
    print(json.loads(wheel.read("tf_model_pool/build_info.json"))[sys.argv[2]])
CODE
}

make_environments() {
  local pins
  pins=$(requirements test)
  make_env "$ENVS/env" "$PYTHON" "$(sha256sum <"$WHEEL") $pins" "$WHEEL" -r <(echo "$pins")
  make_env "$ENVS/stock" "$PYTHON" "$(build_info base_wheel_sha256)" "$BASE"
}

run_tests() {
  say "isolation suite of $VERSION for $TAG"
  : >"$OUTPUT/junit.xml" # if it stays empty, the tests ended before they were counted
  # The tests import the package of the wheel, never the checkout's. Those of the library that is
  # preloaded need the distribution for an untouched TensorFlow, which ./build.sh test makes.
  env -u PYTHONPATH PATCHED_WHEEL="$WHEEL" TF_MODEL_POOL_STOCK_PYTHON="$PWD/$ENVS/stock/bin/python" \
    "$ENVS/env/bin/python" -m pytest --junitxml="$OUTPUT/junit.xml" -q -p no:cacheprovider \
    -k "${SELECTION:+($SELECTION) and }not preload" "${TESTS[@]}" >&2
}

is_cross() {
  [[ $ARCH != $(uname -m) ]]
}

has_cross_python() {
  [[ $TAG-$ARCH == cp311-aarch64 ]]
}

# unpack DIRECTORY WHEEL...: TensorFlow's C++ libraries, ours, and the driver.
unpack() {
  rm -rf "$1"
  "$TOOLS/bin/python" - "$@" <<'CODE'
import re
import sys
import zipfile

for wheel in sys.argv[2:]:
    with zipfile.ZipFile(wheel) as archive:
        wanted = re.compile(
            r"tensorflow/lib[^/]*\.so[.\d]*|tensorflow\w*\.libs/.+|tf_model_pool/(bin/.*|lib.*\.so)"
        )
        names = [name for name in archive.namelist() if wanted.fullmatch(name)]
        archive.extractall(sys.argv[1], names)
CODE
  chmod +x "$1/tf_model_pool/bin/swap_driver"
}

# run_driver NAME DIRECTORY [QEMU-OPTION...]: the driver of unpack's DIRECTORY through its tests.
run_driver() {
  local name=$1 directory program=$ENVS/$1-driver
  directory=$(realpath "$2")
  shift 2
  # This machine's TensorFlow, which makes the models, is not the driver's.
  printf '#!/bin/sh\nunset LD_LIBRARY_PATH\nexec qemu-%s -L /usr/%s-linux-gnu %s "%s" "$@"\n' \
    "$ARCH" "$ARCH" "$*" "$directory/tf_model_pool/bin/swap_driver" >"$program"
  chmod +x "$program"
  : >"$OUTPUT/junit-$name.xml"
  PYTHONPATH=python TF_MODEL_POOL_DRIVER=$(realpath "$program") "$ENVS/models/bin/python" -m pytest \
    --junitxml="$OUTPUT/junit-$name.xml" --junit-prefix="$name" -q -p no:cacheprovider -k installed \
    tests/bench/test_driver.py >&2
}

# Makes the program $ENVS/python: the wheel's Python for its own architecture, with the wheel.
make_cross_python() {
  local site=$ENVS/site key platforms=() minor
  ci/arm64-root.sh "$ENVS/root"
  key=$(sha256sum <"$WHEEL")
  if [[ ! -f $site/complete || $(<"$site/complete") != "$key" ]]; then
    say "install into $site"
    rm -rf "$site"
    for minor in {17..40}; do platforms+=(--platform "manylinux_2_${minor}_$ARCH"); done
    # By this machine's Python of the same version, which compiles the modules too: an import of
    # sources takes qemu minutes.
    "$ENVS/models/bin/python" -m pip install --quiet --disable-pip-version-check --target "$site" \
      --only-binary :all: "${platforms[@]}" --platform "manylinux2014_$ARCH" "$WHEEL" >&2
    echo "$key" >"$site/complete"
  fi
  cat >"$ENVS/python" <<PROGRAM
#!/bin/sh
PYTHONPATH=\$PYTHONPATH:"$(realpath "$site")" exec qemu-$ARCH -L "$(realpath "$ENVS/root")" \\
  "$(realpath "$ENVS/root")/usr/bin/python3" "\$@"
PROGRAM
  chmod +x "$ENVS/python"
}

# What a wheel for another architecture is tested with.
make_cross_environments() {
  local pins library
  pins=$(requirements test)
  # This machine's TensorFlow makes the models.
  make_env "$ENVS/models" "$PYTHON" "$pins" "tensorflow-cpu==$VERSION" -r <(echo "$pins")
  library=$(builder --library-only)
  unpack "$ENVS/patched" "$WHEEL"
  unpack "$ENVS/released" "$BASE" "$library"
  # Beside TensorFlow's, where the tests see that there are to be pools.
  cp "$ENVS/released/tf_model_pool/"lib*.so "$ENVS/released/tensorflow/"
  if has_cross_python; then make_cross_python; fi
}

# What can be known of a wheel for another architecture.
run_cross_tests() {
  local python directory status=0 checks=${SELECTION:-isolation}
  say "libraries of $VERSION for $TAG on $ARCH"
  : >"$OUTPUT/junit.xml" # as in run_tests
  PYTHONPATH=python PATCHED_WHEEL="$WHEEL" "$TOOLS/bin/python" -m pytest \
    --junitxml="$OUTPUT/junit.xml" -q -p no:cacheprovider -k "$READABLE" \
    tests/wheel/test_released_wheel.py >&2 || status=1
  say "driver of $VERSION for $ARCH under qemu"
  run_driver patched "$ENVS/patched" || status=1
  say "the same on the released wheel, preloaded"
  # The driver sees only a library of the global scope, so it gets that one too; without, the hooks
  # load it (tests/wheel/test_cross_build.py).
  directory=$PWD/$ENVS/released/tensorflow
  run_driver preloaded "$ENVS/released" -E \
    "LD_PRELOAD=$directory/libtf_model_pool_preload.so:$directory/libtf_model_pool.so" || status=1
  SELECTION='libraries; driver under qemu'
  if ! has_cross_python; then
    say "no import for $TAG on $ARCH: ci/arm64-root.sh has Python 3.11 for aarch64 alone"
    return "$status"
  fi
  say "$checks for $ARCH under qemu"
  python=$PWD/$ENVS/models/bin/python
  : >"$OUTPUT/junit-python.xml"
  env -u PYTHONPATH TF_MODEL_POOL_PATCHED_PYTHON="$PWD/$ENVS/python" \
    TF_MODEL_POOL_STOCK_PYTHON="$python" "$python" -m pytest --junitxml="$OUTPUT/junit-python.xml" \
    -q -p no:cacheprovider -k "($checks) and onednn and not preload and not Released" \
    tests/integration/test_scenarios.py >&2 || status=1
  SELECTION="$SELECTION; $checks under qemu"
  return "$status"
}

# Short, and gated on counts alone, so that a busy machine does not invalidate it; at half the usual
# load, so that such a machine still answers every request.
run_bench() {
  local model arguments=() status=0
  say "benchmark and gate of $VERSION for $TAG"
  : >"$OUTPUT/gate.txt" # if it stays empty, the benchmark ended before its gate
  for model in "${MODELS[@]}"; do arguments+=(--model "$(realpath "$model")/"); done
  tool tf_model_pool bench --quick --rounds 1 --cpu-target 0.2 --max-steal 1 --max-foreign-cpu 1 \
    --stock-python "$ENVS/stock/bin/python" --patched-python "$ENVS/env/bin/python" \
    --cache "$ENVS/models" --output "$OUTPUT/bench" "${arguments[@]}" "${BENCH_ARGUMENTS[@]}" >&2 \
    || status=1
  # Also of a benchmark that failed: the gate says which run did, and why.
  tool tf_model_pool bench gate "$OUTPUT/bench/result.json" | tee "$OUTPUT/gate.txt" >&2 || status=1
  return "$status"
}

main() {
  parse "$@"
  need_python "$TOOLS_PYTHON" TOOLS_PYTHON
  need_python "$PYTHON" --python
  [[ -z ${CXX:-} ]] || command -v "$CXX" >/dev/null || fail "CXX=$CXX is not a program; install it, or unset CXX"
  is_cross || command -v "${CXX:-g++}" >/dev/null || command -v "${CXX:-clang++}" >/dev/null \
    || fail "no C++ compiler found; install one: apt-get install g++"
  TAG=$("$PYTHON" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
  if [[ -n $NEW ]]; then
    make_tools
    say "look at the wheels of $VERSION"
    tool tf_model_pool_build.releases.new "$VERSION" >&2 || exit 2
  fi
  PACKAGE=$(need_release) || exit 2
  if is_cross && [[ -z $RUN_BUILD_ONLY ]]; then
    command -v "qemu-$ARCH" >/dev/null \
      || fail "qemu-$ARCH not found; install it: apt-get install qemu-user"
  fi
  ENVS=.build/releases/$VERSION-$TAG
  if [[ $PACKAGE != tensorflow-cpu ]]; then ENVS=$ENVS-$PACKAGE; fi
  if is_cross; then ENVS=$ENVS-$ARCH; fi
  OUTPUT=${OUTPUT:-.build/ci/$VERSION$(is_cross && echo "-$ARCH" || true)}
  mkdir -p "$OUTPUT"
  OUTPUT=$(realpath "$OUTPUT")
  if [[ -e $OUTPUT/bench && ! -e $OUTPUT/bench/$MARK && ! -e $OUTPUT/bench/result.json ]]; then
    fail "$OUTPUT/bench is not of an earlier run; move it, or name another --output"
  fi
  # Results of an earlier run must not be taken for this one's.
  rm -rf "$OUTPUT/release.json" "$OUTPUT"/junit*.xml "$OUTPUT/gate.txt" "$OUTPUT/bench"

  local status=0
  make_tools
  build
  if [[ -n $RUN_BUILD_ONLY ]]; then
    : # only what was built is said below
  elif is_cross; then
    if [[ -n $RUN_TESTS ]]; then
      make_cross_environments
      unlock_checkout
      run_cross_tests || status=1
    fi
  else
    make_environments
    unlock_checkout
    if [[ -n $RUN_TESTS ]]; then run_tests || status=1; fi
    if [[ -n $RUN_BENCH ]]; then
      mkdir "$OUTPUT/bench"
      touch "$OUTPUT/bench/$MARK"
      run_bench || status=1
    fi
  fi
  tool tf_model_pool_build.releases.matrix summarise --wheel "$WHEEL" --results "$OUTPUT" \
    --selection "$SELECTION" --base "$BASE"
  exit "$status"
}

main "$@"
