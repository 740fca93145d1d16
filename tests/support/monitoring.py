# SPDX-License-Identifier: Apache-2.0
"""What the tests of docs/monitoring share: metrics that there are, and Debian's Prometheus."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.servers import free_port
from tf_model_pool import api, prometheus
from tf_model_pool.hot_types import HotStats

SERVING = ":tensorflow:core:model_pool:"


def find_program(name: str) -> str:
    """A program of Prometheus; fails without it."""
    program = shutil.which(name)
    if program is None:
        pytest.fail(f"{name} is missing: install it with `apt-get install prometheus`")
    return program


def asked(text: str) -> set[str]:
    """The metrics of ours that an expression, or a file of them, names."""
    found = set(re.findall(r"(?<!\w):tensorflow:core:model_pool:\w+", text))
    return found | set(re.findall(r"(?<![\w/-])tf_model_pool_\w+", text))


def declared(root: Path) -> set[str]:
    """The metrics of TensorFlow Serving, by our header, and of Python, by our collector."""
    header = (root / "tf_allocator/device/metrics.h").read_text()
    names = {SERVING + name for name in re.findall(r"^// \| (\w+) +\|", header, re.MULTILINE)}
    return names | set(declared_by_python())


def declared_by_python() -> dict[str, tuple[str, frozenset[str]]]:
    """Kind and labels of the metrics that our collector has for a model and a pool."""
    import prometheus_client  # of the extra `examples`

    registry = prometheus_client.CollectorRegistry()
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prometheus, "hot_models", lambda: [_of_ones(HotStats)])
        patch.setattr(api, "pools", lambda: [_of_ones(api.PoolStats)])
        patch.setattr(api, "totals", lambda: _of_ones(api.Totals))
        patch.setattr(api, "load_totals", lambda: _of_ones(api.LoadTotals))
        prometheus.register(registry)
        for family in registry.collect():
            name = family.name + ("_total" if family.type == "counter" else "")
            found[name] = (family.type, frozenset(family.samples[0].labels))
    return found


def _of_ones(record: type[Any]) -> Any:
    """A record with a 1, or "1", in every field."""
    return record(**{f.name: "1" if f.type == "str" else 1 for f in dataclasses.fields(record)})


def query(address: str, expression: str) -> list[dict[str, Any]]:
    """The series that a running Prometheus has for an expression, now."""
    body = urllib.parse.urlencode({"query": expression}).encode()
    with urllib.request.urlopen(f"{address}/api/v1/query", body, timeout=60) as answer:
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return result


@contextmanager
def running_prometheus(
    directory: Path, rules: Path, targets: Mapping[str, str]
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Prometheus that scrapes each job's URL once a second; its address.

    It may not answer yet. Its data and its log go into `directory`.
    """
    jobs = []
    for job, url in targets.items():
        parts = urllib.parse.urlsplit(url)
        jobs.append(
            {
                "job_name": job,
                "metrics_path": parts.path,
                "static_configs": [{"targets": [parts.netloc]}],
            }
        )
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": jobs,
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                find_program("prometheus"),
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            cwd=directory,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait(60)


def serving_text(root: Path) -> str:
    """Every metric of TensorFlow Serving's endpoint, with the labels of docs/reference.md."""
    values = {"slot": "A", "model_dir": "/models/ctr", "version": "1", "state": "live"}
    values |= {"memory": "new", "path": "direct"}
    lines = []
    reference = (root / "docs/reference.md").read_text()
    for name, kind, labels in re.findall(
        r"^\| `(\w+)` \| (gauge|counter) \|([^|]*)\|", reference, re.MULTILINE
    ):
        pairs = ",".join(f'{one}="{values[one]}"' for one in re.findall(r"`(\w+)`", labels))
        lines += [f"# TYPE {SERVING}{name} {kind}", f"{SERVING}{name}{{{pairs}}} 1"]
    return "\n".join(lines) + "\n"
