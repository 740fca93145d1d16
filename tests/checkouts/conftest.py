# SPDX-License-Identifier: Apache-2.0
"""Stand-ins that most tests of own builds start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import checkouts


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one series, v2.20."""
    return checkouts.make_project(tmp_path / "project")


@pytest.fixture
def tensorflow(tmp_path: Path) -> Path:
    """Sources that the series fits; not in git."""
    return checkouts.make_tensorflow(tmp_path / "tensorflow")
