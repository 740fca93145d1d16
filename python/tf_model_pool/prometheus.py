# SPDX-License-Identifier: Apache-2.0
"""Metrics of this process's `HotModel`s and pools for `prometheus_client`.

    tf_model_pool.prometheus.register()
    prometheus_client.start_http_server(9090)

`prometheus_client` is imported when a `Collector` is made, and is no dependency of this package.
Numbers are read when they are scraped; nothing is counted twice and requests pay nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from tf_model_pool import api
from tf_model_pool.errors import ModelPoolError
from tf_model_pool.hot_model import hot_models

#: Field of `HotStats`, metric, what it says. Counters get `_total` from prometheus_client.
_COUNTERS = (
    ("loads", "loads", "Versions that were loaded"),
    ("load_failures", "load_failures", "Loads that failed"),
    ("unloads", "unloads", "Versions that were unloaded"),
    ("requests", "requests", "Calls"),
    ("request_errors", "request_errors", "Calls that raised"),
    ("cold_requests", "cold_requests", "Calls that made executors, which no load had"),
    ("storage_failures", "storage_failures", "Looks at the base directory that failed"),
)
_GAUGES = (
    ("version", "version", "Version that serves"),
    ("newest_version", "newest_version", "Newest version on disk, whether or not it serves"),
    ("failed_versions", "failed_versions", "Versions on disk that did not load"),
    ("requests_in_flight", "requests_in_flight", "Calls that have not returned"),
    ("last_load_seconds", "last_load_seconds", "Duration of the last load"),
)
#: Field of `PoolStats`, metric, what it says.
_POOL_GAUGES = (
    ("bytes_in_use", "bytes_in_use", "Granted to tensors"),
    ("peak_bytes_in_use", "peak_bytes_in_use", "The most since this version began to load"),
    ("bytes_reserved", "bytes_reserved", "Mapped read-write, in use or not"),
    ("fallback_bytes", "fallback_bytes", "Of this version, in the device's own allocator"),
    ("num_tensors", "tensors", "Buffers in the pool"),
)
#: Field of `Totals` or `LoadTotals`, metric, what it says.
_TOTALS = (
    ("num_mappings", "mappings", "Times that pools made memory usable"),
    ("fallback_loads", "fallback_loads", "Restores that got no pool"),
    ("fallback_bytes", "fallback_bytes", "Bytes that went to the device's own allocator"),
    ("trimmed_bytes", "trimmed_bytes", "Bytes given back from standby"),
    ("prepared_bytes", "prepared_bytes", "Bytes made usable ahead of need"),
)
_LOAD_TOTALS = (("cold_versions", "cold_versions", "Requests that no load had prepared for"),)


class Collector:
    """For `CollectorRegistry.register`. Metrics are named `tf_model_pool_*`.

    Those of a model have the label `model`, its `HotModel`'s name; a second `HotModel` of the same
    name gets " (2)" behind it. Those of a pool have `model_dir` and `slot`. Without the patched
    TensorFlow there are none of pools.

    Raises:
        ModelPoolError: `prometheus_client` is not installed.
    """

    def __init__(self) -> None:
        try:
            self._core: Any = importlib.import_module("prometheus_client.core")
        except ImportError as error:
            raise ModelPoolError(
                f"metrics need prometheus_client ({error}): pip install prometheus_client"
            ) from error

    def describe(self) -> list[Any]:
        """Nothing: registering must not import TensorFlow, which asking for pools does."""
        return []

    def collect(self) -> Iterator[Any]:
        """The metrics as they are now."""
        yield from self._models()
        yield from self._pools()

    def _models(self) -> Iterator[Any]:
        core = self._core
        seen: dict[str, int] = {}
        models = []
        for stats in hot_models():
            count = seen[stats.name] = seen.get(stats.name, 0) + 1
            models.append(([stats.name if count == 1 else f"{stats.name} ({count})"], stats))
        pinned = core.GaugeMetricFamily(
            "tf_model_pool_model_pinned", "1 if reload() pinned a version", labels=["model"]
        )
        seconds = core.SummaryMetricFamily(
            "tf_model_pool_model_load_seconds", "Successful loads, with warm-up", labels=["model"]
        )
        for labels, stats in models:
            pinned.add_metric(labels, int(stats.pinned is not None))
            seconds.add_metric(labels, count_value=stats.loads, sum_value=stats.load_seconds)
        yield from (pinned, seconds)
        for fields, family in (
            (_COUNTERS, core.CounterMetricFamily),
            (_GAUGES, core.GaugeMetricFamily),
        ):
            for field, metric, help_text in fields:
                found = family(f"tf_model_pool_model_{metric}", help_text, labels=["model"])
                for labels, stats in models:
                    value = getattr(stats, field)
                    if value is not None:
                        found.add_metric(labels, value)
                yield found

    def _pools(self) -> Iterator[Any]:
        try:
            pools, totals, loads = api.pools(), api.totals(), api.load_totals()
        except ModelPoolError:
            return
        core = self._core
        yield core.GaugeMetricFamily(
            "tf_model_pool_limit_bytes", "Most that pools may reserve, 0 = any", totals.limit_bytes
        )
        for record, fields in ((totals, _TOTALS), (loads, _LOAD_TOTALS)):
            for field, metric, help_text in fields:
                value = getattr(record, field)
                yield core.CounterMetricFamily(f"tf_model_pool_{metric}", help_text, value)
        restores = core.CounterMetricFamily(
            "tf_model_pool_restores", "Restores of C++ loads, and how", labels=["kind"]
        )
        restores.add_metric(["direct"], loads.direct_restores)
        restores.add_metric(["graph"], loads.graph_restores)
        yield restores
        info = core.GaugeMetricFamily(
            "tf_model_pool_pool_info",
            "1; what the slot holds or held last",
            labels=["model_dir", "slot", "version", "state"],
        )
        for pool in pools:
            info.add_metric([pool.model_dir, pool.slot, pool.version, pool.state], 1)
        yield info
        for field, metric, help_text in _POOL_GAUGES:
            found = core.GaugeMetricFamily(
                f"tf_model_pool_pool_{metric}", help_text, labels=["model_dir", "slot"]
            )
            for pool in pools:
                found.add_metric([pool.model_dir, pool.slot], getattr(pool, field))
            yield found


def register(registry: Any = None) -> Collector:
    """Adds a `Collector` to a registry, prometheus_client's own unless given, and returns it.

    Raises:
        ModelPoolError: `prometheus_client` is not installed.
    """
    collector = Collector()
    if registry is None:
        registry = importlib.import_module("prometheus_client").REGISTRY
    registry.register(collector)
    return collector
