# SPDX-License-Identifier: Apache-2.0
"""Starts child processes for scenario classes and reads what they found."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from support.modes import child_environment
from support.scenario import Group

TESTS = Path(__file__).resolve().parents[1]
#: A hang must end the run. Far above what any child takes.
TIMEOUT_SECONDS = 900
STDERR_TAIL = 6000


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """How one check ended: an empty `message` means that it passed."""

    message: str
    records: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Places:
    """Directories that children share, and the interpreters that run them.

    `pythons` has `patched`, `stock` (the released TensorFlow) and `preload`: the released one too,
    in which `python -m tf_model_pool run` of the package in `preload_site` starts the child.
    """

    models: Path
    checkpoints: Path
    scratch: Path
    pythons: Mapping[str, Path]
    preload_site: Path | None = None


def describe_exit(code: int) -> str:
    """`exit status 3` or `killed by SIGSEGV`."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}"


def run_to_end(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Runs a program and returns its standard output.

    Raises RuntimeError with the end of its standard error if it fails or does not end.
    """
    try:
        done = subprocess.run(
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{command[0]}: still running after {TIMEOUT_SECONDS} s") from error
    if done.returncode != 0:
        ending = describe_exit(done.returncode)
        raise RuntimeError(f"{' '.join(command)}: {ending}\n{done.stderr[-STDERR_TAIL:]}")
    return done.stdout


def record_differences(expected: Mapping[str, object], found: Mapping[str, object]) -> list[str]:
    """One line for every record that is not the same in both, or in one of them only."""
    absent = object()
    differences = []
    for name in sorted({*expected, *found}):
        one, other = expected.get(name, absent), found.get(name, absent)
        if one is absent or other is absent:
            differences.append(f"{name}: only in the {'second' if one is absent else 'first'}")
        elif one != other:
            differences.append(f"{name}: {one!r} became {other!r}")
    return differences


def read_results(group: Group, lines: Iterable[str], ending: str) -> dict[str, CheckResult]:
    """The result of each check of `group`, from the lines that the child wrote.

    A check that started and has no result took the process down with it: `ending` says how the
    process ended, with the end of its standard error.
    """
    results: dict[str, CheckResult] = {}
    started = ""
    for line in lines:
        entry = json.loads(line)
        if entry["status"] == "started":
            started = entry["check"]
        else:
            results[entry["check"]] = CheckResult(
                message="" if entry["status"] == "passed" else entry["message"],
                records=entry["records"],
            )
    for check in group.checks:
        if check not in results:
            reason = "the process ended in this check" if check == started else "did not run"
            results[check] = CheckResult(message=f"{reason}: {ending}", records={})
    return results


class ScenarioRunner:
    """Runs each (group, mode, python) at most once, a few at a time."""

    def __init__(self, places: Places, workers: int) -> None:
        self._places = places
        self._executor = ThreadPoolExecutor(max_workers=workers)
        self._lock = threading.Lock()
        self._futures: dict[tuple[Path, str, str, str], Future[dict[str, CheckResult]]] = {}

    def start(self, group: Group, mode: str, python: str) -> Future[dict[str, CheckResult]]:
        """The results of `group`; starts the child if this is the first to ask."""
        key = (group.file, group.name, mode, python)
        with self._lock:
            if key not in self._futures:
                self._futures[key] = self._executor.submit(self._run, group, mode, python)
            return self._futures[key]

    def close(self) -> None:
        """Waits for running children; drops the ones that have not started."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _run(self, group: Group, mode: str, python: str) -> dict[str, CheckResult]:
        name = f"{group.file.stem}.{group.name}.{mode}.{python}"
        directory = self._places.scratch / name
        directory.mkdir(parents=True)
        context = directory / "context.json"
        results = directory / "results.jsonl"
        stderr_path = directory / "stderr.txt"
        context.write_text(
            json.dumps(
                {
                    "models": str(self._places.models),
                    "checkpoints": str(self._places.checkpoints),
                    "scratch": str(directory / "work"),
                    "stderr": str(stderr_path),
                }
            ),
            encoding="utf-8",
        )
        environment = child_environment(mode, group.environment)
        environment["PYTHONPATH"] = str(TESTS)
        interpreter = str(self._places.pythons[python])
        command = [interpreter]
        if python == "preload":
            environment["PYTHONPATH"] += f":{self._places.preload_site}"
            command += ["-m", "tf_model_pool", "run", "--", interpreter]
        command += [
            "-m",
            "support.scenario",
            str(group.file),
            group.name,
            str(context),
            str(results),
        ]
        with stderr_path.open("wb") as stderr:
            try:
                code = subprocess.run(
                    command,
                    cwd=directory,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                    timeout=TIMEOUT_SECONDS,
                    check=False,
                ).returncode
                ending = describe_exit(code)
            except subprocess.TimeoutExpired:
                code, ending = 1, f"still running after {TIMEOUT_SECONDS} s"
        tail = stderr_path.read_text(encoding="utf-8", errors="replace")[-STDERR_TAIL:]
        ending = f"{name}: {ending}\n{tail}"
        lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
        outcome = read_results(group, lines, ending)
        failed_at_exit = code != 0 and all(not r.message for r in outcome.values())
        return {
            check: CheckResult(
                message=(
                    f"all checks passed, then the process failed: {ending}"
                    if failed_at_exit
                    else result.message and f"{result.message}\n{ending}"
                ),
                records=result.records,
            )
            for check, result in outcome.items()
        }
