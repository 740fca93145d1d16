# SPDX-License-Identifier: Apache-2.0
"""A directory of numbered versions, which another process may be writing."""

from __future__ import annotations

import os
from pathlib import Path

#: A directory without one of these is not a SavedModel, or not one yet.
_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")

#: Name, size in bytes and time of last change in ns of every file.
Fingerprint = frozenset[tuple[str, int, int]]


def list_versions(base: Path) -> dict[int, Path]:
    """The numbered directories in `base`, as TensorFlow Serving sees them: "12" and "0012" count.

    Of two names for one number the first in alphabetical order counts.

    Raises:
        OSError: `base` cannot be listed.
    """
    found: dict[int, Path] = {}
    with os.scandir(base) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.name.isascii() and entry.name.isdigit() and entry.is_dir():
                found.setdefault(int(entry.name), base / entry.name)
    return found


def is_saved_model(directory: Path) -> bool:
    """True if `directory` holds the file that makes it a SavedModel. Raises nothing."""
    return any((directory / name).is_file() for name in _MODEL_FILES)


def fingerprint(directory: Path) -> Fingerprint | None:
    """What changes if a file in `directory` is written; None if it changed while it was read."""
    found: set[tuple[str, int, int]] = set()
    pending = [str(directory)]
    try:
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir():
                        pending.append(entry.path)
                    else:
                        status = entry.stat()
                        found.add((entry.path, status.st_size, status.st_mtime_ns))
    except OSError:
        return None
    return frozenset(found)
