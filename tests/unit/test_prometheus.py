# SPDX-License-Identifier: Apache-2.0
"""What Prometheus is told of models and pools."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import prometheus_client
import pytest

from support.hot_models import FakeLoader, write_version
from tf_model_pool import HotModel, api, prometheus, scrape
from tf_model_pool.errors import ModelPoolError, NotActiveError

POOL = api.PoolStats(
    id=1,
    name="ctr/3",
    model_dir="/models/ctr",
    version="3",
    slot="A",
    state="live",
    bytes_in_use=100,
    peak_bytes_in_use=200,
    bytes_reserved=300,
    num_tensors=4,
    largest_free_block=5,
    fallback_bytes=6,
    num_regions=1,
    num_mappings=1,
    num_loads=1,
)
TOTALS = api.Totals(
    bytes_in_use=100,
    bytes_reserved=300,
    limit_bytes=0,
    num_pools=1,
    num_mappings=7,
    fallback_loads=8,
    fallback_bytes=9,
    trimmed_bytes=10,
    prepared_bytes=11,
    last_fallback_reason="",
)
LOADS = api.LoadTotals(
    direct_restores=12, graph_restores=13, cold_versions=14, last_graph_restore_reason=""
)


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools without TensorFlow."""
    monkeypatch.setattr(api, "pools", lambda: [POOL])
    monkeypatch.setattr(api, "totals", lambda: TOTALS)
    monkeypatch.setattr(api, "load_totals", lambda: LOADS)


@pytest.fixture
def no_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[api.PoolStats]:
        raise NotActiveError("no pools")

    monkeypatch.setattr(api, "pools", fail)


@pytest.fixture
def registry() -> prometheus_client.CollectorRegistry:
    found = prometheus_client.CollectorRegistry()
    prometheus.register(found)
    return found


@pytest.fixture
def hot(tmp_path: Path) -> Iterator[HotModel]:
    write_version(tmp_path / "ctr", 3)
    with HotModel(tmp_path / "ctr", name="ctr", poll_seconds=0.01, loader=FakeLoader()) as model:
        model.wait_for(timeout=60)
        yield model


def test_a_model_has_its_version_and_counts(
    no_pools: None, registry: prometheus_client.CollectorRegistry, hot: HotModel
) -> None:
    hot(ids=1)
    with pytest.raises(ZeroDivisionError):
        hot(run=lambda: 1 // 0)

    def value(metric: str) -> float | None:
        return registry.get_sample_value(f"tf_model_pool_model_{metric}", {"model": "ctr"})

    assert value("version") == 3
    assert value("pinned") == 0
    assert value("loads_total") == value("load_seconds_count") == 1
    assert value("load_failures_total") == value("unloads_total") == 0
    assert value("load_seconds_sum") == value("last_load_seconds") == hot.stats().load_seconds
    assert (value("requests_total"), value("request_errors_total")) == (2, 1)
    assert value("cold_requests_total") == 0
    assert value("requests_in_flight") == value("storage_failures_total") == 0
    hot.reload(3, timeout=60)
    assert value("pinned") == 1
    assert (value("newest_version"), value("failed_versions")) == (3, 0)
    # AND no more once it is closed
    hot.close()
    assert value("version") is None


def test_two_models_of_one_name_stay_apart(
    no_pools: None, registry: prometheus_client.CollectorRegistry, hot: HotModel, tmp_path: Path
) -> None:
    with HotModel(tmp_path / "nowhere", name="ctr", loader=FakeLoader()):
        text = prometheus_client.generate_latest(registry).decode()
    assert 'tf_model_pool_model_version{model="ctr"} 3.0' in text
    assert 'tf_model_pool_model_loads_total{model="ctr (2)"} 0.0' in text
    # The second one serves nothing.
    assert 'tf_model_pool_model_version{model="ctr (2)"}' not in text
    assert 'tf_model_pool_model_newest_version{model="ctr (2)"}' not in text


def test_pools_are_told_as_our_own_reader_reads_them(
    pools: None, registry: prometheus_client.CollectorRegistry
) -> None:
    found = scrape.parse(prometheus_client.generate_latest(registry).decode())
    (pool,) = found.pools
    assert (pool.name, pool.slot, pool.state) == ("ctr/3", "A", "live")
    for field in ("bytes_in_use", "peak_bytes_in_use", "bytes_reserved", "num_tensors",
                  "fallback_bytes"):  # fmt: skip
        assert getattr(pool, field) == getattr(POOL, field)
    for field in ("limit_bytes", "num_mappings", "fallback_loads", "fallback_bytes",
                  "trimmed_bytes", "prepared_bytes"):  # fmt: skip
        assert getattr(found.totals, field) == getattr(TOTALS, field)
    for field in ("direct_restores", "graph_restores", "cold_versions"):
        assert getattr(found.load_totals, field) == getattr(LOADS, field)


def test_without_prometheus_client_the_package_to_install_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    with pytest.raises(ModelPoolError, match="pip install prometheus_client"):
        prometheus.Collector()
