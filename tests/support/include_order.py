# SPDX-License-Identifier: Apache-2.0
"""Which folder of tf_allocator/ may include which, as its README's table has it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_ROW = re.compile(r"^\| `(\w+)/` \|.*\| (yes|no) \|$", re.MULTILINE)
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
_SOURCES = (".h", ".cc", ".def")
_OURS = "tf_allocator/"
_TENSORFLOW = "tensorflow/"


def folders(readme: str) -> dict[str, bool]:
    """The folders from the lowest to the highest, and whether each may include TensorFlow."""
    return {name: answer == "yes" for name, answer in _ROW.findall(readme)}


def _included(source: str, includes: list[str], allowed: dict[str, bool]) -> Iterator[str]:
    own = source.partition("/")[0]
    order = list(allowed)
    for name in includes:
        if name.startswith(_TENSORFLOW) and not allowed[own]:
            yield f"{source} includes {name}; {own}/ includes no TensorFlow header"
        if not name.startswith(_OURS):
            continue
        other = name.removeprefix(_OURS).partition("/")[0]
        if other not in order:
            yield f"{source} includes {name}, whose folder is not in the table"
        elif order.index(other) > order.index(own):
            yield f"{source} includes {name}; {own}/ stands below {other}/"


def problems(root: Path) -> list[str]:
    """Every include against the order, and every folder that the table or the disk lacks.

    Args:
        root: the directory tf_allocator/, with its README.md.
    """
    allowed = folders((root / "README.md").read_text(encoding="utf-8"))
    files = sorted(path for path in root.rglob("*") if path.suffix in _SOURCES)
    found = []
    there = {path.relative_to(root).parts[0] for path in files}
    found += [f"{name}/ is not in the table" for name in sorted(there - allowed.keys())]
    found += [f"{name}/ of the table has no source" for name in sorted(allowed.keys() - there)]
    for path in files:
        source = path.relative_to(root).as_posix()
        if source.partition("/")[0] in allowed:
            includes = _INCLUDE.findall(path.read_text(encoding="utf-8"))
            found += _included(source, includes, allowed)
    return found
