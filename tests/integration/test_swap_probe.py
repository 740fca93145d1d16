# SPDX-License-Identifier: Apache-2.0
"""C++ LoadSavedModel in a native program: isolation, swaps under requests."""

from __future__ import annotations

import hashlib
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
