# SPDX-License-Identifier: Apache-2.0
"""Reads a release's patch series and joins it to one diff that Bazel's own patch code can apply.

Bazel applies the patches of a repository rule itself (`ctx.patch`), unless told to use a tool. It
ignores text between files, fuzz is not allowed, and it cannot do everything that git can: see
src/main/java/com/google/devtools/build/lib/bazel/repository/PatchUtil.java of bazelbuild/bazel.
What it would refuse is refused here, with the name of the patch.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tf_model_pool_build.errors import SeriesError

_ENTRY = re.compile(r"(?:\.\./shared/)?[A-Za-z0-9][A-Za-z0-9._+-]*\.patch")
_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_FILE = re.compile(r"diff --git a/(\S+) b/(\S+)")
#: Lines of git's extended header that Bazel has no way to follow.
_REFUSED = ("GIT binary patch", "Binary files ", "rename from ", "copy from ", "old mode ")


@dataclasses.dataclass(frozen=True)
class FileDiff:
    """The changes of one file.

    Attributes:
        path: below the root of the sources.
        lines: as in the patch, without line ends, from `diff --git` to the last hunk's end.
    """

    path: str
    lines: tuple[str, ...]


def read_series(directory: Path) -> tuple[Path, ...]:
    """The patches that `directory/series` lists, in its order.

    A line is the name of a patch in `directory`, or `../shared/NAME.patch`; empty lines and lines
    that begin with `#` say nothing.

    Raises:
        SeriesError: there is no series, it lists nothing or something else, or a patch does
            not exist or lies outside of the directory that holds all series.
    """
    series = directory / "series"
    if not series.is_file():
        there = sorted(path.parent.name for path in directory.parent.glob("*/series"))
        raise SeriesError(
            f"there is no patch series {series}; there is: {', '.join(there) or 'none'}"
        )
    root = directory.parent.resolve()
    patches: list[Path] = []
    for raw in series.read_text(encoding="utf-8").splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if not _ENTRY.fullmatch(line):
            raise SeriesError(
                f"{series} lists {line!r}; expected NAME.patch or ../shared/NAME.patch"
            )
        shared, _, name = line.rpartition("/")
        patch = (directory.parent / "shared" if shared else directory) / name
        if not patch.is_file():
            raise SeriesError(f"{series} lists {line}, which does not exist")
        if not patch.resolve().is_relative_to(root):
            raise SeriesError(f"{series} lists {line}, which leads out of {directory.parent}")
        patches.append(patch)
    if not patches:
        raise SeriesError(f"{series} lists no patch")
    return tuple(patches)


def _hunk_end(lines: Sequence[str], start: int, name: str) -> int:
    """Index behind the hunk whose header is `lines[start]`."""
    match = _HUNK.match(lines[start])
    assert match is not None
    old, new = (1 if count is None else int(count) for count in match.groups())
    at = start + 1
    while old or new:
        line = lines[at] if at < len(lines) else None
        # Some editors strip the space of an empty context line; git and Bazel accept that.
        kind = None if line is None else line[:1] or " "
        if kind == "\\":
            at += 1
            continue
        if kind in (" ", "-"):
            old -= 1
        if kind in (" ", "+"):
            new -= 1
        if kind not in (" ", "-", "+") or old < 0 or new < 0:
            found = "its end" if line is None else repr(line)
            raise SeriesError(
                f"{name}: the hunk {match.group()!r} has other line counts than it says; "
                f"found {found} in line {at + 1}"
            )
        at += 1
    if at < len(lines) and lines[at].startswith("\\"):
        at += 1
    return at


def _file_end(lines: Sequence[str], start: int, name: str) -> int:
    """Index behind the changes of the file whose `diff --git` line is `lines[start]`."""
    at = start + 1
    while at < len(lines) and not lines[at].startswith(("@@ ", "diff --git ")):
        if lines[at].startswith(_REFUSED):
            raise SeriesError(f"{name}: Bazel cannot apply {lines[at]!r} (line {at + 1})")
        at += 1
    hunks = 0
    while at < len(lines) and _HUNK.match(lines[at]):
        at = _hunk_end(lines, at, name)
        hunks += 1
    if not hunks:
        raise SeriesError(
            f"{name}: {lines[start]!r} changes no line; Bazel cannot create empty files or "
            "change modes alone"
        )
    return at


def file_diffs(text: str, name: str) -> Iterator[FileDiff]:
    """The changes in a patch, file by file; what stands around them is left out.

    Args:
        text: a patch of `git format-patch` or `git diff`.
        name: what errors call it.

    Raises:
        SeriesError: it has no changes, is cut off, has Windows line ends, or holds what Bazel
            cannot apply.
    """
    if "\r\n" in text:
        raise SeriesError(f"{name} has Windows line ends; expected \\n")
    lines = text.split("\n")
    at = found = 0
    while at < len(lines):
        if not lines[at].startswith("diff --git "):
            at += 1
            continue
        match = _FILE.fullmatch(lines[at])
        if not match or match[1] != match[2] or ".." in match[2].split("/"):
            raise SeriesError(
                f"{name}: {lines[at]!r}; expected one path below the sources, as a/PATH b/PATH"
            )
        end = _file_end(lines, at, name)
        yield FileDiff(match[2], tuple(lines[at:end]))
        found += 1
        at = end
    if not found:
        raise SeriesError(f"{name} changes no file: it has no line that begins with 'diff --git'")


def changed_paths(patches: Iterable[Path]) -> tuple[str, ...]:
    """The files that the patches change or add, sorted."""
    return tuple(
        sorted(
            {
                diff.path
                for patch in patches
                for diff in file_diffs(patch.read_text(encoding="utf-8"), patch.name)
            }
        )
    )


def joined(patches: Iterable[Path], root: Path) -> str:
    """One diff with the changes of all patches in order, each under a line with its name.

    Args:
        patches: files of a series.
        root: directory that names are relative to.
    """
    lines: list[str] = []
    for patch in patches:
        name = patch.resolve().relative_to(root.resolve()).as_posix()
        lines.append(f"# {name}")
        for diff in file_diffs(patch.read_text(encoding="utf-8"), name):
            lines += diff.lines
    return "\n".join(lines) + "\n"
