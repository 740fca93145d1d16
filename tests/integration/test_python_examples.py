# SPDX-License-Identifier: Apache-2.0
"""The servers in docs/examples, as a reader starts them, through updates under load."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import models
from support.children import Places
from support.modes import child_environment
from support.servers import PATIENCE, free_port, wait_until

BATCH = 4


def _need(*packages: str) -> None:
    """A missing package is an error that names the extra, not a skip."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.fail(
                f"{package} is missing: install the extra `examples` of pyproject.toml, as "
                "`./build.sh test` does"
            )


def _ask(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        text = answer.read().decode()
    return json.loads(text) if text.startswith("{") else text


@pytest.fixture
def base(places: Places, tmp_path: Path) -> Path:
    shutil.copytree(places.models / "exact" / "1", tmp_path / "exact" / "1")
    return tmp_path / "exact"


@pytest.fixture(scope="module")
def answers() -> dict[tuple[float, ...], int]:
    """What each version answers to `BODY`."""
    specs = models.CATALOGUE["exact"]
    return {
        tuple(models.exact_score(models.weights(spec, number), _ids()).tolist()): number
        for number, spec in enumerate(specs, start=1)
    }


def _ids() -> np.ndarray[Any, Any]:
    return models.request(0, BATCH)


class Load:
    """Requests without a pause from two threads; knows every answer and every failure."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask
        self._ended = threading.Event()
        self.answers: list[Any] = []
        self.failures: list[Exception] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.answers.append(self._ask())
            except (OSError, ValueError) as error:
                self.failures.append(error)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


def _start(
    command: list[str], repository: Path, log: Path, **environment: str
) -> subprocess.Popen[str]:
    with log.open("w") as out:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=repository,
            env={**child_environment("onednn"), **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.mark.parametrize("name", ["fastapi_server.py", "ray_serve_server.py"])
def test_an_example_is_under_a_hundred_lines(repository: Path, name: str) -> None:
    assert len((repository / "docs/examples" / name).read_text().splitlines()) < 100


def test_fastapi_serves_through_an_update(
    repository: Path,
    places: Places,
    base: Path,
    answers: dict[tuple[float, ...], int],
    tmp_path: Path,
) -> None:
    _need("fastapi", "uvicorn", "prometheus_client")
    # GIVEN the server as its text says, with two workers
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["-m", "uvicorn", "--app-dir", "docs/examples", "fastapi_server:app"]
    command += ["--workers", "2", "--port", str(port)]
    server = _start(command, repository, tmp_path / "log", MODEL=str(base))
    body = {"inputs": {"ids": _ids().tolist()}, "outputs": ["score"]}

    def version() -> int:
        try:
            return int(_ask(f"{url}/healthz")["version"])
        except OSError:
            return 0

    def predict() -> int:
        return answers[tuple(_ask(f"{url}/predict", body)["outputs"]["score"])]

    try:
        wait_until(lambda: version() == 1, server)
        # WHEN the model changes under load
        with Load(predict) as load:
            wait_until(lambda: len(load.answers) > 20, server)
            shutil.copytree(places.models / "exact" / "2", base / "2")
            # Both workers, whichever answers.
            wait_until(lambda: load.answers[-50:] == [2] * 50, server)
        # THEN no request failed, and every answer was one version's
        assert load.failures == []
        assert set(load.answers) == {1, 2}
        loads = f'tf_model_pool_model_loads_total{{model="{base}"}} 2.0'
        wait_until(lambda: loads in _ask(f"{url}/metrics"), server)
        text = _ask(f"{url}/metrics")
        assert "tf_model_pool_pool_bytes_in_use{" in text
        for wrong, word in (
            ({"inputs": {"other": [1]}}, "other"),
            ({"inputs": body["inputs"], "signature": "nothing"}, "nothing"),
        ):
            with pytest.raises(urllib.error.HTTPError) as raised:
                _ask(f"{url}/predict", wrong)
            assert raised.value.code == 400
            assert word in raised.value.read().decode()
    finally:
        server.terminate()
        server.wait(PATIENCE)
    assert server.returncode == 0, (tmp_path / "log").read_text()


@pytest.fixture
def ray_serve(repository: Path, base: Path, tmp_path: Path) -> Iterator[RayServe]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: 200 MB, the extra examples-ray in pyproject.toml")
    server = RayServe(repository, base, tmp_path / "log")
    yield server
    server.stop()


class RayServe:
    """The example in a Ray of its own. `order` does one of what the driver below can do."""

    DRIVER = """
import sys
import ray
from ray import serve
import ray_serve_server
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
serve.start(http_options={"port": int(sys.argv[1])})
def run(**options):
    serve.run(ray_serve_server.Ranker.options(**options).bind(sys.argv[2]))
run()
print("ready", flush=True)
for line in sys.stdin:
    # Each run() replaces the replicas, as Ray cannot tell whether the code is the same.
    if line == "roll\\n":
        run()
    elif line == "pin\\n":
        run(user_config={"version": 1})
    print("done", flush=True)
serve.shutdown()
ray.shutdown()
"""

    def __init__(self, repository: Path, base: Path, log: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        examples = str(repository / "docs/examples")
        self.log = log
        with log.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", self.DRIVER, str(port), str(base)],
                env={
                    **child_environment("onednn"),
                    "PYTHONPATH": examples,
                    "CPUS_PER_REPLICA": "0.1",
                    "RAY_AUTH_MODE": "disabled",
                    "RAY_USAGE_STATS_ENABLED": "0",
                    "RAY_TMPDIR": os.environ.get("RAY_TMPDIR", "/tmp"),
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
            )
        self._expect("ready")

    def _expect(self, word: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == word:
                return
        pytest.fail(f"Ray ended:\n{self.log.read_text()[-4000:]}")

    def order(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        self._expect("done")

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()


@pytest.mark.slow
def test_ray_serve_answers_every_request_through_both_kinds_of_update(
    ray_serve: RayServe, places: Places, base: Path, answers: dict[tuple[float, ...], int]
) -> None:
    body = {"ids": _ids().tolist()}

    def ask() -> tuple[int, str]:
        answer = _ask(ray_serve.url, body)
        return answers[tuple(answer["score"])], answer["replica"]

    with Load(ask) as load:

        def settle_on(version: int) -> set[str]:
            """Waits until only this version answers; the replicas that do."""
            wanted = [version] * 100
            wait_until(lambda: [v for v, _ in load.answers[-100:]] == wanted, ray_serve.process)
            return {replica for _, replica in load.answers[-100:]}

        old = settle_on(1)
        # WHEN the model changes in the replicas that run
        shutil.copytree(places.models / "exact" / "2", base / "2")
        assert settle_on(2) == old
        # AND the replicas are replaced one by one
        ray_serve.order("roll")
        count = len(load.answers)
        wait_until(lambda: len(load.answers) > count + 100, ray_serve.process)
        new = settle_on(2)
        assert not new & old
        # AND once more, by ones that go back to the old version
        ray_serve.order("pin")
        settle_on(1)
    # THEN no request failed
    assert load.failures == []
    assert {version for version, _ in load.answers} == {1, 2}
    assert len(old) == len(new) == 2
