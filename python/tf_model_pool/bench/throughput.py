# SPDX-License-Identifier: Apache-2.0
"""`bench throughput`: how many requests a server answers when it never waits for one.

Each configuration serves one version, without updates. Request threads send their next request as
soon as they have an answer: a Python server's own threads, and the native driver's, which find a
queue that does not end.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_model_pool.bench import models
from tf_model_pool.bench.config import Configuration, Timeline, driver_config
from tf_model_pool.bench.models import Model, RequestOptions, Shape, UserModel
from tf_model_pool.bench.run import Progress, driver_command, run_driver
from tf_model_pool.bench.wheels import Wheel
from tf_model_pool.columns import columns
from tf_model_pool.files import write_text

THROUGHPUT_SCHEMA = "tf_model_pool.bench.throughput/1"
#: Requests of the native driver, all due within a second: more than it answers in that time.
_QUEUE = 30_000


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        batches: rows per request.
        threads: request threads.
        seconds: how long a Python server is measured in a round.
    """

    configurations: tuple[Configuration, ...]
    model: str
    what: Shape | UserModel
    requests: RequestOptions
    batches: tuple[int, ...] = (8, 64)
    threads: tuple[int, ...] = (1, 4)
    rounds: int = 5
    seconds: float = 3.0


def measure(
    options: Options,
    wheels: dict[str, Wheel],
    driver: Path,
    output: Path,
    cache: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Runs all in interleaved rounds and writes `output`/throughput.json after each.

    Returns:
        `rows`: for each configuration, batch and number of threads `requests_per_s` and
        `call_us` (median duration of a call), each a list with a value per round.
    """
    wheel = wheels.get("stock") or next(iter(wheels.values()))
    prepared = {
        batch: models.prepare(
            options.model,
            options.what,
            dataclasses.replace(options.requests, batch=batch),
            python=wheel.python,
            tensorflow_version=wheel.version,
            cache=cache,
        )
        for batch in options.batches
    }
    cells = [
        (configuration, batch, threads)
        for batch in options.batches
        for threads in options.threads
        for configuration in options.configurations
    ]
    rows: list[dict[str, Any]] = [
        {
            "configuration": configuration.name,
            "batch": batch,
            "threads": threads,
            "requests_per_s": [],
            "call_us": [],
        }
        for configuration, batch, threads in cells
    ]
    result = {"schema": THROUGHPUT_SCHEMA, "model": options.model, "rows": rows}
    output.mkdir(parents=True, exist_ok=True)
    try:
        progress.plan(options.rounds * len(cells) * (options.seconds + 7))
        for number in range(options.rounds):
            for index, (configuration, batch, threads) in enumerate(cells):
                progress.doing(f"round {number + 1}/{options.rounds} {configuration.name}")
                found = _once(
                    configuration,
                    prepared[batch],
                    threads,
                    options.seconds,
                    wheels[configuration.wheel],
                    driver,
                    output / "run",
                    progress,
                )
                for field, value in found.items():
                    rows[index][field].append(value)
                write_text(output / "throughput.json", json.dumps(result))
    finally:
        progress.close()
    return result


def _once(
    configuration: Configuration,
    model: Model,
    threads: int,
    seconds: float,
    wheel: Wheel,
    driver: Path,
    directory: Path,
    progress: Progress,
) -> dict[str, float]:
    python = bool(configuration.python)
    duration = seconds if python else 1.0
    config = driver_config(
        configuration,
        [model],
        Timeline([], 0.0, duration),
        rate=_QUEUE / duration,
        seed=1,
        request_threads=threads,
        cpus=(None, None),
        lead_s=0,
        arrival="closed" if python else "fixed",
        burner=driver,
    )
    ran = run_driver(
        driver_command(configuration, wheel, driver),
        config,
        configuration.child_environment(wheel.tensorflow),
        directory,
        progress,
    )
    shutil.rmtree(directory, ignore_errors=True)
    requests = ran.requests[np.argsort(ran.requests["start_ns"])]
    requests = requests[requests.size // 10 :]  # the first ones warm up
    span = requests["end_ns"].max() - requests["start_ns"].min()
    return {
        "requests_per_s": float(requests.size / span * 1e9),
        "call_us": float(np.median(requests["end_ns"] - requests["start_ns"]) / 1e3),
    }


def text(result: dict[str, Any]) -> str:
    """A table: medians over rounds, and their range."""
    rows = [["configuration", "batch", "threads", "requests/s", "call, us"]]
    for row in result["rows"]:
        rates: Sequence[float] = row["requests_per_s"]
        spread = f"{statistics.median(rates):,.0f} [{min(rates):,.0f}-{max(rates):,.0f}]"
        call = f"{statistics.median(row['call_us']):.1f}"
        rows.append([row["configuration"], str(row["batch"]), str(row["threads"]), spread, call])
    return "\n".join(columns(rows))
