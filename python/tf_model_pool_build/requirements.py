# SPDX-License-Identifier: Apache-2.0
"""Prints the pinned requirements of extras in pyproject.toml, one per line, for pip's `-r`.

    python -m tf_model_pool_build.requirements build test

pip itself would install the project along with an extra, and an installed copy would hide the
checkout's or the wheel's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    try:
        from pip._vendor import tomli as tomllib
    except ModuleNotFoundError:
        sys.exit(
            "error: Python 3.10 reads pyproject.toml with a part of pip, which is not there; "
            "install it: apt-get install python3-pip (Python 3.11 and later need nothing)"
        )


def requirements(pyproject: str, extras: Sequence[str]) -> list[str]:
    """The requirements of `extras`, in order, each once. Raises `KeyError` for an unknown extra."""
    table = tomllib.loads(pyproject)["project"]["optional-dependencies"]
    return list(dict.fromkeys(line for extra in extras for line in table[extra]))


if __name__ == "__main__":
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    print("\n".join(requirements(text, sys.argv[1:])))
