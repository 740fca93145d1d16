# SPDX-License-Identifier: Apache-2.0
"""The smaller stages of the builder: input, tools, tag, zip, metadata, room, progress, pins."""

from __future__ import annotations

import configparser
import dataclasses
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.fake_release import DATE, PYTHON_TAG, compile_shared
from tf_model_pool_build import architecture, commands, requirements, workspace
from tf_model_pool_build.architecture import ARCHITECTURES
from tf_model_pool_build.errors import (
    BuildError,
    BuildInterruptedError,
    ChecksumError,
    CorruptWheelError,
    DiskSpaceError,
    DownloadError,
    PlatformTagError,
    ToolMissingError,
    UnsupportedWheelError,
)
from tf_model_pool_build.progress import Progress
from tf_model_pool_build.releases import releases
from tf_model_pool_build.wheel import archive, base, metadata, platform_tag, source, toolchain

ROOT = Path(__file__).resolve().parents[2]

# ---- input --------------------------------------------------------------------------------------


def test_the_default_release_has_a_wheel_for_every_package() -> None:
    for package in ("tensorflow-cpu", "tensorflow"):
        wheel = releases.find_wheel(releases.DEFAULT, package, "cp311", "x86_64")
        assert wheel.filename.endswith("-2.21.0-cp311-cp311-manylinux_2_27_x86_64.whl")
        assert len(wheel.sha256) == 64


def test_a_machine_that_is_not_supported_is_named() -> None:
    with pytest.raises(UnsupportedWheelError, match="win_amd64 is not supported; supported: x86"):
        architecture.of_platform("win_amd64")
    with pytest.raises(UnsupportedWheelError, match="wheels for riscv64 are not supported"):
        architecture.find("riscv64")


@pytest.mark.parametrize(
    ("version", "python_tag", "machine", "match"),
    [
        (
            "1.15.0",
            PYTHON_TAG,
            "x86_64",
            r"TensorFlow 1.15.0 is not supported; supported: 2\.22\.0rc0, 2\.21\.0, .*2\.15\.1",
        ),
        ("2.21.0", "cp27", "x86_64", "no released wheel is known .* for cp27 on x86_64"),
        ("2.21.0", PYTHON_TAG, "s390x", "on s390x; known: .*manylinux_2_27_x86_64"),
        ("2.15.1", "cp313", "x86_64", r"2\.15\.1 for cp313 .*; known: tensorflow-2\.15\.1-cp310"),
    ],
)
def test_an_unsupported_version_python_or_machine_is_named(
    version: str, python_tag: str, machine: str, match: str
) -> None:
    with pytest.raises(UnsupportedWheelError, match=match):
        source.by_version(version, "tensorflow-cpu", python_tag, machine=machine)


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("tensorflow_cpu-2.21.0.zip", CorruptWheelError, "not the name of a wheel"),
        (
            f"numpy-2.21.0-{PYTHON_TAG}-{PYTHON_TAG}-manylinux_2_27_x86_64.whl",
            UnsupportedWheelError,
            "is a wheel of numpy",
        ),
        (
            f"tensorflow_cpu-2.3.0-{PYTHON_TAG}-{PYTHON_TAG}-manylinux_2_27_x86_64.whl",
            UnsupportedWheelError,
            "2.3.0 is not supported",
        ),
        (
            f"tensorflow_cpu-2.21.0-{PYTHON_TAG}-{PYTHON_TAG}-win_amd64.whl",
            UnsupportedWheelError,
            "is for win_amd64; supported: manylinux_2_27_aarch64, manylinux_2_27_x86_64",
        ),
        (
            "tensorflow_cpu-2.21.0-py3-none-manylinux_2_27_x86_64.whl",
            UnsupportedWheelError,
            "expected one CPython version",
        ),
        (
            f"tensorflow_cpu-2.21.0-{PYTHON_TAG}-{PYTHON_TAG}-manylinux_2_27_x86_64.whl",
            ChecksumError,
            "no released wheel .*--allow-unknown-wheel",
        ),
    ],
)
def test_a_file_that_is_not_a_known_release_is_refused(
    tmp_path: Path, name: str, error: type[BuildError], match: str
) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as wheel:
        wheel.writestr("a", "a")
    with pytest.raises(error, match=match):
        source.by_path(tmp_path / name)


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / f"tensorflow_cpu-2.21.0-{PYTHON_TAG}-{PYTHON_TAG}-manylinux_2_27_x86_64.whl"
    with pytest.raises(CorruptWheelError, match="is not a file"):
        source.by_path(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(CorruptWheelError, match="not a zip file"):
        source.by_path(path)


def fake_pip(directory: Path, gives: bytes | None, name: str = "tensorflow_cpu-2.21.0.whl") -> str:
    """A program that stands in for `python` and downloads `gives`, or fails."""
    program = directory / "python"
    (directory / "gives").write_bytes(gives or b"")
    program.write_text(
        f"#!{sys.executable}\n"
        "import shutil, sys\n"
        "from pathlib import Path\n"
        f"if {gives is None}: sys.exit(3)\n"
        "arguments = sys.argv[1:]\n"
        "target = Path(arguments[arguments.index('--dest') + 1])\n"
        f"shutil.copy({str(directory / 'gives')!r}, target / {name!r})\n"
    )
    program.chmod(0o755)
    return str(program)


def wanted() -> source.Input:
    release = releases.DEFAULT
    sha256 = hashlib.sha256(b"released").hexdigest()
    return source.Input(
        "tensorflow_cpu-2.21.0.whl", sha256, "tensorflow-cpu", PYTHON_TAG, "any", release, None
    )


def test_a_download_is_checked_and_kept(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = source.fetch(wanted(), cache, fake_pip(tmp_path, b"released"))
    assert path.read_bytes() == b"released"
    # The second time pip is not asked.
    assert source.fetch(wanted(), cache, fake_pip(tmp_path, None)) == path


def test_a_download_with_another_sha256_is_not_kept(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(ChecksumError, match="the release has"):
        source.fetch(wanted(), cache, fake_pip(tmp_path, b"something else"))
    assert list(cache.iterdir()) == []


def test_a_damaged_cached_wheel_is_downloaded_again(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / wanted().filename).write_bytes(b"half a whe")
    path = source.fetch(wanted(), cache, fake_pip(tmp_path, b"released"))
    assert path.read_bytes() == b"released"


def test_a_failing_download_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"exit status 3\); .* --wheel"):
        source.fetch(wanted(), tmp_path / "cache", fake_pip(tmp_path, None))
    assert list((tmp_path / "cache").iterdir()) == []


def patched_of(directory: Path, name: str, sha256: str) -> Path:
    """A patched wheel as far as it says what it was made from."""
    path = directory / "tensorflow_cpu-2.21.0+modelpool.0.1.0-x.whl"
    info = {"base_wheel": name, "base_wheel_sha256": sha256}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tf_model_pool/build_info.json", json.dumps(info))
    return path


def test_the_released_wheel_of_a_patched_one_is_downloaded_and_checked(tmp_path: Path) -> None:
    wheel = dataclasses.replace(
        releases.DEFAULT.wheels[0], sha256=hashlib.sha256(b"released").hexdigest()
    )
    table = [dataclasses.replace(releases.DEFAULT, wheels=(wheel,))]
    patched = patched_of(tmp_path, wheel.filename, wheel.sha256)
    cache = tmp_path / "cache"
    pip = fake_pip(tmp_path, b"something else", wheel.filename)
    with pytest.raises(ChecksumError, match="the release has"):
        base.released_of(patched, cache, table=table, python=pip)
    pip = fake_pip(tmp_path, b"released", wheel.filename)
    path = base.released_of(patched, cache, table=table, python=pip)
    assert (path, path.read_bytes()) == (cache / wheel.filename, b"released")


def test_the_base_of_a_wheel_that_is_no_release_has_to_be_there(tmp_path: Path) -> None:
    patched = patched_of(tmp_path, "tensorflow-mine.whl", hashlib.sha256(b"mine").hexdigest())
    cached = tmp_path / "tensorflow-mine.whl"
    cached.write_bytes(b"another")
    with pytest.raises(UnsupportedWheelError, match=f"no released wheel; put .* into {tmp_path}"):
        base.released_of(patched, tmp_path)
    cached.write_bytes(b"mine")
    assert base.released_of(patched, tmp_path) == cached


def test_a_wheel_that_does_not_say_what_it_was_made_from_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CorruptWheelError, match=r"a\.whl is not a readable patched wheel"):
        base.main([str(tmp_path / "a.whl")], tmp_path)
    assert capsys.readouterr().out == ""


# ---- tools --------------------------------------------------------------------------------------


def test_without_a_compiler_the_error_has_the_command_that_installs_one(tmp_path: Path) -> None:
    with pytest.raises(ToolMissingError, match=r"no C\+\+ compiler found; .*apt-get install g\+\+"):
        toolchain.find_toolchain({"PATH": str(tmp_path)})
    with pytest.raises(ToolMissingError, match=r"CXX=nothing is not a program"):
        toolchain.find_compiler({"PATH": str(tmp_path), "CXX": "nothing"})


HEADERS = "#define PY_MAJOR_VERSION 3\n#define PY_MINOR_VERSION {}\n"


def write_headers(directory: Path, minor: int) -> Path:
    """A directory as Python's headers are installed, as far as anybody looks."""
    directory.mkdir(parents=True)
    (directory / "patchlevel.h").write_text(HEADERS.format(minor))
    (directory / "Python.h").write_text("")
    return directory


def write_interpreter(path: Path, tag: str, include: Path, implementation: str = "cpython") -> str:
    """A program that says what an interpreter says about itself."""
    answer = json.dumps([tag, implementation, str(include), f".{tag}.so"])
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o755)
    return str(path)


def test_the_running_python_s_headers_are_taken_for_its_own_wheel() -> None:
    found = toolchain.python_for(PYTHON_TAG)
    assert found.include == Path(sysconfig.get_path("include"))
    assert found.suffix == sysconfig.get_config_var("EXT_SUFFIX")
    assert found.missing == ""


def test_another_python_s_headers_are_found_through_its_interpreter(tmp_path: Path) -> None:
    include = write_headers(tmp_path / "include", 99)
    program = write_interpreter(tmp_path / "python", "cp399", include)
    expected = toolchain.PythonTarget("cp399", include, ".cp399.so")
    assert toolchain.python_for("cp399", interpreter=program) == expected
    assert toolchain.python_for("cp399", which={"python3.99": program}.get) == expected


def test_headers_can_be_named_without_an_interpreter(tmp_path: Path) -> None:
    include = write_headers(tmp_path / "include", 99)
    found = toolchain.python_for("cp399", include=include)
    assert (found.include, found.suffix) == (include, ".cpython-399-x86_64-linux-gnu.so")


def test_a_python_that_is_not_there_means_no_native_module_and_why(tmp_path: Path) -> None:
    nowhere = toolchain.python_for("cp399", which=lambda _: None)
    assert nowhere.include is None
    assert nowhere.missing == "python3.99 was not found when the wheel was built"
    bare = write_interpreter(tmp_path / "python", "cp399", tmp_path)
    assert "Python.h is missing" in toolchain.python_for("cp399", which=lambda _: bare).missing
    assert toolchain.python_for(PYTHON_TAG, native=False).missing == "built with --no-native"


def test_what_was_named_and_is_something_else_is_an_error(tmp_path: Path) -> None:
    include = write_headers(tmp_path / "include", 98)
    program = write_interpreter(tmp_path / "python", "cp398", include)
    pypy = write_interpreter(tmp_path / "pypy", "cp399", include, "pypy")
    with pytest.raises(
        UnsupportedWheelError, match=r"cpython 3\.98; a cp399 wheel needs CPython 3"
    ):
        toolchain.python_for("cp399", interpreter=program)
    with pytest.raises(UnsupportedWheelError, match=r"is pypy 3\.99"):
        toolchain.python_for("cp399", interpreter=pypy)
    with pytest.raises(UnsupportedWheelError, match="not a Python that runs"):
        toolchain.python_for("cp399", interpreter=str(tmp_path / "nothing"))
    with pytest.raises(UnsupportedWheelError, match="has the headers of cp398; a cp399 wheel"):
        toolchain.python_for("cp399", include=include)
    with pytest.raises(ToolMissingError, match=r"not the directory of Python\.h"):
        toolchain.python_for("cp399", include=tmp_path)
    (include / "Python.h").unlink()
    with pytest.raises(ToolMissingError, match="apt-get install python3-dev"):
        toolchain.python_for("cp398", interpreter=program)


def test_another_machine_s_wheel_needs_its_cross_compiler_and_gets_its_suffix(
    tmp_path: Path,
) -> None:
    # GIVEN the architecture that this machine is not of
    (other,) = (row for row in ARCHITECTURES.values() if not row.is_native)
    package = f"apt-get install g\\+\\+-{other.triplet.replace('_', '-')}"
    with pytest.raises(ToolMissingError, match=package):
        toolchain.find_compiler({"PATH": str(tmp_path)}, target=other)
    compiler = tmp_path / f"{other.triplet}-g++"
    compiler.write_text(f"#!/bin/sh\necho {other.triplet}\n")
    compiler.chmod(0o755)
    environment = {"PATH": str(tmp_path)}
    assert toolchain.find_compiler(environment, target=other) == compiler
    # THEN one that makes code for this machine is refused, by the name of both
    with pytest.raises(ToolMissingError, match=f"expected one for {other.name}"):
        toolchain.find_toolchain({**os.environ, "CXX": "g++"}, target=other)
    python = toolchain.python_for(PYTHON_TAG, other)
    assert python.include == Path(sysconfig.get_path("include"))
    assert python.suffix.endswith(f"-{other.triplet}.so")


def test_the_named_compiler_is_taken(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    assert toolchain.find_compiler({"PATH": str(tmp_path), "CXX": "mine"}) == mine


# ---- platform tag -------------------------------------------------------------------------------


def test_an_old_interface_keeps_the_tag_of_the_input(tmp_path: Path) -> None:
    library = compile_shared("int one() { return 1; }", tmp_path / "old.so")
    tag = platform_tag.platform_tag("manylinux_2_27_x86_64", [library], [])
    assert tag == "manylinux_2_27_x86_64"


def needs_version(directory: Path, version: str) -> Path:
    """A library that needs symbol `wanted` of this version of libc.so.6."""
    directory.mkdir()
    script = directory / "versions"
    script.write_text(f"{version} {{ wanted; }};")
    libc = compile_shared(
        'extern "C" int wanted() { return 1; }',
        directory / "libc.so.6",
        [f"-Wl,--version-script={script}", "-nostdlib"],
    )
    return compile_shared(
        'extern "C" int wanted(); int use() { return wanted(); }',
        directory / "new.so",
        [str(libc), "-nostdlib"],
    )


def test_a_newer_interface_makes_the_tag_newer(tmp_path: Path) -> None:
    library = needs_version(tmp_path / "x", "GLIBC_2.33")
    tag = platform_tag.platform_tag("manylinux_2_27_x86_64", [library], [])
    assert tag == "manylinux_2_34_x86_64"


def test_an_interface_that_no_policy_has_is_named(tmp_path: Path) -> None:
    library = needs_version(tmp_path / "x", "GLIBC_2.999")
    with pytest.raises(PlatformTagError, match=r"they need .*GLIBC_2\.999"):
        platform_tag.platform_tag("manylinux_2_27_x86_64", [library], [])


def test_a_library_that_systems_need_not_have_is_named_unless_the_wheel_has_it(
    tmp_path: Path,
) -> None:
    other = compile_shared('extern "C" int other() { return 1; }', tmp_path / "libother.so")
    library = compile_shared(
        'extern "C" int other(); int use() { return other(); }', tmp_path / "x.so", [str(other)]
    )
    with pytest.raises(PlatformTagError, match=r"libother\.so"):
        platform_tag.platform_tag("manylinux_2_27_x86_64", [library], [])
    assert platform_tag.platform_tag("manylinux_2_27_x86_64", [library], ["libother.so"])


# ---- zip ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, archive._BLOCK_BYTES, 2 * archive._BLOCK_BYTES + 12345])
def test_deflated_blocks_join_to_one_stream(tmp_path: Path, size: int) -> None:
    contents = (b"line of text %d\n" * 10 + os.urandom(50)) * (size // 200 + 1)
    contents = contents[:size]
    (tmp_path / "in").write_bytes(contents)
    streams = []
    for workers in (1, 3):
        with ThreadPoolExecutor(workers) as executor:
            result = archive.deflate(
                tmp_path / "in", tmp_path / f"out{workers}", executor, threading.Event()
            )
        streams.append(result.path.read_bytes())
    assert streams[0] == streams[1]
    assert zlib.decompress(streams[0], -15) == contents
    assert (result.crc, result.size) == (zlib.crc32(contents), size)
    assert result.sha256 == hashlib.sha256(contents).digest()


def test_a_member_copied_from_another_archive_reads_the_same(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as old:
        old.writestr("stored", "x" * 100, zipfile.ZIP_STORED)
        info = zipfile.ZipInfo("program", DATE)
        info.external_attr = 0o100775 << 16
        old.writestr(info, "y" * 5000, zipfile.ZIP_DEFLATED)
    with (
        zipfile.ZipFile(tmp_path / "in.zip") as old,
        archive.WheelWriter(tmp_path / "out.zip", DATE) as writer,
    ):
        writer.copy(old, old.getinfo("stored"))
        writer.copy(old, old.getinfo("program"), "renamed")
        writer.add("new", b"z")
    with zipfile.ZipFile(tmp_path / "out.zip") as new:
        assert new.testzip() is None
        assert new.read("stored") == b"x" * 100
        assert new.read("renamed") == b"y" * 5000
        assert {info.date_time for info in new.infolist()} == {DATE}
        assert new.getinfo("renamed").external_attr >> 16 == 0o100755
        assert new.getinfo("new").external_attr >> 16 == 0o100644


def test_a_member_outside_of_the_wheel_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as wheel:
        wheel.writestr("../outside", "x")
    with (
        zipfile.ZipFile(tmp_path / "in.zip") as wheel,
        pytest.raises(CorruptWheelError, match="lies outside"),
    ):
        archive.extract(wheel, wheel.infolist(), tmp_path / "unpacked")
    assert not (tmp_path / "outside").exists()


# ---- metadata -----------------------------------------------------------------------------------


def test_version_tag_and_licence_change_and_nothing_else() -> None:
    text = "Name: a\nVersion: 1\nLicense: x\n\nVersion: in the text\n"
    assert metadata.with_version(text, "2") == text.replace("Version: 1", "Version: 2")
    assert metadata.with_license_file(text, "L").splitlines()[3] == "License-File: L"
    assert metadata.with_first_line(text, "N.") == text.replace("\n\n", "\n\nN.\n\n")
    assert metadata.with_first_line("Name: a\n", "N.") == "Name: a\n\nN.\n"
    wheel = "Wheel-Version: 1.0\nTag: a\nTag: b\nBuild: 1\n"
    assert metadata.with_tag(wheel, "c") == "Wheel-Version: 1.0\nTag: c\nBuild: 1\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "[console_scripts]\nOURS\n"),
        ("", "[console_scripts]\nOURS\n"),
        ("[console_scripts]\na = b:c\n", "[console_scripts]\na = b:c\nOURS\n"),
        ("[console_scripts]\na = b:c", "[console_scripts]\na = b:c\nOURS\n"),
        (
            "[x]\nq = r\n\n[console_scripts]\r\na = b:c\r\n\n[gui_scripts]\na = b:c\n",
            "[x]\nq = r\n\n[console_scripts]\na = b:c\nOURS\n\n[gui_scripts]\na = b:c\n",
        ),
        ("[gui_scripts]\na = b:c\n", "[gui_scripts]\na = b:c\n\n[console_scripts]\nOURS\n"),
    ],
)
def test_the_console_command_is_added_to_what_is_there(before: str | None, after: str) -> None:
    ours = "tf-model-pool = tf_model_pool.cli:main"
    text = metadata.with_console_command(before)
    assert text == after.replace("OURS", ours)
    read = configparser.ConfigParser()
    read.read_string(text)
    assert metadata.with_console_command(text) == text


@pytest.mark.parametrize("change", [metadata.with_version, metadata.with_tag])
def test_text_without_the_expected_line_is_corrupt(change: object) -> None:
    assert callable(change)
    with pytest.raises(CorruptWheelError, match="has no line"):
        change("Other: 1\n", "2")


def write_checked(path: Path, members: dict[str, bytes], recorded: dict[str, bytes]) -> None:
    entries = {
        name: metadata.RecordEntry(
            archive.record_hash(hashlib.sha256(contents).digest()), len(contents)
        )
        for name, contents in recorded.items()
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for name, contents in members.items():
            wheel.writestr(name, contents)
        wheel.writestr(
            "a-1.dist-info/RECORD", metadata.write_record(entries, "a-1.dist-info/RECORD")
        )


def test_verification_accepts_what_record_says(tmp_path: Path) -> None:
    write_checked(tmp_path / "a.whl", {"x,y": b"1", "z": b"2"}, {"x,y": b"1", "z": b"2"})
    metadata.verify(tmp_path / "a.whl", workers=3)


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ({"x": b"1", "z": b"3"}, "z is not what RECORD says"),
        ({"x": b"1"}, "differ: z"),
        ({"x": b"1", "z": b"2", "more": b""}, "differ: more"),
    ],
)
def test_verification_finds_what_record_does_not_say(
    tmp_path: Path, members: dict[str, bytes], match: str
) -> None:
    write_checked(tmp_path / "a.whl", members, {"x": b"1", "z": b"2"})
    with pytest.raises(BuildError, match=match):
        metadata.verify(tmp_path / "a.whl")


# ---- room, signals, progress --------------------------------------------------------------------


def test_needs_on_one_file_system_are_added_up(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    half = free * 2 // 3
    workspace.check_disk_space({tmp_path / "not" / "yet": half})
    with pytest.raises(DiskSpaceError, match="MiB free"):
        workspace.check_disk_space({tmp_path / "a": half, tmp_path / "b": half})


def test_other_errors_of_the_system_are_not_taken_for_a_full_disk() -> None:
    with pytest.raises(FileNotFoundError), workspace.full_disk_as_error():
        raise FileNotFoundError("x")


def test_a_signal_is_an_error_while_working_and_the_handlers_come_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def work() -> None:
        with workspace.signals_as_errors(), workspace.temporary_directory(tmp_path) as directory:
            (directory / "file").write_text("x")
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(BuildInterruptedError) as caught:
        work()
    assert caught.value.signal_number == signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_plain_lines_without_a_terminal() -> None:
    out = io.StringIO()
    progress = Progress(out)
    with progress.stage("unpack"):
        progress.update("", 1, 2)
    lines = out.getvalue().splitlines()
    assert lines[0] == "unpack ..."
    assert lines[1].startswith("unpack ... done in ")
    assert len(lines) == 2


def test_a_long_stage_goes_on_in_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    out = io.StringIO()
    progress = Progress(out)
    with progress.stage("compile"):
        for done in range(5):
            progress.update("files", done, 5)
            now += 20
    assert out.getvalue().splitlines() == [
        "compile ...",
        "compile ... files 40 %",
        "compile ... files 80 %",
        "compile ... done in 100.0 s",
    ]


def test_progress_moves_on_a_terminal() -> None:
    out = Terminal()
    progress = Progress(out)
    with progress.stage("unpack"):
        progress.update("files", 1, 2)
    assert "unpack ... files 50 %" in out.getvalue()
    assert out.getvalue().count("\n") == 1


# ---- command line and pins ----------------------------------------------------------------------


def test_errors_are_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["build", "--wheel", "/nowhere.whl"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


def test_the_builder_runs_without_the_runtime_modules() -> None:
    code = (
        "import sys, tf_model_pool_build.wheel.command, tf_model_pool_build.commands\n"
        "sys.exit('tensorflow' in sys.modules or 'tf_model_pool._native' in sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "python")},
    )


def test_requirements_are_pinned_and_listed_once() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lines = requirements.requirements(text, ["build", "test", "lint"])
    assert len(lines) == len(set(lines))
    assert all("==" in line for line in lines)
    with pytest.raises(KeyError):
        requirements.requirements(text, ["nothing"])
