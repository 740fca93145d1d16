# SPDX-License-Identifier: Apache-2.0
"""`ci/release.sh` as strangers run it: help, and clear errors before anything is built."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
