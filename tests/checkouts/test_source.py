# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's sources get the series, and Bazel the right command for their release.

Bazel itself does not run: a stand-in for bazelisk records what it was given.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from support import checkouts
from tf_model_pool.errors import ModelPoolError
from tf_model_pool_build import commands
from tf_model_pool_build import project as own
from tf_model_pool_build.checkouts import fetching, files, patching, source
from tf_model_pool_build.errors import (
    BuildError,
    BuildInterruptedError,
    CheckoutError,
    DownloadError,
    ToolMissingError,
)
from tf_model_pool_build.progress import Progress
from tf_model_pool_build.releases import releases
from tf_model_pool_build.series import listing

QUIET = Progress(quiet=True)
RELEASES = {release.version: release for release in releases.TENSORFLOW_SOURCES}


@pytest.fixture
def series(project: Path) -> listing.Series:
    return listing.read(project / "patches", "v2.20").with_sources()


# The series in a tree.


def test_the_whole_series_is_applied(tensorflow: Path, series: listing.Series) -> None:
    changed = patching.apply(tensorflow, series)
    assert changed == (
        "tensorflow/core/BUILD",
        "tensorflow/core/process_state.h",
        "tf_allocator/BUILD",
        "tf_allocator/pool/pool.h",
    )
    build = (tensorflow / "tensorflow/core/BUILD").read_text()
    assert "our rule\n" in build
    assert "rule nine\n" in build


def test_applying_again_changes_nothing(tensorflow: Path, series: listing.Series) -> None:
    patching.apply(tensorflow, series)
    before = checkouts.snapshot(tensorflow)
    assert patching.apply(tensorflow, series) == ()
    assert checkouts.snapshot(tensorflow) == before


def test_commits_of_ones_own_that_only_move_lines_do_not_matter(
    tensorflow: Path, series: listing.Series
) -> None:
    header = tensorflow / "tensorflow/core/process_state.h"
    header.write_text("a line of somebody's\n" + header.read_text())
    patching.apply(tensorflow, series)
    assert "line 10\nours\n" in header.read_text()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tree: (tree / "tensorflow/core/process_state.h").write_text("another\n"),
        lambda tree: (tree / "tensorflow/core/process_state.h").unlink(),
        lambda tree: checkouts.write_tree(tree, {"tf_allocator/BUILD": "somebody's\n"}),
    ],
    ids=["changed", "missing", "in the way"],
)
def test_a_tree_that_the_series_does_not_fit_is_left_as_it_is(
    spoil: Callable[[Path], object], tensorflow: Path, series: listing.Series
) -> None:
    spoil(tensorflow)
    before = checkouts.snapshot(tensorflow)
    with pytest.raises(CheckoutError, match=r"(?s)v2\.20 does not fit .*patch \d of 3"):
        patching.apply(tensorflow, series)
    assert checkouts.snapshot(tensorflow) == before


def test_a_tree_with_half_of_the_series_is_left_as_it_is(
    tensorflow: Path, series: listing.Series
) -> None:
    patching.apply(tensorflow, dataclasses.replace(series, patches=series.patches[:1]))
    before = checkouts.snapshot(tensorflow)
    with pytest.raises(CheckoutError, match="does not fit"):
        patching.apply(tensorflow, series)
    assert checkouts.snapshot(tensorflow) == before


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied", "BUILD"), BuildInterruptedError(signal.SIGINT)],
    ids=["no permission", "interrupted"],
)
def test_what_was_written_is_taken_back_where_the_rest_cannot_be(
    error: Exception,
    tensorflow: Path,
    series: listing.Series,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = checkouts.snapshot(tensorflow)
    replace = files.replace
    written: list[Path] = []

    def refuse_the_third(path: Path, contents: bytes) -> None:
        written.append(path)
        if len(written) == 3:
            raise error
        replace(path, contents)

    monkeypatch.setattr(files, "replace", refuse_the_third)
    with pytest.raises(ModelPoolError, match=r"Permission denied|signal 2"):
        patching.apply(tensorflow, series)
    assert len(written) > 3  # taken back
    assert checkouts.snapshot(tensorflow) == before
    assert not (tensorflow / "tf_allocator").exists()


def test_a_tree_with_another_state_of_the_sources_says_what_to_do(
    project: Path, tensorflow: Path, series: listing.Series
) -> None:
    patching.apply(tensorflow, series)
    newer = edited(project)
    with pytest.raises(CheckoutError, match=r"carries another state of this project; restore"):
        patching.apply(tensorflow, newer)
    # AND of sources that an older version downloaded
    with pytest.raises(CheckoutError, match=r"carries another state of this project; remove it"):
        patching.apply(tensorflow, newer, own=True)


def edited(project: Path) -> listing.Series:
    """The series after a change of tf_allocator/, a file less and a file more among it."""
    checkouts.write_tree(
        project,
        {
            "tf_allocator/BUILD": 'cc_library(name = "pool", hdrs = ["pool/newer.h"])\n',
            "tf_allocator/pool/newer.h": "newer\n",
        },
    )
    (project / "tf_allocator/pool/pool.h").unlink()
    return listing.read(project / "patches", "v2.20").with_sources()


def test_a_tree_of_ones_own_gets_the_newer_state_of_the_sources(
    project: Path, tensorflow: Path, series: listing.Series, tmp_path: Path
) -> None:
    # GIVEN a tree that we unpacked, and one that gets the newer series at once
    fresh = checkouts.make_tensorflow(tmp_path / "fresh")
    patching.apply(tensorflow, series, own=True)
    newer = edited(project)
    patching.apply(fresh, newer)
    # THEN they end as the same, and again
    assert "tf_allocator/pool/newer.h" in patching.apply(tensorflow, newer, own=True)
    assert checkouts.snapshot(tensorflow) == checkouts.snapshot(fresh)
    assert patching.apply(tensorflow, newer, own=True) == ()


def test_an_edit_in_a_tree_of_ones_own_is_not_lost(
    project: Path, tensorflow: Path, series: listing.Series
) -> None:
    patching.apply(tensorflow, series, own=True)
    header = tensorflow / "tf_allocator/pool/pool.h"
    header.write_text("somebody's\n")
    before = checkouts.snapshot(tensorflow)
    with pytest.raises(CheckoutError, match=rf"{header} was changed since .*remove {tensorflow}"):
        patching.apply(tensorflow, edited(project), own=True)
    assert checkouts.snapshot(tensorflow) == before


def test_a_tree_of_ones_own_that_was_unpacked_again_gets_the_series(
    project: Path, tensorflow: Path, series: listing.Series, tmp_path: Path
) -> None:
    patching.apply(tensorflow, series, own=True)
    shutil.rmtree(tensorflow)
    checkouts.make_tensorflow(tensorflow)
    patching.apply(tensorflow, edited(project), own=True)
    assert (tensorflow / "tf_allocator/pool/newer.h").exists()


def test_crlf_line_ends_are_named(tensorflow: Path, series: listing.Series) -> None:
    header = tensorflow / "tensorflow/core/process_state.h"
    header.write_bytes(header.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(CheckoutError, match=r"process_state\.h has CRLF line ends; expected LF"):
        patching.apply(tensorflow, series)


# Which release a tree is.


@pytest.mark.parametrize(
    ("name", "text", "version"),
    [
        ("tensorflow/tf_version.bzl", 'TF_VERSION = "2.21.0"\n', "2.21.0"),
        ("tensorflow/tensorflow.bzl", '# a\nVERSION = "2.15.1"\n', "2.15.1"),
        ("tensorflow/tensorflow.bzl", 'VERSION = "2.17.0-rc1"\n', "2.17.0"),
    ],
)
def test_the_version_is_read_where_the_release_has_it(
    name: str, text: str, version: str, tmp_path: Path
) -> None:
    assert source.version_of(checkouts.write_tree(tmp_path, {name: text})) == version


def test_a_directory_that_is_not_tensorflow_is_refused(tmp_path: Path) -> None:
    checkouts.write_tree(tmp_path, {"tensorflow/tensorflow.bzl": "VERSION = TF_VERSION\n"})
    with pytest.raises(CheckoutError, match="expected the top of TensorFlow's sources"):
        source.version_of(tmp_path)


# What Bazel gets.


def bazel_commands(version: str, python: str = "3.11", **given: str) -> list[tuple[str, ...]]:
    steps = source.plan(
        RELEASES[version], python, Path("/out"), bazelisk="bazelisk", given={"PATH": "", **given}
    )
    return [step.command for step in steps]


@pytest.mark.parametrize("version", sorted(RELEASES))
def test_every_release_is_configured_and_built_for_its_python(version: str) -> None:
    configure, build, *rest = bazel_commands(version)
    assert configure == ("./configure",)
    assert build[:3] == ("bazelisk", "build", "--config=opt")
    assert "--repo_env=TF_PYTHON_VERSION=3.11" in build
    assert "--repo_env=HERMETIC_PYTHON_VERSION=3.11" in build
    if version.startswith(("2.15.", "2.16.")):
        # Bazel makes a program, which makes the wheel.
        assert build[-1] == "//tensorflow/tools/pip_package:build_pip_package"
        assert rest == [
            ("./bazel-bin/tensorflow/tools/pip_package/build_pip_package", "--cpu", "/out")
        ]
    else:
        assert build[-1] == "//tensorflow/tools/pip_package:wheel"
        assert "--repo_env=WHEEL_NAME=tensorflow_cpu" in build
        assert rest == []
    later = version.startswith(("2.19.", "2.20.", "2.21."))
    assert ("--repo_env=USE_PYWRAP_RULES=1" in build) == later


@pytest.mark.parametrize(("version", "python"), [("2.15.1", "3.12"), ("2.19.1", "3.13")])
def test_a_python_that_the_release_does_not_know_is_refused(version: str, python: str) -> None:
    with pytest.raises(CheckoutError, match=f"cannot be built for Python {python}; it can for 3.9"):
        bazel_commands(version, python)


def test_configure_is_asked_nothing_and_what_the_caller_set_stays() -> None:
    answers = source.configure_environment("3.11", {"PATH": ""})
    assert answers["TF_NEED_CUDA"] == "0"
    assert answers["TF_NEED_CLANG"] == "0"  # there is none on that path
    assert answers["HERMETIC_PYTHON_VERSION"] == "3.11"
    given = {"PATH": "", "TF_NEED_CLANG": "1", "CC_OPT_FLAGS": "-O3"}
    assert not set(given) & set(source.configure_environment("3.11", given))


def test_clang_is_used_where_there_is_one(tmp_path: Path) -> None:
    clang = tmp_path / "clang"
    clang.write_text("#!/bin/sh\n")
    clang.chmod(0o755)
    answers = source.configure_environment("3.11", {"PATH": str(tmp_path)})
    assert (answers["TF_NEED_CLANG"], answers["CLANG_COMPILER_PATH"]) == ("1", str(clang))


def test_without_bazelisk_the_error_has_the_command_that_installs_it() -> None:
    with pytest.raises(ToolMissingError, match="npm install -g @bazel/bazelisk"):
        source.find_bazelisk("")


# The whole command, with stand-ins for ./configure and bazelisk.

RECORDER = """#!{python}
import json, os, sys
record = {{
    "arguments": sys.argv[1:],
    "directory": os.getcwd(),
    "patched": os.path.exists("tf_allocator/BUILD"),
    "environment": dict(os.environ),
}}
with open({log!r}, "a") as log:
    log.write(json.dumps(record) + "\\n")
{body}
"""
MAKE_WHEEL = """
house = "bazel-bin/tensorflow/tools/pip_package/wheel_house"
os.makedirs(house, exist_ok=True)
open(house + "/tensorflow_cpu-2.20.0-x.whl", "w").write("wheel")
"""


class Bench:
    """A tree with stand-ins, and the command that runs on it."""

    def __init__(self, tmp_path: Path, tree: Path, project: Path) -> None:
        self.tree = tree
        self.output = tmp_path / "dist"
        self.log = tmp_path / "log"
        self._programs = tmp_path / "programs"
        self._programs.mkdir()
        self._project = project
        self.program(self.tree / "configure")
        self.bazelisk(MAKE_WHEEL)

    def program(self, path: Path, body: str = "") -> None:
        path.write_text(RECORDER.format(python=sys.executable, log=str(self.log), body=body))
        path.chmod(0o755)

    def bazelisk(self, body: str) -> None:
        self.program(self._programs / "bazelisk", body)

    def run(self, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
        monkeypatch.setenv("PATH", f"{self._programs}:{os.environ['PATH']}")
        monkeypatch.setattr(own, "project_root", lambda: self._project)
        given = ["--tensorflow", str(self.tree), "--python-version", "3.11"]
        return commands.main(["source", *given, "--output", str(self.output), *arguments])

    def records(self) -> list[dict[str, object]]:
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def bench(tmp_path: Path, tensorflow: Path, project: Path) -> Bench:
    return Bench(tmp_path, tensorflow, project)


def test_the_patched_tree_is_configured_and_built_and_the_wheel_is_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.run(monkeypatch, "--bazel-argument=--jobs=4") == 0
    configure, build = bench.records()
    assert configure["arguments"] == []
    assert build["arguments"] == [
        "build",
        "--config=opt",
        "--repo_env=TF_PYTHON_VERSION=3.11",
        "--repo_env=HERMETIC_PYTHON_VERSION=3.11",
        "--repo_env=USE_PYWRAP_RULES=1",
        "--repo_env=WHEEL_NAME=tensorflow_cpu",
        "--repo_env=ML_WHEEL_TYPE=release",
        "--jobs=4",
        "//tensorflow/tools/pip_package:wheel",
    ]
    for record in (configure, build):
        assert record["patched"]
        assert record["directory"] == str(bench.tree)
        environment = record["environment"]
        assert isinstance(environment, dict)
        assert environment["HERMETIC_PYTHON_VERSION"] == "3.11"
        assert environment["TF_NEED_CUDA"] == "0"
    wheel = bench.output / "tensorflow_cpu-2.20.0-x.whl"
    assert capsys.readouterr().out == f"{wheel}\n"
    assert wheel.read_text() == "wheel"
    # AND again: the series is there, the build is Bazel's to skip
    assert bench.run(monkeypatch) == 0
    assert "carries patches/v2.20 already" in capsys.readouterr().err


def test_an_older_release_is_packed_by_the_program_that_bazel_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN sources of 2.16
    tree = checkouts.make_tensorflow(tmp_path / "tensorflow")
    (tree / "tensorflow/tf_version.bzl").unlink()
    (tree / "tensorflow/tensorflow.bzl").write_text('VERSION = "2.16.2"\n')
    bench = Bench(tmp_path, tree, checkouts.make_project(tmp_path / "project", "v2.16"))
    packer = tree / "bazel-bin/tensorflow/tools/pip_package/build_pip_package"
    packer.parent.mkdir(parents=True)
    bench.bazelisk("")
    make = 'os.makedirs(sys.argv[-1]); open(sys.argv[-1] + "/tensorflow_cpu-2.16.2-x.whl", "w")'
    bench.program(packer, make)
    # THEN it is told where the wheel goes
    assert bench.run(monkeypatch) == 0
    assert [record["arguments"] for record in bench.records()][2] == ["--cpu", str(bench.output)]
    assert (bench.output / "tensorflow_cpu-2.16.2-x.whl").exists()


def test_a_dry_run_says_what_would_run_and_changes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = checkouts.snapshot(bench.tree)
    assert bench.run(monkeypatch, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "# patches/v2.20 fits, and would be applied\n" in out
    assert "bazelisk build --config=opt" in out
    assert bench.records() == []
    assert checkouts.snapshot(bench.tree) == before
    assert not bench.output.exists()


def test_a_dry_run_of_a_release_downloads_nothing(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(own, "project_root", lambda: project)
    given = ["--python-version", "3.11", "--sources", str(tmp_path / "sources"), "--dry-run"]
    assert commands.main(["source", "--tensorflow", "v2.20.0", *given]) == 0
    assert RELEASES["2.20.0"].sha256 in capsys.readouterr().out
    assert not (tmp_path / "sources").exists()


def test_downloaded_sources_follow_the_checkout(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # GIVEN downloaded sources with the series
    monkeypatch.setattr(own, "project_root", lambda: project)
    tree = checkouts.make_tensorflow(tmp_path / "sources/tensorflow-2.20.0")
    command = ["source", "--tensorflow", "v2.20.0", "--python-version", "3.11"]
    command += ["--sources", str(tree.parent)]
    assert commands.main([*command, "--patch-only"]) == 0
    # WHEN tf_allocator/ changes
    edited(project)
    # THEN they get the change
    assert commands.main([*command, "--dry-run"]) == 0
    assert "# patches/v2.20 fits, and would be applied\n" in capsys.readouterr().out
    assert commands.main([*command, "--patch-only"]) == 0
    assert (tree / "tf_allocator/pool/newer.h").exists()


def test_patch_only_needs_no_bazelisk(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.run(monkeypatch, "--patch-only") == 0
    assert capsys.readouterr().out == f"{bench.tree}\n"
    assert (bench.tree / "tf_allocator/BUILD").exists()
    assert bench.records() == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("sys.exit(37)", "failed with exit status 37: .*bazelisk build"),
        ("", "there is no wheel in"),
    ],
)
def test_a_build_that_fails_or_makes_nothing_is_an_error(
    body: str,
    says: str,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    bench.bazelisk(body)
    assert bench.run(monkeypatch) == 1
    error = capfd.readouterr().err
    assert re.search(says, error)


def test_a_tree_without_configure_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (bench.tree / "configure").unlink()
    assert bench.run(monkeypatch) == 1
    assert "cannot run ./configure" in capfd.readouterr().err


def test_an_interrupted_build_waits_for_bazel_to_stop(bench: Bench, project: Path) -> None:
    # GIVEN a build that says when it has begun, and cleans up when it is asked to stop
    bench.bazelisk(
        "import signal\n"
        "def stop(*_):\n    open('stopped', 'w').close(); sys.exit(8)\n"
        "signal.signal(signal.SIGINT, stop)\n"
        "print('begun', file=sys.stderr, flush=True)\n"
        "signal.pause()\n"
    )
    code = (
        "import sys\nfrom pathlib import Path\nfrom tf_model_pool_build import commands\n"
        "from tf_model_pool_build import project as own\n"
        f"own.project_root = lambda: Path({str(project)!r})\n"
        "sys.exit(commands.main(sys.argv[1:]))\n"
    )
    programs = str(bench.log.parent / "programs")
    given = ["--tensorflow", str(bench.tree), "--python-version", "3.11"]
    given += ["--output", str(bench.output)]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, "source", *given],
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line == "begun\n":
            break
    # WHEN the command is ended
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    # THEN Bazel was asked to stop first
    assert process.returncode == 128 + signal.SIGTERM
    assert (bench.tree / "stopped").exists()
    assert "interrupted by signal 15" in error


@pytest.mark.parametrize(
    ("tensorflow_argument", "says"),
    [
        ("v2.20.7", "no source archive is known of TensorFlow v2.20.7; known: v2.21.0"),
        ("master", "no source archive is known of TensorFlow master"),
        ("./nowhere", "nowhere is not a directory"),
    ],
)
def test_a_tag_or_directory_that_is_not_known_is_told(
    tensorflow_argument: str,
    says: str,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(own, "project_root", lambda: project)
    given = ["--tensorflow", tensorflow_argument, "--python-version", "3.11", "--patch-only"]
    assert commands.main(["source", *given]) == 1
    assert says in capsys.readouterr().err


# Archives.


def archive(tree: Path, name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(tree, name)
    return buffer.getvalue()


def release(contents: bytes) -> releases.TensorFlowSource:
    return releases.TensorFlowSource(
        "2.20.0", files.sha256(contents), ("3.11",), wheel_target=True, pywrap=True
    )


def test_an_archive_is_fetched_once_and_checked(tensorflow: Path, tmp_path: Path) -> None:
    contents = archive(tensorflow, "tensorflow-2.20.0")
    asked: list[str] = []

    def opened(url: str) -> IO[bytes]:
        asked.append(url)
        return io.BytesIO(contents)

    for _ in range(2):
        tree = fetching.fetch(release(contents), tmp_path / "sources", QUIET, opened)
        assert checkouts.snapshot(tree) == checkouts.snapshot(tensorflow)
    assert asked == ["https://github.com/tensorflow/tensorflow/archive/refs/tags/v2.20.0.tar.gz"]


@pytest.mark.parametrize(
    ("name", "known", "says"),
    [
        ("tensorflow-2.20.0", False, "has sha256 .*; expected 0000"),
        (None, True, "not a readable archive"),
        ("other", True, "has no directory tensorflow-2.20.0"),
    ],
)
def test_an_archive_that_is_another_is_not_kept(
    name: str | None, known: bool, says: str, tensorflow: Path, tmp_path: Path
) -> None:
    contents = b"not an archive" if name is None else archive(tensorflow, name)
    expected = release(contents)
    if not known:
        expected = dataclasses.replace(expected, sha256="0" * 64)
    with pytest.raises(DownloadError, match=says):
        fetching.fetch(expected, tmp_path / "sources", QUIET, lambda _: io.BytesIO(contents))
    assert list((tmp_path / "sources").iterdir()) == []


def test_a_download_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise ConnectionResetError(104, "Connection reset by peer")

    with pytest.raises(
        DownloadError, match=r"cannot download .*v2\.20\.0.*reset.*pass the directory"
    ):
        fetching.fetch(release(b""), tmp_path / "sources", QUIET, lambda _: Broken())
    assert list((tmp_path / "sources").iterdir()) == []


def test_no_wheel_is_an_error_even_where_an_older_one_lies(tmp_path: Path) -> None:
    checkouts.write_tree(tmp_path / "dist", {"tensorflow_cpu-2.16.2-x.whl": "older"})
    with pytest.raises(BuildError, match="no wheel"):
        source.collect(tmp_path, tmp_path / "dist", frozenset({"tensorflow_cpu-2.16.2-x.whl"}))
