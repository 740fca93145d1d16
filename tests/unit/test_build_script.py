# SPDX-License-Identifier: Apache-2.0
"""build.sh says what is wrong before it makes anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


def run(repository: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(repository / "build.sh"), *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("stage", ["wheel", "library", "pool-tests", ""])
def test_a_compiler_that_is_not_there_is_named(repository: Path, stage: str) -> None:
    done = run(repository, *stage.split(), CXX="nosuch")
    assert done.returncode == 1
    assert done.stderr == "error: CXX=nosuch is not a program; install it, or unset CXX\n"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "PYTHON",
            "python9",
            "PYTHON=python9 is not a program; expected an interpreter of Python 3.10 or later",
        ),
        (
            "PACKAGE",
            "tensorflw",
            "PACKAGE=tensorflw: expected tensorflow-cpu, tensorflow or tensorflow-cpu-aws",
        ),
    ],
)
@pytest.mark.parametrize("stage", ["wheel", "library"])
def test_a_variable_with_a_value_that_it_cannot_have_is_named(
    repository: Path, stage: str, variable: str, value: str, said: str
) -> None:
    done = run(repository, stage, **{variable: value})
    assert done.returncode == 1
    assert done.stderr == f"error: {said}\n"


def test_an_unknown_stage_is_named_behind_the_help(repository: Path) -> None:
    done = run(repository, "nothing")
    assert done.returncode == 1
    assert done.stderr.startswith("usage: ./build.sh [STAGE]")
    assert done.stderr.endswith("error: unknown stage: nothing\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("wheel --fast", "error: wheel takes no arguments, got: --fast\n"),
        ("pool-tests A* B*", "error: pool-tests takes one filter, got: A* B*\n"),
    ],
)
def test_arguments_that_a_stage_does_not_take_are_named(
    repository: Path, arguments: str, said: str
) -> None:
    done = run(repository, *arguments.split())
    assert done.returncode == 1
    assert done.stderr == said


def test_tests_that_do_not_exist_are_named_before_a_wheel_is_made(repository: Path) -> None:
    done = run(repository, "test", "tests/unit", "tests/nosuch/test_it.py::test_it")
    assert done.returncode == 1
    assert done.stderr.startswith("error: tests/nosuch/test_it.py::test_it does not exist; ")
    assert "unit/" in done.stderr
