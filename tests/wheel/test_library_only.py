# SPDX-License-Identifier: Apache-2.0
"""The distribution for an untouched TensorFlow, and what its preloaded library does.

Made from a small stand-in for a released wheel, with the real `preload.cc`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.utils import parse_wheel_filename

from support import fake_release
from support.fake_preload import ORIGINAL, OURS, PRELOAD, make_tensorflow, write_project
from support.fake_release import FakeRelease
from tf_model_pool._version import __version__
from tf_model_pool_build.errors import BuildError, CompileError
from tf_model_pool_build.progress import Progress
from tf_model_pool_build.releases import releases
from tf_model_pool_build.wheel import builder, library_only, metadata

ROOT = Path(__file__).resolve().parents[2]
VERSION = f"{__version__}+tf{fake_release.VERSION}"
DIST_INFO = f"tf_model_pool-{VERSION}.dist-info"
LIBRARY = "libtf_model_pool.so"

#: Of the release that a variable names.
ANY_VERSION = """
extern "C" char* getenv(const char*);
extern "C" const char* TF_Version() { return getenv("%s"); }
"""
ASK = """
import ctypes, json, os, sys
directory = sys.argv[1]
framework = ctypes.CDLL(os.path.join(directory, "libtensorflow_framework.so.2"))
cc = ctypes.CDLL(os.path.join(directory, "libtensorflow_cc.so.2"))
# The first time the hooks look for where they lead, the second time they know.
first, second = (
    {
        "device": framework.ask_device(),
        "restore": cc.ask_restore(2),
        "load": framework.ask_load(4),
    }
    for _ in range(2)
)
assert first == second, (first, second)
print(json.dumps(first))
"""


def run_build(wheel: FakeRelease, project: Path) -> Path:
    request = builder.Request(wheel.input, project, project / "dist", reuse=True, workers=2)
    return library_only.build(request, Progress(quiet=True))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> FakeRelease:
    members = fake_release.default_members(tmp_path_factory.mktemp("libraries"))
    return fake_release.write_wheel(tmp_path_factory.mktemp("released"), members)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, released: FakeRelease) -> Path:
    return run_build(released, write_project(tmp_path_factory.mktemp("built") / "project"))


class Installed(NamedTuple):
    """The distribution, unpacked, and a stock TensorFlow."""

    package: Path
    tensorflow: Path

    def ask(self) -> tuple[dict[str, int], str]:
        """As `ask`, with the library of the distribution."""
        return ask(self.tensorflow, str(self.package / PRELOAD))


def ask(
    tensorflow: Path, preload: str, environment: Mapping[str, str] | None = None
) -> tuple[dict[str, int], str]:
    """The functions' answers in a process with `preload`, and its standard error."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(tensorflow)],
        env={**os.environ, "LD_PRELOAD": preload, **(environment or {})},
        capture_output=True,
        text=True,
        check=True,
    )
    answers: dict[str, int] = json.loads(done.stdout)
    return answers, done.stderr


@pytest.fixture
def installed(built: Path, tmp_path: Path) -> Installed:
    with zipfile.ZipFile(built) as wheel:
        wheel.extractall(tmp_path / "site")
    return Installed(
        tmp_path / "site" / "tf_model_pool",
        make_tensorflow(tmp_path / "tensorflow", fake_release.VERSION),
    )


# ---- what it contains -------------------------------------------------------------------------


def test_the_wheel_verifies_and_is_named_after_project_and_tensorflow(built: Path) -> None:
    metadata.verify(built)
    name, version, _, _ = parse_wheel_filename(built.name)
    assert (name, str(version)) == ("tf-model-pool", VERSION)
    with zipfile.ZipFile(built) as wheel:
        text = wheel.read(f"{DIST_INFO}/METADATA").decode()
    assert f"Requires-Dist: tensorflow-cpu=={fake_release.VERSION}\n" in text


def test_it_has_the_console_command(built: Path) -> None:
    with zipfile.ZipFile(built) as wheel:
        text = wheel.read(f"{DIST_INFO}/entry_points.txt").decode()
    assert text == "[console_scripts]\ntf-model-pool = tf_model_pool.cli:main\n"


def test_it_replaces_nothing_of_tensorflow(built: Path) -> None:
    with zipfile.ZipFile(built) as wheel:
        first = {name.partition("/")[0] for name in wheel.namelist()}
    assert first == {"tf_model_pool", DIST_INFO}


def test_library_and_package_are_those_of_the_patched_wheel(built: Path) -> None:
    (patched,) = built.parent.glob("tensorflow_cpu-*.whl")
    with zipfile.ZipFile(patched) as theirs, zipfile.ZipFile(built) as ours:
        assert ours.read(f"tf_model_pool/{LIBRARY}") == theirs.read(f"tensorflow/{LIBRARY}")
        for name in theirs.namelist():
            if name.startswith("tf_model_pool/") and not name.endswith("build_info.json"):
                assert ours.read(name) == theirs.read(name), name


def test_headers_that_differ_from_tensorflows_come_along_and_no_others(built: Path) -> None:
    with zipfile.ZipFile(built) as wheel:
        headers = {n for n in wheel.namelist() if n.startswith("tf_model_pool/include/")}
    assert {name.removeprefix("tf_model_pool/include/") for name in headers} == {
        "xla/tsl/framework/allocator.h",
        "tensorflow/compiler/xla/tsl/framework/allocator.h",
        "tensorflow/core/common_runtime/process_state.h",
        "tf_allocator/pool/pool_stats.h",
        "tf_allocator/binary/hooks.h",
        "tf_allocator/binary/preload.h",
    }


def test_it_says_what_is_others_work(built: Path) -> None:
    with zipfile.ZipFile(built) as wheel:
        notice = wheel.read(f"{DIST_INFO}/licenses/NOTICE").decode()
        text = wheel.read(f"{DIST_INFO}/METADATA").decode()
        licence = wheel.read(f"{DIST_INFO}/licenses/LICENSE.pybind11").decode()
        headers = [n for n in wheel.namelist() if "/include/" in n and "/tf_allocator/" not in n]
    named = {line.split()[0] for line in notice.splitlines() if line.startswith("  ")}
    assert [name for name in headers if name not in named] == []
    assert "LICENSE.pybind11" in notice
    assert "Wenzel Jakob" in licence
    for name in ("LICENSE", "LICENSE.pybind11", "NOTICE"):
        assert f"License-File: {name}\n" in text
    assert "License-Expression: Apache-2.0 AND BSD-3-Clause\n" in text


def test_it_records_the_libraries_that_it_was_made_for(built: Path, released: FakeRelease) -> None:
    with zipfile.ZipFile(released.path) as wheel:
        record = metadata.read_record(
            wheel.read(f"tensorflow_cpu-{fake_release.VERSION}.dist-info/RECORD").decode()
        )
    with zipfile.ZipFile(built) as wheel:
        info = json.loads(wheel.read("tf_model_pool/build_info.json"))
    assert info["tensorflow_libraries"] == {
        name: record[name].hash for name in (releases.CC, releases.FRAMEWORK)
    }
    assert info["tensorflow_version"] == fake_release.VERSION


def test_it_is_not_taken_for_a_patched_wheel_that_is_up_to_date(
    built: Path, released: FakeRelease
) -> None:
    project = built.parents[1]
    request = builder.Request(released.input, project, project / "dist", reuse=True)
    assert builder.build(request, Progress(quiet=True)).name.startswith("tensorflow_cpu-")


def test_a_path_may_have_spaces(released: FakeRelease, built: Path, tmp_path: Path) -> None:
    again = run_build(released, write_project(tmp_path / "a place" / "with spaces"))
    assert again.read_bytes() == built.read_bytes()


# ---- what cannot be made ----------------------------------------------------------------------


def _left_behind(project: Path) -> list[str]:
    return sorted(p.name for p in (project / "dist").glob("*") if "tensorflow_cpu" not in p.name)


def test_a_preloaded_library_that_needs_more_than_the_c_library_is_refused(
    released: FakeRelease, tmp_path: Path
) -> None:
    project = write_project(tmp_path / "project", "-Wl,--no-as-needed -lm")
    with pytest.raises(BuildError, match=r"libm\.so\.6.* into every process"):
        run_build(released, project)
    assert _left_behind(project) == []


def test_a_source_that_does_not_compile_is_an_error_with_the_compilers_words(
    released: FakeRelease, tmp_path: Path
) -> None:
    project = write_project(tmp_path / "project")
    (project / "tf_allocator" / "binary" / "preload.cc").write_text("#error no\n")
    with pytest.raises(CompileError, match="#error no"):
        run_build(released, project)
    assert _left_behind(project) == []


def test_a_package_without_the_command_that_starts_programs_is_refused(
    released: FakeRelease, tmp_path: Path
) -> None:
    project = write_project(tmp_path / "project")
    (project / "python" / "tf_model_pool" / "run.py").unlink()
    with pytest.raises(BuildError, match=r"would lack tf_model_pool/run\.py"):
        run_build(released, project)
    assert _left_behind(project) == []


# ---- what the preloaded library does ----------------------------------------------------------


def test_calls_of_tensorflows_reach_the_library(installed: Installed) -> None:
    assert installed.ask() == (OURS, "")


def test_without_it_nothing_changes(installed: Installed) -> None:
    assert ask(installed.tensorflow, "") == (ORIGINAL, "")


def test_another_version_of_tensorflow_runs_its_own_functions(
    installed: Installed, tmp_path: Path
) -> None:
    other = make_tensorflow(tmp_path / "other", "9.8.1")
    answers, stderr = ask(other, str(installed.package / PRELOAD))
    assert answers == ORIGINAL
    assert stderr == (
        "tf_model_pool: the preloaded library is for TensorFlow 9.9.0, and this is TensorFlow "
        "9.8.1; it leaves this process as it is\n"
    )


def test_a_candidate_is_known_by_the_name_that_tensorflow_has_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fake_release, "VERSION", "9.9.0rc1")
    members = fake_release.default_members(tmp_path / "libraries")
    candidate = fake_release.write_wheel(tmp_path / "released", members)
    wheel = run_build(candidate, write_project(tmp_path / "project"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    preload = tmp_path / "site" / "tf_model_pool" / PRELOAD
    assert ask(make_tensorflow(tmp_path / "candidate", "9.9.0-rc1"), str(preload)) == (OURS, "")
    assert ask(make_tensorflow(tmp_path / "final", "9.9.0"), str(preload))[0] == ORIGINAL


@pytest.fixture(scope="module")
def any_tensorflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tensorflow(tmp_path_factory.mktemp("any"), "SAID", ANY_VERSION)


@pytest.mark.parametrize("release", releases.RELEASES, ids=lambda release: release.version)
def test_the_library_of_a_release_leaves_every_other_its_own_functions(
    installed: Installed, any_tensorflow: Path, release: releases.Release
) -> None:
    # GIVEN the library that is preloaded, compiled for a release
    info = json.loads((installed.package / "build_info.json").read_text())
    symbols = {entry["name"]: entry["symbol"] for entry in info["replaced_functions"]}
    definitions = {"TENSORFLOW_VERSION": release.own_version}
    for hook, function in releases.HOOKS.items():
        definitions[f"{hook}_SYMBOL"] = symbols.get(function.name, "")
    fake_release.compile_shared(
        (ROOT / "tf_allocator/binary/preload.cc").read_text(),
        installed.package / PRELOAD,
        [f"-I{ROOT}", *(f'-DTF_MODEL_POOL_{k}="{v}"' for k, v in definitions.items())],
    )
    # THEN its functions are called in that release alone
    served = [
        there.version
        for there in releases.RELEASES
        if ask(any_tensorflow, str(installed.package / PRELOAD), {"SAID": there.own_version})[0]
        == OURS
    ]
    assert served == [release.version]


def test_a_missing_library_leaves_tensorflow_its_own_functions(installed: Installed) -> None:
    (installed.package / LIBRARY).unlink()
    answers, stderr = installed.ask()
    assert answers == ORIGINAL
    assert LIBRARY in stderr
    assert len(stderr.splitlines()) == 1


def test_a_library_without_the_functions_leaves_tensorflow_its_own(installed: Installed) -> None:
    fake_release.compile_shared("int nothing;", installed.package / LIBRARY)
    answers, stderr = installed.ask()
    assert answers == ORIGINAL
    assert "does not define the hooks" in stderr


PROGRAM = "int main(int argc, char**) { return 40 + argc; }"


@pytest.mark.parametrize(
    "command",
    [["/bin/true"], ["/bin/sh", "-c", "exit 41"], [sys.executable, "-c", "exit(41)"], ["./a.out"]],
    ids=["true", "shell", "python", "compiled"],
)
def test_programs_without_tensorflow_do_not_notice(
    installed: Installed, tmp_path: Path, command: Sequence[str]
) -> None:
    subprocess.run(
        ["g++", "-x", "c++", "-", "-o", "a.out"], input=PROGRAM, text=True, check=True, cwd=tmp_path
    )

    def outcome(preload: str) -> tuple[int, str, str]:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "LD_PRELOAD": preload},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    assert outcome(str(installed.package / PRELOAD)) == outcome("")
