# SPDX-License-Identifier: Apache-2.0
"""Applies the patch series to the headers that a wheel ships.

The patches are written against TensorFlow's sources, where a header has another path than in the
wheel, and some headers are in the wheel twice. A patch fits exactly or not at all: no fuzz and no
offset, since the wheel of a release never changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from unidiff.errors import UnidiffParseError
from unidiff.patch import Hunk, PatchedFile, PatchSet

from tf_model_pool_build.checkouts import series
from tf_model_pool_build.errors import HeaderPatchError, SeriesError

#: Directory in TensorFlow's sources -> directories below tensorflow/include/. The first must
#: have the header, the others may. The longest matching source directory counts.
_PLACES: Mapping[str, tuple[str, ...]] = {
    "third_party/xla/third_party/tsl/": ("", "tensorflow/"),
    "third_party/xla/": ("", "tensorflow/compiler/"),
    "tensorflow/": ("tensorflow/",),
}
#: What the series adds for a build of TensorFlow; a wheel gets these headers from the checkout.
_OWN_SOURCES = "tf_allocator/"


@dataclasses.dataclass(frozen=True)
class HeaderChange:
    """A change of one header by one patch; `files` are its copies below the include directory."""

    patch: str
    source_path: str
    diff: PatchedFile
    files: tuple[str, ...]


def read_series(directory: Path) -> tuple[Path, ...]:
    """The patches that `directory/series` lists, in its order. Raises `HeaderPatchError`."""
    try:
        return series.read_series(directory)
    except SeriesError as error:
        raise HeaderPatchError(str(error)) from error


def wheel_paths(source_path: str) -> tuple[str, ...]:
    """Where the wheel has a header of TensorFlow's sources, below tensorflow/include/."""
    for prefix in sorted(_PLACES, key=len, reverse=True):
        if source_path.startswith(prefix):
            return tuple(place + source_path[len(prefix) :] for place in _PLACES[prefix])
    raise HeaderPatchError(f"no rule says where the wheel has the header {source_path}")


def header_changes(patches: Iterable[Path]) -> tuple[HeaderChange, ...]:
    """The changes of headers; sources and build files matter only to a build of TensorFlow."""
    changes = []
    for patch in patches:
        try:
            diffs = PatchSet(patch.read_text(encoding="utf-8"))
        except UnidiffParseError as error:
            raise HeaderPatchError(f"{patch.name} is not a readable patch: {error}") from error
        changes += [
            HeaderChange(patch.name, diff.path, diff, wheel_paths(diff.path))
            for diff in diffs
            if diff.path.endswith(".h") and not diff.path.startswith(_OWN_SOURCES)
        ]
    return tuple(changes)


def _apply_hunk(lines: list[str], hunk: Hunk, at: int) -> None:
    before = [str(line.value) for line in hunk if not line.is_added]
    after = [str(line.value) for line in hunk if not line.is_removed]
    present = lines[at : at + len(before)]
    for number, (expected, found) in enumerate(
        zip(before, present + [""] * (len(before) - len(present)), strict=True)
    ):
        if expected != found:
            raise HeaderPatchError(
                f"line {at + number + 1} is {found.rstrip()!r}, expected {expected.rstrip()!r}"
            )
    lines[at : at + len(before)] = after


def apply_change(change: HeaderChange, text: str, called: str) -> str:
    """The header's text with the change. Raises `HeaderPatchError` naming header and hunk."""
    lines = text.splitlines(keepends=True)
    shift = 0
    for number, hunk in enumerate(change.diff, start=1):
        try:
            _apply_hunk(lines, hunk, hunk.source_start - 1 + shift)
        except HeaderPatchError as error:
            raise HeaderPatchError(
                f"hunk {number} of {change.patch} does not fit {called}: {error}"
            ) from None
        shift += hunk.target_length - hunk.source_length
    return "".join(lines)


def patch_headers(include: Path, patches: Iterable[Path]) -> tuple[str, ...]:
    """Patches the headers below `include` in place.

    Returns:
        The changed files, relative to `include`, sorted.

    Raises:
        HeaderPatchError: a header is missing or a hunk does not fit.
    """
    changed: set[str] = set()
    for change in header_changes(patches):
        for index, name in enumerate(change.files):
            file = include / name
            if not file.is_file():
                if index == 0:
                    raise HeaderPatchError(f"{change.patch} changes {name}, which is not there")
                continue
            text = file.read_bytes().decode("utf-8")
            file.write_bytes(apply_change(change, text, name).encode("utf-8"))
            changed.add(name)
    return tuple(sorted(changed))
