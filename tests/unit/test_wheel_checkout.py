# SPDX-License-Identifier: Apache-2.0
"""Commands that need a checkout say so to those who installed a wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tf_model_pool

PACKAGE = Path(tf_model_pool.__file__).resolve().parent


@pytest.mark.parametrize("command", [["build"], ["patches", "check"]])
def test_an_installed_package_says_that_a_checkout_is_needed_and_not_which_package(
    tmp_path: Path, command: list[str]
) -> None:
    # GIVEN an installed package, and a Python without the build requirements
    site = tmp_path / "site"
    shutil.copytree(PACKAGE, site / "tf_model_pool", ignore=shutil.ignore_patterns("*.so", "bin"))
    code = (
        f"import sys; sys.path[:0] = [{str(site)!r}]; sys.modules['elftools'] = None\n"
        "import warnings; warnings.simplefilter('ignore')\n"
        "from tf_model_pool.cli import main; sys.exit(main(sys.argv[1:]))\n"
    )
    # WHEN
    child = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=False
    )
    # THEN
    assert child.returncode == 1
    assert child.stderr.startswith("error: ")
    assert "a checkout of the project" in child.stderr
    assert str(site / "tf_model_pool") in child.stderr
    assert "elftools" not in child.stderr
    assert "pip install" not in child.stderr


def test_a_checkout_without_the_build_requirements_gets_the_command_that_installs_them(
    repository: Path,
) -> None:
    code = (
        f"import sys; sys.path[:0] = [{str(repository / 'python')!r}]\n"
        "sys.modules['elftools'] = None\n"
        "import warnings; warnings.simplefilter('ignore')\n"
        "from tf_model_pool.cli import main; sys.exit(main(['build']))\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert child.returncode == 1
    assert "the package elftools is missing" in child.stderr
    assert "pip install '.[build]'" in child.stderr
