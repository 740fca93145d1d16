# SPDX-License-Identifier: Apache-2.0
"""Files that a reader never sees half of."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a name beside `path` to write to, and renames that to `path` when the block ends.

    If the block raises, what it wrote is removed and `path` stays as it was.

    Raises:
        OSError: the file cannot be renamed.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file (UTF-8, line ends as in `text`), or leaves the one that is there."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
