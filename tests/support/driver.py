# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmark's native driver on small models whose answers are known.

python -m support.driver DIRECTORY      # writes the models and their requests
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from support.children import run_to_end
from support.modes import child_environment
from tf_model_pool.bench.records import DRIVER_CONFIG_SCHEMA, Requests, read_requests

DRIVER_VARIABLE = "TF_MODEL_POOL_DRIVER"
VERSIONS = (0, 1, 2)
MODELS = ("table", "other")
ROWS = 50
DIM = 16
#: Rows of each recorded request.
SIZES = (8, 24, 40, 64)
#: A hang must end the test. Far above what any run takes.
TIMEOUT_SECONDS = 120


def request_ids(index: int) -> npt.NDArray[np.int32]:
    """The input of a recorded request."""
    return (np.arange(SIZES[index], dtype=np.int32) * 7 + index) % ROWS


def _factor(model: str, version: int) -> int:
    return 1 + version + 10 * MODELS.index(model)


def checksum(model: str, version: int, index: int) -> float:
    """What the driver has to sum up: all scores and the count, in small whole numbers."""
    ids = request_ids(index)
    return float(_factor(model, version) * np.sum(ids % 5 + 1) * DIM + ids.size)


def save_models(root: Path) -> None:
    """Writes each model in each version, one that has no variables, and the requests."""
    import tensorflow as tf

    from tf_model_pool.bench.generate import encode

    values = np.repeat(np.arange(ROWS, dtype=np.float32)[:, None] % 5 + 1, DIM, axis=1)

    class Table(tf.Module):  # type: ignore[misc]
        def __init__(self, factor: int, constant: bool) -> None:
            super().__init__()
            table = values * np.float32(factor)
            self.table = tf.constant(table) if constant else tf.Variable(table)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="ids")])  # type: ignore[untyped-decorator]
        def serve(self, ids: Any) -> dict[str, Any]:
            return {
                "score": tf.reduce_sum(tf.gather(self.table, ids), axis=1),
                "count": tf.shape(ids)[0],
            }

    for model in MODELS:
        for version in VERSIONS:
            module = Table(_factor(model, version), constant=False)
            tf.saved_model.save(
                module,
                str(root / model / str(version)),
                signatures={"serving_default": module.serve},
            )
    module = Table(1, constant=True)
    tf.saved_model.save(
        module, str(root / "constant" / "0"), signatures={"serving_default": module.serve}
    )
    with tf.io.TFRecordWriter(str(root / "requests.tfrecord")) as writer:
        for index in range(len(SIZES)):
            writer.write(encode({"ids": request_ids(index)}))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended. `requests` is empty and `result` too where it left none."""

    status: int
    complaints: Sequence[str]
    requests: Requests
    result: Mapping[str, Any]

    def phases(self, model: str) -> list[Mapping[str, Any]]:
        """The phases of one model, in order."""
        return [phase for phase in self.result["phases"] if phase["model"] == model]


@dataclasses.dataclass(frozen=True)
class Driver:
    """The program, the models, and the TensorFlow that it runs with (None = its own wheel's)."""

    program: Path
    models: Path
    tensorflow: Path | None = None

    def config(self, models: Sequence[str] = ("table",), **changes: Any) -> dict[str, Any]:
        """A configuration: short, fixed arrivals, warm-up. `changes` go to the top level."""
        requests = str(self.models / "requests.tfrecord")
        return {
            "schema": DRIVER_CONFIG_SCHEMA,
            "duration_s": 1.0,
            "seed": 1,
            "models": [
                {
                    "name": model,
                    "versions": [str(path) for path in sorted((self.models / model).iterdir())],
                    "requests": requests,
                    "warmup": requests,
                    "rate": 100,
                }
                for model in models
            ],
            "load": {"arrival": "fixed", "request_threads": 2},
            "server": {},
            **changes,
        }

    @contextlib.contextmanager
    def started(
        self, config: Mapping[str, Any] | str, directory: Path
    ) -> Iterator[subprocess.Popen[str]]:
        """The running program; it does not outlive the block. Results go to `directory`/output."""
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / "config.json"
        file.write_text(config if isinstance(config, str) else json.dumps(config))
        environment = child_environment("onednn")
        if self.tensorflow is not None:
            environment["LD_LIBRARY_PATH"] = str(self.tensorflow)
        arguments = ["--config", str(file), "--output", str(directory / "output")]
        with subprocess.Popen(
            [str(self.program), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, config: Mapping[str, Any] | str, directory: Path) -> Outcome:
        """Runs to the end."""
        with self.started(config, directory) as process:
            return finish(process, directory)


def finish(process: subprocess.Popen[str], directory: Path) -> Outcome:
    """Waits for the end of `Driver.started`; reads what the program wrote."""
    _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    own = ("swap_driver: ", "python_server: ")
    mine = [line for line in errors.splitlines() if line.startswith(own)]
    output = directory / "output"
    result = output / "result.json"
    if not result.exists():
        return Outcome(process.returncode, mine, np.zeros(0, dtype=np.void), {})
    return Outcome(
        process.returncode,
        mine,
        read_requests(output / "requests.bin"),
        json.loads(result.read_text()),
    )


def tensorflow_of(python: Path) -> Path:
    """The `tensorflow` directory of an environment, whose interpreter is given."""
    code = "import importlib.util as u; print(u.find_spec('tensorflow').origin)"
    output = run_to_end([str(python), "-c", code], child_environment("onednn"))
    return Path(output.strip()).parent


def find_program() -> Path | None:
    """The driver of the installed wheel, or the one that the environment names."""
    if value := os.environ.get(DRIVER_VARIABLE):
        return Path(value)
    spec = importlib.util.find_spec("tf_model_pool")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "bin" / "swap_driver"


if __name__ == "__main__":
    save_models(Path(sys.argv[1]))
