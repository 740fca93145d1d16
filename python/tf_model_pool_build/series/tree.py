# SPDX-License-Identifier: Apache-2.0
"""The files of TensorFlow's that a series changes: read, changed in memory, written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tf_model_pool_build.errors import PatchError
from tf_model_pool_build.series.patch import FileChange


def read(source: Path, files: Iterable[str]) -> dict[str, str]:
    """Text of the named files of a source tree. Raises `PatchError` if one is missing."""
    if not source.is_dir():
        raise PatchError(f"{source} is not a directory; expected TensorFlow's sources")
    tree = {}
    for name in files:
        path = source / name
        if not path.is_file():
            raise PatchError(f"{source} has no {name}, which the series changes")
        try:
            tree[name] = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise PatchError(f"{path} is not UTF-8 at byte {error.start}") from None
    return tree


def apply(changes: Iterable[FileChange], tree: Mapping[str, str]) -> dict[str, str]:
    """The files of `tree` with all changes, new files included. Raises `PatchError`."""
    result = dict(tree)
    for change in changes:
        result[change.path] = change.apply(result.get(change.path))
    return result


def write(tree: Mapping[str, str], directory: Path) -> None:
    """Writes files below `directory`."""
    for name, text in tree.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8"))
