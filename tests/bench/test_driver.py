# SPDX-License-Identifier: Apache-2.0
"""The native driver: arrivals, stalls, updates, answers, burners, signals, configuration."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import driver as support
from support.driver import (
    MODELS,
    SIZES,
    TIMEOUT_SECONDS,
    VERSIONS,
    Driver,
    Outcome,
    finish,
    tensorflow_of,
)
from tf_model_pool.bench.records import REQUEST, Requests

ORDER = ["import", "restore", "init", "warm_up", "switch", "drain", "unload"]
STALL_MS = 150.0
STALLED_PHASES = ("restore", "warm_up", "switch", "unload")
NOT_FOUND = 5

Json = Mapping[str, Any]


# ---- checkers, and that they can fail ---------------------------------------------------------


def due_between(requests: Requests, begin_ns: int, end_ns: int) -> Requests:
    """The requests that were due in an interval."""
    due = requests["intended_ns"]
    return requests[(due >= begin_ns) & (due < end_ns)]


def omitted(requests: Requests, begin_ns: int, end_ns: int) -> int:
    """How many requests due in a stall do not show that they waited for its end."""
    due = due_between(requests, begin_ns, end_ns)
    return int(np.count_nonzero(due["end_ns"] < end_ns))


def wrong_answers(requests: Requests, models: tuple[str, ...]) -> list[str]:
    """One line for each request that was not answered, or not as its version has to."""
    wrong = []
    for index, model in enumerate(models):
        for number, request in enumerate(requests[requests["model"] == index]):
            right = support.checksum(model, int(request["version"]), number % len(SIZES))
            if request["status"] != 0 or request["checksum"] != right:
                wrong.append(f"{model} {number}: {request} instead of {right}")
    return wrong


def test_a_generator_that_waits_for_answers_would_be_noticed() -> None:
    # GIVEN records of a load that was only sent again after a stall from 1 s to 2 s
    requests = np.zeros(4, dtype=REQUEST)
    requests["intended_ns"] = np.array([0.9, 1.0, 1.1, 2.1]) * 1e9
    requests["end_ns"] = np.array([0.91, 2.0, 1.2, 2.11]) * 1e9
    # THEN the one that was due in the stall and did not wait for its end counts
    assert omitted(requests, 10**9, 2 * 10**9) == 1


def test_a_wrong_answer_would_be_noticed() -> None:
    requests = np.zeros(3, dtype=REQUEST)
    requests["checksum"] = [support.checksum("table", 0, index) for index in range(3)]
    assert wrong_answers(requests, ("table",)) == []
    requests["version"][1] = 1
    requests["status"][2] = 13
    assert len(wrong_answers(requests, ("table",))) == 2


# ---- the runs that several tests look at --------------------------------------------------------


def _updates(*times: float, models: tuple[str, ...] = ("table",)) -> list[dict[str, Any]]:
    return [{"at_s": at, "action": "update", "models": list(models)} for at in times]


@pytest.fixture(scope="module", params=["installed", "released"])
def updated(
    request: pytest.FixtureRequest, driver: Driver, tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    """Two models, updated at once and several times, by the same program with both wheels."""
    if request.param == "released":
        python = os.environ.get("TF_MODEL_POOL_STOCK_PYTHON", "")
        if not python:
            pytest.fail("TF_MODEL_POOL_STOCK_PYTHON is not set; `./build.sh test` sets it")
        driver = Driver(driver.program, driver.models, tensorflow_of(Path(python)))
    config = driver.config(
        MODELS,
        duration_s=3.0,
        server={"num_load_threads": 2, "num_unload_threads": 1},
        timeline=_updates(0.3, 0.9, 1.5, 2.1, models=MODELS),
    )
    outcome = driver.run(config, tmp_path_factory.mktemp(f"updated-{request.param}"))
    assert outcome.status == 0, outcome.complaints
    assert (
        outcome.result["pools_active"]
        == (Path(outcome.result["library"]).parent / "libtf_model_pool.so").exists()
    )
    if request.param == "released":
        assert not outcome.result["pools_active"]
    return outcome


@pytest.fixture(scope="module")
def stalled(driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One update for each of STALLED_PHASES, stalled in it."""
    timeline: list[dict[str, Any]] = []
    for number, phase in enumerate(STALLED_PHASES):
        at = 0.2 + 0.8 * number
        timeline.append({"at_s": at, "action": "stall", "phase": phase, "ms": STALL_MS})
        timeline += _updates(at)
    config = driver.config(duration_s=0.2 + 0.8 * len(STALLED_PHASES), timeline=timeline)
    outcome = driver.run(config, tmp_path_factory.mktemp("stalled"))
    assert outcome.status == 0, outcome.complaints
    return outcome


# ---- load ------------------------------------------------------------------------------------


def test_fixed_arrivals_are_as_many_and_as_far_apart_as_asked(
    driver: Driver, tmp_path: Path
) -> None:
    outcome = driver.run(driver.config(duration_s=1.5), tmp_path)
    assert outcome.status == 0
    assert outcome.result["dropped"] == 0
    expected = np.arange(1, 151) * 10_000_000
    assert outcome.requests["intended_ns"].tolist() == expected.tolist()


def test_poisson_arrivals_follow_the_seed(driver: Driver, tmp_path: Path) -> None:
    def due(seed: int) -> list[int]:
        config = driver.config(seed=seed, load={"arrival": "poisson", "request_threads": 2})
        outcome = driver.run(config, tmp_path / str(len(list(tmp_path.iterdir()))))
        times: list[int] = outcome.requests["intended_ns"].tolist()
        return times

    first = due(5)
    assert due(5) == first
    assert due(6) != first


def test_a_stall_shows_in_all_requests_that_were_due_in_it(stalled: Outcome) -> None:
    assert len(stalled.result["stalls"]) == len(STALLED_PHASES)
    for stall in stalled.result["stalls"]:
        begin, end = stall["begin_ns"], stall["end_ns"]
        assert end - begin >= STALL_MS * 1e6
        # A hundred requests a second were due meanwhile.
        assert len(due_between(stalled.requests, begin, end)) >= STALL_MS / 10 - 1
        assert omitted(stalled.requests, begin, end) == 0


def test_a_stall_lies_in_the_phase_that_it_was_put_in(stalled: Outcome) -> None:
    assert [stall["phase"] for stall in stalled.result["stalls"]] == list(STALLED_PHASES)
    for stall in stalled.result["stalls"]:
        around = [
            phase["phase"]
            for phase in stalled.result["phases"]
            if phase["begin_ns"] <= stall["begin_ns"] and phase["end_ns"] >= stall["end_ns"]
        ]
        assert around == [stall["phase"]]


def test_a_stalled_run_loses_no_request(stalled: Outcome) -> None:
    assert stalled.result["dropped"] == 0
    assert len(stalled.requests) == round(stalled.result["config"]["duration_s"] * 100)
    assert wrong_answers(stalled.requests, ("table",)) == []


# ---- updates ---------------------------------------------------------------------------------


def test_no_request_is_lost_or_answered_wrongly_over_updates(updated: Outcome) -> None:
    assert updated.result["errors"] == []
    assert updated.result["dropped"] == 0
    assert len(updated.requests) == 600
    assert wrong_answers(updated.requests, MODELS) == []
    assert set(updated.requests["version"].tolist()) == set(VERSIONS)


def test_requests_get_the_version_that_is_served(updated: Outcome) -> None:
    for index, model in enumerate(MODELS):
        requests = updated.requests[updated.requests["model"] == index]
        for switch in (p for p in updated.phases(model) if p["phase"] == "switch"):
            before = requests[requests["end_ns"] < switch["begin_ns"]][-1]
            after = requests[requests["start_ns"] > switch["end_ns"]][0]
            assert before["version"] == (switch["version"] - 1) % len(VERSIONS)
            assert after["version"] == switch["version"]


def test_phases_come_in_order_and_fill_the_update(updated: Outcome) -> None:
    for model in MODELS:
        updates = [u for u in updated.result["updates"] if u["model"] == model]
        assert [(u["from"], u["to"]) for u in updates] == [(0, 1), (1, 2), (2, 0), (0, 1)]
        phases = updated.phases(model)
        assert [phase["phase"] for phase in phases] == ORDER * len(updates)
        for number, update in enumerate(updates):
            mine = phases[number * len(ORDER) : (number + 1) * len(ORDER)]
            assert {p["version"] for p in mine[:5]} == {update["to"]}
            assert {p["version"] for p in mine[5:]} == {update["from"]}
            times = [update["begin_ns"]]
            for phase in mine:
                times += [phase["begin_ns"], phase["end_ns"]]
            times.append(update["end_ns"])
            assert times == sorted(times)


def test_two_models_updated_at_once_overlap(updated: Outcome) -> None:
    first, second = (
        [u for u in updated.result["updates"] if u["model"] == model] for model in MODELS
    )
    for one, other in zip(first, second, strict=True):
        assert one["begin_ns"] < other["end_ns"]
        assert other["begin_ns"] < one["end_ns"]


def test_updates_say_what_the_pools_gave(updated: Outcome) -> None:
    pool_bytes = {update["pool_bytes"] for update in updated.result["updates"]}
    if updated.result["pools_active"]:
        assert min(pool_bytes) >= support.ROWS * support.DIM * 4
        # From the third version on there is one spare range: of two updates at once, which both see
        # all mappings of the process, one maps anew.
        assert max(u["pool_mappings_delta"] for u in updated.result["updates"][-2:]) <= 1
    else:
        assert pool_bytes == {0}


def test_samples_grow_and_cover_the_run(updated: Outcome) -> None:
    samples = updated.result["samples"]
    cumulative = ["at_ns", "minor_faults", "major_faults", "runqueue_ns", "utime_ns", "stime_ns"]
    for name in cumulative:
        values = [sample[name] for sample in samples]
        assert values == sorted(values), name
    assert samples[0]["at_ns"] <= 0
    assert samples[-1]["at_ns"] >= updated.result["config"]["duration_s"] * 1e9
    assert all(s["rss_bytes"] > 0 for s in samples)
    for update in updated.result["updates"]:
        assert update["rss_peak"] >= max(update["rss_before"], update["rss_after"]) > 0
        assert update["minor_faults"] >= 0


def test_without_load_threads_one_model_waits_for_the_other(driver: Driver, tmp_path: Path) -> None:
    config = driver.config(MODELS, timeline=_updates(0.2, models=MODELS))
    outcome = driver.run(config, tmp_path)
    loads = [p for p in outcome.result["phases"] if p["phase"] in ORDER[:5]]
    assert [phase["model"] for phase in loads] == [m for m in MODELS for _ in range(5)]


def test_preserving_resources_leaves_a_gap_that_requests_see(
    driver: Driver, tmp_path: Path
) -> None:
    timeline = [
        {"at_s": 0.2, "action": "stall", "phase": "import", "ms": 0},
        *_updates(0.2, 0.6),
    ]
    config = driver.config(
        duration_s=1.2,
        server={"aspired_version_policy": "resource_preserving"},
        timeline=timeline,
    )
    outcome = driver.run(config, tmp_path)
    assert outcome.status == 0
    expected = [*ORDER[5:], *ORDER[:5]]
    assert [p["phase"] for p in outcome.result["phases"]] == expected * 2
    answered = outcome.requests[outcome.requests["status"] == 0]
    missed = outcome.requests[outcome.requests["status"] != 0]
    assert len(answered) + len(missed) == 120
    assert set(missed["status"].tolist()) <= {NOT_FOUND}
    assert set(missed["version"].tolist()) <= {-1}
    gaps = [(u["begin_ns"], u["end_ns"]) for u in outcome.result["updates"]]
    for request in missed:
        assert any(begin <= request["end_ns"] <= end for begin, end in gaps)


def test_a_model_without_variables_has_all_phases(driver: Driver, tmp_path: Path) -> None:
    config = driver.config(("constant",), timeline=_updates(0.2, models=("constant",)))
    outcome = driver.run(config, tmp_path)
    assert outcome.status == 0
    assert [p["phase"] for p in outcome.result["phases"]] == ORDER


def test_a_load_that_fails_keeps_the_version_and_is_reported(
    driver: Driver, tmp_path: Path
) -> None:
    config = driver.config(timeline=_updates(0.2))
    config["models"][0]["versions"][1] = str(tmp_path)
    outcome = driver.run(config, tmp_path / "run")
    assert outcome.status == 1
    (error,) = outcome.result["errors"]
    assert error.startswith("table/1: ")
    assert str(tmp_path) in error
    assert set(outcome.requests["version"].tolist()) == {0}
    assert wrong_answers(outcome.requests, ("table",)) == []


@pytest.mark.parametrize(
    "server",
    [
        {"run_in_caller_thread": True},
        {"intra_op_parallelism_threads": 2, "inter_op_parallelism_threads": 2},
        {
            "session_inter_op_thread_pool": [{}, {"num_threads": 1, "global_name": "load"}],
            "session_run_load_threadpool_index": 1,
            "num_request_iterations_for_warmup": 3,
        },
    ],
    ids=["caller", "parallelism", "load-pool"],
)
def test_levers_do_not_change_answers(driver: Driver, tmp_path: Path, server: Json) -> None:
    config = driver.config(duration_s=0.6, server=server, timeline=_updates(0.2))
    outcome = driver.run(config, tmp_path)
    assert outcome.status == 0, outcome.complaints
    assert len(outcome.requests) == 60
    assert wrong_answers(outcome.requests, ("table",)) == []


# ---- controls --------------------------------------------------------------------------------


def test_burners_are_of_the_idle_class_and_write_what_was_asked(
    driver: Driver, tmp_path: Path
) -> None:
    size = 1 << 20
    timeline: list[dict[str, Any]] = [
        {"at_s": 0.1, "action": "burn_cpu", "duration_s": 0.3},
        {"at_s": 0.2, "action": "burn_stream", "duration_s": 0.5, "bytes": size},
    ]
    outcome = driver.run(driver.config(timeline=timeline), tmp_path)
    assert outcome.status == 0, outcome.complaints
    burns = {burn["kind"]: burn for burn in outcome.result["burns"]}
    assert {burn["policy"] for burn in burns.values()} == {"idle"}
    assert burns["burn_cpu"]["bytes"] == 0
    # An idle-class process gets no CPU where there is none to spare, and never writes more.
    assert 0 <= burns["burn_stream"]["bytes"] <= size
    for entry in timeline:
        burn = burns[str(entry["action"])]
        assert burn["begin_ns"] >= entry["at_s"] * 1e9
        assert burn["end_ns"] >= (entry["at_s"] + entry["duration_s"]) * 1e9
    for burn in burns.values():
        assert not Path(f"/proc/{burn['pid']}").exists()


def test_burners_die_with_the_driver(driver: Driver, tmp_path: Path) -> None:
    timeline = [{"at_s": 0.0, "action": "burn_cpu", "duration_s": 60}]
    with driver.started(driver.config(duration_s=60, timeline=timeline), tmp_path) as process:
        _await_running(process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (burner,) = [os.pidfd_open(int(child)) for child in children]
        process.kill()
        # A pidfd can be read once its process has ended.
        ended, _, _ = select.select([burner], [], [], TIMEOUT_SECONDS)
        os.close(burner)
    assert ended


# ---- signals and configuration -----------------------------------------------------------------


def _await_running(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "swap_driver: running\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_keeps_its_results(
    driver: Driver, tmp_path: Path, number: signal.Signals
) -> None:
    config = driver.config(duration_s=60, timeline=_updates(0.0))
    with driver.started(config, tmp_path) as process:
        _await_running(process)
        process.send_signal(number)
        outcome = finish(process, tmp_path)
    assert outcome.status == 128 + number
    assert outcome.result["interrupted"] is True
    assert outcome.result["dropped"] == 0
    assert wrong_answers(outcome.requests, ("table",)) == []


def _set(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        place: Any = config
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_set("schema", value="other/1"), 'schema: "other/1" is not allowed; expected one of'),
        (_set("duration_s", value=-1), "duration_s: -1 is not allowed; expected a number"),
        (_set("load", "arrival", value="burst"), 'load.arrival: "burst" is not allowed'),
        (_set("server", "num_load_treads", value=1), "server.num_load_treads: 1 is of no field"),
        (_set("models", 0, "versions", value=["/absent"]), 'models[0].versions: "/absent" is not'),
        (_set("models", 0, "requests", value="/absent"), 'models[0].requests: "/absent" is not'),
        (_set("models", 0, "warmup", value="/dev/null"), "models[0].warmup: /dev/null: holds no"),
        (_set("load", "server_cpus", value=[4000]), "load.server_cpus: CPU 4000 is not allowed"),
        (_set("timeline", value=[{"at_s": 0, "action": "x"}]), 'timeline[0].action: "x" is not'),
    ],
)
def test_a_wrong_configuration_is_one_line_that_names_the_field(
    driver: Driver, tmp_path: Path, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    config = driver.config()
    change(config)
    outcome = driver.run(config, tmp_path)
    assert outcome.status == 2
    (line,) = outcome.complaints
    assert line.startswith(f"swap_driver: {tmp_path / 'config.json'}: {complaint}")
    assert outcome.result == {}


def test_a_configuration_that_is_no_json_is_one_line(driver: Driver, tmp_path: Path) -> None:
    outcome = driver.run("{", tmp_path)
    assert outcome.status == 2
    (line,) = outcome.complaints
    assert "config.json: is not JSON: " in line


def test_requests_for_another_signature_are_named(driver: Driver, tmp_path: Path) -> None:
    config = driver.config()
    config["models"][0]["signature"] = "absent"
    outcome = driver.run(config, tmp_path)
    assert outcome.status == 1
    assert "no signature absent; it has: " in outcome.complaints[0]


def test_results_are_never_overwritten(driver: Driver, tmp_path: Path) -> None:
    config = driver.config(duration_s=0.1)
    assert driver.run(config, tmp_path).status == 0
    before = (tmp_path / "output" / "result.json").read_bytes()
    again = driver.run(config, tmp_path)
    assert again.status == 2
    assert "holds results already" in again.complaints[0]
    assert (tmp_path / "output" / "result.json").read_bytes() == before
