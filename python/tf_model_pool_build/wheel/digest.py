# SPDX-License-Identifier: Apache-2.0
"""What a wheel is made from, as one hash: two builds with the same hash give the same bytes."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tf_model_pool._version import __version__
from tf_model_pool_build.wheel.source import Input
from tf_model_pool_build.wheel.toolchain import PythonTarget, Toolchain

BUILD_INFO = "tf_model_pool/build_info.json"
_SOURCE_DIRECTORIES = ("tf_allocator", "python", "patches")
_SOURCE_FILES = ("LICENSE",)
_NOT_SOURCES = frozenset({"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"})
#: CMake wants to see these, but no wheel contains them: a change must not cause a build.
_NOT_IN_WHEEL = ("tf_allocator/*_test.cc", "*.md")


def source_files(project: Path) -> Iterator[Path]:
    """The files of the checkout that a build reads, sorted."""
    for directory in _SOURCE_DIRECTORIES:
        for path in sorted((project / directory).rglob("*")):
            if path.is_file() and not _NOT_SOURCES.intersection(path.parts):
                yield path
    yield from (project / name for name in _SOURCE_FILES)


def snapshot(project: Path, target: Path) -> Path:
    """Copies the source files to `target`, so that an edit cannot hit a build halfway."""
    for path in source_files(project):
        copy = target / path.relative_to(project)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return target


def source_digest(project: Path, wheel: Input, toolchain: Toolchain, python: PythonTarget) -> str:
    """Hash over input, sources, tools and SOURCE_DATE_EPOCH, in hexadecimal."""
    digest = hashlib.sha256()
    facts = {
        "wheel": wheel.filename,
        "sha256": wheel.sha256,
        "version": __version__,
        "compiler": toolchain.compiler_version,
        "tools": dict(toolchain.versions),
        "python": python.suffix if python.include is not None else None,
        "date": os.environ.get("SOURCE_DATE_EPOCH", ""),
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for path in source_files(project):
        name = path.relative_to(project).as_posix()
        if fnmatch.fnmatchcase(name, "patches/v*") and path.parent.name != wheel.release.patches:
            continue  # another release's
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in _NOT_IN_WHEEL):
            contents = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"\n{name} {contents}".encode())
    return digest.hexdigest()


def finished_wheel(output: Path, digest: str) -> Path | None:
    """A wheel in `output` that was made from what `digest` stands for."""
    for path in sorted(output.glob("*.whl")):
        try:
            with zipfile.ZipFile(path) as archive:
                info = json.loads(archive.read(BUILD_INFO))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            continue
        if isinstance(info, dict) and info.get("source_digest") == digest:
            return path
    return None
