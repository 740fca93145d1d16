# SPDX-License-Identifier: Apache-2.0
"""Compiles tf_allocator/ against the wheel's patched headers, with CMake and ninja."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tf_model_pool_build.errors import CompileError
from tf_model_pool_build.wheel.toolchain import PythonTarget, Toolchain

LIBRARY_NAME = "libtf_model_pool.so"
PRELOAD_NAME = "libtf_model_pool_preload.so"
DRIVER_NAME = "swap_driver"
#: CMake target -> the file that it makes: the modules for one Python.
_NATIVE = {"native": "_native.so", "session": "_session.so"}
_LINES_IN_ERROR = 40
_NINJA_STEP = re.compile(r"^\[(\d+)/(\d+)\]")
#: Flags of the caller's own builds must not change what a wheel is made of.
_IGNORED_VARIABLES = frozenset({"CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CPATH"})


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What came out.

    Attributes:
        library: libtf_model_pool.so.
        native: the native modules by name, `_native` and `_session`; none if `python` has no
            headers.
        driver: the benchmark's program.
    """

    library: Path
    native: Mapping[str, Path]
    driver: Path


@dataclasses.dataclass(frozen=True)
class TensorFlowSources:
    """Patched sources of TensorFlow that take the place of the hooks.

    Attributes:
        directory: root of the tree; what it includes must be in the wheel's headers.
        files: .cc files below it.
    """

    directory: Path
    files: tuple[str, ...]


def run_streaming(command: Sequence[str | Path], on_line: Callable[[str], None]) -> int:
    """Runs a program in its own process group, and stops that group whatever ends this call.

    Returns:
        The exit status; `on_line` got standard output and standard error, line by line.
    """
    environment = {k: v for k, v in os.environ.items() if k not in _IGNORED_VARIABLES}
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            if process.stdout is not None:
                for line in process.stdout:
                    on_line(line.rstrip("\n"))
            return process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise


def _run(command: Sequence[str | Path], what: str, on_line: Callable[[str], None]) -> None:
    lines: list[str] = []

    def keep(line: str) -> None:
        lines.append(line)
        on_line(line)

    status = run_streaming(command, keep)
    if status != 0:
        tail = "\n".join(lines[-_LINES_IN_ERROR:])
        raise CompileError(f"{what} failed with exit status {status}:\n{tail}")


def compile_library(
    project: Path,
    work: Path,
    tensorflow: Path,
    toolchain: Toolchain,
    python: PythonTarget,
    definitions: Mapping[str, str],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    sources: TensorFlowSources | None = None,
) -> Compiled:
    """Makes the library, the native modules and the benchmark's driver.

    Args:
        project: root of the checkout.
        work: everything is written below it, and its path does not show in the result.
        tensorflow: the unpacked `tensorflow` directory, headers patched.
        toolchain: what to use.
        python: for which Python the native modules are.
        definitions: further CMake variables.
        on_progress: is called with steps done and steps in all.
        sources: link these in place of the hooks.

    Raises:
        CompileError: with the last lines of the output.
    """
    build = work / "cmake"
    variables = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CXX_COMPILER": str(toolchain.compiler),
        "WORK_DIR": str(work),
        "CMAKE_MAKE_PROGRAM": str(toolchain.ninja),
        "TF_INCLUDE_DIR": str(tensorflow / "include"),
        "TF_LIB_DIR": str(tensorflow),
        "PYTHON_INCLUDE_DIR": str(python.include or ""),
        "PYBIND11_INCLUDE_DIR": str(toolchain.pybind11_include),
        **definitions,
    }
    if sources is not None:
        variables["TF_SOURCE_DIR"] = str(sources.directory)
        variables["TF_SOURCES"] = ";".join(sources.files)
    configure: list[str | Path] = [toolchain.cmake, "-S", project / "tf_allocator", "-B", build]
    configure += ["-G", "Ninja", *(f"-D{name}={value}" for name, value in variables.items())]
    _run(configure, "cmake", lambda line: None)

    def on_line(line: str) -> None:
        if step := _NINJA_STEP.match(line):
            on_progress(int(step.group(1)), int(step.group(2)))

    targets: list[str | Path] = [toolchain.ninja, "-C", build]
    targets += ["tf_model_pool", DRIVER_NAME]
    native = {}
    if python.include is not None:
        targets += _NATIVE
        native = {Path(name).stem: build / name for name in _NATIVE.values()}
    _run(targets, "the compiler", on_line)
    return Compiled(build / LIBRARY_NAME, native, build / DRIVER_NAME)


def compile_preload(
    project: Path, work: Path, toolchain: Toolchain, definitions: Mapping[str, str]
) -> Path:
    """Makes the library for `LD_PRELOAD`, which needs no TensorFlow.

    Args:
        project: root of the checkout.
        work: everything is written below it, and its path does not show in the result.
        toolchain: what to use.
        definitions: the CMake variables that name TensorFlow's version and functions.

    Returns:
        The library's path.

    Raises:
        CompileError: with the last lines of the output.
    """
    build = work / "preload"
    variables = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CXX_COMPILER": str(toolchain.compiler),
        "WORK_DIR": str(work),
        "CMAKE_MAKE_PROGRAM": str(toolchain.ninja),
        "TF_MODEL_POOL_PRELOAD": "ON",
        **definitions,
    }
    configure: list[str | Path] = [toolchain.cmake, "-S", project / "tf_allocator", "-B", build]
    configure += ["-G", "Ninja", *(f"-D{name}={value}" for name, value in variables.items())]
    _run(configure, "cmake", lambda line: None)
    _run([toolchain.ninja, "-C", build, "tf_model_pool_preload"], "the compiler", lambda line: None)
    return build / PRELOAD_NAME
