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


def test_an_unknown_stage_is_named_behind_the_help(repository: Path) -> None:
    done = run(repository, "nothing")
    assert done.returncode == 1
    assert done.stderr.startswith("usage: ./build.sh [STAGE]")
    assert done.stderr.endswith("error: unknown stage: nothing\n")
