# SPDX-License-Identifier: Apache-2.0
"""`python -m tf_model_pool stats`: the pools of the current process as text or JSON.

A process that has just begun has no pools, so the command can load SavedModels first. A
program looks at its own pools with `stats.collect()`, `stats.render()` and `stats.to_json()`.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from tf_model_pool import api
from tf_model_pool.errors import ModelPoolError

SCHEMA = "tf_model_pool.stats/1"

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclasses.dataclass(frozen=True, slots=True)
class Stats:
    """The pools of a process, their sums and its restores, read one after the other."""

    pools: list[api.PoolStats]
    totals: api.Totals
    load_totals: api.LoadTotals


def collect() -> Stats:
    """Reads the pools of this process.

    Raises:
        NotActiveError: without the patched TensorFlow.
        SettingError: a `TF_MODEL_POOL*` variable is malformed.
    """
    return Stats(pools=api.pools(), totals=api.totals(), load_totals=api.load_totals())


def to_json(stats: Stats) -> str:
    """Versioned JSON: `schema`, `pools`, `totals`, `load_totals`, with the fields of their classes.

    Sizes are bytes. Fields may be added under the same schema; none changes its meaning.
    """
    fields = {
        "schema": SCHEMA,
        "pools": [dataclasses.asdict(pool) for pool in stats.pools],
        "totals": dataclasses.asdict(stats.totals),
        "load_totals": dataclasses.asdict(stats.load_totals),
    }
    return json.dumps(fields, indent=2)


def render(stats: Stats) -> str:
    """A table for a person, models together and slots in order."""
    if not stats.pools:
        lines = ["No pools: no model was restored into one."]
    else:
        header = ("NAME", "SLOT", "STATE", "IN USE", "PEAK", "RESERVED", "LARGEST FREE",
                  "TENSORS", "MAPPINGS", "LOADS", "FALLBACK", "MODEL DIRECTORY")  # fmt: skip
        rows = [header]
        for pool in sorted(stats.pools, key=lambda entry: (entry.model_dir, entry.slot)):
            rows.append(
                (
                    pool.name,
                    pool.slot,
                    pool.state,
                    format_bytes(pool.bytes_in_use),
                    format_bytes(pool.peak_bytes_in_use),
                    format_bytes(pool.bytes_reserved),
                    format_bytes(pool.largest_free_block),
                    str(pool.num_tensors),
                    str(pool.num_mappings),
                    str(pool.num_loads),
                    format_bytes(pool.fallback_bytes),
                    pool.model_dir,
                )
            )
        lines = _table(rows, left={0, 1, 2, 11})
    totals = stats.totals
    loads = stats.load_totals
    reason = loads.last_graph_restore_reason
    limit = format_bytes(totals.limit_bytes) if totals.limit_bytes else "none"
    lines += [
        "",
        f"Pools: {totals.num_pools}. In use {format_bytes(totals.bytes_in_use)} of "
        f"{format_bytes(totals.bytes_reserved)} reserved, limit {limit}. "
        f"Mappings: {totals.num_mappings}. Trimmed: {format_bytes(totals.trimmed_bytes)}. "
        f"Prepared: {format_bytes(totals.prepared_bytes)}.",
        f"Fallback to the device's allocator: {totals.fallback_loads} loads, "
        f"{format_bytes(totals.fallback_bytes)}"
        + (f" (last: {totals.last_fallback_reason})." if totals.last_fallback_reason else "."),
        f"C++ loads: {loads.direct_restores} restores set variables directly, "
        f"{loads.graph_restores} ran the graph"
        + (f" (last: {reason})." if reason else ".")
        + f" Requests that were not prepared for: {loads.cold_versions}.",
    ]
    return "\n".join(lines)


def format_bytes(count: int) -> str:
    """A size with a binary unit: 0 B, 512 B, 1.5 KiB, 96.0 MiB."""
    size = float(count)
    for unit in _UNITS[:-1]:
        if size < 1024:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {_UNITS[-1]}"


def _table(rows: Sequence[Sequence[str]], left: set[int]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `stats`."""
    parser.add_argument("--json", action="store_true", help=f"print JSON ({SCHEMA})")
    parser.add_argument(
        "--load",
        action="append",
        default=[],
        metavar="DIR",
        help="load this SavedModel first (a version's directory, as models/ctr/1); repeatable",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the pools of this process, after the loads asked for. Returns 0.

    Raises:
        NotActiveError, SettingError: as `collect`, before anything is loaded.
        ModelPoolError: a directory is not a SavedModel that loads.
    """
    # TensorFlow's informational lines hide the table; its warnings and errors stay.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    collect()  # before the loads, which can take minutes
    models = [_load(directory) for directory in args.load]
    stats = collect()
    reason = api.inactive_reason()
    print(to_json(stats) if args.json else render(stats))
    if reason is not None:
        print(f"note: {api.PREFIX}{reason}", file=sys.stderr)
    del models  # alive until here, so that the pools were live when they were read
    return 0


def _load(directory: str) -> Any:
    tf: Any = importlib.import_module("tensorflow")
    try:
        return tf.saved_model.load(directory)
    except (OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
        raise ModelPoolError(f"cannot load the SavedModel {directory}: {error}") from error
