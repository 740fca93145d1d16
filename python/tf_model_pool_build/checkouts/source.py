# SPDX-License-Identifier: Apache-2.0
"""Builds a TensorFlow wheel with model pools from sources: what to run, and running it.

The commands are those of TensorFlow's "Build from source": `./configure`, which asks nothing when
its questions are answered in the environment, then Bazel. From 2.17 on Bazel makes the wheel;
before that it makes a program, which makes it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tf_model_pool.files import replacing
from tf_model_pool_build.errors import BuildError, CheckoutError, ToolMissingError
from tf_model_pool_build.releases import releases

_STANDARD_ERROR = 2
_WHEEL_HOUSE = "bazel-bin/tensorflow/tools/pip_package/wheel_house"
_PACKER = "bazel-bin/tensorflow/tools/pip_package/build_pip_package"
#: The variable that chooses the Python was renamed between 2.17 and 2.21; both are known to be read
#: somewhere in 2.21, and an unknown one does no harm.
_PYTHON_VARIABLES = ("TF_PYTHON_VERSION", "HERMETIC_PYTHON_VERSION")
#: What the released x86 wheels need too: AVX.
_CC_OPT_FLAGS = "-mavx -Wno-sign-compare"
_VERSION = re.compile(r'^(?:TF_)?VERSION = "(\d+\.\d+\.\d+)[^"]*"', re.MULTILINE)
#: Where the version stands: 2.20 and later, then before.
_VERSION_FILES = ("tensorflow/tf_version.bzl", "tensorflow/tensorflow.bzl")
#: From here on Bazel appends ".dev0+selfbuilt" to the version unless told that this is a release.
_SUFFIX_SINCE = (2, 20)


@dataclasses.dataclass(frozen=True)
class Step:
    """A command to run at the top of the sources.

    Attributes:
        command: program and arguments.
        environment: what is set for it beyond the caller's environment.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]

    def shown(self) -> str:
        """As a line for a shell."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*settings, *(shlex.quote(word) for word in self.command)])


def version_of(tree: Path) -> str:
    """TensorFlow's version in a source tree. Raises `CheckoutError` if it is no such tree."""
    for name in _VERSION_FILES:
        path = tree / name
        if path.is_file() and (match := _VERSION.search(path.read_text(encoding="utf-8"))):
            return match[1]
    raise CheckoutError(
        f"{tree} has no TensorFlow version in {' or '.join(_VERSION_FILES)}; "
        "expected the top of TensorFlow's sources"
    )


def find_bazelisk(path: str | None = None) -> str:
    """The program bazelisk. Raises `ToolMissingError` with the command that installs it."""
    found = shutil.which("bazelisk", path=path)
    if found is None:
        raise ToolMissingError(
            "bazelisk is not installed; install it: npm install -g @bazel/bazelisk"
        )
    return found


def check_python(source: releases.TensorFlowSource, python: str) -> None:
    """Checks that the release can be built for this Python. Raises `CheckoutError`."""
    if python not in source.pythons:
        raise CheckoutError(
            f"TensorFlow {releases.minor_of(source.version)} cannot be built for Python {python}; "
            f"it can for {', '.join(source.pythons)}"
        )


def configure_environment(python: str, given: Mapping[str, str]) -> dict[str, str]:
    """Answers to the questions of `./configure`; what the caller has set stays as it is."""
    clang = shutil.which("clang", path=given.get("PATH"))
    answers = {
        "PYTHON_BIN_PATH": shutil.which(f"python{python}", path=given.get("PATH"))
        or sys.executable,
        "USE_DEFAULT_PYTHON_LIB_PATH": "1",
        "TF_NEED_ROCM": "0",
        "TF_NEED_CUDA": "0",
        "TF_NEED_CLANG": "0" if clang is None else "1",
        "CC_OPT_FLAGS": _CC_OPT_FLAGS,
        "TF_SET_ANDROID_WORKSPACE": "0",
        **dict.fromkeys(_PYTHON_VARIABLES, python),
    }
    if clang is not None:
        answers["CLANG_COMPILER_PATH"] = clang
    return {name: value for name, value in answers.items() if name not in given}


def plan(
    source: releases.TensorFlowSource,
    python: str,
    output: Path,
    *,
    bazelisk: str,
    bazel_arguments: Sequence[str] = (),
    given: Mapping[str, str] = os.environ,
) -> tuple[Step, ...]:
    """The commands that make a CPU wheel of this release.

    Args:
        source: the release; another patch release of its minor version is built alike.
        python: e.g. `3.11`.
        output: directory for the wheel; only the programs before 2.17 are told.
        bazelisk: the program.
        bazel_arguments: further arguments of `bazelisk build`, after ours.
        given: the caller's environment.

    Raises:
        CheckoutError: the release cannot be built for this Python.
    """
    check_python(source, python)
    environment = configure_environment(python, given)
    python_of_repositories = [f"--repo_env={name}={python}" for name in _PYTHON_VARIABLES]
    build = [bazelisk, "build", "--config=opt", *python_of_repositories]
    if source.pywrap:
        build.append("--repo_env=USE_PYWRAP_RULES=1")
    if source.wheel_target:
        build.append("--repo_env=WHEEL_NAME=tensorflow_cpu")
    if tuple(int(part) for part in source.version.split(".")[:2]) >= _SUFFIX_SINCE:
        build.append("--repo_env=ML_WHEEL_TYPE=release")
    build += bazel_arguments
    target = "wheel" if source.wheel_target else "build_pip_package"
    build.append(f"//tensorflow/tools/pip_package:{target}")
    steps = [Step(("./configure",), environment), Step(tuple(build), environment)]
    if not source.wheel_target:
        steps.append(Step((f"./{_PACKER}", "--cpu", str(output)), environment))
    return tuple(steps)


def run_step(step: Step, tree: Path) -> None:
    """Runs a step, its output on standard error.

    An interruption is passed on as SIGINT, and waited for: Bazel then stops its server's work.

    Raises:
        BuildError: it failed, or cannot be started.
    """
    try:
        process = subprocess.Popen(
            step.command,
            cwd=tree,
            env={**os.environ, **step.environment},
            stdin=subprocess.DEVNULL,
            stdout=_STANDARD_ERROR,  # ours carries the wheel's path
        )
    except OSError as error:
        raise BuildError(
            f"cannot run {step.command[0]} in {tree}: {error.strerror or error}"
        ) from error
    try:
        status = process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    if status != 0:
        raise BuildError(f"failed with exit status {status}: {step.shown()}")


def collect(tree: Path, output: Path, before: frozenset[str]) -> tuple[Path, ...]:
    """Copies the wheels that Bazel made to `output`, or finds those that the program put there.

    Args:
        tree: the sources.
        output: directory for wheels.
        before: names of the wheels that were in `output` before.

    Raises:
        BuildError: there is none.
    """
    output.mkdir(parents=True, exist_ok=True)
    house = tree / _WHEEL_HOUSE
    for wheel in sorted(house.glob("*.whl")) if house.is_dir() else ():
        with replacing(output / wheel.name) as partial:
            shutil.copyfile(wheel, partial)
        before -= {wheel.name}
    made = tuple(path for path in sorted(output.glob("*.whl")) if path.name not in before)
    if not made:
        raise BuildError(f"the build ended well, but there is no wheel in {house} or {output}")
    return made
