# SPDX-License-Identifier: Apache-2.0
"""The released wheel: named by path or by version, downloaded once, checked against the table."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from tf_model_pool_build import architecture
from tf_model_pool_build.architecture import Architecture
from tf_model_pool_build.errors import (
    AlreadyPatchedError,
    ChecksumError,
    CorruptWheelError,
    DownloadError,
    UnsupportedWheelError,
)
from tf_model_pool_build.releases import releases
from tf_model_pool_build.workspace import temporary_directory

LOCAL_VERSION = "modelpool"
LIBRARY = "tensorflow/libtf_model_pool.so"


@dataclasses.dataclass(frozen=True)
class Input:
    """A released wheel, before it is read.

    Attributes:
        filename: as released.
        sha256: of the file; for a wheel of the table the table's, so that no file is needed.
        package: the distribution, e.g. `tensorflow-cpu`.
        python_tag: e.g. `cp311`.
        platform: as the file's name has it: one tag, or several joined by dots.
        release: of TensorFlow.
        path: the file; None when it may have to be downloaded.
    """

    filename: str
    sha256: str
    package: str
    python_tag: str
    platform: str
    release: releases.Release
    path: Path | None

    @property
    def architecture(self) -> Architecture:
        """What it is for."""
        return architecture.of_platform(self.platform)

    @property
    def functions(self) -> tuple[releases.ReplacedFunction, ...]:
        """What is replaced in it."""
        return self.release.functions_for(self.architecture.name)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def by_version(
    version: str,
    package: str | None,
    python_tag: str,
    *,
    table: Iterable[releases.Release] = releases.RELEASES,
    machine: str | None = None,
) -> Input:
    """The wheel of the table for a version, as `find_wheel`. Raises `UnsupportedWheelError`."""
    release = releases.find_release(version, table)
    wheel = releases.find_wheel(release, package, python_tag, machine or platform.machine())
    return of_table(release, wheel)


def of_table(release: releases.Release, wheel: releases.ReleasedWheel) -> Input:
    """A wheel of the table, which may have to be downloaded."""
    return Input(
        filename=wheel.filename,
        sha256=wheel.sha256,
        package=wheel.package,
        python_tag=wheel.python_tag,
        platform=wheel.platform,
        release=release,
        path=None,
    )


def by_path(
    path: Path,
    *,
    allow_unknown: bool = False,
    table: Iterable[releases.Release] = releases.RELEASES,
) -> Input:
    """The wheel in a file.

    Args:
        path: a released wheel under its released name.
        allow_unknown: accept a sha256 that the table does not have.
        table: the known releases.

    Raises:
        CorruptWheelError: it is not a zip, or not named as a wheel.
        AlreadyPatchedError, UnsupportedWheelError, ChecksumError: what they say.
    """
    if not path.is_file():
        raise CorruptWheelError(f"{path} is not a file")
    try:
        name, version, _, tags = parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        raise CorruptWheelError(f"{path.name} is not the name of a wheel: {error}") from error
    if version.local and version.local.startswith(LOCAL_VERSION):
        raise AlreadyPatchedError(f"{path.name} already contains model pools ({version})")
    if not zipfile.is_zipfile(path):
        raise CorruptWheelError(f"{path} is not a zip file, or its end is missing")
    if name not in releases.PACKAGES:
        raise UnsupportedWheelError(
            f"{path.name} is a wheel of {name}; supported: {', '.join(releases.PACKAGES)}"
        )
    release = releases.find_release(str(version), table)
    interpreters = sorted({tag.interpreter for tag in tags})
    platforms = sorted({tag.platform for tag in tags})
    if len(interpreters) != 1 or not interpreters[0].startswith("cp"):
        raise UnsupportedWheelError(
            f"{path.name} is for {', '.join(interpreters)}; expected one CPython version"
        )
    supported = {tag for wheel in release.wheels for tag in wheel.platform.split(".")}
    if not any(platform in supported for platform in platforms):
        raise UnsupportedWheelError(
            f"{path.name} is for {', '.join(platforms)}; supported: {', '.join(sorted(supported))}"
        )
    sha256 = sha256_of(path)
    if not allow_unknown and sha256 not in {wheel.sha256 for wheel in release.wheels}:
        raise ChecksumError(
            f"{path.name} has sha256 {sha256}, which is no released wheel of TensorFlow "
            f"{release.version}; if you know where it comes from, pass --allow-unknown-wheel"
        )
    return Input(
        filename=path.name,
        sha256=sha256,
        package=str(name),
        python_tag=interpreters[0],
        platform=path.stem.rpartition("-")[2],
        release=release,
        path=path,
    )


def fetch(wheel: Input, cache: Path, python: str = sys.executable) -> Path:
    """The file of `wheel`: its own path, the cache's, or downloaded into the cache with pip.

    Raises:
        DownloadError: pip failed.
        ChecksumError: pip gave another file than the table says. It is not kept.
    """
    if wheel.path is not None:
        return wheel.path
    cached = cache / wheel.filename
    if cached.is_file():
        if sha256_of(cached) == wheel.sha256:
            return cached
        cached.unlink()
    cache.mkdir(parents=True, exist_ok=True)
    # pip's temporary files and the unchecked download go where an interruption removes them.
    with temporary_directory(cache) as directory:
        command = [python, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--no-input"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(directory)]
        command += ["--implementation", "cp", "--python-version", wheel.python_tag[2:]]
        command += ["--abi", wheel.python_tag]
        command += [f"--platform={tag}" for tag in wheel.platform.split(".")]
        command += [f"{wheel.package}=={wheel.release.version}"]
        result = subprocess.run(
            command, env={**os.environ, "TMPDIR": str(directory)}, stdout=sys.stderr, check=False
        )
        downloaded = directory / wheel.filename
        if result.returncode != 0:
            raise DownloadError(
                f"pip could not download {wheel.filename} (exit status {result.returncode}); "
                "download it by other means and pass it with --wheel"
            )
        if not downloaded.is_file():
            found = ", ".join(sorted(path.name for path in directory.glob("*.whl"))) or "nothing"
            raise DownloadError(f"pip gave {found} instead of {wheel.filename}")
        found_sha256 = sha256_of(downloaded)
        if found_sha256 != wheel.sha256:
            raise ChecksumError(
                f"the downloaded {wheel.filename} has sha256 {found_sha256}; "
                f"the release has {wheel.sha256}"
            )
        downloaded.rename(cached)
    return cached
