# SPDX-License-Identifier: Apache-2.0
"""Results of the orchestrator, made with a made-up driver."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from support import driver as driver_support
from support.bench_runs import Bench, run_bench
from support.children import run_to_end
from support.driver import Driver, tensorflow_of
from support.modes import child_environment
from tf_model_pool.bench.result import Result, read_value


@pytest.fixture
def bench() -> Bench:
    """Runs the orchestrator with the made-up driver."""
    return run_bench


@pytest.fixture(scope="session")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A result of three configurations in two rounds. Do not change it."""
    directory = tmp_path_factory.mktemp("result")
    run_bench(directory, ("stock", "stock-threads", "patched"), changes={"FAKE_UPDATE_MS": "40"})
    return read_value(directory / "out")


@pytest.fixture(scope="session")
def parsed(result: dict[str, Any]) -> Result:
    """`result`, parsed."""
    return Result.parse(result)


@pytest.fixture(scope="session")
def program() -> Path:
    """The native driver."""
    path = driver_support.find_program()
    if path is None or not os.access(path, os.X_OK):
        pytest.fail(
            f"no driver at {path}: run `./build.sh test`, or let "
            f"{driver_support.DRIVER_VARIABLE} name one"
        )
    return path


@pytest.fixture(scope="session")
def driver(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Driver:
    """The native driver, and small models for it."""
    models = tmp_path_factory.mktemp("driver") / "models"
    environment = {
        **child_environment("onednn"),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)]),
    }
    run_to_end([sys.executable, "-m", "support.driver", str(models)], environment)
    # A driver that is not in a wheel has to be told where TensorFlow is.
    tensorflow = None
    if driver_support.DRIVER_VARIABLE in os.environ:
        tensorflow = tensorflow_of(Path(sys.executable))
    return Driver(program, models, tensorflow)
