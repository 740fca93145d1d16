# SPDX-License-Identifier: Apache-2.0
"""What the demonstration says about a place that it cannot use; its steps run in integration."""

from __future__ import annotations

import argparse
import sys
import tempfile
import types
from pathlib import Path

import pytest

from tf_model_pool import api, demo
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


@pytest.mark.usefixtures("active")
def test_a_missing_directory_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Path] = []

    def run_demo(directory: Path) -> int:
        seen.append(directory)
        return 0

    monkeypatch.setattr(demo, "run_demo", run_demo)
    assert demo.run(parse("--directory", str(tmp_path / "a" / "b"))) == 0
    assert seen == [tmp_path / "a" / "b"]
    assert list(seen[0].iterdir()) == []


@pytest.mark.usefixtures("active")
def test_no_place_for_temporary_files_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(prefix: str) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/nowhere']")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(ModelPoolError, match=r"No usable temporary directory.*--directory"):
        demo.run(parse())


@pytest.mark.usefixtures("active")
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyError("full")])
def test_a_save_that_fails_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def save(directory: Path, version: int) -> None:
        raise error

    monkeypatch.setattr(demo, "save_version", save)
    tf = types.SimpleNamespace(errors=types.SimpleNamespace(OpError=KeyError))
    monkeypatch.setitem(sys.modules, "tensorflow", tf)
    with pytest.raises(ModelPoolError, match=rf"cannot save .*{tmp_path}.*(No space|full)"):
        demo.run(parse("--directory", str(tmp_path)))
