# SPDX-License-Identifier: Apache-2.0
"""`python -m tf_model_pool stats`: the pools of a process as text or JSON.

Of a server that has a metrics endpoint (`--url`), or of the command's own process; that has just
begun and has no pools, so the command can load SavedModels first (`--load`). A Python program looks
at its own pools with `stats.collect()`, `stats.render()` and `stats.to_json()`.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from tf_model_pool import api, scrape
from tf_model_pool.columns import columns
from tf_model_pool.errors import ModelPoolError

SCHEMA = "tf_model_pool.stats/1"

_HOW_TO_SEE_ANOTHER = (
    "note: this is a process of its own, which has loaded nothing (--load DIR). The pools of a "
    f"server: stats --url http://HOST:8501{scrape.DEFAULT_PATH}. Those of a Python program, in "
    "it: tf_model_pool.stats.render(tf_model_pool.stats.collect())"
)

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
        lines = columns(rows, left={0, 1, 2, 11})
    return "\n".join([*lines, *_sums(stats.totals, stats.load_totals)])


def scraped_to_json(scraped: scrape.Scraped, url: str) -> str:
    """As `to_json`, of another process: what its metrics do not tell is left out; and `url`."""

    def known(record: Any) -> dict[str, Any]:
        return {key: v for key, v in dataclasses.asdict(record).items() if v is not None}

    fields = {
        "schema": SCHEMA,
        "url": url,
        "pools": [known(pool) for pool in scraped.pools],
        "totals": known(scraped.totals),
        "load_totals": known(scraped.load_totals),
    }
    return json.dumps(fields, indent=2)


def render_scraped(scraped: scrape.Scraped) -> str:
    """As `render`, of another process, with the columns that metrics tell."""
    rows = [("NAME", "SLOT", "STATE", "IN USE", "RESERVED", "TENSORS", "FALLBACK",
             "MODEL DIRECTORY")]  # fmt: skip
    for pool in scraped.pools:
        rows.append(
            (
                pool.name,
                pool.slot,
                pool.state,
                _size(pool.bytes_in_use),
                _size(pool.bytes_reserved),
                _count(pool.num_tensors),
                _size(pool.fallback_bytes),
                pool.model_dir,
            )
        )
    lines = columns(rows, left={0, 1, 2, 7})
    return "\n".join([*lines, *_sums(scraped.totals, scraped.load_totals)])


def _sums(
    totals: api.Totals | scrape.ScrapedTotals, loads: api.LoadTotals | scrape.ScrapedLoadTotals
) -> list[str]:
    fallback = reason = ""
    if isinstance(totals, api.Totals):
        fallback = totals.last_fallback_reason
    if isinstance(loads, api.LoadTotals):
        reason = loads.last_graph_restore_reason
    limit = "none" if totals.limit_bytes == 0 else _size(totals.limit_bytes)
    return [
        "",
        f"Pools: {totals.num_pools}. In use {format_bytes(totals.bytes_in_use)} of "
        f"{format_bytes(totals.bytes_reserved)} reserved, limit {limit}. "
        f"Mappings: {_count(totals.num_mappings)}. Trimmed: {_size(totals.trimmed_bytes)}. "
        f"Prepared: {_size(totals.prepared_bytes)}.",
        f"Fallback to the device's allocator: {_count(totals.fallback_loads)} loads, "
        f"{_size(totals.fallback_bytes)}" + (f" (last: {fallback})." if fallback else "."),
        f"C++ loads: {_count(loads.direct_restores)} restores set variables directly, "
        f"{_count(loads.graph_restores)} ran the graph"
        + (f" (last: {reason})." if reason else ".")
        + f" Requests that were not prepared for: {_count(loads.cold_versions)}.",
    ]


def _size(count: int | None) -> str:
    return "unknown" if count is None else format_bytes(count)


def _count(count: int | None) -> str:
    return "unknown" if count is None else str(count)


def format_bytes(count: int) -> str:
    """A size with a binary unit: 0 B, 512 B, 1.5 KiB, 96.0 MiB."""
    size = float(count)
    for unit in _UNITS[:-1]:
        if size < 1024:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {_UNITS[-1]}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `stats`."""
    parser.add_argument("--json", action="store_true", help=f"print JSON ({SCHEMA})")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--url",
        metavar="URL",
        help="the pools of another process, from its Prometheus endpoint, such as TensorFlow "
        f"Serving's: http://HOST:8501{scrape.DEFAULT_PATH}",
    )
    which.add_argument(
        "--load",
        action="append",
        default=[],
        metavar="DIR",
        help="load this SavedModel first (a version's directory, as models/ctr/1); repeatable",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the pools of a server, or of this process after the loads asked for. Returns 0.

    Raises:
        NotActiveError, SettingError: as `collect`, before anything is loaded.
        ModelPoolError: a directory is not a SavedModel that loads; the endpoint cannot be read or
            tells of no pools.
    """
    if args.url is not None:
        url = scrape.complete_url(args.url)
        scraped = scrape.read(url)
        print(scraped_to_json(scraped, url) if args.json else render_scraped(scraped))
        return 0
    for directory in args.load:
        _refuse_base_directory(Path(directory))
    # TensorFlow's informational lines hide the table; its warnings and errors stay.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    collect()  # before the loads, which can take minutes
    models = [_load(directory) for directory in args.load]
    stats = collect()
    reason = api.inactive_reason()
    print(to_json(stats) if args.json else render(stats))
    if reason is not None:
        print(f"note: {api.PREFIX}{reason}", file=sys.stderr)
    elif not models and not stats.pools:
        print(_HOW_TO_SEE_ANOTHER, file=sys.stderr)
    del models  # alive until here, so that the pools were live when they were read
    return 0


def _refuse_base_directory(directory: Path) -> None:
    """Raises `ModelPoolError` for a directory of versions, as servers watch it; suggests one."""

    def is_model(path: Path) -> bool:
        return any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt"))

    if not directory.is_dir() or is_model(directory):
        return
    try:
        inside = list(directory.iterdir())
    except OSError as error:
        raise ModelPoolError(f"--load {directory}: {error.strerror}") from error
    versions = [path for path in inside if path.name.isdecimal() and is_model(path)]
    versions.sort(key=lambda path: int(path.name))
    if versions:
        raise ModelPoolError(
            f"--load {directory}: it has no saved_model.pb, but versions: "
            f"{', '.join(path.name for path in versions)}. Load one: "
            f"--load {shlex.quote(str(versions[-1]))}"
        )


def _load(directory: str) -> Any:
    tf: Any = importlib.import_module("tensorflow")
    try:
        return tf.saved_model.load(directory)
    except (OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
        raise ModelPoolError(f"cannot load the SavedModel {directory}: {error}") from error
