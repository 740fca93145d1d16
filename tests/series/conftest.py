# SPDX-License-Identifier: Apache-2.0
"""The project in small that the tests break in one place each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support import patch_project


@pytest.fixture(scope="session")
def made_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("patches")
    patch_project.make(root)
    return root


@pytest.fixture
def project(made_project: Path, tmp_path: Path) -> patch_project.Project:
    """A copy of the project, to break."""
    for name in ("project", "tensorflow"):
        shutil.copytree(made_project / name, tmp_path / name)
    return patch_project.Project(tmp_path / "project", tmp_path / "tensorflow")


@pytest.fixture
def tensorflow(tmp_path: Path) -> Path:
    """A git checkout of the sources that the series fits."""
    return patch_project.new_checkout(tmp_path / "checkout")
