# SPDX-License-Identifier: Apache-2.0
"""The orchestrator: rounds, calibration, disturbed runs, interrupts, what a result holds."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import pytest

from support import fake_driver
from support.bench_runs import Bench
from tf_model_pool.bench import command, machine, run
from tf_model_pool.bench.config import Timeline, Timing
from tf_model_pool.bench.errors import BenchError, ResultError
from tf_model_pool.bench.machine import CpuTimes
from tf_model_pool.bench.result import read_value

STAT = "cpu  {user} 0 100 {idle} 0 0 0 {steal} 0 0\n"


def stat(user: int, idle: int, steal: int = 0) -> CpuTimes:
    return CpuTimes.parse(STAT.format(user=user, idle=idle, steal=steal))


# ---- disturbance ----


def test_a_quiet_machine_makes_a_valid_run() -> None:
    _, reasons = machine.disturbance(stat(0, 0), stat(400, 600), 4.0, machine.Limits())
    assert reasons == []


def test_steal_makes_a_run_invalid() -> None:
    seen, reasons = machine.disturbance(stat(0, 0), stat(400, 500, 100), 4.0, machine.Limits())
    assert seen["steal_share"] == pytest.approx(0.1)
    assert reasons == ["the hypervisor took 10.0% of CPU time (limit 1.0%)"]


def test_another_process_makes_a_run_invalid() -> None:
    # GIVEN 4 s of CPU used in all, of which the run itself used 3
    _, reasons = machine.disturbance(stat(0, 0), stat(400, 600), 3.0, machine.Limits())
    assert reasons == ["other processes used 10.0% of CPU time (limit 4.0%)"]


def test_a_disturbed_run_is_done_again_and_does_not_count(tmp_path: Path, bench: Bench) -> None:
    # GIVEN a limit that every run exceeds
    limits = machine.Limits(steal=1.0, foreign=-1.0)
    found = bench(tmp_path, ("stock",), rounds=1, retries=2, limits=limits).result
    # THEN there were three attempts, and the summary uses none
    assert [r["attempt"] for r in found["runs"]] == [0, 1, 2]
    assert not any(r["valid"] for r in found["runs"])
    assert found["summary"]["cells"]["made-up/repeated/stock"] == {"rounds": 0}


def test_a_driver_that_fails_is_an_invalid_run_with_its_last_words(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = run.Orchestrator._rounds

    def fail_from_here(self: run.Orchestrator) -> None:
        monkeypatch.setenv("FAKE_FAIL", "1")
        original(self)

    monkeypatch.setattr(run.Orchestrator, "_rounds", fail_from_here)
    found = bench(tmp_path, ("stock",), rounds=1, retries=2).result
    assert len(found["runs"]) == 1  # only what the machine did is a reason to try again
    assert "exit status 1" in found["runs"][0]["reasons"][0]
    assert "something went wrong in the driver" in found["runs"][0]["reasons"][0]


def test_an_update_that_did_not_end_is_a_failure_and_a_quiet_window_is_none() -> None:
    entries = [{"action": "update", "models": ["m"]}, {"action": "burn_cpu"}]
    timeline = Timeline(entries, 0.0, 1.0)
    driver = fake_driver.result(updates=[fake_driver.update(0, 1)], burns=[{"kind": "burn_cpu"}])
    assert run.failures(driver, timeline) == []
    assert run.failures({**driver, "updates": []}, timeline) == ["0 of 1 updates ended; []"]
    assert run.failures({**driver, "burns": []}, timeline) == ["0 of 1 controls ran"]
    windows = {"steady": {"count": 5}, "update": {"count": 0}}
    assert run.unusable({"windows": windows}) == ["no request was due in the window 'update'"]


def test_an_interrupt_keeps_the_runs_that_have_ended(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN Ctrl-C during the third run
    original = run.Orchestrator._one
    calls = []

    def one(self: run.Orchestrator, *args: Any) -> dict[str, Any]:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(run.Orchestrator, "_one", one)
    bench(tmp_path, rounds=2)
    # THEN the file has two runs, a summary of them, and says that it is not all
    found = read_value(tmp_path / "out")
    assert len(found["runs"]) == 2
    assert not found["finished"]
    assert {key: cell["rounds"] for key, cell in found["summary"]["cells"].items()} == {
        "made-up/repeated/stock": 1,
        "made-up/repeated/patched": 1,
    }


# ---- a whole run ----


def test_configurations_are_interleaved_and_begin_in_turn(result: dict[str, Any]) -> None:
    assert [(r["round"], r["configuration"]) for r in result["runs"]] == [
        (0, "stock"),
        (0, "stock-threads"),
        (0, "patched"),
        (1, "stock-threads"),
        (1, "patched"),
        (1, "stock"),
    ]


def test_configurations_of_a_round_get_the_same_arrivals(result: dict[str, Any]) -> None:
    seeds = {(r["round"], r["seed"]) for r in result["runs"]}
    assert len(seeds) == len({number for number, _ in seeds}) == 2


def test_the_rate_is_calibrated_to_the_cpu_target(tmp_path: Path, bench: Bench) -> None:
    # GIVEN a server that needs 5 ms of CPU per request
    orchestrator = bench(tmp_path, ("stock",), rounds=1, cpu_target=0.25, pin=False)
    found = orchestrator.result["calibration"]["made-up/repeated"]
    # THEN the rate is that at which it uses a quarter of the CPUs
    cpus = len(orchestrator.result["machine"]["usable_cpus"])
    assert found["rate"] == pytest.approx(0.25 * cpus / 0.005, rel=0.05)
    # AND controls last as long as an update does
    assert found["timing"]["update"] == pytest.approx(0.6)


def test_a_result_has_what_it_takes_to_run_it_again(result: dict[str, Any]) -> None:
    assert {"kernel", "transparent_huge_pages", "cpu_model", "cpu_count", "governor"} <= set(
        result["machine"]
    )
    assert result["settings"]["seed"] == 1
    assert result["settings"]["page_cache"] == "warm"
    assert set(result["configurations"]) == {"stock", "stock-threads", "patched"}
    assert result["configurations"]["stock-threads"]["server"]["num_load_threads"] == 1
    assert set(result["wheels"]) == {"stock", "patched"}


def test_an_update_that_is_made_slow_shows_in_the_ratios(result: dict[str, Any]) -> None:
    cells = result["summary"]["cells"]
    slow = cells["made-up/repeated/stock"]["ratios"]["steady"]["p99"]["median"]
    ours = cells["made-up/repeated/patched"]["ratios"]["steady"]["p99"]["median"]
    assert slow > ours > 1
    compared = result["summary"]["compared"]["made-up/repeated"]["p99"]["update_ms"]
    assert compared["ours"] == "patched"
    assert compared["ours/best_other"] < 1


def test_a_neighbour_has_windows_of_its_own(tmp_path: Path, bench: Bench) -> None:
    found = bench(tmp_path, ("stock",), "neighbour", rounds=1).result
    windows = found["summary"]["cells"]["made-up/neighbour/stock"]["windows"]
    assert windows["neighbour_update"]["count"] > 0


def test_strace_tables_are_read() -> None:
    table = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 70.00    0.001000           2       500           mmap
 30.00    0.000500           5       100         3 madvise
------ ----------- ----------- --------- --------- ----------------
100.00    0.001500                   600         3 total
"""
    assert run.parse_strace(table) == {"mmap": 500, "madvise": 100}


def test_strace_is_looked_for_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN environments and a malloc that are there, and no strace
    monkeypatch.setattr(command, "_environments", lambda *_: ({}, Path("driver")))
    monkeypatch.setenv("PATH", "/nowhere")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args(["--quick", "--dry-run"])) == 0
    with pytest.raises(BenchError, match="--count-calls needs strace; install it: apt-get"):
        command.run(parser.parse_args(["--quick", "--dry-run", "--count-calls"]))


def test_a_budget_makes_fewer_cycles_where_updates_are_long(tmp_path: Path, bench: Bench) -> None:
    for seconds, directory in (("0.3", "short"), ("5", "long")):
        (tmp_path / directory).mkdir()
        bench(
            tmp_path / directory,
            ("stock",),
            rounds=1,
            budget_s=60.0,
            timing=Timing(update=1.0, cycles=6),
            changes={"FAKE_UPDATE_SECONDS": seconds},
        )

    def cycles(name: str) -> int:
        found = read_value(tmp_path / name / "out")
        return int(found["calibration"]["made-up/repeated"]["timing"]["cycles"])

    assert cycles("short") == 6
    assert cycles("long") == 4  # with fewer the gate cannot tell whether memory grows


def test_all_configurations_have_the_same_threshold_for_slow(result: dict[str, Any]) -> None:
    controls = [r["analysis"]["windows"]["control"]["p99"] for r in result["runs"]]
    thresholds = {r["analysis"]["slow_threshold_ms"] for r in result["runs"]}
    assert thresholds == {2 * statistics.median(controls)}


def test_updates_of_all_rounds_are_laid_over_each_other(result: dict[str, Any]) -> None:
    around = result["summary"]["cells"]["made-up/repeated/stock"]["around"]
    inside = [p for t, p in zip(around["time_s"], around["p50"], strict=True) if 0.1 < t < 0.5]
    before = [p for t, p in zip(around["time_s"], around["p50"], strict=True) if t < -0.1]
    assert min(inside) > max(before)


def test_damaged_raw_records_do_not_lose_the_result(tmp_path: Path, bench: Bench) -> None:
    bench(tmp_path, ("stock",), rounds=1)
    found = read_value(tmp_path / "out")
    raw = tmp_path / "out" / found["runs"][0]["raw"] / "output" / "requests.bin"
    raw.write_bytes(b"cut off")
    with pytest.raises(ResultError, match="not a multiple"):
        run.finish(found, tmp_path / "out")
    # Where they were tidied away, the numbers of the run itself stay.
    raw.unlink()
    run.finish(found, tmp_path / "out")
    assert found["summary"]["cells"]["made-up/repeated/stock"]["rounds"] == 1
