# SPDX-License-Identifier: Apache-2.0
"""What the tests of docs/monitoring share: metrics that there are, and Debian's Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import prometheus_client
import pytest

from tf_model_pool import api, prometheus

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
    registry = prometheus_client.CollectorRegistry()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "pools", lambda: [])
        patch.setattr(api, "totals", lambda: api.Totals(*[0] * 9, ""))
        patch.setattr(api, "load_totals", lambda: api.LoadTotals(0, 0, 0, ""))
        prometheus.register(registry)
        for family in registry.collect():
            names.add(family.name + ("_total" if family.type == "counter" else ""))
    return names


def query(address: str, expression: str) -> list[dict[str, Any]]:
    """The series that a running Prometheus has for an expression, now."""
    body = urllib.parse.urlencode({"query": expression}).encode()
    with urllib.request.urlopen(f"{address}/api/v1/query", body, timeout=60) as answer:
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return result
