# SPDX-License-Identifier: Apache-2.0
"""Tries a series without Bazel: the patched sources, in a released wheel, under the tests.

The series is applied to a copy of the files that it changes; every patched .cc is compiled against
the wheel's headers, which get the same patches, and linked with tf_allocator/ in place of the
functions that the wheel builder puts in front of TensorFlow's. What then runs is TensorFlow's own
patched code.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tf_model_pool_build import requirements
from tf_model_pool_build.errors import PatchError, UnsupportedWheelError
from tf_model_pool_build.progress import Progress
from tf_model_pool_build.series import listing, tree
from tf_model_pool_build.wheel import builder, compiling, toolchain
from tf_model_pool_build.wheel import source as released
from tf_model_pool_build.workspace import temporary_directory

_EXTRAS = ("test",)


@dataclasses.dataclass(frozen=True)
class Request:
    """What to try.

    Attributes:
        project: root of the checkout.
        source: TensorFlow's sources; only the files that the series changes need to be there.
        wheel: the released wheel of the same release.
        stock_python: interpreter with the released wheel, for comparison; None to make one.
        arguments: for pytest.
    """

    project: Path
    source: Path
    wheel: released.Input
    stock_python: Path | None = None
    arguments: tuple[str, ...] = ()


def patched_sources(one: listing.Series) -> tuple[str, ...]:
    """The .cc files of TensorFlow's that a series changes. Raises `PatchError` for none."""
    files = tuple(name for name in one.changed_files if name.endswith(".cc"))
    if not files:
        raise PatchError(f"the series {one.release} changes no .cc file: nothing to try")
    return files


def build_wheel(request: Request, output: Path, progress: Progress) -> Path:
    """The wheel with the patched sources in it, below `output`.

    Raises:
        PatchError: the series does not fit the sources, or lacks a part.
        BuildError: as the wheel builder does.
    """
    project = request.project
    one = listing.read(project / "patches", request.wheel.release.patches)
    files = tree.read(request.source, one.changed_files)
    patched = tree.apply(one.with_sources().changes, files)
    with temporary_directory(project / ".build") as work:
        tree.write(patched, work)
        sources = compiling.TensorFlowSources(work, patched_sources(one))
        progress.note(f"patched sources: {', '.join(sources.files)}")
        return builder.build(
            builder.Request(request.wheel, project, output, sources=sources), progress
        )


def _run(command: Sequence[str | Path], **variables: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, env={**environment, **variables}, check=False)
    if done.returncode != 0:
        raise PatchError(f"{' '.join(map(str, command))} failed with status {done.returncode}")


def _environment(directory: Path, wheel: Path, packages: Sequence[str]) -> Path:
    """An environment with a wheel; returns its interpreter."""
    python = directory / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    if python.is_file():
        _run((*pip, "--force-reinstall", "--no-deps", wheel))
    else:
        _run((sys.executable, "-m", "venv", directory))
    _run((*pip, wheel, *packages))
    return python


def selection(arguments: Sequence[str]) -> tuple[str, ...]:
    """pytest's `arguments` with -k narrowed to tests of the patched sources.

    What is preloaded into a released TensorFlow has nothing to do with them.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-k", default="")
    known, others = parser.parse_known_args(arguments)
    wanted = f"not preload and ({known.k})" if known.k else "not preload"
    return ("-k", wanted, *others)


def verify(request: Request, progress: Progress) -> Path:
    """Builds the wheel, installs it, and runs tests/integration on it.

    Returns:
        The wheel, in .build/verify/<release>.

    Raises:
        PatchError: among others if a test fails.
        BuildError: as the wheel builder does.
    """
    if request.wheel.python_tag != toolchain.running_python_tag():
        raise UnsupportedWheelError(f"{request.wheel.filename} is not for this Python")
    place = request.project / ".build" / "verify" / request.wheel.release.patches
    wheel = build_wheel(request, place, progress)
    text = (request.project / "pyproject.toml").read_text(encoding="utf-8")
    packages = requirements.requirements(text, _EXTRAS)
    with progress.stage(f"install {wheel.name}"):
        python = _environment(place / "env", wheel, packages)
    stock = request.stock_python
    if stock is None:
        base = released.fetch(request.wheel, request.project / ".build" / "cache")
        with progress.stage(f"install {base.name}"):
            stock = _environment(place / "stock", base, packages)
    tests: tuple[str | Path, ...] = (
        request.project / "tests/integration",
        *selection(request.arguments),
    )
    _run(
        (python, "-m", "pytest", *tests),
        PATCHED_WHEEL=str(wheel),
        TF_MODEL_POOL_STOCK_PYTHON=str(stock),
    )
    return wheel
