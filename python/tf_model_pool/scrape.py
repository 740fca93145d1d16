# SPDX-License-Identifier: Apache-2.0
"""The pools of another process, read from its metrics in Prometheus' text format.

Understands the names of TensorFlow's exporters (`:tensorflow:core:model_pool:bytes_in_use`, see
tf_allocator/device/metrics.h) and those of `tf_model_pool.prometheus`
(`tf_model_pool_pool_bytes_in_use`). Source of the format: "Exposition formats" in Prometheus'
documentation. Needs the standard library alone, and no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from tf_model_pool.errors import ModelPoolError

#: Where TensorFlow Serving has its metrics, unless its configuration says otherwise.
DEFAULT_PATH = "/monitoring/prometheus/metrics"
TIMEOUT_SECONDS = 10.0

_EXPECTED = (
    "Expected: the --rest_api_port of a TensorFlow Serving that was started with "
    "--monitoring_config_file, or the port of a Python program that serves "
    "tf_model_pool.prometheus"
)

# Serving's whole answer is some hundred KiB.
_MAX_BYTES = 64 << 20

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d\S*)?\s*")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"')
_OURS = re.compile(r".*model_pool[:_](?:pool_)?([a-z_]+?)(?:_total)?")
_ESCAPED = re.compile(r"\\(.)")
_MEANING = {"n": "\n"}

# Metric of a pool -> field.
_POOL_FIELDS = {
    "bytes_in_use": "bytes_in_use",
    "peak_bytes_in_use": "peak_bytes_in_use",
    "bytes_reserved": "bytes_reserved",
    "bytes_fallback": "fallback_bytes",
    "fallback_bytes": "fallback_bytes",
    "tensors": "num_tensors",
}


@dataclasses.dataclass(frozen=True, slots=True)
class ScrapedPool:
    """The fields of `PoolStats` that the metrics have; None for one that was not among them."""

    name: str
    model_dir: str
    version: str
    slot: str
    state: str
    bytes_in_use: int | None = None
    peak_bytes_in_use: int | None = None
    bytes_reserved: int | None = None
    num_tensors: int | None = None
    fallback_bytes: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ScrapedTotals:
    """The fields of `Totals` that the metrics have. Sizes are bytes; None was not among them."""

    bytes_in_use: int
    bytes_reserved: int
    num_pools: int
    limit_bytes: int | None
    num_mappings: int | None
    fallback_loads: int | None
    fallback_bytes: int | None
    trimmed_bytes: int | None
    prepared_bytes: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class ScrapedLoadTotals:
    """The fields of `LoadTotals` that the metrics have; None was not among them."""

    direct_restores: int | None
    graph_restores: int | None
    cold_versions: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Scraped:
    """The pools of another process, as its metrics tell them."""

    pools: list[ScrapedPool]
    totals: ScrapedTotals
    load_totals: ScrapedLoadTotals


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One line of the text format."""

    name: str
    labels: Mapping[str, str]
    value: float


def complete_url(url: str) -> str:
    """The address with the path of TensorFlow Serving's metrics unless it has one.

    Raises:
        ModelPoolError: it is no address of a web server.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise ModelPoolError(f"--url {url}: expected http://HOST:PORT{DEFAULT_PATH} or the like")
    return parts._replace(path=DEFAULT_PATH).geturl() if parts.path in ("", "/") else url


def fetch(url: str, timeout_seconds: float = TIMEOUT_SECONDS) -> str:
    """What the endpoint answers. Asks it itself: proxies of the environment are not used.

    Raises:
        ModelPoolError: it cannot be reached, answers with an error, or too much.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_seconds) as answer:
            body = bytes(answer.read(_MAX_BYTES + 1))
    except urllib.error.HTTPError as error:
        raise ModelPoolError(
            f"{url}: the server answered {error.code} {error.reason}. {_EXPECTED}"
        ) from error
    except urllib.error.URLError as error:
        why = error.reason
        text = why.strerror if isinstance(why, OSError) and why.strerror else str(why)
        raise ModelPoolError(f"{url}: {text}. {_EXPECTED}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        text = str(error) or type(error).__name__
        raise ModelPoolError(f"{url}: {text}") from error
    if len(body) > _MAX_BYTES:
        raise ModelPoolError(f"{url}: the answer is larger than {_MAX_BYTES >> 20} MiB")
    return body.decode("utf-8", errors="replace")


def read(url: str) -> Scraped:
    """The pools of the process behind an endpoint.

    Raises:
        ModelPoolError: as `fetch`, or the answer tells of no model pools.
    """
    text = fetch(url)
    found = parse(text)
    if found.pools:
        return found
    if text.strip() and next(samples(text), None) is None:
        raise ModelPoolError(f"{url}: no Prometheus metrics, but {text.strip()[:40]!r}")
    raise ModelPoolError(
        f"{url}: no model pools among the metrics. They appear with the first load that asks for "
        "a pool; a process without the patched TensorFlow, or with TF_MODEL_POOL=off, has none"
    )


def samples(text: str) -> Iterator[Sample]:
    """The samples of a text; comments, and lines that are none, are left out."""
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line)
        if match is None:
            continue
        name, labels, number = match.groups()
        try:
            value = float(number)
        except ValueError:
            continue
        pairs = _LABEL.findall(labels or "")
        yield Sample(name, {key: _unescape(text) for key, text in pairs}, value)


def _unescape(value: str) -> str:
    return _ESCAPED.sub(lambda match: _MEANING.get(match[1], match[1]), value)


def parse(text: str) -> Scraped:
    """The pools in a text of metrics; no pools where it has none."""
    kinds: dict[tuple[str, str], tuple[str, str]] = {}
    sizes: dict[tuple[str, str], dict[str, int]] = {}
    process: dict[tuple[str, ...], int] = {}
    for sample in samples(text):
        ours = _OURS.fullmatch(sample.name)
        if ours is None or not abs(sample.value) < 2**63:
            continue
        labels = sample.labels
        if "model_dir" not in labels or "slot" not in labels:
            key: tuple[str, ...] = (ours[1], *sorted(labels.values()))
            process[key] = int(sample.value)
            continue
        pool = labels["model_dir"], labels["slot"]
        if ours[1] == "info":
            kinds[pool] = labels.get("version", ""), labels.get("state", "unknown")
        elif ours[1] in _POOL_FIELDS:
            sizes.setdefault(pool, {})[_POOL_FIELDS[ours[1]]] = int(sample.value)
    pools = []
    for pool in sorted(kinds.keys() | sizes.keys()):
        model_dir, slot = pool
        version, state = kinds.get(pool, ("", "unknown"))
        name = PurePosixPath(model_dir).name or model_dir
        name = f"{name}/{version}" if version else name
        pools.append(ScrapedPool(name, model_dir, version, slot, state, **sizes.get(pool, {})))
    totals = ScrapedTotals(
        bytes_in_use=sum(pool.bytes_in_use or 0 for pool in pools),
        bytes_reserved=sum(pool.bytes_reserved or 0 for pool in pools),
        num_pools=len(pools),
        limit_bytes=process.get(("limit_bytes",)),
        num_mappings=process.get(("mappings",)),
        fallback_loads=process.get(("fallback_loads",)),
        fallback_bytes=process.get(("fallback_bytes",)),
        trimmed_bytes=process.get(("trimmed_bytes",)),
        prepared_bytes=process.get(("prepared_bytes",)),
    )
    loads = ScrapedLoadTotals(
        direct_restores=process.get(("restores", "direct")),
        graph_restores=process.get(("restores", "graph")),
        cold_versions=process.get(("cold_versions",)),
    )
    return Scraped(pools, totals, loads)
