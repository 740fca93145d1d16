# SPDX-License-Identifier: Apache-2.0
"""`python -m tf_model_pool demo`, from its first line to its last, and cut short."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.modes import child_environment

COMMAND = (sys.executable, "-m", "tf_model_pool", "demo")
PATIENCE = 300


def environment(temporary: Path) -> dict[str, str]:
    return {**child_environment("onednn"), "TMPDIR": str(temporary)}


def run(
    arguments: Sequence[str], temporary: Path, limit: int | None = None
) -> subprocess.CompletedProcess[str]:
    """The demonstration's end; it may write no file longer than `limit`."""

    def prepare() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(temporary),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        preexec_fn=prepare,
    )


def errors(text: str) -> list[str]:
    """The lines on stderr, without TensorFlow's own."""
    return [
        line
        for line in text.splitlines()
        if line
        and not re.match(r"[IWE]\d{4} |\d{4}-\d\d-\d\d |WARNING: All log|To (turn|enable)", line)
    ]


@pytest.mark.usefixtures("tensorflow_directory")
def test_every_check_passes_and_both_tables_are_there(tmp_path: Path) -> None:
    done = run([], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    assert "PASS  version 3 took slot A" in done.stdout
    figures = r" +([\d,]+)(?: +\d+\.\d\d){4}\n"
    table = re.search(
        rf"\n  warm-up +([\d,]+) +not measured\n  steady {figures}  in an update {figures}"
        r"  PASS  no request failed \(0 of ([\d,]+) did\)",
        done.stdout,
    )
    assert table is not None
    *parts, total = (int(each.replace(",", "")) for each in table.groups())
    assert sum(parts) == total
    assert done.stdout.endswith("\nPASS\n")
    # AND nothing is left
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("tensorflow_directory")
def test_no_space_is_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = run(["--directory", str(tmp_path / "kept")], temporary, limit=4 << 20)
    assert done.returncode == 1
    (line,) = errors(done.stderr)
    assert line.startswith(f"error: cannot save {tmp_path}/kept/ctr/1: ")
    assert list(tmp_path.iterdir()) == [temporary]
    assert list(temporary.iterdir()) == []


@pytest.mark.usefixtures("tensorflow_directory")
@pytest.mark.parametrize(
    ("line", "end"),
    [
        pytest.param("Saving versions 1, 2, 3", "Ctrl-C", id="saving"),
        pytest.param("Serving through updates", "Ctrl-C", id="starting to serve"),
        pytest.param("  109.", "Ctrl-C", id="serving"),
        pytest.param("  109.", "SIGTERM", id="serving, terminated"),
    ],
)
def test_an_interruption_is_one_line_and_leaves_nothing(
    line: str, end: str, tmp_path: Path
) -> None:
    # GIVEN a demonstration in a group of its own, as a terminal starts it
    child = subprocess.Popen(
        [*COMMAND[:1], "-u", *COMMAND[1:]],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with child:
        assert child.stdout is not None
        # WHEN it is to end after that line: a terminal tells the group, a supervisor the process
        for each in child.stdout:
            if not each.startswith(line):
                continue
            if end == "Ctrl-C":
                os.killpg(child.pid, signal.SIGINT)
            else:
                child.terminate()
            break
        else:
            pytest.fail(f"it did not print {line}")
        _, printed = child.communicate(timeout=PATIENCE)
    # THEN
    assert child.returncode == 130
    assert errors(printed) == ["interrupted"]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)
