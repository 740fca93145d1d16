# SPDX-License-Identifier: Apache-2.0
"""The patches of a release, in order, and the trees that they fit."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from tf_model_pool_build.errors import HeaderPatchError, PatchError
from tf_model_pool_build.series import patch
from tf_model_pool_build.wheel import headers

SHARED = "shared"


@dataclasses.dataclass(frozen=True)
class Series:
    """What `patches/<release>/series` lists.

    Attributes:
        release: e.g. `v2.21`.
        directory: patches/<release>.
        patches: in order.
    """

    release: str
    directory: Path
    patches: tuple[patch.Patch, ...]

    @property
    def changes(self) -> tuple[patch.FileChange, ...]:
        """The changes of all patches, in order."""
        return tuple(change for one in self.patches for change in one.changes)

    @property
    def changed_files(self) -> tuple[str, ...]:
        """The files of TensorFlow's that the series changes, sorted; not those that it adds."""
        new = {change.path for change in self.changes if change.is_new}
        return tuple(sorted({change.path for change in self.changes} - new))

    def first_hashes(self) -> dict[str, str]:
        """Changed file -> the hash of the file that its first change was made from."""
        hashes: dict[str, str] = {}
        for change in self.changes:
            if not change.is_new:
                hashes.setdefault(change.path, change.before)
        return {path: hashes[path] for path in self.changed_files}


def releases(patches: Path) -> tuple[str, ...]:
    """The releases that have a series, oldest first."""
    names = [path.parent.name for path in patches.glob("v*/series")]
    return tuple(sorted(names, key=lambda name: [int(part) for part in name[1:].split(".")]))


def entry(directory: Path, path: Path) -> str:
    """How `directory/series` names the patch at `path`."""
    return path.name if path.parent == directory else f"../{SHARED}/{path.name}"


def read(patches: Path, release: str) -> Series:
    """The series of a release. Raises `PatchError` naming what is wrong."""
    directory = patches / release
    if not (directory / "series").is_file():
        known = ", ".join(releases(patches)) or "none"
        raise PatchError(f"{patches} has no series for {release!r}; there are: {known}")
    try:
        files = headers.read_series(directory)
    except HeaderPatchError as error:
        raise PatchError(str(error)) from None
    return Series(release, directory, tuple(patch.read(path) for path in files))


def read_tree(source: Path, files: Iterable[str]) -> dict[str, str]:
    """Text of the named files of a source tree. Raises `PatchError` where one is missing."""
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


def apply(changes: Iterable[patch.FileChange], tree: Mapping[str, str]) -> dict[str, str]:
    """The files of `tree` with all changes, new files included. Raises `PatchError`."""
    result = dict(tree)
    for change in changes:
        result[change.path] = change.apply(result.get(change.path))
    return result


def write_tree(tree: Mapping[str, str], directory: Path) -> None:
    """Writes files below `directory`."""
    for name, text in tree.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8"))


def replace_file(path: Path, text: str) -> None:
    """Writes a file that is either as before or whole, whatever happens meanwhile."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
