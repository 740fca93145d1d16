# SPDX-License-Identifier: Apache-2.0
"""Weights that are constants of the graph, loaded with C++ LoadSavedModel."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.children import Places, ScenarioRunner
from support.isolation import weight_violations
from support.models import HIDDEN, V1_DIM, V1_ROWS, request
from support.modes import MODES
from support.native import Report, run_probe
from support.scenario import read_groups

#: Model -> how many of its versions there are.
MODELS = {"v1_frozen": 3, "v1_constants": 2}
#: A table, which is a constant, and a kernel: a constant that grappler folded, or a variable.
WEIGHT_BYTES = 4 * (V1_ROWS * V1_DIM + V1_DIM * HIDDEN)

Key = tuple[str, str]


def _run(probe: Path, places: Places, mode: str, model: str, extra: Mapping[str, str]) -> Report:
    ids = places.models.parent / "constants_request.bin"
    request(0).tofile(ids)
    versions = sorted((places.models / model).iterdir())
    # A model of two versions comes back as the third.
    directories = [*versions, versions[0]][:3]
    return run_probe(probe, mode, "constants", ids, *directories, extra=extra)


@pytest.fixture(scope="module")
def reports(probe: Path, places: Places) -> dict[Key, Report]:
    """What `constants` printed for (mode, model)."""
    return {(m, n): _run(probe, places, m, n, {}) for m in MODES for n in MODELS}


@pytest.fixture(params=[f"{mode}-{model}" for mode in MODES for model in MODELS])
def key(request: pytest.FixtureRequest) -> Key:
    """Allocator mode, model."""
    mode, model = str(request.param).split("-")
    return mode, model


@pytest.fixture
def report(key: Key, reports: dict[Key, Report]) -> Report:
    """The program's report for `key`."""
    return reports[key]


def _pools(report: Report, when: str) -> dict[str, Mapping[str, Any]]:
    return {pool["name"]: pool for pool in report.state(when)["pools"]}


def test_a_served_version_has_all_its_weights_in_its_pool_and_nothing_else(
    key: Key, report: Report
) -> None:
    pools = _pools(report, "both served")
    assert sorted(pools) == [f"{key[1]}/1", f"{key[1]}/2"]
    for pool in pools.values():
        assert (pool["bytes_in_use"], pool["num_tensors"]) == (WEIGHT_BYTES, 2)
        assert (pool["state"], pool["fallback_bytes"]) == ("live", 0)
    assert {pool["slot"] for pool in pools.values()} == {"A", "B"}


def test_room_for_the_constants_of_a_graph_is_made_at_once(report: Report) -> None:
    for pool in _pools(report, "both served").values():
        assert pool["num_mappings"] == 1


def test_constants_lie_in_the_pool_of_their_own_version(key: Key, report: Report) -> None:
    addresses: dict[str, dict[str, int]] = {}
    for line in report.of("constant"):
        name = "/".join(Path(line["model"]).parts[-2:])
        addresses.setdefault(name, {})[line["name"]] = line["address"]
    pool_at = {line["address"]: line["pool"] for line in report.of("constant")}
    assert len(addresses) == 2
    assert weight_violations(addresses, pool_at.get) == []


def test_answers_lie_in_no_pool(report: Report) -> None:
    assert [line["pool"] for line in report.of("output")] == ["", "", ""]


def test_unloading_one_version_empties_its_pool_only(key: Key, report: Report) -> None:
    both, one = _pools(report, "both served"), _pools(report, "first unloaded")
    first, second = f"{key[1]}/1", f"{key[1]}/2"
    assert (one[first]["bytes_in_use"], one[first]["state"]) == (0, "standby")
    assert one[second] == both[second]


def test_third_version_takes_the_standby_slot_and_maps_nothing(report: Report) -> None:
    before, after = _pools(report, "first unloaded"), _pools(report, "third served")
    mapped = ("slot", "num_regions", "num_mappings", "bytes_reserved")
    assert sorted([pool[name] for name in mapped] for pool in after.values()) == sorted(
        [pool[name] for name in mapped] for pool in before.values()
    )
    assert {pool["bytes_in_use"] for pool in after.values()} == {WEIGHT_BYTES}


def test_a_constant_that_outlives_its_session_keeps_its_pool(report: Report) -> None:
    kept = _pools(report, "one tensor kept").values()
    assert sorted((pool["num_tensors"], pool["state"]) for pool in kept) == [
        (0, "standby"),
        (1, "live"),
    ]
    done = _pools(report, "all unloaded").values()
    assert {(pool["bytes_in_use"], pool["state"]) for pool in done} == {(0, "standby")}


def _check_answers(report: Report, mode: str, model: str, runner: ScenarioRunner) -> None:
    scenarios = read_groups(Path(__file__).parent / "scenarios" / "outputs.py")
    (reference,) = [group for group in scenarios if group.name == "NativeReference"]
    recorded = runner.start(reference, mode, "stock").result()["session_answers_intra_0"]
    assert not recorded.message, recorded.message
    lines = report.of("bytes")
    assert len(lines) == 3
    for line in lines:
        digest = hashlib.sha256(bytes.fromhex(line["hex"])).hexdigest()
        assert digest == recorded.records[f"{model}/{Path(line['model']).name}/score"][2]


def test_answers_equal_the_released_tensorflow(
    key: Key, report: Report, runner: ScenarioRunner
) -> None:
    _check_answers(report, *key, runner)


def test_with_pools_off_constants_are_tensorflows(
    probe: Path, places: Places, runner: ScenarioRunner
) -> None:
    report = _run(probe, places, "onednn", "v1_frozen", {"TF_MODEL_POOL": "off"})
    assert {line["pool"] for line in report.of("constant")} == {""}
    assert _pools(report, "both served") == {}
    _check_answers(report, "onednn", "v1_frozen", runner)


def test_constants_that_get_no_pool_lie_in_the_device_s_own_allocator(
    probe: Path, places: Places, runner: ScenarioRunner
) -> None:
    # GIVEN room for one version
    extra = {"TF_MODEL_POOL_LIMIT_MB": "2"}
    report = _run(probe, places, "onednn", "v1_frozen", extra)
    # THEN the other serves without
    pools = _pools(report, "both served")
    assert {pool["name"]: pool["bytes_in_use"] for pool in pools.values()} == {
        "v1_frozen/1": WEIGHT_BYTES
    }
    _check_answers(report, "onednn", "v1_frozen", runner)
