# SPDX-License-Identifier: Apache-2.0
"""A driver that serves nothing: the native driver's files, made up from its configuration.

    python -m support.fake_driver --config FILE --output DIR

Latencies are those of a server with `steady_ms`, plus what the environment asks for:
FAKE_UPDATE_MS (added to requests due during an update), FAKE_UPDATE_SECONDS, FAKE_FAIL (exit
status), FAKE_STEP_BYTES (RSS left behind by each update), FAKE_WRONG (share of wrong answers).
FAKE_FAIL and FAKE_WRONG hold for all runs, or for those whose directory has FAKE_IN in its name.
It returns at once: times are made up, not waited for.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tf_model_pool.bench.records import DRIVER_RESULT_SCHEMA, PHASES, REQUEST, Requests

#: Share of an update that each phase takes.
SHARES = dict(zip(PHASES, (0.2, 0.4, 0.05, 0.1, 0.001, 0.009, 0.24), strict=True))


def requests(
    due_s: Any,
    latency_ms: Any,
    *,
    queued_ms: Any = 0.0,
    runqueue_ms: Any = 0.0,
    checksum: Any = 1.0,
    model: Any = 0,
    version: Any = 0,
    status: Any = 0,
) -> Requests:
    """Records with these due times and latencies."""
    due = np.asarray(due_s, dtype=np.float64)
    out = np.zeros(due.shape, dtype=REQUEST)
    out["intended_ns"] = np.round(due * 1e9)
    out["start_ns"] = out["intended_ns"] + np.round(np.asarray(queued_ms) * 1e6).astype(np.int64)
    out["end_ns"] = out["intended_ns"] + np.round(np.asarray(latency_ms) * 1e6).astype(np.int64)
    out["runqueue_ns"] = np.round(np.asarray(runqueue_ms) * 1e6)
    out["checksum"] = checksum
    out["model"], out["version"], out["status"] = model, version, status
    return out


def phases(
    begin_s: float, seconds: float, model: str = "m", version: int = 1
) -> list[dict[str, Any]]:
    """The phases of one update."""
    at = begin_s
    found = []
    for name, share in SHARES.items():
        end = at + share * seconds
        found.append(
            {
                "model": model,
                "version": version,
                "phase": name,
                "begin_ns": round(at * 1e9),
                "end_ns": round(end * 1e9),
                "minor_faults": 10,
                "major_faults": 0,
                "thread_cpu_ns": 0,
                "runqueue_ns": 0,
            }
        )
        at = end
    return found


def update(begin_s: float, seconds: float, **changes: Any) -> dict[str, Any]:
    """One entry of `updates`."""
    return {
        "model": "m",
        "from": 0,
        "to": 1,
        "begin_ns": round(begin_s * 1e9),
        "end_ns": round((begin_s + seconds) * 1e9),
        "minor_faults": 1000,
        "major_faults": 0,
        "rss_before": 10**9,
        "rss_peak": 2 * 10**9,
        "rss_after": 10**9,
        "pool_bytes": 0,
        "pool_mappings_delta": 0,
        **changes,
    }


def result(**changes: Any) -> dict[str, Any]:
    """A result of a run in which nothing happened."""
    return {
        "schema": DRIVER_RESULT_SCHEMA,
        "config": {},
        "tensorflow_version": "2.21.0",
        "pools_active": False,
        "zero_unix_ns": 0,
        "phases": [],
        "updates": [],
        "burns": [],
        "samples": [{"at_ns": i * 10**8, "rss_bytes": 10**9} for i in range(10)],
        "dropped": 0,
        "errors": [],
        **changes,
    }


def make(
    config: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[Requests, dict[str, Any]]:
    """The records and the result of a run with this configuration."""
    rng = np.random.default_rng(config["seed"])
    patched = environment.get("FAKE_PATCHED_DIRECTORY", "-") in environment.get(
        "LD_LIBRARY_PATH", ""
    )
    seconds = float(environment.get("FAKE_UPDATE_SECONDS", "0.6"))
    added = float(environment.get("FAKE_UPDATE_MS", "40")) / (8 if patched else 1)
    step = float(environment.get("FAKE_STEP_BYTES", "0"))
    wrong = float(environment.get("FAKE_WRONG", "0"))
    updates: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    burns = []
    slower: list[tuple[float, float, float, int | None]] = []
    for entry in config["timeline"]:
        at = entry["at_s"]
        if entry["action"] == "update":
            for name in entry["models"]:
                rss = 10**9 + step * len(updates)
                faults = int(rng.integers(300, 400) if patched else rng.integers(9000, 11000))
                updates.append(
                    update(
                        at,
                        seconds,
                        model=name,
                        minor_faults=faults,
                        rss_after=rss,
                        rss_peak=rss * 1.9,
                        pool_bytes=4 * 10**8 * patched,
                    )
                )
                steps += phases(at, seconds, name)
                slower.append((at, at + seconds, added, None))
        else:
            end = at + entry["duration_s"]
            burns.append(
                {
                    "kind": entry["action"],
                    "begin_ns": round(at * 1e9),
                    "end_ns": round(end * 1e9),
                    "bytes": entry.get("bytes", 0),
                }
            )
            slower.append((at, end, 2.0, None))
    parts = []
    for number, model in enumerate(config["models"]):
        count = rng.poisson(model["rate"] * config["duration_s"])
        due = np.sort(rng.random(count) * config["duration_s"])
        latency = rng.lognormal(1.0, 0.3, size=count)
        for begin, end, more, _ in slower:
            inside = (due >= begin) & (due < end)
            latency[inside] += rng.exponential(more, size=int(inside.sum()))
        checksum = np.where(rng.random(count) < wrong, 1e9, 1.0)
        waited = np.clip(latency - 4, 0, None)
        parts.append(
            requests(
                due,
                latency,
                queued_ms=waited * 0.2,
                runqueue_ms=waited * 0.5,
                checksum=checksum,
                model=number,
            )
        )
    rate = sum(m["rate"] for m in config["models"])
    samples = [
        {
            "at_ns": i * 10**8,
            "rss_bytes": 10**9
            + (0.9e9 if any(b <= i / 10 <= e for b, e, m, _ in slower if m > 2) else 0),
            # 5 ms of CPU per request
            "utime_ns": i * 10**8 * rate * 0.005,
            "stime_ns": 0,
        }
        for i in range(int(config["duration_s"] * 10))
    ]
    made = result(
        config=dict(config),
        phases=steps,
        updates=updates,
        burns=burns,
        samples=samples,
        pools_active=patched,
    )
    return np.concatenate(parts), made


def main() -> int:
    """The driver's command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    environment = dict(os.environ)
    if environment.get("FAKE_IN", "") not in args.config.parent.name:
        environment.pop("FAKE_FAIL", None)
        environment.pop("FAKE_WRONG", None)
    if "FAKE_FAIL" in environment:
        print("something went wrong in the driver", file=sys.stderr)
        return int(environment["FAKE_FAIL"])
    found, made = make(json.loads(args.config.read_text()), environment)
    args.output.mkdir(parents=True)
    found.tofile(args.output / "requests.bin")
    (args.output / "result.json").write_text(json.dumps(made, default=float))
    return 0


if __name__ == "__main__":
    sys.exit(main())
