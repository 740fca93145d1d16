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

from tf_model_pool_build.errors import PatchError
from tf_model_pool_build.series.patch import FileChange

#: Directory in TensorFlow's sources -> directories below tensorflow/include/. The first must
#: have the header, the others may. The longest matching source directory counts.
_PLACES: Mapping[str, tuple[str, ...]] = {
    "third_party/xla/third_party/tsl/": ("", "tensorflow/"),
    "third_party/xla/": ("", "tensorflow/compiler/"),
    "tensorflow/": ("tensorflow/",),
}
#: First line of a header that was changed: Apache License 2.0, section 4(b).
_CHANGED = "// This file was changed by the tf-model-pool project; see its NOTICE.\n"
#: What the series adds for a build of TensorFlow; a wheel gets these headers from the checkout.
_OWN_SOURCES = "tf_allocator/"


@dataclasses.dataclass(frozen=True)
class HeaderChange:
    """A change of one header by one patch; `files` are its copies below the include directory."""

    change: FileChange
    files: tuple[str, ...]


def wheel_paths(source_path: str) -> tuple[str, ...]:
    """Where the wheel has a header of TensorFlow's sources, below tensorflow/include/."""
    for prefix in sorted(_PLACES, key=len, reverse=True):
        if source_path.startswith(prefix):
            return tuple(place + source_path[len(prefix) :] for place in _PLACES[prefix])
    raise PatchError(f"no rule says where the wheel has the header {source_path}")


def header_changes(changes: Iterable[FileChange]) -> tuple[HeaderChange, ...]:
    """The changes of headers; sources and build files matter only to a build of TensorFlow."""
    return tuple(
        HeaderChange(change, wheel_paths(change.path))
        for change in changes
        if change.path.endswith(".h") and not change.path.startswith(_OWN_SOURCES)
    )


def patch_headers(include: Path, changes: Iterable[FileChange]) -> tuple[str, ...]:
    """Patches the headers below `include` in place.

    Returns:
        The changed files, relative to `include`, sorted.

    Raises:
        PatchError: a header is missing or a hunk does not fit.
    """
    changed: set[str] = set()
    for header in header_changes(changes):
        for index, name in enumerate(header.files):
            file = include / name
            if not file.is_file():
                if index == 0:
                    raise PatchError(f"{header.change.patch} changes {name}, which is not there")
                continue
            text = file.read_bytes().decode("utf-8")
            file.write_bytes(header.change.apply(text, exact=True).encode("utf-8"))
            changed.add(name)
    for name in changed:
        file = include / name
        file.write_bytes(_CHANGED.encode() + file.read_bytes())
    return tuple(sorted(changed))
