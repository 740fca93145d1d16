# SPDX-License-Identifier: Apache-2.0
"""What each series was made from and tried on: patches/sources.json, and the table in the docs."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from tf_model_pool_build.errors import PatchError
from tf_model_pool_build.series import listing

NAME = "sources.json"
DOCUMENT = "docs/patches.md"
_BEGIN = "<!-- ./build.sh patches sources --write -->\n"
_END = "<!-- end -->"
#: Of a line of the documents.
_WIDTH = 120


def read(patches: Path) -> dict[str, Any]:
    """The record. Raises `PatchError` where it cannot be read."""
    path = patches / NAME
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PatchError(f"{path} is not readable: {error}") from None
    return record


def problems(patches: Path, one: listing.Series) -> list[str]:
    """Where the record and a series do not agree."""
    record = read(patches)
    files = record["releases"].get(one.release, {}).get("files", {})
    hashes = one.first_hashes()
    where = f"patches/{NAME}: {one.release}"
    found = [f"{where} has no {path}" for path in hashes if path not in files]
    found += [
        f"{where} has {path}, which the series leaves alone" for path in files.keys() - hashes
    ]
    found += [
        f"{where}: {path} is {entry['hash'][:12]}, but the series changes {hashes[path][:12]}"
        for path, entry in files.items()
        if path in hashes and entry["hash"] != hashes[path]
    ]
    found += [
        f"{where}: {path} comes from {entry['origin']!r}, which is not described"
        for path, entry in files.items()
        if entry["origin"] not in record["origins"]
    ]
    return sorted(found)


def table(patches: Path) -> str:
    """The record as Markdown: series, files and where they come from, and what was run."""
    record = read(patches)
    lines = ["| series | made from | `patches verify` |", "|---|---|---|"]
    for release in listing.releases(patches):
        entry = record["releases"].get(release, {"files": {}, "verified": ""})
        by_origin: dict[str, list[str]] = {}
        for path, file in sorted(entry["files"].items()):
            by_origin.setdefault(file["origin"], []).append(f"`{short_name(path)}`")
        made_from = "; ".join(
            f"{', '.join(names)}: {record['origins'][origin]['short']}"
            for origin, names in sorted(by_origin.items())
        )
        lines.append(f"| {release} | {made_from} | {entry.get('verified') or 'not run'} |")
    lines.append("")
    for _, origin in sorted(record["origins"].items()):
        lines += textwrap.wrap(
            f"- {origin['short']}: {origin['what']}",
            _WIDTH,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines) + "\n"


def short_name(path: str) -> str:
    """The file's name; with its directory for a BUILD file."""
    parts = path.split("/")
    return "/".join(parts[-2:]) if parts[-1] == "BUILD" else parts[-1]


def document_with_table(project: Path) -> str:
    """docs/patches.md with the table as it has to be. Raises `PatchError` where it has no place."""
    text = (project / DOCUMENT).read_text(encoding="utf-8")
    head, begin, rest = text.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not (begin and end):
        raise PatchError(f"{DOCUMENT} has no lines {_BEGIN.strip()!r} and {_END!r}")
    return f"{head}{begin}{table(project / 'patches')}{end}{tail}"
