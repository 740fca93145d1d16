# SPDX-License-Identifier: Apache-2.0
"""C++ LoadSavedModel in a native program: isolation, swaps under requests."""

from __future__ import annotations

import hashlib
import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.children import Places, ScenarioRunner
from support.isolation import RequestTensor, request_violations, weight_violations
from support.models import BATCH, CATALOGUE, exact_score, request, weights
from support.modes import MODES
from support.native import Report, run_probe
from support.scenario import read_groups

SWAPS = 100
THREADS = 3
REQUESTS = 4
#: Swaps after which memory has to stay as it is.
SETTLED = 2
MODELS = ("ctr", "v1_resource", "v1_partitioned")

IsolationKey = tuple[str, str, int]


@pytest.fixture(scope="module")
def isolation_reports(probe: Path, places: Places) -> dict[IsolationKey, Report]:
    """What `isolate` printed for (mode, model, intra_op_parallelism_threads)."""
    ids = places.models.parent / "request.bin"
    request(0).tofile(ids)
    reports = {}
    for mode in MODES:
        for model in MODELS:
            for intra in (0, 2):
                versions = sorted((places.models / model).iterdir())
                # A model of two versions comes back as the third.
                directories = [*versions, versions[0]][:3]
                reports[mode, model, intra] = run_probe(
                    probe, mode, "isolate", intra, ids, *directories
                )
    return reports


@pytest.fixture(params=[f"{m}-{n}-{i}" for m in MODES for n in MODELS for i in (0, 2)])
def key(request: pytest.FixtureRequest) -> IsolationKey:
    """Allocator mode, model, intra_op_parallelism_threads (0 = unset)."""
    mode, model, intra = str(request.param).split("-")
    return mode, model, int(intra)


@pytest.fixture
def report(key: IsolationKey, isolation_reports: dict[IsolationKey, Report]) -> Report:
    """The program's report for `key`."""
    return isolation_reports[key]


def _pool_name(directory: str) -> str:
    return "/".join(Path(directory).parts[-2:])


def _violations(variables: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with where the weights of versions that are alive together lie."""
    addresses: dict[str, dict[str, int]] = {}
    for line in variables:
        if line["bytes"]:
            addresses.setdefault(_pool_name(line["model"]), {})[line["name"]] = line["address"]
    pool_at = {line["address"]: line["pool"] for line in variables}
    return weight_violations(addresses, pool_at.get)


def _pools(report: Report, when: str) -> dict[str, Mapping[str, Any]]:
    return {pool["name"]: pool for pool in report.state(when)["pools"]}


def test_variables_lie_in_the_pool_of_their_own_version(report: Report) -> None:
    cut = report.lines.index(report.state("third loaded"))
    first_two = Report(report.lines[:cut]).of("variable")
    third = Report(report.lines[cut:]).of("variable")
    second = first_two[len(first_two) // 2 :]
    assert len({line["model"] for line in first_two}) == 2
    assert len({line["model"] for line in second}) == 1
    assert _violations(first_two) == []
    assert _violations([*second, *third]) == []


def test_request_tensors_lie_in_no_pool(report: Report) -> None:
    lines = [*report.of("input"), *report.of("output"), *report.of("intermediate")]
    pool_at = {line["address"]: line["pool"] for line in lines}
    tensors = [
        RequestTensor(line["name"], line["allocator"], line["address"], line["bytes"])
        for line in [*lines, *report.of("allocation")]
    ]
    weights_at = {line["address"] for line in report.of("variable")}
    assert request_violations(tensors, weights_at, pool_at.get) == []
    assert len(report.of("input")) == 3
    assert len(report.of("output")) == 6
    assert report.of("allocation")


def test_unloading_one_version_empties_its_pool_only(report: Report) -> None:
    both, one = _pools(report, "both served"), _pools(report, "first unloaded")
    # Requests leave weights where they are.
    assert both == _pools(report, "both loaded")
    assert {pool["slot"] for pool in both.values()} == {"A", "B"}
    assert {pool["state"] for pool in both.values()} == {"live"}
    (first, second) = sorted(both)
    assert (one[first]["bytes_in_use"], one[first]["state"]) == (0, "standby")
    assert one[second] == both[second]


def test_third_version_takes_the_standby_slot_and_maps_nothing(report: Report) -> None:
    before, after = _pools(report, "first unloaded"), _pools(report, "third loaded")
    mapped = ("slot", "num_regions", "num_mappings", "bytes_reserved")
    assert sorted([pool[name] for name in mapped] for pool in after.values()) == sorted(
        [pool[name] for name in mapped] for pool in before.values()
    )
    assert {pool["state"] for pool in after.values()} == {"live"}


def test_all_pools_drain_at_the_end(report: Report) -> None:
    pools = _pools(report, "all unloaded").values()
    assert {(pool["bytes_in_use"], pool["num_tensors"], pool["state"]) for pool in pools} == {
        (0, 0, "standby")
    }


def test_answers_equal_the_released_tensorflow(
    key: IsolationKey, report: Report, runner: ScenarioRunner
) -> None:
    mode, model, intra = key
    scenarios = read_groups(Path(__file__).parent / "scenarios" / "outputs.py")
    (reference,) = [group for group in scenarios if group.name == "NativeReference"]
    recorded = runner.start(reference, mode, "stock").result()[f"session_answers_intra_{intra}"]
    assert not recorded.message, recorded.message
    lines = report.of("bytes")
    assert len(lines) == 6
    for line in lines:
        digest = hashlib.sha256(bytes.fromhex(line["hex"])).hexdigest()
        version = Path(line["model"]).name
        assert digest == recorded.records[f"{model}/{version}/{line['name']}"][2]


@pytest.fixture(scope="module", params=list(MODES))
def swap_report(request: pytest.FixtureRequest, probe: Path, places: Places) -> Report:
    """What `swap` printed: many swaps while other threads ask."""
    root = places.models.parent
    requests = [_request(index) for index in range(REQUESTS)]
    np.stack(requests).tofile(root / "requests.bin")
    answers = [
        [exact_score(weights(spec, version), ids) for ids in requests]
        for version, spec in enumerate(CATALOGUE["exact"], start=1)
    ]
    np.asarray(answers, dtype=np.float32).tofile(root / "answers.bin")
    return run_probe(
        probe,
        str(request.param),
        "swap",
        SWAPS,
        THREADS,
        root / "requests.bin",
        root / "answers.bin",
        *sorted((places.models / "exact").iterdir()),
    )


def _request(index: int) -> np.ndarray[Any, Any]:
    ids = request(index)
    assert ids.shape[0] == BATCH
    return ids


def test_every_answer_during_swaps_is_right(swap_report: Report) -> None:
    (served,) = swap_report.of("served")
    assert served["wrong"] == 0
    assert served["requests"] >= SWAPS


def test_swaps_map_nothing_after_the_first_two(swap_report: Report) -> None:
    mapped = [
        sorted(
            (pool["slot"], pool["num_regions"], pool["num_mappings"], pool["bytes_reserved"])
            for pool in swap_report.state(f"swap {swap}")["pools"]
        )
        for swap in range(SWAPS)
    ]
    assert [slot for slot, *_ in mapped[SETTLED]] == ["A", "B"]
    assert mapped[SETTLED:] == [mapped[SETTLED]] * (SWAPS - SETTLED)


def test_swaps_fall_back_nowhere(swap_report: Report) -> None:
    pools = [pool for swap in range(SWAPS) for pool in swap_report.state(f"swap {swap}")["pools"]]
    assert {pool["fallback_bytes"] for pool in pools} == {0}


def test_memory_is_flat_after_the_first_two_swaps(swap_report: Report) -> None:
    states = [swap_report.state(f"swap {swap}") for swap in range(SETTLED, SWAPS)]
    # Requests come and go: compare the middles of the first and the last swaps.
    span = len(states) // 4
    first, last = states[:span], states[-span:]
    weight_bytes = sum(array.nbytes for array in weights(CATALOGUE["exact"][0], 1).values())

    def growth(name: str) -> float:
        middle = [statistics.median([float(s[name]) for s in part]) for part in (first, last)]
        return middle[1] - middle[0]

    # What leaks with every swap grows by span times three of it.
    assert growth("resident") < 8 * weight_bytes
    assert growth("maps") < span


def test_pools_drain_after_the_swaps(swap_report: Report) -> None:
    pools = swap_report.state("all unloaded")["pools"]
    assert {(pool["bytes_in_use"], pool["state"]) for pool in pools} == {(0, "standby")}


def test_a_path_that_is_loaded_again_in_place_gets_a_pool_of_its_own(
    probe: Path, places: Places, tmp_path: Path
) -> None:
    # GIVEN one path that is loaded again while it serves, as a `current` symlink is
    request(0).tofile(tmp_path / "request.bin")
    current = tmp_path / "current"
    current.symlink_to(places.models / "ctr" / "1")
    report = run_probe(
        probe, "onednn", "isolate", 0, tmp_path / "request.bin", current, current, current
    )
    # THEN both are alive in a pool each, as large as the other
    both = report.state("both served")["pools"]
    assert sorted(pool["slot"] for pool in both) == ["A", "B"]
    assert {pool["state"] for pool in both} == {"live"}
    assert len({pool["bytes_in_use"] for pool in both}) == 1
    # AND the pool of the one that was dropped is what the third is loaded into
    unloaded = report.state("first unloaded")["pools"]
    assert sorted(pool["state"] for pool in unloaded) == ["live", "standby"]
    third = report.state("third loaded")["pools"]
    assert [pool["num_mappings"] for pool in third] == [pool["num_mappings"] for pool in both]


def test_visitors_of_the_cpu_allocators_see_the_memory_of_pools(
    probe: Path, places: Places
) -> None:
    # GIVEN a program that registered visitors, as drivers that pin host memory do
    report = run_probe(probe, "onednn", "visit", places.models / "ctr" / "1")
    trimmed = report.lines.index(report.state("unloaded"))
    registered = {(line["address"], line["bytes"]) for line in report.of("registered")}
    variables = [line for line in report.of("variable") if line["bytes"]]
    # THEN every variable lies in memory that they were told of
    assert variables
    for line in variables:
        assert any(
            start <= line["address"] and line["address"] + line["bytes"] <= start + size
            for start, size in registered
        ), line["name"]
    # AND the pool's memory is taken back from them before it goes, not earlier
    (pool,) = report.state("unloaded")["pools"]
    given_back = [line for line in report.lines[trimmed:] if line["event"] == "unregistered"]
    assert [line["bytes"] for line in given_back] == [pool["bytes_reserved"]]
    assert {(line["address"], line["bytes"]) for line in given_back} <= registered
    assert not Report(report.lines[:trimmed]).of("unregistered")


METRICS_SETTINGS = {
    "nothing special": {},
    "one slot": {"TF_MODEL_POOL_SLOTS": "1"},
    # Nothing is given back in the background.
    "kept": {"TF_MODEL_POOL_RETAIN": "3600"},
}


@pytest.fixture(scope="module")
def metrics_reports(probe: Path, places: Places) -> dict[str, Report]:
    """What `metrics` printed, by name of settings."""
    versions = sorted((places.models / "ctr").iterdir())
    directories = [*versions, versions[0]][:3]
    return {
        name: run_probe(probe, "onednn", "metrics", *directories, extra=extra)
        for name, extra in METRICS_SETTINGS.items()
    }


STEPS = ("first loaded", "first unloaded", "third loaded", "all unloaded", "trimmed")


def _metric(report: Report, when: str, name: str) -> Mapping[str, Any]:
    (line,) = report.of("metric", when=when, name=name)
    return line


def _points(report: Report, when: str, name: str) -> dict[tuple[str, ...], int]:
    """Label values -> value."""
    points = _metric(report, when, name)["points"]
    return {tuple(point["labels"].values()): point["value"] for point in points}


@pytest.mark.parametrize("settings", METRICS_SETTINGS)
@pytest.mark.parametrize("when", STEPS)
def test_gauges_of_pools_equal_what_is_listed(
    settings: str, when: str, metrics_reports: dict[str, Report]
) -> None:
    report = metrics_reports[settings]
    pools = report.state(when)["pools"]
    assert pools
    for metric, field in (
        ("bytes_in_use", "bytes_in_use"),
        ("bytes_reserved", "bytes_reserved"),
        ("bytes_fallback", "fallback_bytes"),
        ("tensors", "num_tensors"),
    ):
        assert _metric(report, when, metric)["kind"] == "gauge"
        assert _points(report, when, metric) == {
            (pool["model_dir"], pool["slot"]): pool[field] for pool in pools
        }
    assert _points(report, when, "bytes_standby") == {
        (pool["model_dir"], pool["slot"]): (
            pool["bytes_reserved"] if pool["state"] == "standby" else 0
        )
        for pool in pools
    }
    # A version that has left its slot appears nowhere: the next one took its label.
    assert _points(report, when, "info") == {
        (pool["model_dir"], pool["slot"], pool["version"], pool["state"]): 1 for pool in pools
    }


@pytest.mark.parametrize("settings", METRICS_SETTINGS)
@pytest.mark.parametrize("when", STEPS)
def test_counters_of_mappings_equal_the_sums_over_pools(
    settings: str, when: str, metrics_reports: dict[str, Report]
) -> None:
    report = metrics_reports[settings]
    pools = report.state(when)["pools"]
    assert _metric(report, when, "mappings")["kind"] == "counter"
    assert _points(report, when, "mappings") == {(): sum(p["num_mappings"] for p in pools)}
    nanoseconds = sum(pool["prefault_ns"] for pool in pools)
    assert nanoseconds > 0
    assert _points(report, when, "prefault_usecs") == {(): nanoseconds // 1000}


def test_a_swap_counts_as_a_load_into_memory_that_was_there(
    metrics_reports: dict[str, Report],
) -> None:
    report = metrics_reports["nothing special"]
    loads = [_points(report, when, "version_loads") for when in STEPS]
    assert loads == [
        {("new",): 1, ("reused",): 0},
        {("new",): 2, ("reused",): 0},
        *[{("new",): 2, ("reused",): 1}] * 3,
    ]
    # The memory of the third version was mapped and faulted in before it came.
    prefault = [_points(report, when, "prefault_usecs") for when in STEPS]
    assert prefault[1:] == [prefault[1]] * 4


def test_a_version_without_a_slot_counts_as_a_fallback(
    metrics_reports: dict[str, Report],
) -> None:
    report = metrics_reports["one slot"]
    assert _points(report, "first loaded", "fallback_loads") == {(): 0}
    loads = _points(report, "first unloaded", "fallback_loads")[()]
    announced = _points(report, "first unloaded", "fallback_bytes")[()]
    assert loads > 0
    # The second version is as large as the first one, of which the restore's own tensors are gone.
    assert announced >= _points(report, "first loaded", "bytes_in_use").popitem()[1]
    # The third one takes the slot that the first one left.
    assert _points(report, "third loaded", "fallback_loads") == {(): loads}
    assert _points(report, "third loaded", "version_loads") == {("new",): 1, ("reused",): 1}


def test_trimmed_memory_is_counted_and_gone_from_the_gauges(
    metrics_reports: dict[str, Report],
) -> None:
    report = metrics_reports["kept"]
    standby = sum(_points(report, "all unloaded", "bytes_standby").values())
    assert standby > 0
    assert _points(report, "all unloaded", "trimmed_bytes") == {(): 0}
    assert _points(report, "trimmed", "trimmed_bytes") == {(): standby}
    assert set(_points(report, "trimmed", "bytes_reserved").values()) == {0}


def test_restores_are_counted_by_path_and_never_fall(
    metrics_reports: dict[str, Report],
) -> None:
    report = metrics_reports["nothing special"]
    counts = [_points(report, when, "restores") for when in STEPS]
    assert _metric(report, STEPS[0], "restores")["kind"] == "counter"
    for before, after in itertools.pairwise(counts):
        assert set(before) == {("direct",), ("graph",)}
        assert all(after[path] >= before[path] for path in before)


def test_nothing_is_prepared_unless_asked_for(metrics_reports: dict[str, Report]) -> None:
    report = metrics_reports["nothing special"]
    assert [_points(report, when, "prepared_bytes") for when in STEPS] == [{(): 0}] * len(STEPS)


def test_there_are_no_metrics_before_the_first_load_and_none_that_the_header_does_not_name(
    metrics_reports: dict[str, Report], repository: Path
) -> None:
    report = metrics_reports["nothing special"]
    assert not report.of("metric", when="before any load")
    header = (repository / "tf_allocator" / "device" / "metrics.h").read_text(encoding="utf-8")
    described = {
        line.split("|")[1].strip() for line in header.splitlines() if line.startswith("// | ")
    }
    names = {line["name"] for line in report.of("metric", when="trimmed")}
    assert names == {name for name in described if name and not name.startswith("name,")}


def test_asking_whether_pools_are_active_searches_no_symbol_table_again(
    probe: Path, places: Places
) -> None:
    report = run_probe(probe, "onednn", "status", places.models / "exact" / "1")
    (line,) = report.of("status")
    assert line["searches"] == 0
