# SPDX-License-Identifier: Apache-2.0
"""What the demonstration makes of its records of requests."""

from __future__ import annotations

import math

import pytest

from tf_model_pool.demo import latencies, update
from tf_model_pool.demo.client import FAILED, RECORD
from tf_model_pool.demo.latencies import Record
from tf_model_pool.demo.requests import read

MS = 1_000_000


def record(
    due_ms: float,
    took_ms: float = 1.0,
    *,
    kind: int = 0,
    before: int = 1,
    after: int = 1,
    answer: bytes | None = b"",
) -> Record:
    due = round(due_ms * MS)
    return Record(due, due + round(took_ms * MS), kind, before, after, answer)


@pytest.mark.parametrize(
    ("quantile", "expected"), [(0.5, 500), (0.99, 990), (0.999, 999), (1.0, 1000)]
)
def test_a_percentile_is_a_latency_that_some_request_had(quantile: float, expected: int) -> None:
    assert latencies.percentile(range(1, 1001), quantile) == expected


def test_of_few_requests_the_worst_is_every_high_percentile() -> None:
    assert latencies.percentile([3.0], 0.5) == 3.0
    assert latencies.percentile([1.0, 2.0], 0.999) == 2.0
    assert math.isnan(latencies.percentile([], 0.5))


def test_a_request_that_touches_an_update_is_one_of_the_update() -> None:
    updates = [(100 * MS, 200 * MS), (300 * MS, 301 * MS)]
    records = [
        record(10, 900),  # due before requests count
        record(50, 2),  # steady
        record(99, 3),  # ends in the first
        record(150, 4),  # within it
        record(199.5, 1.5),  # begins in it
        record(250, 6),  # steady
        record(290, 50),  # longer than the second
    ]
    steady, updating = latencies.split(records, 20 * MS, updates)
    assert steady == [2, 6]
    assert updating == [1.5, 3, 4, 50]


def test_every_request_is_in_the_table() -> None:
    head, warm_up, steady, updating = latencies.table([1.0, 2.0], [3.0], 1234).splitlines()
    assert warm_up.split() == ["warm-up", "1,234", "not", "measured"]
    assert head.split() == ["REQUESTS", "p50", "p99", "p99.9", "worst", "ms"]
    assert steady.split() == ["steady", "2", "1.00", "2.00", "2.00", "2.00"]
    assert updating.split() == ["in", "an", "update", "1", "3.00", "3.00", "3.00", "3.00"]


def test_an_answer_is_right_if_it_is_that_of_a_version_that_served() -> None:
    # GIVEN versions 1, 3, ... answer "a", 2, 4, ... "b"
    expected = [[b"a"], [b"b"]]

    def right(answer: bytes | None, before: int, after: int) -> bool:
        return update.right(record(0, answer=answer, before=before, after=after), expected)

    # THEN
    assert right(b"a", 3, 3)
    assert right(b"b", 4, 4)
    assert right(b"a", 3, 4)
    assert right(b"b", 3, 4)
    assert not right(b"b", 3, 3)
    assert not right(b"a", 4, 4)
    assert not right(b"ab", 3, 4)
    assert not right(None, 3, 3)
    assert not right(b"a", 0, 1)


def test_records_are_read_with_their_answers() -> None:
    written = RECORD.pack(5, 7, 2, 1, 3, 3) + b"abc" + RECORD.pack(6, 9, 0, 1, 1, FAILED)
    assert read(written) == [Record(5, 7, 2, 1, 3, b"abc"), Record(6, 9, 0, 1, 1, None)]
    assert read(b"") == []
