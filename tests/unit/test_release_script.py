# SPDX-License-Identifier: Apache-2.0
"""`ci/release.sh` as strangers run it: help, and clear errors before anything is built."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.fake_python import FakePython

SCRIPT = Path(__file__).resolve().parents[2] / "ci" / "release.sh"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_names_every_option() -> None:
    shown = run("-h")
    assert shown.returncode == 0
    cases = re.findall(r"^ +(-[a-z-]+(?: \| -[a-z-]+)*)\)", SCRIPT.read_text(), re.MULTILINE)
    handled = {option for case in cases for option in case.split(" | ")}
    assert {"--skip-bench", "--model", "--output", "-h"} <= handled
    assert [option for option in handled if option not in shown.stdout] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected a TensorFlow version such as 2.20.0, got 'nothing'"),
        (("latest",), "got 'latest'"),
        (("2.22.0-rc0",), "got '2.22.0-rc0'"),
        (("2.20.0", "2.21.0"), "two versions, 2.20.0 and 2.21.0"),
        (("2.3.0",), "TensorFlow 2.3.0 is not supported; supported: 2.22.0rc0, 2.21.0, "),
        (("--package", "torch", "2.21.0"), "no released wheel is known of torch 2.21.0"),
        (("--arch", "riscv64", "2.21.0"), "of TensorFlow 2.21.0 for cp3\\d+ on riscv64; known: "),
        (("--fast", "2.20.0"), "unknown option --fast"),
        (("2.20.0", "--model"), "--model needs a value"),
        (("--model", "/nowhere", "2.20.0"), "--model /nowhere is not a directory"),
        (("--wheel", "/a-2.1.0+modelpool.0-x.whl", "2.20.0"), "is not a file of a patched wheel"),
        (("--python", "python0.1", "2.20.0"), "python0.1 not found; .* name another with --python"),
    ],
)
def test_wrong_arguments_are_named(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    results = tmp_path / "results"
    failed = run("--output", str(results), *arguments)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert re.search(message, failed.stderr)
    assert not results.exists()


def test_another_machine_s_wheel_needs_its_emulator(tmp_path: Path) -> None:
    # GIVEN a machine with all that comes before it
    other = "x86_64" if platform.machine() == "aarch64" else "aarch64"
    for name in ("bash", "dirname", "python3", "uname"):
        (tmp_path / name).symlink_to(sys.executable if name == "python3" else f"/bin/{name}")
    failed = run("--arch", other, "2.21.0", PATH=str(tmp_path))
    assert failed.returncode == 2
    assert failed.stderr == (
        f"error: qemu-{other} not found; install it: apt-get install qemu-user\n"
    )


def test_an_interpreter_of_the_tools_that_is_not_there_is_named() -> None:
    failed = run("2.20.0", TOOLS_PYTHON="/nowhere/python")
    assert "error: /nowhere/python not found; install it, or name another with TOOLS_PYTHON" in (
        failed.stderr
    )


# The whole script, with a stand-in for every Python.

WHEEL = "tensorflow_cpu-2.20.0+modelpool.0.1.0-cp311-cp311-manylinux_2_35_x86_64.whl"
BASE = "/cache/tensorflow_cpu-2.20.0.whl"
ANSWERS = {
    '*"cp%d%d"*': "echo cp311",
    '*" - 2.20.0 "*': "echo tensorflow-cpu",
    '"-m tf_model_pool_build.wheel.base "*': f"echo {BASE}",
    '"-m tf_model_pool_build.requirements "*': "echo pins",
}


class Machine:
    """A checkout, a user somewhere else, and their wheel."""

    def __init__(self, root: Path) -> None:
        self.checkout = root / "checkout"
        self.user = root / "user"
        self.user.mkdir()
        (self.checkout / "ci").mkdir(parents=True)
        for script in SCRIPT.parent.glob("*.sh"):
            shutil.copy(script, self.checkout / "ci")
        self.python = FakePython(root / "state", ANSWERS)
        (self.user / WHEEL).write_text("")

    def start(self, *arguments: str, tests: bool = False) -> subprocess.Popen[str]:
        """From the user's directory, with a wheel that is there."""
        self.python.asked()
        program = str(self.python.program)
        options = ["--python", program, "--wheel", WHEEL, *arguments]
        if not tests:
            options.append("--skip-tests")
        return subprocess.Popen(
            [str(self.checkout / "ci/release.sh"), *options, "2.20.0"],
            env={**os.environ, "TOOLS_PYTHON": program},
            cwd=self.user,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, tests: bool = False) -> subprocess.CompletedProcess[str]:
        started = self.start(*arguments, tests=tests)
        out, error = started.communicate()
        return subprocess.CompletedProcess(started.args, started.returncode, out, error)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_wheel_that_is_there_is_compared_with_the_released_one_wherever_that_is(
    machine: Machine,
) -> None:
    done = machine.run("--skip-bench")
    assert done.returncode == 0, done.stderr
    asked = machine.python.asked()
    (fetched,) = (line for line in asked if "wheel.base" in line)
    assert fetched.endswith(f"-m tf_model_pool_build.wheel.base {machine.user / WHEEL}")
    assert any("/stock/bin/python -m pip install" in line and BASE in line for line in asked)
    assert asked[-1].endswith(f"--base {BASE}")


def test_a_release_that_cannot_be_had_ends_it(machine: Machine) -> None:
    machine.python.answer('"-m tf_model_pool_build.wheel.base "*', "echo no network >&2; exit 2")
    done = machine.run("--skip-bench")
    assert done.returncode != 0
    assert "no network" in done.stderr
    assert not any("summarise" in line for line in machine.python.asked())


def test_paths_are_relative_to_where_the_caller_is(machine: Machine) -> None:
    (machine.user / "ctr").mkdir()
    done = machine.run("--model", "ctr", "--output", "results")
    assert done.returncode == 0, done.stderr
    assert (machine.user / "results").is_dir()
    (ran,) = (line for line in machine.python.asked() if "-m tf_model_pool bench --quick" in line)
    assert f"--model {machine.user}/ctr/" in ran
    assert f"--output {machine.user}/results/bench" in ran


def test_only_a_benchmark_of_its_own_is_removed(machine: Machine) -> None:
    # GIVEN a directory of somebody's that is called as its results are
    notes = machine.user / "results/bench/notes"
    notes.parent.mkdir(parents=True)
    notes.write_text("")
    # THEN it stays, and the run says so
    done = machine.run("--output", "results")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {notes.parent} is not of an earlier run")
    assert notes.exists()
    # AND what it made itself goes, also if the benchmark did not end
    notes.unlink()
    notes.parent.rmdir()
    assert machine.run("--output", "results").returncode == 0
    old = notes.with_name("old")
    old.write_text("")
    assert machine.run("--output", "results").returncode == 0
    assert not old.exists()


def test_it_waits_for_a_build_in_the_same_checkout(machine: Machine) -> None:
    (machine.checkout / ".build").mkdir()
    with (machine.checkout / ".build/lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = machine.start("--skip-bench")
        assert waiting.stderr is not None
        said = waiting.stderr.readline()
        assert said == "wait for another build in this checkout, which holds .build/lock\n"
        assert not any("-m venv" in line for line in machine.python.asked())
    _, rest = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, rest


@pytest.mark.parametrize(
    ("bench", "gate", "said", "status"),
    [
        (0, 0, "passed", 0),
        (0, 1, "1 failed", 1),
        (2, 1, "1 failed", 1),  # no run was valid: the gate says why
        (2, 0, "passed", 1),
        (2, 2, "", 1),  # there is no result
    ],
)
def test_a_benchmark_leaves_its_gate_s_findings_or_that_there_are_none(
    machine: Machine, bench: int, gate: int, said: str, status: int
) -> None:
    # GIVEN a benchmark and a gate that end like this
    machine.python.answer('"-m tf_model_pool bench --quick "*', f"exit {bench}")
    machine.python.answer('"-m tf_model_pool bench gate "*', f"printf '{said}'; exit {gate}")
    assert machine.run("--output", "results").returncode == status
    assert (machine.user / "results/gate.txt").read_text() == said


def test_tests_that_end_before_they_are_counted_leave_an_empty_file(machine: Machine) -> None:
    # GIVEN a pytest that ends without having written a thing
    machine.python.answer('"-m pytest "*', "exit 139")
    done = machine.run("--skip-bench", "--output", "results", tests=True)
    assert done.returncode == 1
    assert (machine.user / "results/junit.xml").read_text() == ""
