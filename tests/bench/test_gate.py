# SPDX-License-Identifier: Apache-2.0
"""The gate passes a good result and fails on each thing that it guards."""

from __future__ import annotations

import argparse
import copy
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.bench_runs import Bench
from tf_model_pool.bench import command, gate, machine
from tf_model_pool.bench.config import Timing
from tf_model_pool.bench.errors import ResultError
from tf_model_pool.bench.result import Result
from tf_model_pool.bench.run import summarise

OURS = "made-up/repeated/patched"
STOCK = "made-up/repeated/stock"


def findings(
    result: dict[str, Any], baseline: dict[str, Any] | None = None, **limits: Any
) -> list[gate.Finding]:
    before = None if baseline is None else Result.parse(baseline)
    return gate.check(Result.parse(result), before, gate.Limits(**limits))


def failures(
    result: dict[str, Any], baseline: dict[str, Any] | None = None, **limits: Any
) -> set[tuple[str, str]]:
    return {(f.cell, f.what) for f in findings(result, baseline, **limits) if f.fails}


def changed(result: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """A copy whose summary of our configuration went through `change`."""
    found = copy.deepcopy(result)
    change(found["summary"]["cells"][OURS])
    return found


def once(value: float) -> dict[str, float]:
    return {"median": value, "min": value, "max": value, "rounds": 2}


def drift(share: float) -> dict[str, float]:
    return {
        "updates": 200,
        "rss_first_half": 1e9,
        "rss_last_half": 1e9 * (1 + share),
        "rss_share": share,
        "faults_first_half": 10,
        "faults_last_half": 10,
    }


def test_a_good_result_passes(result: dict[str, Any]) -> None:
    assert failures(result) == set()
    assert failures(result, baseline=result) == set()


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("answers", lambda c: c["answers"].update(wrong=1)),
        ("lost", lambda c: c["answers"].update(dropped=1)),
        ("lost", lambda c: c["answers"].update(failed=1)),
        ("errors", lambda c: c.update(errors=["load failed"])),
        ("pools", lambda c: c.update(pools_active=False)),
        ("faults", lambda c: c["per_update"].update(minor_faults=once(50_000))),
        ("mappings", lambda c: c["per_update"].update(pool_mappings_delta=once(3))),
        ("drift", lambda c: c.update(drift=drift(0.2))),
        ("drift", lambda c: c.update(drift=None)),
        ("rounds", lambda c: c.update(rounds=0)),
    ],
)
def test_each_regression_fails(
    result: dict[str, Any], what: str, change: Callable[[dict[str, Any]], object]
) -> None:
    assert failures(changed(result, change)) == {(OURS, what)}


def test_more_faults_than_the_baseline_fail(result: dict[str, Any]) -> None:
    worse = changed(result, lambda c: c["per_update"].update(minor_faults=once(2000)))
    assert failures(worse) == set()  # still far below stock
    assert failures(worse, baseline=result) == {(OURS, "faults")}
    assert failures(result, max_faults=100) == {(OURS, "faults")}


def renamed(result: dict[str, Any], label: str) -> dict[str, Any]:
    """A copy whose model is called `label`."""
    found = copy.deepcopy(result)
    for part in (found["summary"], found):
        for field in ("cells", "compared", "calibration", "models", "calls"):
            if field in part:
                part[field] = {
                    key.replace("made-up/", f"{label}/"): value
                    for key, value in part[field].items()
                }
    for run in found["runs"]:
        run["cell"] = run["cell"].replace("made-up/", f"{label}/")
    return found


def test_the_stock_wheel_is_not_held_against_the_baseline(result: dict[str, Any]) -> None:
    # GIVEN a stock wheel whose faults and calls are its own: medians from 4 to 1,114 on one model
    before, after = copy.deepcopy(result), copy.deepcopy(result)
    for found, faults, calls in ((before, 4, 10), (after, 1114, 1000)):
        found["summary"]["cells"][STOCK]["per_update"]["minor_faults"] = once(faults)
        found["calls"] = {STOCK: {"mmap": calls}}
    assert failures(after, baseline=before) == set()


def test_a_cell_that_the_baseline_lacks_is_compared_with_the_stock_wheel(
    result: dict[str, Any],
) -> None:
    worse = changed(result, lambda c: c["per_update"].update(minor_faults=once(1e7)))
    # GIVEN a baseline without this cell, or without a valid run of it
    lacking, invalid = copy.deepcopy(result), changed(result, lambda c: c.update(rounds=0))
    del lacking["summary"]["cells"][OURS]
    for before in (lacking, invalid):
        assert failures(result, baseline=before) == set()
        assert failures(worse, baseline=before) == {(OURS, "faults")}


def test_a_cell_with_pools_that_only_the_baseline_has_fails(result: dict[str, Any]) -> None:
    without = copy.deepcopy(result)
    del without["summary"]["cells"][OURS]
    assert failures(without, baseline=result) == {(OURS, "missing")}
    # What has no pools may come and go.
    del (fewer := copy.deepcopy(result))["summary"]["cells"][STOCK]
    assert failures(fewer, baseline=result) == set()


def test_a_baseline_of_nothing_that_was_measured_fails(result: dict[str, Any]) -> None:
    other = renamed(result, "other")
    assert failures(other) == set()
    missing = {(OURS, "missing"), ("result", "baseline")}
    assert failures(other, baseline=result) == missing
    del (stock := copy.deepcopy(result))["summary"]["cells"][OURS]
    assert failures(other, baseline=stock) == {("result", "baseline")}


def test_the_heap_of_a_load_may_grow_and_shrink(result: dict[str, Any]) -> None:
    before = changed(result, lambda c: c["per_update"].update(minor_faults=once(14)))
    for faults, found in ((900, set()), (1100, {(OURS, "faults")})):
        after = changed(result, lambda c, n=faults: c["per_update"].update(minor_faults=once(n)))
        assert failures(after, baseline=before) == found


def mapping(result: dict[str, Any], *mappings: int) -> dict[str, Any]:
    """A copy whose updates of our configuration made so many new mappings, in turn."""
    found = copy.deepcopy(result)
    turn = itertools.cycle(mappings)
    for run in found["runs"]:
        if run["cell"] == OURS:
            for update in run["analysis"]["updates"]:
                update["pool_mappings_delta"] = 0 if update["settling"] else next(turn)
    found["summary"] = summarise(found)
    return found


def test_new_mappings_in_one_update_of_three_fail(result: dict[str, Any]) -> None:
    assert failures(mapping(result, 0, 0, 0)) == set()
    assert failures(mapping(result, 0, 5, 0)) == {(OURS, "mappings")}
    assert failures(mapping(result, 0, 1, 0)) == {(OURS, "mappings")}


def test_a_larger_version_may_map_once_more(result: dict[str, Any]) -> None:
    # GIVEN two versions in turn, and memory on standby that the larger one left, cut to the smaller
    sizes = {"median": 2e8, "min": 1e8, "max": 3e8, "rounds": 8}
    for mappings, found in ((1, set()), (2, {(OURS, "mappings")})):
        turns = mapping(result, 0, mappings)
        turns["summary"]["cells"][OURS]["per_update"]["pool_bytes"] = sizes
        assert failures(turns) == found


def test_the_first_update_maps_and_is_not_judged(tmp_path: Path, bench: Bench) -> None:
    timing = Timing(update=1.0, cycles=4, settle=0)
    found = bench(tmp_path, ("patched",), rounds=1, timing=timing).result
    found["runs"][0]["analysis"]["updates"][0]["pool_mappings_delta"] = 1
    found["summary"] = summarise(found)
    assert failures(found) == set()


def test_mappings_that_were_not_counted_fail(result: dict[str, Any]) -> None:
    found = changed(result, lambda c: c["per_update"].update(pool_mappings_delta=None))
    assert failures(found) == {(OURS, "mappings")}


def test_two_models_updated_at_once_may_map_one_range_anew(result: dict[str, Any]) -> None:
    for mappings, fails in ((1, False), (2, True)):
        both = mapping(result, 0, mappings, 0)
        both["summary"]["cells"] = {
            cell.replace("/repeated/", "/two-at-once/"): summary
            for cell, summary in both["summary"]["cells"].items()
        }
        cell = OURS.replace("/repeated/", "/two-at-once/")
        assert ((cell, "mappings") in failures(both)) is fails


def test_more_mapping_calls_than_the_baseline_fail(result: dict[str, Any]) -> None:
    before = {**result, "calls": {OURS: {"mmap": 10, "munmap": 10}}}
    after = {**result, "calls": {OURS: {"mmap": 100, "munmap": 100}}}
    assert failures(after) == set()
    assert failures(before, baseline=before) == set()
    assert failures(after, baseline=before) == {(OURS, "calls")}


def with_ratio(
    result: dict[str, Any], ratio: float, rounds: int, **requests: int
) -> dict[str, Any]:
    """A copy with this update/steady p99.9 in each round, of so many requests in all."""

    def change(cell: dict[str, Any]) -> None:
        cell["rounds"] = rounds
        cell["ratios"]["steady"]["p99.9"] = {**once(ratio), "rounds": rounds}
        for window, count in {"update": 10**6, "steady": 10**6, **requests}.items():
            cell["windows"][window]["count"] = count

    return changed(result, change)


def test_times_fail_only_with_a_ratio_and_enough_rounds(result: dict[str, Any]) -> None:
    slow = with_ratio(result, 9.0, rounds=3)
    assert failures(slow) == set()
    assert failures(slow, max_ratio=10.0) == set()
    assert failures(slow, max_ratio=5.0) == {(OURS, "time")}
    # Too few rounds to judge by are not a pass.
    assert failures(slow, max_ratio=10.0, rounds=4) == {(OURS, "time")}


def test_a_server_in_python_is_not_compared_with_the_native_one(result: dict[str, Any]) -> None:
    # GIVEN a patched server in Python with more faults than the stock wheel's native one
    found = changed(result, lambda c: c["per_update"].update(minor_faults=once(50_000)))
    found["configurations"]["patched"]["python"] = "load"
    assert failures(found) == set()
    # THEN the released wheel's is its measure, whatever its way of loading
    found["configurations"]["stock-threads"].update(
        python="eager", server=found["configurations"]["patched"]["server"]
    )
    (text,) = (f.text for f in findings(found) if (f.cell, f.what) == (OURS, "faults"))
    assert "stock-threads has" in text
    assert failures(found) == {(OURS, "faults")}


def test_a_result_of_before_there_were_servers_in_python_is_read(result: dict[str, Any]) -> None:
    found = copy.deepcopy(result)
    for configuration in found["configurations"].values():
        del configuration["python"], configuration["client"]
    assert failures(found, baseline=found) == set()


@pytest.mark.parametrize("window", ["update", "steady"])
def test_a_percentile_that_is_the_maximum_is_not_judged(
    result: dict[str, Any], window: str
) -> None:
    # GIVEN 1,000 requests in each of three rounds, or one fewer in one of them
    for count, fails in ((3000, set()), (2999, {(OURS, "time")})):
        found = with_ratio(result, 1.0, rounds=3, **{window: count})
        assert failures(found) == set()
        assert failures(found, max_ratio=2.0) == fails
    (text,) = (f.text for f in findings(found, max_ratio=2.0) if f.what == "time" and f.fails)
    assert f"999 requests a round in {window}" in text


def test_the_commands_of_the_docs_for_latency_measure_what_the_gate_asks_for() -> None:
    # GIVEN the last command of ci/release.sh before the gate with a ratio
    page = (Path(__file__).resolve().parents[2] / "docs" / "ci.md").read_text()
    page = re.sub(r" \\\n +", " ", page)
    lines = [line.partition("  #")[0].strip() for line in page.splitlines()]
    (judge,) = (n for n, line in enumerate(lines) if "--max-ratio" in line and "bench gate" in line)
    measure = next(line for line in reversed(lines[:judge]) if line.startswith("ci/release.sh"))
    script = (Path(__file__).resolve().parents[2] / "ci" / "release.sh").read_text()
    (own,) = re.findall(r"tf_model_pool bench (--quick .*?) \\\n", script)
    # WHEN
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    extra = measure.partition(" -- ")[2]
    asked = command._options(parser.parse_args([*own.split(), *extra.split()]))
    # THEN rounds are enough, none is cut short, and a machine that is not quiet is noticed
    gated = parser.parse_args(lines[judge].partition("tf_model_pool bench ")[2].split())
    assert asked.rounds >= gated.rounds
    assert asked.budget_s is None
    assert asked.limits == machine.Limits()


def test_the_stock_wheels_own_memory_and_times_are_not_ours_to_fail_on(
    result: dict[str, Any],
) -> None:
    found = with_ratio(result, 2.0, rounds=2)
    found["summary"]["cells"][STOCK]["drift"] = drift(0.5)
    assert failures(found, max_ratio=1000.0, rounds=2) == set()
    found["summary"]["cells"][STOCK]["ratios"]["steady"]["p99.9"] = once(2000.0)
    assert failures(found, max_ratio=1000.0, rounds=2) == set()


def test_memory_that_cannot_be_judged_is_no_failure_without_pools_or_of_one_update(
    result: dict[str, Any], tmp_path: Path, bench: Bench
) -> None:
    found = copy.deepcopy(result)
    found["summary"]["cells"][STOCK]["drift"] = None
    assert failures(found) == set()
    assert failures(bench(tmp_path, scenario="one", rounds=1).result) == set()


def test_a_budget_leaves_the_updates_that_the_gate_needs(tmp_path: Path, bench: Bench) -> None:
    # GIVEN updates that take longer than there is time for
    changes = {"FAKE_UPDATE_SECONDS": "5"}
    assert failures(bench(tmp_path, rounds=1, budget_s=1.0, changes=changes).result) == set()


def test_requests_without_a_version_are_allowed_where_that_was_asked_for(
    result: dict[str, Any],
) -> None:
    found = changed(result, lambda c: c["answers"].update(failed=5))
    server = found["configurations"]["patched"]["server"]
    server["aspired_version_policy"] = "resource_preserving"
    assert failures(found) == set()


def test_a_result_without_cells_is_an_error(result: dict[str, Any]) -> None:
    with pytest.raises(ResultError, match="no cells"):
        gate.check(Result.parse({**result, "summary": {}}), None, gate.Limits())


def test_wrong_answers_of_a_run_reach_the_gate(tmp_path: Path, bench: Bench) -> None:
    # GIVEN a driver one in a hundred of whose answers is wrong
    found = bench(tmp_path, ("patched",), rounds=1, changes={"FAKE_WRONG": "0.01"}).result
    assert (OURS, "answers") in failures(found)


@pytest.mark.parametrize(("wheel", "fails"), [("patched", True), ("stock", False)])
def test_a_server_that_ends_in_one_of_two_rounds_fails_if_it_has_the_patched_wheel(
    tmp_path: Path, bench: Bench, wheel: str, fails: bool
) -> None:
    # GIVEN a driver that ends with an error, as after a failed update, in the first run of a wheel
    number = ("stock", "patched").index(wheel)
    changes = {"FAKE_FAIL": "1", "FAKE_IN": f"{number:03d}-made-up-repeated-{wheel}"}
    found = bench(tmp_path, changes=changes).result
    # THEN the run was not done again, and the other round does not hide it
    assert [(r["valid"], r["failed"]) for r in found["runs"]].count((False, True)) == 1
    assert len(found["runs"]) == 4
    assert failures(found) == ({(OURS, "failed")} if fails else set())
    (line,) = (line for line in gate.text(findings(found)).splitlines() if " failed  " in line)
    assert "something went wrong in the driver" in line


def test_wrong_answers_count_in_a_disturbed_run_too(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a first run that was disturbed, and has wrong answers
    original, calls = machine.disturbance, []

    def disturbed(*args: Any) -> tuple[dict[str, float], list[str]]:
        calls.append(args)
        seen, reasons = original(*args)
        return seen, reasons + ["the hypervisor took it all"] * (len(calls) == 1)

    monkeypatch.setattr(machine, "disturbance", disturbed)
    changes = {"FAKE_WRONG": "0.01", "FAKE_IN": "000-made-up-repeated-patched"}
    found = bench(tmp_path, ("patched",), changes=changes).result
    # THEN it is as a valid one in the other round
    assert [r["valid"] for r in found["runs"]] == [False, True]
    assert found["summary"]["cells"][OURS]["rounds"] == 1
    assert failures(found) == {(OURS, "answers"), (OURS, "failed")}
    (text,) = (f.text for f in findings(found) if f.what == "failed")
    assert text.endswith(" wrong answers")


def test_a_disturbed_run_that_was_done_again_passes(result: dict[str, Any]) -> None:
    found = copy.deepcopy(result)
    run = copy.deepcopy(next(r for r in found["runs"] if r["cell"] == OURS))
    reasons = ["the hypervisor took 10.0% of CPU time"]
    found["runs"].append({**run, "valid": False, "failed": False, "reasons": reasons})
    assert failures(found) == set()
    assert any(f.what == "invalid" and f.cell == OURS for f in findings(found))


def test_a_failed_run_of_a_result_before_that_was_noted_is_one_without_an_analysis(
    result: dict[str, Any],
) -> None:
    found = copy.deepcopy(result)
    run = {"cell": OURS, "round": 0, "valid": False, "reasons": ["a\nb"], "analysis": None}
    found["runs"].append(run)
    assert failures(found) == {(OURS, "failed")}


def test_an_interrupted_benchmark_fails(result: dict[str, Any]) -> None:
    assert failures({**result, "finished": False}) == {("result", "finished")}


def test_growing_memory_of_a_run_reaches_the_gate(tmp_path: Path, bench: Bench) -> None:
    found = bench(
        tmp_path, ("patched",), "drift", rounds=1, changes={"FAKE_STEP_BYTES": "2e6"}
    ).result
    assert ("made-up/drift/patched", "drift") in failures(found)


def test_the_command_fails_and_says_what(
    tmp_path: Path, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(tmp_path, rounds=1)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    file = str(tmp_path / "out" / "result.json")
    assert command.run(parser.parse_args(["gate", file])) == 0
    assert capsys.readouterr().out.endswith("passed\n")
    assert command.run(parser.parse_args(["gate", file, "--max-faults", "10"])) == 1
    assert "1 failed" in capsys.readouterr().out
