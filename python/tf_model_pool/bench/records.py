# SPDX-License-Identifier: Apache-2.0
"""The files of the native driver: requests.bin and result.json.

All times are nanoseconds of CLOCK_MONOTONIC since the driver's zero.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_model_pool.bench.errors import ResultError

DRIVER_CONFIG_SCHEMA = "tf_model_pool.bench.driver/1"
DRIVER_RESULT_SCHEMA = "tf_model_pool.bench.result/1"

#: One request. `start_ns` is when a request thread took it, and `intended_ns` when it was due:
#: latency counts from the latter, so that a stalled server cannot hide requests behind it.
REQUEST = np.dtype(
    [
        ("intended_ns", "<i8"),
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
        ("runqueue_ns", "<i8"),
        ("minor_faults", "<i4"),
        ("major_faults", "<i4"),
        ("voluntary_switches", "<i4"),
        ("involuntary_switches", "<i4"),
        ("model", "<i2"),
        ("version", "<i2"),
        ("thread", "<i2"),
        ("status", "<i2"),
        ("checksum", "<f8"),
    ]
)

PHASES = ("import", "restore", "init", "warm_up", "switch", "drain", "unload")
CONTROLS = ("burn_cpu", "burn_stream")

Requests = npt.NDArray[np.void]
Floats = npt.NDArray[np.float64]

_REQUIRED: dict[str, type] = {
    "config": dict,
    "pools_active": bool,
    "phases": list,
    "updates": list,
    "burns": list,
    "samples": list,
    "dropped": int,
    "errors": list,
}
_REQUIRED_ITEMS = {
    "phases": ("phase", "begin_ns", "end_ns"),
    "updates": ("begin_ns", "end_ns", "minor_faults"),
    "burns": ("kind", "begin_ns", "end_ns"),
    "samples": ("rss_bytes",),
}


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object. Raises `ResultError` that names `what` and the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ResultError(f"{what} {path} does not exist") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ResultError(f"{what} {path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ResultError(f"{what} {path} holds a {type(value).__name__}, not an object")
    return value


def check_schema(value: dict[str, Any], expected: str, path: Path) -> None:
    """Raises `ResultError` unless `schema` is the expected one."""
    if value.get("schema") != expected:
        raise ResultError(f"{path}: schema is {value.get('schema')!r}, expected {expected!r}")


def read_requests(path: Path) -> Requests:
    """Every request of a run, in order of intended time. Raises `ResultError`."""
    try:
        size = path.stat().st_size
        if size % REQUEST.itemsize:
            raise ResultError(
                f"{path} has {size} bytes, not a multiple of the record size "
                f"{REQUEST.itemsize}: the driver was stopped while writing, or the file is damaged"
            )
        found = np.fromfile(path, dtype=REQUEST)
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error}") from error
    bad = np.count_nonzero(
        (found["status"] == 0)
        & ((found["end_ns"] < found["start_ns"]) | (found["start_ns"] < found["intended_ns"]))
    )
    if bad:
        raise ResultError(
            f"{path}: {bad} records end before they start, or start before they are due"
        )
    return found[np.argsort(found["intended_ns"], kind="stable")]


def read_result(path: Path) -> dict[str, Any]:
    """result.json, with the fields that the analysis reads checked. Raises `ResultError`."""
    value = read_json(path, "driver result")
    check_schema(value, DRIVER_RESULT_SCHEMA, path)
    for field, kind in _REQUIRED.items():
        if not isinstance(value.get(field), kind):
            raise ResultError(
                f"{path}: field {field!r} is {type(value.get(field)).__name__}, "
                f"expected {kind.__name__}"
            )
    for field, names in _REQUIRED_ITEMS.items():
        for number, item in enumerate(value[field]):
            absent = [name for name in names if name not in item]
            if absent:
                raise ResultError(f"{path}: {field}[{number}] has no {', '.join(absent)}")
    unknown = sorted({p["phase"] for p in value["phases"]} - set(PHASES))
    if unknown:
        raise ResultError(f"{path}: unknown phases {unknown}; known are {list(PHASES)}")
    return value


def latencies_ms(requests: Requests) -> Floats:
    """From the intended send time to the answer, milliseconds."""
    return np.asarray((requests["end_ns"] - requests["intended_ns"]) / 1e6, dtype=np.float64)
