# SPDX-License-Identifier: Apache-2.0
"""What the demonstration says about a place that it cannot use; its steps run in integration."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import types
from pathlib import Path
from unittest import mock

import pytest

from tf_model_pool import api, demo
from tf_model_pool.demo import memory, model, update
from tf_model_pool.demo.checks import Checks
from tf_model_pool.errors import ModelPoolError


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.fixture
def active(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "inactive_reason", lambda: None)


def test_a_directory_that_is_a_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # GIVEN
    path = tmp_path / "file"
    path.write_text("")
    monkeypatch.setattr(api, "inactive_reason", lambda: pytest.fail("imported TensorFlow first"))
    # WHEN, THEN
    for bad in (path, path / "below"):
        with pytest.raises(ModelPoolError, match=f"--directory {bad}: (it is no|Not a) directory"):
            demo.run(parse("--directory", str(bad)))


def test_a_directory_that_does_not_take_files_is_named() -> None:
    # /proc/self/fd: nobody, root included, makes files there.
    with pytest.raises(ModelPoolError, match="--directory /proc/self/fd: "):
        demo.run(parse("--directory", "/proc/self/fd"))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where the two parts of the demonstration ran; each leaves a directory."""
    seen: list[Path] = []

    def run(directory: Path, checks: Checks) -> None:
        seen.append(directory)
        (directory / memory.MODEL).mkdir()

    monkeypatch.setattr(memory, "run", run)
    monkeypatch.setattr(update, "run", run)
    return seen


@pytest.mark.usefixtures("active")
def test_a_missing_directory_is_made_and_keeps_the_models_alone(
    steps: list[Path], tmp_path: Path
) -> None:
    directory = tmp_path / "a" / "b"
    assert demo.run(parse("--directory", str(directory))) == 0
    assert steps[0] == directory
    assert steps[1].parent == directory
    assert list(directory.iterdir()) == [directory / memory.MODEL]


@pytest.mark.usefixtures("active")
def test_models_that_are_there_are_left_as_they_are(steps: list[Path], tmp_path: Path) -> None:
    kept = tmp_path / memory.MODEL / "1"
    kept.mkdir(parents=True)
    with pytest.raises(ModelPoolError, match=f"--directory {tmp_path}: it holds a ctr already"):
        demo.run(parse("--directory", str(tmp_path)))
    assert kept.is_dir()
    assert steps == []


@pytest.mark.usefixtures("active", "steps")
@pytest.mark.parametrize("error", [ModelPoolError("no"), KeyboardInterrupt()])
def test_one_that_is_cut_short_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException
) -> None:
    def fail(directory: Path, checks: Checks) -> None:
        raise error

    monkeypatch.setattr(update, "run", fail)
    with pytest.raises(type(error)):
        demo.run(parse("--directory", str(tmp_path / "a" / "b")))
    assert list(tmp_path.iterdir()) == []
    # AND what was there before stays
    (tmp_path / "mine").mkdir()
    with pytest.raises(type(error)):
        demo.run(parse("--directory", str(tmp_path)))
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


@pytest.mark.usefixtures("active", "steps")
def test_a_failed_check_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(update, "run", lambda directory, checks: checks.that("it works", False))
    assert demo.run(parse()) == 1
    printed = capsys.readouterr().out
    assert "FAIL  it works" in printed
    assert printed.endswith("FAIL: see the lines above.\n")


@pytest.mark.usefixtures("active")
def test_no_place_for_temporary_files_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(prefix: str, dir: Path | None) -> None:  # noqa: A002
        raise FileNotFoundError(2, "No usable temporary directory found in ['/nowhere']")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(ModelPoolError, match=r"No usable temporary directory.*--directory"):
        demo.run(parse())


@pytest.mark.usefixtures("active", "steps")
def test_too_little_space_is_said_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = types.SimpleNamespace(free=100 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ModelPoolError, match=r"has 100 MiB free, and the demo needs \d+ MiB; name"):
        demo.run(parse("--directory", str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


class FullError(Exception):
    """Stands in for an error of TensorFlow's."""


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), FullError("a\nb full")])
def test_a_save_that_fails_is_one_line_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def save(module: object, path: str, signatures: object) -> None:
        Path(path).mkdir()
        raise error

    tf = mock.MagicMock()
    tf.errors.OpError = FullError
    tf.saved_model.save = save
    monkeypatch.setitem(sys.modules, "tensorflow", tf)
    with pytest.raises(ModelPoolError, match=rf"cannot save {tmp_path}/1: .*(No space|a b full)"):
        model.save_version(tmp_path, 1, memory.SIZE)
    assert list(tmp_path.iterdir()) == []
