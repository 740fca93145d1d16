# SPDX-License-Identifier: Apache-2.0
"""Known latencies give known numbers, and a stall is found where it was put."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import fake_driver as fake
from tf_model_pool.bench import analysis, records
from tf_model_pool.bench.errors import ResultError


def analyse(requests: records.Requests, result: dict[str, Any], **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"measure_from_s": 0.0, "checksums": None, **changes}
    return analysis.analyse_run(requests, result, **options)


def with_update(begin_s: float = 10.0, seconds: float = 2.0) -> dict[str, Any]:
    return fake.result(
        updates=[fake.update(begin_s, seconds)], phases=fake.phases(begin_s, seconds)
    )


# ---- percentiles ----


def test_percentiles_of_known_latencies_are_exact() -> None:
    # GIVEN 1 .. 10,000 ms in random order
    values = np.random.default_rng(1).permutation(np.arange(1, 10_001)).astype(np.float64)
    # THEN each percentile is the value at its rank
    assert analysis.percentiles(values) == {
        "p50": 5000,
        "p80": 8000,
        "p90": 9000,
        "p99": 9900,
        "p99.9": 9990,
        "max": 10000,
    }


@pytest.mark.parametrize("count", [1, 2, 3, 999, 1000, 1001])
def test_a_percentile_is_the_smallest_value_that_covers_its_share(count: int) -> None:
    values = np.sort(np.random.default_rng(count).random(count))
    for quantile in analysis.PERCENTILES.values():
        found = analysis.percentile(values, quantile)
        assert np.mean(values <= found) >= quantile - 1e-12
        below = values[values < found]
        assert below.size == 0 or np.mean(values <= below.max()) < quantile


def test_no_requests_have_no_percentiles() -> None:
    assert set(analysis.percentiles(np.zeros(0)).values()) == {None}


def test_a_percentile_needs_as_many_requests_as_it_takes_to_exceed_it() -> None:
    assert not analysis.supported("p99.9", 900)
    assert analysis.supported("p99.9", 1000)
    assert analysis.supported("max", 1)


def test_latency_counts_from_the_intended_time() -> None:
    found = fake.requests([1.0], [30.0], queued_ms=[25.0])
    assert analysis.latencies_ms(found).tolist() == [30.0]


def test_a_stall_shows_in_every_request_that_was_due_in_it() -> None:
    # GIVEN 100 requests/s of 1 ms each, and a server that answers nothing from second 5 to 6
    due = np.arange(0, 20, 0.01)
    stalled = (due >= 5) & (due < 6)
    latency = np.where(stalled, (6 - due) * 1000 + 1, 1.0)
    found = analyse(fake.requests(due, latency), fake.result())["windows"]["steady"]
    # THEN the stall is in 5 % of the requests, and not in one only
    assert found["count"] == 2000
    assert found["p90"] == 1.0
    assert found["p99"] == pytest.approx(801, abs=10)
    assert found["max"] == pytest.approx(1001, abs=10)
    # AND an analysis from the moment of sending would have hidden it (the server took 1 ms each)
    closed_loop = np.full(due.size - int(stalled.sum()) + 1, 1.0)
    closed_loop[0] = 1001
    assert analysis.percentiles(closed_loop)["p99"] == 1.0


# ---- windows and ratios ----


def test_requests_belong_to_the_window_in_which_they_were_due() -> None:
    # GIVEN an update from 10 to 12 s and controls of 2 s from 20 and 30 s, all in a second of guard
    result = with_update()
    result["burns"] = [
        {"kind": "burn_cpu", "begin_ns": 20 * 10**9, "end_ns": 22 * 10**9},
        {"kind": "burn_stream", "begin_ns": 30 * 10**9, "end_ns": 32 * 10**9},
    ]
    due = np.arange(0, 40, 0.1) + 0.05
    latency = np.full(due.shape, 1.0)
    for begin, value in ((10, 5.0), (20, 2.0), (30, 3.0)):
        latency[(due >= begin) & (due < begin + 2)] = value
    found = analyse(fake.requests(due, latency), result)
    # THEN each window has its own latencies, and steady none of the others'
    assert {n: found["windows"][n]["p50"] for n in analysis.WINDOWS} == {
        "steady": 1.0,
        "update": 5.0,
        "burn_cpu": 2.0,
        "burn_stream": 3.0,
    }
    assert found["windows"]["steady"]["max"] == 1.0
    assert found["ratios"]["steady"]["p50"] == 5.0
    # AND the control of the ratio is the worse one
    assert found["ratios"]["control"]["p50"] == pytest.approx(5 / 3)


def test_nothing_before_measuring_begins_counts() -> None:
    due = np.arange(0, 10, 0.1)
    found = analyse(
        fake.requests(due, np.where(due < 5, 1000.0, 1.0)), fake.result(), measure_from_s=5.0
    )
    assert found["windows"]["steady"]["max"] == 1.0


def test_a_neighbour_is_reported_apart() -> None:
    due = np.arange(0, 20, 0.01)
    model = np.arange(due.size) % 2
    latency = np.where((due >= 10) & (due < 12), np.where(model == 0, 50.0, 4.0), 1.0)
    found = analyse(fake.requests(due, latency, model=model), with_update())["windows"]
    assert found["update"]["max"] == 50.0
    assert found["neighbour_update"]["max"] == 4.0


# ---- attribution ----


@pytest.mark.parametrize("phase", ["import", "restore", "init", "warm_up", "unload"])
def test_a_stall_of_50_ms_is_attributed_to_its_phase(phase: str) -> None:
    # GIVEN an update, and a stall of 50 ms in the middle of one of its phases
    result = with_update()
    span = next(p for p in result["phases"] if p["phase"] == phase)
    middle = (span["begin_ns"] + span["end_ns"]) / 2e9
    due = np.arange(0, 20, 0.004)
    stalled = (due >= middle - 0.025) & (due < middle + 0.025)
    latency = np.where(stalled, (middle + 0.025 - due) * 1000 + 2, 2.0)
    # WHEN the stalled requests waited for a request thread
    found = analyse(
        fake.requests(due, latency, queued_ms=np.where(stalled, latency - 2, 0)), result
    )["slow"]["update"]
    # THEN all the time lost is that phase's, and all of it is queueing
    assert found["requests"] > 5
    by_phase = found["by_phase"]
    assert by_phase[phase]["excess_ms"] == pytest.approx(found["excess_ms"])
    assert sum(p["requests"] for p in by_phase.values()) == by_phase[phase]["requests"]
    assert by_phase[phase]["queued_ms"] == pytest.approx(found["excess_ms"], rel=0.1)


def test_waiting_for_a_cpu_is_told_from_slower_execution() -> None:
    due = np.arange(0, 20, 0.01)
    update = (due >= 10) & (due < 12)
    latency = np.where(update, 32.0, 2.0)
    found = analyse(
        fake.requests(due, latency, runqueue_ms=np.where(update, 10.0, 0.0)),
        with_update(),
        slow_ms=20.0,
    )["slow"]["update"]
    assert found["requests"] == 200
    assert found["excess_ms"] == pytest.approx(200 * 30)
    assert found["runqueue_ms"] == pytest.approx(200 * 10)
    assert found["other_ms"] == pytest.approx(200 * 20)


def test_a_slow_request_outside_of_everything_has_no_phase() -> None:
    due = np.arange(0, 20, 0.01)
    latency = np.where(np.arange(due.size) == 100, 500.0, 2.0)
    found = analyse(fake.requests(due, latency), with_update())["slow"]["steady"]
    assert found["by_phase"]["none"]["requests"] == found["requests"] == 1


# ---- answers, drift, series ----


def test_wrong_and_lost_answers_are_counted() -> None:
    # GIVEN two versions with two answers each
    checksums = [[[[1.0, 1.0], [2.0, 2.0]], [[30.0, 30.0], [40.0, 40.0]]]]
    good = fake.requests([0, 1, 2, 3], 1.0, checksum=[1, 2, 30, 40], version=[0, 0, 1, 1])
    assert analysis.check_answers(good, fake.result(), checksums)["wrong"] == 0
    # WHEN one is none of its version's, one failed, one was dropped
    bad = fake.requests(
        [0, 1, 2, 3],
        1.0,
        # The second is right, but of the other version.
        checksum=[1, 40, 30, 0],
        version=[0, 0, 1, -1],
        status=[0, 0, 0, 5],
    )
    found = analysis.check_answers(bad, fake.result(dropped=1), checksums)
    # THEN each is counted as what it is
    assert (found["wrong"], found["failed"], found["dropped"]) == (1, 1, 1)


def test_answers_without_expected_values_are_not_called_right() -> None:
    found = analysis.check_answers(fake.requests([0, 1], 1.0), fake.result(), [[[None]]])
    assert (found["wrong"], found["unchecked"]) == (0, 2)


def test_growing_memory_is_drift_and_steady_memory_is_not() -> None:
    steady = [fake.update(i, 0.5) for i in range(200)]
    growing = [fake.update(i, 0.5, rss_after=10**9 + i * 10**6) for i in range(200)]
    level, grown = analysis.drift(steady), analysis.drift(growing)
    assert level is not None
    assert level["rss_share"] == 0
    assert grown is not None
    assert grown["rss_bytes_per_update"] == pytest.approx(10**6, rel=0.01)


def test_the_series_has_the_percentiles_of_each_interval() -> None:
    due = np.arange(0, 4, 0.01)
    found = analysis.series(fake.requests(due, np.floor(due) + 1), 1.0)
    assert found["time_s"] == [0.5, 1.5, 2.5, 3.5]
    assert found["p50"] == found["max"] == [1.0, 2.0, 3.0, 4.0]
    assert found["count"] == [100] * 4


# ---- the driver's files ----


def test_records_survive_the_file(tmp_path: Path) -> None:
    file = tmp_path / "requests.bin"
    fake.requests([2.0, 1.0], [5.0, 6.0]).tofile(file)
    # THEN they come back in order of intended time
    assert records.latencies_ms(records.read_requests(file)).tolist() == [6.0, 5.0]


def test_a_record_has_the_size_that_the_driver_writes() -> None:
    assert records.REQUEST.itemsize == 64


def test_a_cut_off_record_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "requests.bin"
    file.write_bytes(fake.requests([1.0, 2.0], 1.0).tobytes()[:-3])
    with pytest.raises(ResultError, match=r"125 bytes, not a multiple .* 64"):
        records.read_requests(file)


def test_records_that_end_before_they_start_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "requests.bin"
    fake.requests([1.0], [5.0], queued_ms=[9.0]).tofile(file)
    with pytest.raises(ResultError, match="1 records end before they start"):
        records.read_requests(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ("[]", "holds a list"),
        ('{"schema": "other/1"}', "schema is 'other/1', expected 'tf_model_pool.bench.result/1'"),
        ('{"schema": "tf_model_pool.bench.result/1", "config": 3}', "field 'config' is int"),
    ],
)
def test_a_bad_driver_result_is_a_clear_error(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "result.json"
    file.write_text(content)
    with pytest.raises(ResultError, match=message):
        records.read_result(file)


def test_a_missing_driver_result_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"nothing\.json does not exist"):
        records.read_result(tmp_path / "nothing.json")
