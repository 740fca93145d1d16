# SPDX-License-Identifier: Apache-2.0
"""Applies a series to a source tree as changes of its working files: all of it or nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tf_model_pool_build.checkouts import files
from tf_model_pool_build.errors import CheckoutError, PatchError
from tf_model_pool_build.series.listing import Series


@dataclasses.dataclass(frozen=True)
class State:
    """How a tree stands to a series.

    Attributes:
        applied: the tree carries the whole series.
        contents: what the files have to become; empty if applied.
        problem: why the series neither is there nor fits; "" otherwise.
    """

    applied: bool
    contents: dict[str, bytes]
    problem: str = ""


def _read(tree: Path, one: Series) -> dict[str, str | None]:
    """The files that the series changes or makes, as they are; None for those that are not there.

    Raises:
        PatchError: one is not UTF-8.
    """
    found: dict[str, str | None] = {}
    for change in one.changes:
        path = tree / change.path
        try:
            found[change.path] = path.read_bytes().decode("utf-8") if path.is_file() else None
        except UnicodeDecodeError as error:
            raise PatchError(f"{path} is not UTF-8 at byte {error.start}") from None
    return found


def _carries(before: dict[str, str | None], one: Series) -> bool:
    files_now = dict(before)
    try:
        for change in reversed(one.changes):
            files_now[change.path] = change.revert(files_now[change.path])
    except PatchError:
        return False
    return True


def examine(tree: Path, one: Series) -> State:
    """Says whether `tree` carries the series, and what it would become with it.

    Args:
        tree: sources of TensorFlow.
        one: the series, with the sources of tf_allocator/.

    Raises:
        PatchError: a file of the tree cannot be read as text.
    """
    before = _read(tree, one)
    if _carries(before, one):
        return State(True, {})
    after: dict[str, str | None] = dict(before)
    for number, patch in enumerate(one.patches, start=1):
        for change in patch.changes:
            try:
                after[change.path] = change.apply(after[change.path])
            except PatchError as error:
                said = f"patch {number} of {len(one.patches)}, {patch.name}, does not fit: {error}"
                return State(False, {}, said)
    return State(False, {path: (text or "").encode("utf-8") for path, text in after.items()})


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


def apply(tree: Path, one: Series) -> tuple[str, ...]:
    """Makes `tree` carry the series.

    Args:
        tree: sources of TensorFlow.
        one: the series, with the sources of tf_allocator/.

    Returns:
        The files that changed; none if the tree carried the series already.

    Raises:
        CheckoutError: the series does not fit, or a file cannot be written. Nothing is changed.
    """
    state = examine(tree, one)
    if state.applied:
        return ()
    if state.problem:
        raise CheckoutError(
            f"the series {one.release} does not fit {tree}: {state.problem}\n"
            "expected the release's own sources, or ones that carry the whole series; "
            "nothing was changed"
        )
    write(tree, state.contents)
    return tuple(sorted(state.contents))
