# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus scrapes the Python image's server; every query of the dashboard has series."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import monitoring
from support.children import Places
from support.modes import child_environment
from support.servers import PATIENCE, free_port, wait_until


class ServingText(http.server.BaseHTTPRequestHandler):
    """In place of TensorFlow Serving's endpoint: its metrics, which stand still."""

    text = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.text.encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def serving(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(ServingText, "text", monitoring.serving_text(repository))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ServingText)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def base(places: Places, tmp_path: Path) -> Path:
    shutil.copytree(places.models / "exact" / "1", tmp_path / "exact" / "1")
    return tmp_path / "exact"


@pytest.fixture
def python_server(repository: Path, base: Path, tmp_path: Path) -> Iterator[str]:
    """The server, started as the image starts it."""
    dockerfile = (repository / "docs/python-server/Dockerfile").read_text().replace("\\\n", " ")
    (entry,) = (line for line in dockerfile.splitlines() if line.startswith("ENTRYPOINT "))
    port = free_port()
    places = {
        "/venv/bin/python": sys.executable,
        "/app": str(repository / "docs/examples"),
        "0.0.0.0": "127.0.0.1",
        "8000": str(port),
    }
    words = [places.get(word, word) for word in json.loads(entry.removeprefix("ENTRYPOINT "))]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            words,
            env={**child_environment("onednn"), "MODEL": str(base)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: _get(f"http://127.0.0.1:{port}/healthz"), server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(PATIENCE)


def queries(repository: Path) -> dict[str, str]:
    """Every query of the dashboard, by panel, as Grafana sends it with all jobs and instances."""
    dashboard = json.loads((repository / "docs/monitoring/dashboard.json").read_text())
    found = {}
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "1m")
            expression = expression.replace("$job", ".*").replace("$instance", ".*")
            found[f"{panel['title']}, {target['refId']}"] = expression
    return found


@pytest.mark.slow
def test_prometheus_watches_an_update(
    repository: Path,
    places: Places,
    base: Path,
    python_server: str,
    serving: str,
    tmp_path: Path,
) -> None:
    # GIVEN a Prometheus with the rules, the Python server, and what TensorFlow Serving prints
    rules = repository / "docs/monitoring/rules.yaml"
    targets = {"python": f"{python_server}/metrics", "serving": serving}
    with monitoring.running_prometheus(tmp_path, rules, targets) as (address, process):

        def ask(expression: str) -> list[dict[str, Any]]:
            return monitoring.query(address, expression)

        wait_until(lambda: ask("tf_model_pool_model_version == 1"), process)
        # WHEN the model changes
        shutil.copytree(places.models / "exact" / "2", base / "2")
        wait_until(lambda: ask("tf_model_pool_model_version == 2"), process)
        wait_until(lambda: ask('tf_model_pool_pool_info{version="2",state="live"}'), process)
        # THEN each query of the dashboard returns series
        for panel, expression in queries(repository).items():
            try:
                wait_until(lambda expression=expression: ask(expression), process)
            except AssertionError as error:
                raise AssertionError(f"no series: {panel}: {expression}") from error
        # AND a query for a metric that there is not returns none
        assert ask("tf_model_pool_nothing") == []
        # AND every rule was evaluated, and the Python server is well
        wait_until(lambda: _health(address) == {"ok"}, process)
        assert ask('ALERTS{job="python",alertstate="firing"}') == []


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def _health(address: str) -> set[str]:
    groups = _get(f"{address}/api/v1/rules")["data"]["groups"]
    return {rule["health"] for group in groups for rule in group["rules"]}
