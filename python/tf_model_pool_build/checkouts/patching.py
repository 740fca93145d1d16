# SPDX-License-Identifier: Apache-2.0
"""Applies a series to a source tree as changes of its working files: all of it or nothing.

Patches are tried with `git apply` on copies of the files that they touch, in a directory outside of
any repository (in a subdirectory of one, git would pass over what it thinks is not its own). Only
when the whole series fits are the results written back.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tf_model_pool_build.checkouts import files, series
from tf_model_pool_build.errors import CheckoutError


@dataclasses.dataclass(frozen=True)
class State:
    """How a tree stands to a series.

    Attributes:
        applied: the tree carries the whole series.
        contents: what the files have to become; empty where applied.
        problem: why the series neither is there nor fits; "" otherwise.
    """

    applied: bool
    contents: dict[str, bytes]
    problem: str = ""


@contextmanager
def _copy_of(tree: Path, paths: Sequence[str]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tf-model-pool-") as name:
        copy = Path(name) / "tree"
        copy.mkdir()
        for path in paths:
            if (tree / path).is_file():
                target = copy / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(tree / path, target)
        yield copy


def _git_apply(copy: Path, patch: Path, *options: str) -> str:
    """Applies `patch` in `copy`; returns what git says is wrong, "" for nothing."""
    # Without the words around the changes: git takes a "---" there for the name of a file.
    text = "".join(
        "\n".join(diff.lines) + "\n"
        for diff in series.file_diffs(patch.read_text(encoding="utf-8"), patch.name)
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_CEILING_DIRECTORIES"] = str(copy.parent.resolve())
    environment["LC_ALL"] = "C"
    result = subprocess.run(
        [files.need_git(), "apply", "--whitespace=nowarn", *options, "-"],
        input=text,
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if result.returncode == 0 else result.stderr.strip() or "git apply failed"


def examine(tree: Path, patches: Sequence[Path]) -> State:
    """Says whether `tree` carries the series, and what it would become with it.

    Args:
        tree: sources of TensorFlow.
        patches: the series, in order.

    Raises:
        SeriesError: a patch is damaged.
        ToolError: git is not installed.
    """
    paths = series.changed_paths(patches)
    with _copy_of(tree, paths) as copy:
        for patch in reversed(patches):
            if _git_apply(copy, patch, "--reverse"):
                break
        else:
            return State(True, {})
    with _copy_of(tree, paths) as copy:
        for number, patch in enumerate(patches):
            wrong = _git_apply(copy, patch)
            if wrong:
                first = "\n".join(wrong.splitlines()[:6])
                return State(
                    False,
                    {},
                    f"patch {number + 1} of {len(patches)}, {patch.name}, does not fit:\n{first}",
                )
        contents = {path: (copy / path).read_bytes() for path in paths if (copy / path).is_file()}
    return State(False, contents)


def write(tree: Path, contents: dict[str, bytes]) -> None:
    """Writes the files of `contents`; puts the old ones back if one cannot be written.

    Raises:
        CheckoutError: it names the file.
    """
    old: dict[Path, bytes | None] = {}
    made: list[Path] = []
    try:
        with files.write_errors(str(tree)):
            for name, data in contents.items():
                path = tree / name
                for parent in reversed(path.parents):
                    if not parent.exists():
                        parent.mkdir()
                        made.append(parent)
                old[path] = path.read_bytes() if path.is_file() else None
                files.replace(path, data)
    except BaseException:
        for path, before in old.items():
            if before is None:
                path.unlink(missing_ok=True)
            else:
                files.replace(path, before)
        for directory in reversed(made):
            directory.rmdir()
        raise


def apply(tree: Path, patches: Sequence[Path], called: str) -> tuple[str, ...]:
    """Makes `tree` carry the series.

    Args:
        tree: sources of TensorFlow.
        patches: the series, in order.
        called: what errors call the series.

    Returns:
        The files that changed; none where the tree carried the series already.

    Raises:
        CheckoutError: the series does not fit, or a file cannot be written. Nothing is changed.
    """
    state = examine(tree, patches)
    if state.applied:
        return ()
    if state.problem:
        raise CheckoutError(
            f"the series {called} does not fit {tree}: {state.problem}\n"
            "expected the release's own sources, or ones that carry the whole series; "
            "nothing was changed"
        )
    write(tree, state.contents)
    return tuple(sorted(state.contents))
