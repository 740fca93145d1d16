# SPDX-License-Identifier: Apache-2.0
"""The patches of a release, in order: the reader of `patches/<release>/series`."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from tf_model_pool_build.errors import PatchError
from tf_model_pool_build.series import generated, patch

SHARED = "shared"
_ENTRY = re.compile(r"(?:\.\./shared/)?[A-Za-z0-9][A-Za-z0-9._+-]*\.patch")


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

    def with_sources(self) -> Series:
        """The series behind the patch that brings tf_allocator/, made from this checkout.

        Raises:
            PatchError: tf_allocator/BUILD and the files do not agree.
        """
        sources = generated.patch_of(self.directory.parents[1])
        return dataclasses.replace(self, patches=(sources, *self.patches))

    def joined(self) -> str:
        """One diff with the changes of all patches in order, each under a line with its name.

        Bazel's own patch code can apply it: there are no words in it that look like a file.
        """
        return "".join(
            "".join((f"# {one.name}\n", *(change.text for change in one.changes)))
            for one in self.patches
        )

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


def listed(directory: Path) -> tuple[Path, ...]:
    """The patches that `directory/series` lists, in its order.

    A line is the name of a patch in `directory`, or `../shared/NAME.patch`; empty lines and lines
    that begin with `#` say nothing.

    Raises:
        PatchError: it lists nothing or something else, or a patch does not exist or lies outside
            of the directory that holds all series.
    """
    series = directory / "series"
    root = directory.parent.resolve()
    patches: list[Path] = []
    for raw in series.read_text(encoding="utf-8").splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if not _ENTRY.fullmatch(line):
            raise PatchError(
                f"{series} lists {line!r}; expected NAME.patch or ../{SHARED}/NAME.patch"
            )
        shared, _, name = line.rpartition("/")
        path = (directory.parent / SHARED if shared else directory) / name
        if not path.is_file():
            raise PatchError(f"{series} lists {line}, which does not exist")
        if not path.resolve().is_relative_to(root):
            raise PatchError(f"{series} lists {line}, which leads out of {directory.parent}")
        patches.append(path)
    if not patches:
        raise PatchError(f"{series} lists no patch")
    return tuple(patches)


def read(patches: Path, release: str) -> Series:
    """The series of a release, `v2.21`. Raises `PatchError` naming what is wrong."""
    directory = patches / release
    if not (directory / "series").is_file():
        known = ", ".join(releases(patches)) or "none"
        raise PatchError(f"{patches} has no series for {release!r}; there are: {known}")
    return Series(release, directory, tuple(patch.read(path) for path in listed(directory)))
