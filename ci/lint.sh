#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Style and types of everything in the repository, with the pinned tools of pyproject.toml.
# mypy reads the types of what the builder imports, so those packages are installed too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly USAGE="usage: ci/lint.sh [--fix]    ruff, mypy, clang-format, shellcheck; --fix rewrites what it can"
case ${1:-} in
  "" | --fix) ;;
  -h | --help) echo "$USAGE"; exit 0 ;;
  *) echo "$USAGE" >&2; echo "error: unknown argument: $1" >&2; exit 2 ;;
esac

PYTHON=${PYTHON:-python3}
VENV=.build/lint
pins=$(PYTHONPATH=python "$PYTHON" -m tf_model_pool_build.requirements build lint)
key=$({ "$PYTHON" -VV; echo "$pins"; } | sha256sum)
if [[ ! -f $VENV/complete || $(<"$VENV/complete") != "$key" ]]; then
  rm -rf "$VENV"
  mkdir -p .build
  "$PYTHON" -m venv "$VENV"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -r /dev/stdin <<<"$pins"
  echo "$key" >"$VENV/complete"
fi

python=(python tests docs/examples)
mapfile -t cxx < <(git ls-files '*.cc' '*.h')
mapfile -t shell < <(git ls-files '*.sh' .ci/run)
if [[ ${1:-} == --fix ]]; then
  "$VENV/bin/ruff" check --quiet --fix "${python[@]}" || true # what it cannot mend is said below
  "$VENV/bin/ruff" format "${python[@]}"
  "$VENV/bin/clang-format" -i "${cxx[@]}"
fi

failed=()
# check TOOL ARGUMENT...: all tools run, whatever the first ones find.
check() {
  "$VENV/bin/$1" "${@:2}" || failed+=("$1")
}
check ruff check "${python[@]}"
check ruff format --check "${python[@]}"
check mypy python/tf_model_pool python/tf_model_pool_build docs/examples
check clang-format --dry-run --Werror "${cxx[@]}"
check shellcheck "${shell[@]}"
check check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
if ((${#failed[@]})); then
  echo "error: ${failed[*]}: see above" >&2
  exit 1
fi
