# SPDX-License-Identifier: Apache-2.0
"""The three allocators that TensorFlow can use for requests on CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping

#: Name of a mode -> the settings that choose it. TensorFlow reads them once per process.
MODES: Mapping[str, Mapping[str, str]] = {
    "onednn": {},
    "system": {"TF_ENABLE_ONEDNN_OPTS": "0"},
    "cpu_bfc": {"TF_CPU_ALLOCATOR_USE_BFC": "1"},
}


def child_environment(mode: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child process: the caller's without TensorFlow's settings, plus ours."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TF_", "PYTEST_")) and name not in {"LD_PRELOAD", "PYTHONPATH"}
    }
    environment["TF_CPP_MIN_LOG_LEVEL"] = "1"
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    environment.update(MODES[mode])
    environment.update(extra or {})
    return environment
