# SPDX-License-Identifier: Apache-2.0
"""The server in Python under load, on small models whose answers are known."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.driver import MODELS, SIZES, Driver, Outcome, checksum, finish
from support.modes import child_environment
from tf_model_pool.bench.python_server.open_loop import schedule
from tf_model_pool.bench.records import REQUEST
from tf_model_pool.bench.run import PYTHON_SERVER

WAYS = ("eager", "load", "hot")


def run(driver: Driver, directory: Path, config: dict[str, Any], python: str) -> Outcome:
    """Runs the Python driver to its end, with an environment's interpreter."""
    program = directory / "python_server"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{python}" -I "{PYTHON_SERVER}" "$@"\n')
    program.chmod(0o755)
    with Driver(program, driver.models, driver.tensorflow).started(config, directory) as process:
        return finish(process, directory)


def make_config(driver: Driver, way: str, client: str = "socket", **changes: Any) -> dict[str, Any]:
    """A second and a half of requests, with an update and a burner."""
    config = driver.config(
        MODELS,
        duration_s=2.5,
        timeline=[
            {"at_s": 0.2, "action": "burn_cpu", "duration_s": 0.2},
            {"at_s": 0.5, "action": "update", "models": ["table"]},
        ],
        **changes,
    )
    del config["server"]
    config["python"] = {
        "way": way,
        "client": client,
        "burner": str(driver.program),
        "record": REQUEST.descr,
    }
    return config


@pytest.fixture(scope="module", params=[*WAYS, "eager released", "load inside"])
def updated(
    request: pytest.FixtureRequest, driver: Driver, tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    """Two models, one of which gets a new version."""
    way, _, how = request.param.partition(" ")
    python = sys.executable
    if how == "released":
        python = os.environ.get("TF_MODEL_POOL_STOCK_PYTHON", "")
        if not python:
            pytest.fail("TF_MODEL_POOL_STOCK_PYTHON is not set; `./build.sh test` sets it")
    client = "inside" if how == "inside" else "socket"
    config = make_config(driver, way, client)
    outcome = run(driver, tmp_path_factory.mktemp("updated"), config, python)
    assert outcome.status == 0, outcome.complaints
    assert outcome.result["pools_active"] == (how != "released")
    return outcome


def test_each_request_gets_its_answer_from_the_version_that_served(updated: Outcome) -> None:
    assert len(updated.requests) == 2 * 250
    for index, model in enumerate(MODELS):
        requests = updated.requests[updated.requests["model"] == index]
        assert [r["status"] for r in requests] == [0] * 250
        right = [
            checksum(model, int(request["version"]), number % len(SIZES))
            for number, request in enumerate(requests)
        ]
        assert requests["checksum"].tolist() == right
        assert set(requests["version"].tolist()) == ({0, 1} if model == "table" else {0})


def test_latency_counts_from_the_intended_moment(updated: Outcome) -> None:
    due = np.unique(updated.requests["intended_ns"])
    assert due.tolist() == (np.arange(1, 251) * 10_000_000).tolist()
    assert (updated.requests["start_ns"] >= updated.requests["intended_ns"]).all()
    assert (updated.requests["end_ns"] >= updated.requests["start_ns"]).all()


def test_the_update_and_its_phases_are_written_down(updated: Outcome) -> None:
    [update] = updated.result["updates"]
    assert (update["model"], update["from"], update["to"]) == ("table", 0, 1)
    assert update["rss_peak"] >= update["rss_after"] > 0
    assert (update["pool_bytes"] > 0) == updated.result["pools_active"]
    phases = updated.phases("table")
    names = [phase["phase"] for phase in phases]
    assert names[0] == "restore"
    assert names[-1] == "unload"
    assert phases[0]["begin_ns"] >= 0.5e9
    assert phases[-1]["end_ns"] <= update["end_ns"] + 1e9


def test_the_control_is_a_process_of_the_idle_class(updated: Outcome) -> None:
    [burn] = updated.result["burns"]
    assert burn["kind"] == "burn_cpu"
    assert burn["end_ns"] - burn["begin_ns"] >= 0.2e9


def test_a_closed_loop_never_waits(driver: Driver, tmp_path: Path) -> None:
    config = make_config(driver, "load") | {"duration_s": 0.5, "timeline": []}
    config["load"] = {"arrival": "closed", "request_threads": 2}
    outcome = run(driver, tmp_path, config, sys.executable)
    assert outcome.status == 0, outcome.complaints
    requests = outcome.requests
    assert (requests["start_ns"] == requests["intended_ns"]).all()
    busy = (requests["end_ns"] - requests["start_ns"]).sum()
    assert busy > requests["end_ns"].max()  # of one thread, with two at work


def test_a_way_that_does_not_exist_is_named(driver: Driver, tmp_path: Path) -> None:
    outcome = run(driver, tmp_path, make_config(driver, "lazy"), sys.executable)
    assert outcome.status == 2
    assert "python.way: 'lazy'; allowed: eager, load, hot" in outcome.complaints[-1]


def test_a_version_that_does_not_load_is_an_error_and_the_old_one_serves(
    driver: Driver, tmp_path: Path
) -> None:
    config = make_config(driver, "load")
    config["models"][0]["versions"][1] = str(tmp_path / "nothing")
    outcome = run(driver, tmp_path, config, sys.executable)
    assert outcome.status == 1
    assert "nothing" in outcome.complaints[-1]
    assert (outcome.requests["status"] == 0).all()


def test_arrivals_follow_the_seed_and_the_rate() -> None:
    def due(seed: int) -> list[tuple[int, int, int]]:
        models = [{"rate": 1000.0}, {"rate": 100.0}]
        load = {"arrival": "poisson"}
        return schedule({"models": models, "duration_s": 10.0, "seed": seed, "load": load})

    assert due(1) == due(1) != due(2)
    counts = np.bincount([model for _, model, _ in due(1)])
    assert abs(counts[0] - 10_000) < 500
    assert abs(counts[1] - 1_000) < 150


def test_sigterm_ends_its_client_and_its_burner(driver: Driver, tmp_path: Path) -> None:
    config = make_config(driver, "load") | {"duration_s": 60.0}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    command = [sys.executable, "-I", str(PYTHON_SERVER), "--config", str(file)]
    with subprocess.Popen(
        [*command, "--output", str(tmp_path / "output")],
        env=child_environment("onednn"),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "python_server: running\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 2
        process.terminate()
        # Its end closes the pipe, which its children hold too.
        process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
    assert not [child for child in children if Path("/proc", child).exists()]
