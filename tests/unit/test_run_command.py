# SPDX-License-Identifier: Apache-2.0
"""`python -m tf_model_pool run`: what it starts, in which environment, and what it refuses."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tf_model_pool import api
from tf_model_pool import run as run_command
from tf_model_pool.errors import NotActiveError, RunError

HASHES = {
    "tensorflow/libtensorflow_cc.so.2": "sha256=cc",
    "tensorflow/libtensorflow_framework.so.2": "sha256=framework",
}


def install(
    site: Path,
    *,
    version: str = "2.21.0",
    patched: bool = False,
    hashes: Mapping[str, str] = HASHES,
    library: bool = True,
) -> Path:
    """A TensorFlow and this package beside it, as far as `run` looks; returns `site`."""
    (site / "tensorflow").mkdir(parents=True)
    (site / "tensorflow" / "__init__.py").write_text("", encoding="utf-8")
    if patched:
        (site / "tensorflow" / "libtf_model_pool.so").write_bytes(b"")
    info = site / f"tensorflow_cpu-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: tensorflow-cpu\nVersion: {version}\n", encoding="utf-8"
    )
    (info / "RECORD").write_text(
        "".join(f"{name},{value},1\n" for name, value in hashes.items()), encoding="utf-8"
    )
    package = site / "tf_model_pool"
    shutil.copytree(
        Path(run_command.__file__).parent,
        package,
        ignore=shutil.ignore_patterns("__pycache__", "*.so", "bin", "build_info.json", "bench"),
    )
    build_info = {
        "tensorflow_version": "2.21.0",
        "tensorflow_libraries": HASHES,
        "base_wheel": "tensorflow_cpu-2.21.0.whl",
    }
    (package / "build_info.json").write_text(json.dumps(build_info), encoding="utf-8")
    if library:
        path = package / run_command.PRELOAD_LIBRARY
        subprocess.run(
            ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-nodefaultlibs", "-o", str(path)],
            input='extern "C" const void* tf_model_pool_preload_target() { return nullptr; }',
            text=True,
            check=True,
        )
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untouched TensorFlow with the distribution for it."""
    return install(tmp_path_factory.mktemp("run") / "site")


def run(
    site: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m tf_model_pool run ARGUMENTS`, with the packages in `site`."""
    inherited = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    return subprocess.run(
        [sys.executable, "-m", "tf_model_pool", "run", *arguments],
        # -m puts the working directory first on sys.path.
        cwd=site,
        env={**inherited, "PYTHONPATH": str(site), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def library_of(site: Path) -> str:
    return str(site.resolve() / "tf_model_pool" / run_command.PRELOAD_LIBRARY)


# ---- what it starts ---------------------------------------------------------------------------


def test_the_program_gets_its_arguments_and_the_library(site: Path) -> None:
    code = "import os, sys; print(os.environ['LD_PRELOAD'], *sys.argv[1:])"
    done = run(site, "--", sys.executable, "-c", code, "-x", "--", "a b")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"{library_of(site)} -x -- a b\n",
        "",
    )


def test_the_separator_may_be_left_out(site: Path) -> None:
    assert run(site, "sh", "-c", "echo $0 $1", "one", "two").stdout == "one two\n"


def test_the_exit_status_is_the_programs(site: Path) -> None:
    assert run(site, "--", "sh", "-c", "exit 41").returncode == 41


def test_a_signal_ends_the_program_as_it_would_without(site: Path) -> None:
    assert run(site, "--", "sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM


def test_the_program_takes_the_place_of_this_process(site: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tf_model_pool", "run", "--", "sh", "-c", "echo $$"],
        cwd=site,
        env={**os.environ, "PYTHONPATH": str(site)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        output, _ = process.communicate()
        assert int(output) == process.pid


def test_a_python_script_need_not_be_executable(site: Path, tmp_path: Path) -> None:
    script = tmp_path / "serve.py"
    script.write_text("import sys; print(sys.executable, *sys.argv[1:])", encoding="utf-8")
    assert run(site, "--", str(script), "x").stdout == f"{sys.executable} x\n"


def test_a_script_is_started_through_its_interpreter(site: Path, tmp_path: Path) -> None:
    script = tmp_path / "serve"
    script.write_text("#!/bin/sh\necho $LD_PRELOAD\n", encoding="utf-8")
    script.chmod(0o755)
    assert run(site, "--", str(script)).stdout == f"{library_of(site)}\n"


@pytest.mark.parametrize("separator", [":", " "])
def test_a_library_that_is_preloaded_already_stays_in_front(site: Path, separator: str) -> None:
    preset = f"libm.so.6{separator}libdl.so.2"
    done = run(site, "--", "sh", "-c", "echo $LD_PRELOAD", environment={"LD_PRELOAD": preset})
    assert done.stdout == f"libm.so.6:libdl.so.2:{library_of(site)}\n"


def test_run_within_run_names_the_library_once(site: Path) -> None:
    nested = [sys.executable, "-m", "tf_model_pool", "run", "--", "sh", "-c", "echo $LD_PRELOAD"]
    assert run(site, "--", *nested).stdout == f"{library_of(site)}\n"


def test_a_patched_tensorflow_is_said_and_left_alone(tmp_path: Path) -> None:
    patched = install(tmp_path / "site", patched=True)
    done = run(patched, "--", "sh", "-c", "echo [$LD_PRELOAD]")
    assert done.stdout == "[]\n"
    assert "is patched, so nothing is preloaded" in done.stderr


# ---- what it refuses --------------------------------------------------------------------------


def refused(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The one line of an error; the program did not run."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("arguments", [[], ["--"]], ids=["nothing", "separator"])
def test_a_missing_program_is_an_error_with_the_usage(site: Path, arguments: list[str]) -> None:
    assert "run -- CMD" in refused(run(site, *arguments), 125)


def test_an_unknown_program_is_named(site: Path) -> None:
    assert "no-such-program" in refused(run(site, "--", "no-such-program"), 127)


def test_a_file_that_is_no_program_is_named(site: Path, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("text", encoding="utf-8")
    assert f"{file} is not executable" in refused(run(site, "--", str(file)), 126)


def test_another_version_is_named_with_the_one_expected(tmp_path: Path) -> None:
    other = install(tmp_path / "site", version="2.20.0")
    line = refused(run(other, "--", "true"), 125)
    assert "TensorFlow 2.20.0" in line
    assert "TensorFlow 2.21.0" in line
    assert "./build.sh library" in line


@pytest.mark.parametrize(
    ("hashes", "found"),
    [
        ({**HASHES, "tensorflow/libtensorflow_cc.so.2": "sha256=other"}, "sha256=other"),
        ({}, "no record"),
    ],
    ids=["different", "unknown"],
)
def test_another_build_of_the_version_is_refused(
    tmp_path: Path, hashes: Mapping[str, str], found: str
) -> None:
    other = install(tmp_path / "site", hashes=hashes)
    line = refused(run(other, "--", "true"), 125)
    assert "libtensorflow_cc.so.2" in line
    assert "expected sha256=cc" in line
    assert f"found {found}" in line


def test_a_package_without_the_library_says_how_to_get_it(tmp_path: Path) -> None:
    bare = install(tmp_path / "site", library=False)
    assert "./build.sh library" in refused(run(bare, "--", "true"), 125)


def test_no_tensorflow_is_named_with_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "find_tensorflow", lambda: None)
    with pytest.raises(NotActiveError, match=f"not installed for {sys.executable}"):
        run_command.prepare(["true"], os.environ)


@pytest.mark.parametrize("directory", ["with space", "with:colon"])
def test_a_path_that_ld_preload_cannot_hold_is_refused(directory: str) -> None:
    with pytest.raises(RunError, match="cannot be preloaded"):
        run_command.with_library(None, Path("/opt") / directory / "lib.so")


def _program(path: Path, *flags: str) -> Path:
    subprocess.run(
        ["g++", "-x", "c++", "-", "-o", str(path), *flags],
        input="int main() { return 0; }",
        text=True,
        check=True,
    )
    return path


def test_a_static_program_is_refused(tmp_path: Path) -> None:
    program = _program(tmp_path / "static", "-static")
    with pytest.raises(RunError, match="statically linked"):
        run_command.check_preloadable(program)


def test_a_program_for_another_c_library_is_refused(tmp_path: Path) -> None:
    program = _program(tmp_path / "musl", "-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1")
    with pytest.raises(RunError, match=r"started by /lib/ld-musl-x86_64\.so\.1"):
        run_command.check_preloadable(program)


def test_a_set_user_id_program_is_refused(tmp_path: Path) -> None:
    program = _program(tmp_path / "setuid")
    program.chmod(0o4755)
    with pytest.raises(RunError, match="set-user-ID"):
        run_command.check_preloadable(program)


def test_a_program_for_another_machine_is_refused(tmp_path: Path) -> None:
    program = _program(tmp_path / "s390")
    with program.open("r+b") as file:
        file.seek(18)
        file.write(struct.pack("<H", 22))  # EM_S390
    with pytest.raises(RunError, match=f"is not for {platform.machine()}"):
        run_command.check_preloadable(program)


def test_a_damaged_program_is_refused(tmp_path: Path) -> None:
    program = _program(tmp_path / "cut")
    program.write_bytes(program.read_bytes()[:80])
    with pytest.raises(RunError, match="damaged"):
        run_command.check_preloadable(program)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("echo no interpreter\n", "neither an ELF program nor a script"),
        ("#!\n", "names no interpreter"),
        ("#!/no/such/interpreter\n", "No such file"),
    ],
)
def test_a_script_without_a_usable_interpreter_is_refused(
    tmp_path: Path, text: str, found: str
) -> None:
    script = tmp_path / "script"
    script.write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=found):
        run_command.check_preloadable(script)


def test_a_script_of_a_static_interpreter_is_refused_by_the_interpreters_name(
    tmp_path: Path,
) -> None:
    program = _program(tmp_path / "static", "-static")
    script = tmp_path / "script"
    script.write_text(f"#!{program}\n", encoding="utf-8")
    with pytest.raises(RunError, match=f"{program}, which runs {script}, is statically linked"):
        run_command.check_preloadable(script)


def test_scripts_that_name_each_other_end(tmp_path: Path) -> None:
    script = tmp_path / "loop"
    script.write_text(f"#!{script}\n", encoding="utf-8")
    with pytest.raises(RunError, match="names no interpreter that can be found"):
        run_command.check_preloadable(script)
