# SPDX-License-Identifier: Apache-2.0
"""The orchestrator: models, calibration, runs in interleaved rounds, one result file.

Every run of the driver is a process of its own. Rounds go over all configurations before the
next round begins, so that what changes slowly on the machine changes for all of them alike. The
result file is written again after each run: an interrupt loses only the run that was going on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_model_pool._version import __version__
from tf_model_pool.bench import analysis, machine, models, records
from tf_model_pool.bench.config import (
    PYTHON_WAYS,
    SCENARIOS,
    Configuration,
    Timeline,
    Timing,
    driver_config,
    find_malloc,
    make_timeline,
)
from tf_model_pool.bench.errors import BenchError, DriverError, require
from tf_model_pool.bench.models import Model, RequestOptions, Shape, UserModel
from tf_model_pool.bench.result import RESULT_SCHEMA
from tf_model_pool.bench.wheels import Wheel
from tf_model_pool.files import write_text

PYTHON_SERVER = Path(__file__).with_name("python_server") / "__main__.py"
#: Where a calibration run begins, requests per second.
_PROBE_RATE = 20.0
_PROBE_SECONDS = 3.0
_MOST_RATE = 20_000.0


@dataclasses.dataclass(frozen=True)
class Cell:
    """What one round runs once: a configuration in a scenario on a model."""

    model: str
    scenario: str
    configuration: Configuration

    @property
    def key(self) -> str:
        """Names the cell in result files."""
        return f"{self.model}/{self.scenario}/{self.configuration.name}"


@dataclasses.dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        cells: in the order of a round.
        rate: requests per second; None = calibrated to `cpu_target` of the server's CPUs.
        retries: how often a disturbed run is done again; one in which the server failed is not.
        timing: seconds; its `update` is replaced by the calibrated one.
        budget_s: seconds that all rounds together are to take: fewer cycles if updates are long,
            down to what the gate needs.
        count_calls: run once more per cell under strace and count mapping calls per update.
    """

    cells: tuple[Cell, ...]
    what: dict[str, Shape | UserModel]
    requests: RequestOptions
    rounds: int = 5
    rate: float | None = None
    cpu_target: float = 0.4
    retries: int = 2
    timing: Timing = dataclasses.field(default_factory=lambda: Timing(update=1.0))
    request_threads: int = 4
    arrival: str = "poisson"
    seed: int = 1
    slow_ms: float | None = None
    interval_s: float | None = None
    page_cache: str = "warm"
    pin: bool = True
    limits: machine.Limits = dataclasses.field(default_factory=machine.Limits)
    count_calls: bool = False
    budget_s: float | None = None


class Progress:
    """A bar with an estimate in seconds of work; lines in between do not break it."""

    def __init__(self, quiet: bool = False) -> None:
        self._bar: Any = None
        self._quiet = quiet

    def plan(self, seconds: float) -> None:
        """From now on there are `seconds` of work."""
        self.close()
        self._bar = require("tqdm").tqdm(
            total=round(seconds),
            unit="s",
            disable=self._quiet,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {n:.0f}/{total:.0f} s, left {remaining}",
        )

    def add(self, seconds: float) -> None:
        """More work turned out to be needed."""
        if self._bar is not None:
            self._bar.total += round(seconds)
            self._bar.refresh()

    def doing(self, what: str) -> None:
        """What is going on."""
        if self._bar is not None:
            self._bar.set_description_str(what)

    def advance(self, seconds: float) -> None:
        """So much of the work is done."""
        if self._bar is not None:
            self._bar.update(min(seconds, max(0, self._bar.total - self._bar.n)))
            # Sums of floats overshoot by an ulp, and tqdm warns of that.
            self._bar.n = min(self._bar.n, self._bar.total)

    def reach(self, seconds: float) -> None:
        """The first `seconds` of the plan are done, however long they took."""
        if self._bar is not None and self._bar.n < seconds:
            self._bar.update(seconds - self._bar.n)

    def note(self, text: str) -> None:
        """A line of its own."""
        if not self._quiet:
            require("tqdm").tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@dataclasses.dataclass(frozen=True)
class DriverRun:
    """What one process of the driver left."""

    requests: records.Requests
    result: dict[str, Any]
    cpu_seconds: float
    before: machine.CpuTimes
    after: machine.CpuTimes


def _own_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def _ended_with_us(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever happens, the driver does not outlive the block. Its burners die with it."""
    try:
        yield
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def driver_command(configuration: Configuration, wheel: Wheel, driver: Path) -> list[str | Path]:
    """The driver that a configuration needs; `driver` is the native one."""
    if not configuration.python:
        return [driver]
    return [wheel.python, "-I", PYTHON_SERVER]


def run_driver(
    driver: Sequence[str | Path],
    config: dict[str, Any],
    environment: dict[str, str],
    directory: Path,
    progress: Progress,
    wrapper: Sequence[str] = (),
) -> DriverRun:
    """Runs the driver once, in `directory`.

    Args:
        driver: its command, but for `--config` and `--output`.
        wrapper: what comes before that command.

    Raises:
        DriverError: it ended with an error, or left no result; the text has its last lines.
        ResultError: what it left cannot be read.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "config.json"
    file.write_text(json.dumps(config, indent=1), encoding="utf-8")
    output = directory / "output"
    shutil.rmtree(output, ignore_errors=True)
    command = [*wrapper, *map(str, driver), "--config", str(file), "--output", str(output)]
    log = directory / "driver.log"
    own, children = _own_seconds(), _children_seconds()
    before = machine.CpuTimes.now()
    # A driver that hangs must not hang the benchmark: loading and unloading are not in duration_s.
    deadline = time.monotonic() + config["duration_s"] * (10 if wrapper else 2) + 300
    with log.open("wb") as sink:
        child = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            # Ctrl-C is for us; the driver is told by _ended_with_us.
            start_new_session=True,
        )
        with _ended_with_us(child):
            last = time.monotonic()
            while child.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(1.0)
                now = time.monotonic()
                progress.advance(now - last)
                last = now
                if now > deadline:
                    raise DriverError(f"the driver did not end in time; see {log}")
    after = machine.CpuTimes.now()
    if child.returncode != 0:
        tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-8:]
        how = (
            f"signal {signal.Signals(-child.returncode).name}"
            if child.returncode < 0
            else f"exit status {child.returncode}"
        )
        raise DriverError(f"{' '.join(command)}: {how}\n" + "\n".join(tail))
    return DriverRun(
        records.read_requests(output / "requests.bin"),
        records.read_result(output / "result.json"),
        _own_seconds() - own + _children_seconds() - children,
        before,
        after,
    )


# ---- calibration --------------------------------------------------------------------------------


def _cpu_between(samples: Sequence[dict[str, Any]], begin_ns: float, end_ns: float) -> float | None:
    """CPU share (of one CPU) that the driver used between two moments; None without samples."""
    inside = [s for s in samples if begin_ns <= s["at_ns"] <= end_ns and "utime_ns" in s]
    if len(inside) < 2:
        return None
    first, last = inside[0], inside[-1]
    used = last["utime_ns"] + last["stime_ns"] - first["utime_ns"] - first["stime_ns"]
    return float(used) / max(float(last["at_ns"] - first["at_ns"]), 1.0)


def next_rate(rate: float, cpu: float, target: float) -> float:
    """The rate at which a server that uses `cpu` CPUs at `rate` would use `target`."""
    return min(_MOST_RATE, max(1.0, rate * target / max(cpu, 0.01)))


def _start_and_end(timing: Timing) -> float:
    """Seconds of a run before and after its timeline: it starts, loads, and unloads."""
    return 2 + 2 * timing.update


class Orchestrator:
    """Does what `Options` say. `result` is the result file's content at any time."""

    def __init__(
        self,
        options: Options,
        wheels: dict[str, Wheel],
        driver: Path,
        output: Path,
        cache: Path,
        progress: Progress,
    ) -> None:
        self._options = options
        self._wheels = wheels
        self._driver = driver
        self._output = output
        self._cache = cache
        self._progress = progress
        usable = sorted(os.sched_getaffinity(0))
        self._cpus = machine.split_cpus(usable) if options.pin else (None, None)
        self._server_cpus = len(self._cpus[1] or usable)
        self._models: dict[tuple[str, str], list[Model]] = {}
        self._plans: dict[tuple[str, str], dict[str, Any]] = {}
        self.result: dict[str, Any] = {
            "schema": RESULT_SCHEMA,
            "version": __version__,
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "finished": False,
            "machine": machine.describe(),
            "wheels": {name: wheel.details for name, wheel in wheels.items()},
            "driver": str(driver),
            "settings": self._settings(),
            "configurations": {
                c.configuration.name: self._describe(c.configuration) for c in options.cells
            },
            "models": {},
            "calibration": {},
            "runs": [],
            "calls": {},
        }

    def _settings(self) -> dict[str, Any]:
        options = dataclasses.asdict(self._options)
        del options["cells"], options["what"]
        return {
            **options,
            "generator_cpus": self._cpus[0],
            "server_cpus": self._cpus[1],
            "cells": [cell.key for cell in self._options.cells],
        }

    def _describe(self, configuration: Configuration) -> dict[str, Any]:
        library, _ = find_malloc(configuration.malloc)
        own = configuration.child_environment(self._wheels[configuration.wheel].tensorflow)
        return {
            **configuration.describe(),
            "malloc_library": str(library.resolve()) if library else None,
            "effective_environment": {
                name: value
                for name, value in sorted(own.items())
                if name.startswith(("TF_", "LD_", "MALLOC_"))
            },
        }

    def write(self) -> Path:
        """Writes the result file; a reader never sees half of one."""
        file = self._output / "result.json"
        self._output.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(self.result, default=str))
        return file

    def run(self) -> bool:
        """Everything. Returns whether it came to its end; an interrupt keeps what is there."""
        try:
            self._prepare()
            self._calibrate()
            self._rounds()
            if self._options.count_calls:
                self._count_calls()
            self.result["finished"] = True
        except KeyboardInterrupt:
            self._progress.close()
            self._progress.note("interrupted; keeping what is finished")
        finally:
            self._progress.close()
            try:
                finish(self.result, self._output)
            except BenchError as error:  # what the runs said of themselves is still there
                self._progress.note(f"raw records: {error}")
                self.result["summary"] = summarise(self.result)
            self.write()
        return bool(self.result["finished"])

    # -- stages --

    def _any_wheel(self) -> Wheel:
        return self._wheels.get("stock") or next(iter(self._wheels.values()))

    def _prepare(self) -> None:
        wheel = self._any_wheel()
        for key in dict.fromkeys((c.model, c.scenario) for c in self._options.cells):
            scenario = SCENARIOS[key[1]]
            what = self._options.what[key[0]]
            found = []
            for number in range(scenario.models):
                each = what
                if isinstance(what, Shape):
                    each = dataclasses.replace(
                        what, seed=what.seed + number, scales=scenario.scales
                    )
                name = f"{key[0]}-{'abcdefgh'[number]}" if scenario.models > 1 else key[0]
                self._progress.note(f"model {name} ({scenario.name}): making it, or in the cache")
                found.append(
                    models.prepare(
                        name,
                        each,
                        self._options.requests,
                        python=wheel.python,
                        tensorflow_version=wheel.version,
                        cache=self._cache,
                    )
                )
            self._models[key] = found
            self.result["models"]["/".join(key)] = [
                {"name": m.name, "versions": [str(v) for v in m.versions], "bytes": m.bytes}
                | m.details
                for m in found
            ]

    def _launch(
        self, cell: Cell, timeline: Timeline, rate: float, directory: Path, seed: int, lead: float
    ) -> DriverRun:
        found = self._models[cell.model, cell.scenario]
        directories = [version for model in found for version in model.versions]
        if self._options.page_cache == "dropped":
            models.drop_page_cache(directories)
        else:
            models.warm_page_cache(directories)
        config = driver_config(
            cell.configuration,
            found,
            timeline,
            rate=rate,
            seed=seed,
            request_threads=self._options.request_threads,
            cpus=self._cpus,
            lead_s=lead,
            arrival=self._options.arrival,
            slow_ms=self._options.slow_ms,
            burner=self._driver,
        )
        wheel = self._wheels[cell.configuration.wheel]
        environment = cell.configuration.child_environment(wheel.tensorflow)
        command = driver_command(cell.configuration, wheel, self._driver)
        return run_driver(command, config, environment, directory, self._progress)

    def _calibrate(self) -> None:
        """Request rate and length of an update, once per model and scenario."""
        options = self._options
        keys = list(self._models)
        self._progress.plan(len(keys) * 2 * (_PROBE_SECONDS + 8))
        for key in keys:
            cell = next(c for c in options.cells if (c.model, c.scenario) == key)
            cell = dataclasses.replace(cell, configuration=self._standard(key))
            self._progress.doing(f"calibrate {key[0]}")
            scenario = SCENARIOS[key[1]]
            rate = options.rate or _PROBE_RATE
            target = options.cpu_target * self._server_cpus
            cpu: float | None = None
            seconds = 0.0
            for attempt in range(2):
                names = [m.name for m in self._models[key]][: scenario.updated]
                timeline = Timeline(
                    [{"at_s": 1 + _PROBE_SECONDS, "action": "update", "models": names}],
                    1.0,
                    1 + _PROBE_SECONDS + 0.5,
                )
                seed = options.seed + attempt
                ran = self._launch(cell, timeline, rate, self._output / "calibration", seed, 1.0)
                if not ran.result["updates"]:
                    raise DriverError(
                        f"calibration of {key[0]}: no update ended; {ran.result['errors']}"
                    )
                begin = min(u["begin_ns"] for u in ran.result["updates"])
                seconds = (max(u["end_ns"] for u in ran.result["updates"]) - begin) / 1e9
                cpu = _cpu_between(ran.result["samples"], 1e9, begin)
                if options.rate is not None or cpu is None:
                    break
                rate = next_rate(rate, cpu, target)
            if options.rate is None and cpu is None:
                raise DriverError(
                    f"calibration of {key[0]}: the driver gave no CPU samples; set --rate"
                )
            shutil.rmtree(self._output / "calibration", ignore_errors=True)
            timing = dataclasses.replace(options.timing, update=max(0.2, round(seconds, 3)))
            timing = self._within_budget(key, timing)
            self._plans[key] = {"rate": round(rate, 2), "timing": timing}
            self.result["calibration"]["/".join(key)] = {
                "rate": round(rate, 2),
                "update_seconds": seconds,
                "cpus_used_at_last_probe": cpu,
                "cpu_target": target,
                "timing": dataclasses.asdict(timing),
            }
        self.write()

    def _standard(self, key: tuple[str, str]) -> Configuration:
        """What a model and scenario is calibrated with: the slowest server that will run."""
        here = [c.configuration for c in self._options.cells if (c.model, c.scenario) == key]
        python = sorted((c for c in here if c.python), key=lambda c: PYTHON_WAYS.index(c.python))
        if python:
            return dataclasses.replace(python[0], name="calibration")
        return Configuration("calibration", self._any_wheel().name)

    def _within_budget(self, key: tuple[str, str], timing: Timing) -> Timing:
        """`timing` with as many cycles as there is time for, but enough to judge drift by."""
        options = self._options
        if options.budget_s is None:
            return timing
        share = options.budget_s / (len(options.cells) * options.rounds)
        while timing.cycles > analysis.DRIFT_UPDATES:
            names = [model.name for model in self._models[key]]
            made = make_timeline(SCENARIOS[key[1]], names, timing, 1, 0)
            if made.duration_s + _start_and_end(timing) <= share:
                break
            timing = dataclasses.replace(timing, cycles=timing.cycles - 1)
        return timing

    def _timeline(self, cell: Cell, order: int) -> Timeline:
        key = (cell.model, cell.scenario)
        found = self._models[key]
        scenario = SCENARIOS[cell.scenario]
        read = sum(max(model.bytes) for model in found[: scenario.updated])
        names = [model.name for model in found]
        return make_timeline(scenario, names, self._plans[key]["timing"], read, order)

    def _rounds(self) -> None:
        options = self._options
        costs = {
            c.key: self._timeline(c, 0).duration_s
            + _start_and_end(self._plans[c.model, c.scenario]["timing"])
            for c in options.cells
        }
        self._progress.plan(options.rounds * sum(costs.values()))
        done = 0.0
        for number in range(options.rounds):
            # Each round begins elsewhere, so that no configuration always follows the same one.
            turn = number % len(options.cells)
            for cell in options.cells[turn:] + options.cells[:turn]:
                for attempt in range(options.retries + 1):
                    self._progress.doing(f"round {number + 1}/{options.rounds} {cell.key}")
                    run = self._one(cell, number, attempt)
                    self.result["runs"].append(run)
                    self.write()
                    done += costs[cell.key]
                    self._progress.reach(done)
                    if run["valid"]:
                        break
                    how = "failed" if run["failed"] else "invalid"
                    self._progress.note(f"{cell.key}: {how}: {'; '.join(run['reasons'])}")
                    if run["failed"]:
                        break  # that it works at another time excuses nothing
                    if attempt < options.retries:
                        self._progress.add(costs[cell.key])

    def _one(self, cell: Cell, number: int, attempt: int) -> dict[str, Any]:
        options = self._options
        plan = self._plans[cell.model, cell.scenario]
        timeline = self._timeline(cell, number)
        name = f"{len(self.result['runs']):03d}-{cell.key.replace('/', '-').replace(':', '-')}"
        directory = self._output / "runs" / name
        # The same arrivals for every configuration of a round.
        seed = options.seed + 1000 * (number + 1)
        run: dict[str, Any] = {
            "cell": cell.key,
            "model": cell.model,
            "scenario": cell.scenario,
            "configuration": cell.configuration.name,
            "round": number,
            "attempt": attempt,
            "raw": str(directory.relative_to(self._output)),
            "rate": plan["rate"],
            "seed": seed,
            "page_cache": options.page_cache,
            "measure_from_s": timeline.measure_from_s,
            "duration_s": timeline.duration_s,
        }
        try:
            ran = self._launch(
                cell, timeline, plan["rate"], directory, seed, timeline.measure_from_s
            )
        except BenchError as error:
            return {
                **run,
                "valid": False,
                "failed": True,
                "reasons": [str(error)],
                "analysis": None,
            }
        seen, disturbed = machine.disturbance(
            ran.before, ran.after, ran.cpu_seconds, options.limits
        )
        found = analysis.analyse_run(
            ran.requests,
            ran.result,
            measure_from_s=timeline.measure_from_s,
            checksums=[m.checksums for m in self._models[cell.model, cell.scenario]],
            updated_models=SCENARIOS[cell.scenario].updated,
            slow_ms=options.slow_ms,
            interval_s=options.interval_s,
        )
        failed = failures(ran.result, timeline)
        reasons = [*failed, *disturbed, *unusable(found)]
        # They take nothing from what was measured, so a run that has some may be valid.
        wrong = found["answers"]["wrong"]
        if reasons and wrong:
            reasons.append(f"{wrong} wrong answers")
        return {
            **run,
            "valid": not reasons,
            "failed": bool(failed) or wrong > 0,
            "reasons": reasons,
            "disturbance": seen,
            "analysis": found,
        }

    def _count_calls(self) -> None:
        """Mapping calls per update: a run with updates less one without, under strace.

        Never a timed run: strace stops the process at each of these calls.
        """
        strace = find_strace()
        self._progress.plan(len(self._options.cells) * 20)
        for cell in self._options.cells:
            self._progress.doing(f"count calls {cell.key}")
            key = (cell.model, cell.scenario)
            scenario, timing = SCENARIOS[cell.scenario], self._plans[key]["timing"]
            names = [m.name for m in self._models[key]][: scenario.updated]
            counts = []
            for updates in (1, 3):
                entries = [
                    {"at_s": 1 + i * timing.slot, "action": "update", "models": names}
                    for i in range(updates)
                ]
                timeline = Timeline(entries, 1.0, 1 + 3 * timing.slot)
                directory = self._output / "calls"
                summary = self._output / "calls.txt"
                config = driver_config(
                    cell.configuration,
                    self._models[key],
                    timeline,
                    rate=min(5.0, self._plans[key]["rate"]),
                    seed=self._options.seed,
                    request_threads=1,
                    cpus=(None, None),
                    lead_s=0,
                )
                wheel = self._wheels[cell.configuration.wheel]
                environment = cell.configuration.child_environment(wheel.tensorflow)
                # strace itself must not run under the other malloc.
                inner = [
                    f"-E{name}={environment.pop(name)}"
                    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH")
                    if name in environment
                ]
                wrapper = [
                    strace,
                    "-f",
                    "-c",
                    "-e",
                    f"trace={','.join(CALLS)}",
                    "-o",
                    str(summary),
                    *inner,
                ]
                command = driver_command(cell.configuration, wheel, self._driver)
                run_driver(command, config, environment, directory, self._progress, wrapper)
                counts.append(parse_strace(summary.read_text(encoding="utf-8")))
                shutil.rmtree(directory, ignore_errors=True)
                summary.unlink()
            self.result["calls"][cell.key] = {
                call: (counts[1].get(call, 0) - counts[0].get(call, 0)) / 2 for call in CALLS
            }
            self.write()


CALLS = ("mmap", "munmap", "mremap", "brk", "madvise", "mprotect")


def find_strace() -> str:
    """The program that counts calls. Raises `BenchError`."""
    found = shutil.which("strace")
    if found is None:
        raise BenchError("--count-calls needs strace; install it: apt-get install strace")
    return found


def parse_strace(text: str) -> dict[str, int]:
    """Calls per name of `strace -c`'s table."""
    found = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[-1] in CALLS and fields[3].isdigit():
            found[fields[-1]] = int(fields[3])
    return found


def failures(result: dict[str, Any], timeline: Timeline) -> list[str]:
    """What the server or a burner did not do, however busy the machine was (empty = nothing)."""
    reasons = []
    planned = sum(len(e["models"]) for e in timeline.entries if e["action"] == "update")
    if len(result["updates"]) < planned:
        reasons.append(
            f"{len(result['updates'])} of {planned} updates ended; {result['errors'][:3]}"
        )
    expected = sum(e["action"] in records.CONTROLS for e in timeline.entries)
    if len(result["burns"]) < expected:
        reasons.append(f"{len(result['burns'])} of {expected} controls ran")
    return reasons


def unusable(found: dict[str, Any]) -> list[str]:
    """Why a run in which nothing failed cannot be compared (empty = it can)."""
    return [
        f"no request was due in the window {window!r}"
        for window in ("steady", "update")
        if not found["windows"][window]["count"]
    ]


def finish(result: dict[str, Any], output: Path) -> None:
    """Makes `summary`, and what takes the raw records of all runs together.

    All configurations of a model and scenario get the same threshold from which on a request is
    slow, twice the median p99 of the controls: with one of its own, the one that disturbs its
    requests most would seem to have the fewest slow ones.
    """
    points: dict[str, list[records.Floats]] = {}
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in result["runs"]:
        if run["valid"]:
            groups.setdefault(run["cell"].rpartition("/")[0], []).append(run)
    for runs in groups.values():
        known = [r["analysis"]["windows"]["control"]["p99"] for r in runs]
        known = [p99 for p99 in known if p99 is not None]
        threshold = result["settings"].get("slow_ms")
        if threshold is None and known:
            threshold = 2 * statistics.median(known)
        for run in runs:
            raw = output / run["raw"] / "output"
            if not (raw / "requests.bin").is_file():
                continue  # somebody tidied up; the numbers of the run itself stay
            requests = records.read_requests(raw / "requests.bin")
            driver = records.read_result(raw / "result.json")
            if threshold is not None:
                run["analysis"] |= analysis.slow_requests(
                    requests, driver, measure_from_s=run["measure_from_s"], threshold_ms=threshold
                )
            updates = [u for u in run["analysis"]["updates"] if not u["settling"]]
            longest = max((u["seconds"] for u in updates), default=0.0)
            points.setdefault(run["cell"], []).append(
                analysis.around_updates(requests, updates, 1.0, 1.0 + longest)
            )
    result["summary"] = summarise(result)
    for cell, found in points.items():
        result["summary"]["cells"][cell]["around"] = analysis.bin_points(np.concatenate(found))


def summarise(result: dict[str, Any]) -> dict[str, Any]:
    """The summary of a result file: cells over their valid rounds, and ours against others."""
    cells = {}
    for key in result["settings"]["cells"]:
        runs = [run for run in result["runs"] if run["cell"] == key and run["analysis"]]
        cells[key] = analysis.summarise(
            [run["analysis"] for run in runs if run["valid"]],
            [run["analysis"] for run in runs if not run["valid"]],
        )
    compared = {}
    for prefix in dict.fromkeys(key.rpartition("/")[0] for key in cells):
        here = {k.rpartition("/")[2]: v for k, v in cells.items() if k.rpartition("/")[0] == prefix}
        configurations = result["configurations"]

        def is_ours(name: str, configurations: dict[str, Any] = configurations) -> bool:
            found = configurations[name]
            off = found["environment"].get("TF_MODEL_POOL") == "off"
            return found["wheel"] == "patched" and not off

        ours = [name for name in here if is_ours(name)]
        others = [name for name in here if not is_ours(name)]
        compared[prefix] = analysis.compare(here, ours, others)
    return {"cells": cells, "compared": compared}
