# SPDX-License-Identifier: Apache-2.0
"""The checkout of this project that a command works on, and what to say without one.

Needs the standard library alone: it is asked before the build requirements are imported.
"""

from __future__ import annotations

from pathlib import Path

from tf_model_pool.errors import BuildError, ToolMissingError

_PACKAGE = Path(__file__).resolve().parents[1]


def project_root() -> Path:
    """The checkout that this file is part of. Raises `BuildError` if it is installed."""
    root = _PACKAGE.parents[1]
    if not (root / "tf_allocator" / "CMakeLists.txt").is_file():
        raise BuildError(
            f"this command needs a checkout of the project, and {_PACKAGE} is an installed "
            "package, which is complete without it. In a checkout run ./build.sh; its -h lists "
            "what it makes"
        )
    return root


def missing_requirement(error: ModuleNotFoundError) -> ToolMissingError:
    """For a command of the checkout, with the pip command that installs what is missing.

    Raises:
        ModuleNotFoundError: the module is this package's own, so no pip command helps.
    """
    package = (error.name or "").partition(".")[0]
    if package == "tf_model_pool":
        raise error
    return ToolMissingError(
        f"the package {package} is missing; install the build requirements: "
        "pip install '.[build]' in the checkout (build.sh does it)"
    )
