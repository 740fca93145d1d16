# SPDX-License-Identifier: Apache-2.0
"""The checkers of the integration tests reject what they must reject."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.children import (
    Places,
    ScenarioRunner,
    record_differences,
    run_to_end,
)
from support.isolation import LARGE_BYTES, RequestTensor, request_violations, weight_violations
from support.measure import mappings
from support.models import CATALOGUE, exact_score, request, weights
from support.scenario import read_groups

WEIGHTS = {"ctr/1": {"user": 0x1000, "item": 0x2000}, "ctr/2": {"user": 0x5000, "item": 0x6000}}
POOLS = {0x1000: "ctr/1", 0x2000: "ctr/1", 0x5000: "ctr/2", 0x6000: "ctr/2"}
LARGE = RequestTensor("gather", "mklcpu", 0x9000, LARGE_BYTES)

SCENARIO = """
import os

class Mixed:
    SETTINGS = ("GREETING=hello",)
    MODES = ("system",)

    def __init__(self, context):
        self.context = context

    def passes(self):
        assert os.environ["GREETING"] == "hello"
        assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "0"
        self.context.record("value", 1)

    def fails(self):
        assert 1 + 1 == 3

    def _not_a_check(self):
        raise AssertionError

    def crashes(self):
        os.abort()

    def comes_after_a_crash(self):
        pass


class FailsAtExit:
    MODES = ("system",)

    def __init__(self, context):
        import atexit
        atexit.register(os._exit, 7)

    def passes(self):
        pass
"""


def _pool_of(address: int) -> str | None:
    return POOLS.get(address)


def test_weights_in_their_own_pools_are_no_violation() -> None:
    assert weight_violations(WEIGHTS, _pool_of) == []


def test_weights_in_no_pool_are_violations() -> None:
    assert len(weight_violations(WEIGHTS, lambda _: None)) == 4


def test_weights_in_the_other_version_s_pool_are_violations() -> None:
    swapped = {"ctr/1": WEIGHTS["ctr/2"], "ctr/2": WEIGHTS["ctr/1"]}
    assert "user at 0x5000 lies in ctr/2" in " ".join(weight_violations(swapped, _pool_of))


def test_a_version_inside_the_other_is_a_violation() -> None:
    inside = {"ctr/1": {"user": 0x1000, "item": 0x9000}, "ctr/2": {"user": 0x5000}}
    pools = {0x1000: "ctr/1", 0x9000: "ctr/1", 0x5000: "ctr/2"}
    assert weight_violations(inside, pools.get) == ["ctr/1 and ctr/2 overlap"]


def test_a_version_without_weights_is_a_violation() -> None:
    assert weight_violations({"ctr/1": {}}, _pool_of) == ["ctr/1: no variables"]


def test_request_tensors_outside_of_pools_are_no_violation() -> None:
    reads = RequestTensor("read", "model_pool:ctr/1", 0x1000)
    assert request_violations([LARGE, reads], {0x1000}, _pool_of) == []


def test_a_request_tensor_in_a_pool_is_a_violation() -> None:
    inside = RequestTensor("matmul", "", 0x2000)
    assert request_violations([LARGE, inside], {0x1000}, _pool_of) == [
        "matmul at 0x2000 lies in ctr/1"
    ]


def test_a_request_tensor_of_a_pool_s_allocator_is_a_violation() -> None:
    inside = RequestTensor("matmul", "model_pool:ctr/1", 0)
    assert request_violations([LARGE, inside], (), _pool_of) == [
        "matmul was allocated by model_pool:ctr/1"
    ]


def test_a_request_without_large_tensors_is_a_violation() -> None:
    assert request_violations([], (), _pool_of) == ["no large tensor among the request's tensors"]


def test_records_that_differ_are_named() -> None:
    assert record_differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 5, "d": 4}) == [
        "b: 2 became 5",
        "c: only in the first",
        "d: only in the second",
    ]


def test_records_that_agree_have_no_differences() -> None:
    assert record_differences({"a": [1, "x"]}, {"a": [1, "x"]}) == []


def test_exact_models_tell_versions_apart() -> None:
    specs = CATALOGUE["exact"]
    answers = {
        exact_score(weights(spec, version), request(0)).tobytes()
        for version, spec in enumerate(specs, start=1)
    }
    assert len(answers) == len(specs)


def test_mappings_hold_an_object_s_address() -> None:
    assert sum(mapping.holds(id(SCENARIO)) for mapping in mappings()) == 1
    assert not any(mapping.holds(0) for mapping in mappings())


def test_a_program_that_fails_is_an_error_with_its_output() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)exit status 3.*told you"):
        run_to_end(
            [sys.executable, "-c", "import sys; print('told you', file=sys.stderr); sys.exit(3)"],
            {},
        )


@pytest.fixture
def scenario_file(tmp_path: Path) -> Path:
    """A scenario that needs no TensorFlow."""
    file = tmp_path / "sample.py"
    file.write_text(SCENARIO, encoding="utf-8")
    return file


@pytest.fixture
def sample_runner(tmp_path: Path) -> ScenarioRunner:
    """A runner with no models."""
    places = Places(tmp_path, tmp_path, tmp_path / "children", {"patched": Path(sys.executable)})
    return ScenarioRunner(places, workers=1)


def test_groups_are_read_from_source(scenario_file: Path) -> None:
    (mixed, _) = read_groups(scenario_file)
    assert mixed.checks == ("passes", "fails", "crashes", "comes_after_a_crash")
    assert (mixed.modes, mixed.pythons) == (("system",), ("patched",))


def test_an_unknown_constant_of_a_scenario_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "misspelt.py"
    file.write_text("class Group:\n    MODE = ('system',)\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"Group\.MODE"):
        read_groups(file)


def test_failures_and_crashes_of_checks_are_reported(
    scenario_file: Path, sample_runner: ScenarioRunner
) -> None:
    results = sample_runner.start(read_groups(scenario_file)[0], "system", "patched").result()
    assert results["passes"].message == ""
    assert results["passes"].records == {"value": 1}
    assert "assert 1 + 1 == 3" in results["fails"].message
    assert "the process ended in this check" in results["crashes"].message
    assert "killed by SIGABRT" in results["crashes"].message
    assert "did not run" in results["comes_after_a_crash"].message


def test_a_process_that_fails_at_its_end_fails_its_checks(
    scenario_file: Path, sample_runner: ScenarioRunner
) -> None:
    results = sample_runner.start(read_groups(scenario_file)[1], "system", "patched").result()
    assert "exit status 7" in results["passes"].message
