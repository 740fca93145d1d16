# SPDX-License-Identifier: Apache-2.0
"""Whether the pools of a running server do their work, by its metrics: `doctor --url`.

A smoke test after a deployment: the server has to have loaded a model. Needs no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import json

from tf_model_pool.scrape import Scraped

SCHEMA = "tf_model_pool.server_check/1"


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to be so, and what was found."""

    passed: bool
    text: str


def check(scraped: Scraped) -> list[Check]:
    """What the metrics say; healthy if all passed. A metric that is missing did not pass."""
    live = [pool for pool in scraped.pools if pool.state == "live"]
    empty = [pool.name for pool in live if not pool.bytes_in_use]
    totals = scraped.totals
    checks = [
        Check(bool(live), f"live pools: {', '.join(pool.name for pool in live) or 'none'}"),
        Check(not empty, f"live pools without a tensor: {', '.join(empty) or 'none'}"),
        _none(totals.fallback_loads, "loads that got no pool"),
        _none(totals.fallback_bytes, "bytes of variables outside the pools"),
    ]
    if totals.limit_bytes:
        checks.append(
            Check(
                totals.bytes_reserved <= 0.9 * totals.limit_bytes,
                f"reserved of the limit: {100 * totals.bytes_reserved / totals.limit_bytes:.0f} % "
                "(at most 90 %)",
            )
        )
    return checks


def _none(count: int | None, what: str) -> Check:
    return Check(count == 0, f"{what}: {'not among the metrics' if count is None else count}")


def render(checks: list[Check]) -> str:
    """A line for each."""
    return "\n".join(f"{'ok  ' if one.passed else 'FAIL'}  {one.text}" for one in checks)


def to_json(checks: list[Check], url: str) -> str:
    """Versioned JSON; fields may be added under the same schema."""
    fields = {
        "schema": SCHEMA,
        "url": url,
        "healthy": all(one.passed for one in checks),
        "checks": [dataclasses.asdict(one) for one in checks],
    }
    return json.dumps(fields, indent=2)
