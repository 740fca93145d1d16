# SPDX-License-Identifier: Apache-2.0
"""A directory of numbered versions, which another process may be writing."""

from __future__ import annotations

import os
import stat
from pathlib import Path

#: A directory without one of these is not a SavedModel, or not one yet.
MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")

#: Name, size in bytes and time of last change in ns of every file; of what cannot be looked at the
#: name and the error's number below 0.
Fingerprint = frozenset[tuple[str, int, int]]


def list_versions(base: Path) -> dict[int, Path]:
    """The numbered directories in `base`, as TensorFlow Serving sees them: "12" and "0012" count.

    Of two names for one number the first in alphabetical order counts. One that cannot be looked at
    counts: its load says why.

    Raises:
        OSError: `base` cannot be listed.
    """
    found: dict[int, Path] = {}
    with os.scandir(base) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.name.isascii() and entry.name.isdigit() and _may_be_directory(entry):
                found.setdefault(int(entry.name), base / entry.name)
    return found


def is_saved_model(directory: Path) -> bool:
    """True if `directory` holds the file that makes it a SavedModel, or cannot be looked at.

    Raises nothing.
    """
    return any(_may_be_file(directory / name) for name in MODEL_FILES)


def fingerprint(directory: Path) -> Fingerprint:
    """What changes if a file in `directory` is written. Raises nothing."""
    found: set[tuple[str, int, int]] = set()
    seen: set[tuple[int, int]] = set()  # directories: a link may lead to one above it
    pending = [directory]
    while pending:
        path = pending.pop()
        try:
            status = path.stat()
            if not stat.S_ISDIR(status.st_mode):
                found.add((str(path), status.st_size, status.st_mtime_ns))
            elif (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                pending += path.iterdir()
        except OSError as error:
            found.add((str(path), -(error.errno or 0), 0))
    return frozenset(found)


def is_file(path: Path) -> bool:
    """True if `path` is known to be a file. Raises nothing, unlike `Path.is_file`."""
    try:
        return path.is_file()
    except OSError:
        return False


def _may_be_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return True


def _may_be_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
