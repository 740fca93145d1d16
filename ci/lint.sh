#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Style and types of everything in the repository, with the pinned tools of pyproject.toml.
# mypy reads the types of what the builder imports, so those packages are installed too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  echo "usage: ci/lint.sh [--fix]    ruff, mypy, clang-format, shellcheck; --fix rewrites what it can"
  exit 0
fi

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
  "$VENV/bin/ruff" check --fix "${python[@]}"
  "$VENV/bin/ruff" format "${python[@]}"
  "$VENV/bin/clang-format" -i "${cxx[@]}"
fi
"$VENV/bin/ruff" check "${python[@]}"
"$VENV/bin/ruff" format --check "${python[@]}"
"$VENV/bin/mypy" python/tf_model_pool python/tf_model_pool_build docs/examples
"$VENV/bin/clang-format" --dry-run --Werror "${cxx[@]}"
"$VENV/bin/shellcheck" "${shell[@]}"
"$VENV/bin/check-jsonschema" --builtin-schema vendor.github-workflows .github/workflows/*.yml
