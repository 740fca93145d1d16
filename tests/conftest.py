# SPDX-License-Identifier: Apache-2.0
"""Fixtures that every kind of test may use."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

# Behind the environment's packages: of the checkout only what no wheel has, tf_model_pool_build.
sys.path.append(str(Path(__file__).resolve().parents[1] / "python"))

# A shell that starts the tests in the background has it ignored, and so would every program that
# they start and then interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]
