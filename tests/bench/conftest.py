# SPDX-License-Identifier: Apache-2.0
"""Results of the orchestrator, made with a made-up driver."""

from __future__ import annotations

from typing import Any

import pytest

from support.bench_runs import Bench, run_bench
from tf_model_pool.bench import run


@pytest.fixture
def bench() -> Bench:
    """Runs the orchestrator with the made-up driver."""
    return run_bench


@pytest.fixture(scope="session")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A result of three configurations in two rounds. Do not change it."""
    directory = tmp_path_factory.mktemp("result")
    run_bench(directory, ("stock", "stock-threads", "patched"), changes={"FAKE_UPDATE_MS": "40"})
    return run.read_result(directory / "out")
