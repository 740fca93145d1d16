# SPDX-License-Identifier: Apache-2.0
"""The checkout of this project that the tooling is part of.

Needs the standard library alone: it is asked before the build requirements are imported.
"""

from __future__ import annotations

from pathlib import Path

from tf_model_pool_build.errors import BuildError, ToolMissingError

_PACKAGES = ("tf_model_pool", "tf_model_pool_build")


def project_root() -> Path:
    """The checkout that this file is part of."""
    return Path(__file__).resolve().parents[2]


def need_directory(output: Path) -> Path:
    """`output`, absolute, for `--output`. Raises `BuildError` if no directory can be there."""
    for path in (output, *output.parents):
        if path.exists():
            if not path.is_dir():
                raise BuildError(f"--output {output}: {path} is a file; expected a directory")
            break
    return output.resolve()


def missing_requirement(error: ModuleNotFoundError) -> ToolMissingError:
    """For a command of the tooling, with the pip command that installs what is missing.

    Raises:
        ModuleNotFoundError: the module is our own, so no pip command helps.
    """
    package = (error.name or "").partition(".")[0]
    if package in _PACKAGES:
        raise error
    return ToolMissingError(
        f"the package {package} is missing; install the build requirements: "
        "pip install '.[build]' in the checkout (build.sh does it)"
    )
