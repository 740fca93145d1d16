# SPDX-License-Identifier: Apache-2.0
"""One patch file: a header that says why, and changes that fit exactly or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from unidiff.errors import UnidiffParseError
from unidiff.patch import PatchedFile, PatchSet

from tf_model_pool_build.errors import PatchError

#: `git format-patch` writes commit, author and date; these are the same on every machine.
FROM_LINE = f"From {40 * '0'} Mon Sep 17 00:00:00 2001"
AUTHOR_LINE = "From: tf-model-pool <tf-model-pool@localhost>"
DATE_LINE = "Date: Mon, 23 Nov 2026 00:00:00 +0000"
TRAILERS = ("Why-Patch", "Upstream", "Drop-When", "Tested-By")
NO_FILE = 40 * "0"

_SUBJECT = re.compile(r"Subject: \[PATCH( \d+/\d+)?\] (?P<text>.+)")
_INDEX = re.compile(r"^index ([0-9a-f]+)\.\.([0-9a-f]+)", re.MULTILINE)
_TRAILER = re.compile(r"([A-Z][A-Za-z]*(?:-[A-Z][A-Za-z]*)?): ?(.*)")


def blob_hash(contents: bytes) -> str:
    """What git calls a file of these contents, in hexadecimal."""
    return hashlib.sha1(b"blob %d\0" % len(contents) + contents).hexdigest()


@dataclasses.dataclass(frozen=True)
class FileChange:
    """What a patch does to one file.

    Attributes:
        patch: name of the patch.
        path: of the file, from the root of TensorFlow's sources.
        before: hash of the file that the change was made from; `NO_FILE` for a new one.
        after: hash of the file that it gives.
        diff: the hunks.
    """

    patch: str
    path: str
    before: str
    after: str
    diff: PatchedFile

    @property
    def is_new(self) -> bool:
        return self.before == NO_FILE

    @property
    def added(self) -> tuple[str, ...]:
        """The added lines, without their line ends."""
        lines = (line for hunk in self.diff for line in hunk if line.is_added)
        return tuple(str(line.value).rstrip("\n") for line in lines)

    @property
    def removed(self) -> tuple[str, ...]:
        """The removed lines, without their line ends."""
        lines = (line for hunk in self.diff for line in hunk if line.is_removed)
        return tuple(str(line.value).rstrip("\n") for line in lines)

    def apply(self, text: str | None) -> str:
        """The file's text with the change.

        In the file that the change was made from, every hunk stands where the patch says. In
        another file it may stand elsewhere, as `git am` allows, but in one place only, and every
        line of it has to be there: there is no fuzz.

        Args:
            text: of the file; None where there is none.

        Raises:
            PatchError: naming patch, hunk and line.
        """
        if self.is_new:
            if text is not None:
                raise PatchError(f"{self.patch} makes {self.path}, which is there already")
            return "".join(f"{line}\n" for line in self.added)
        if text is None:
            raise PatchError(f"{self.patch} changes {self.path}, which is not there")
        if "\r\n" in text:
            raise PatchError(f"{self.path} has CRLF line ends; expected LF, as git stores them")
        lines = text.split("\n")
        exact = blob_hash(text.encode("utf-8")) == self.before
        shift = 0
        for number, hunk in enumerate(self.diff, start=1):
            before = [str(line.value).rstrip("\n") for line in hunk if not line.is_added]
            after = [str(line.value).rstrip("\n") for line in hunk if not line.is_removed]
            try:
                at = _place(lines, before, hunk.source_start - 1 + shift, exact=exact)
            except PatchError as error:
                raise PatchError(
                    f"hunk {number} of {self.patch} does not fit {self.path}: {error}"
                ) from None
            lines[at : at + len(before)] = after
            shift = at - (hunk.source_start - 1) + len(after) - len(before)
        return "\n".join(lines)


def _place(lines: list[str], wanted: list[str], expected: int, *, exact: bool) -> int:
    """Where `wanted` stands in `lines`."""
    found = lines[expected : expected + len(wanted)]
    if found == wanted:
        return expected
    places = [
        at
        for at in range(len(lines) - len(wanted) + 1)
        if lines[at] == wanted[0] and lines[at : at + len(wanted)] == wanted
    ]
    if len(places) == 1 and not exact:
        return places[0]
    if len(places) > 1:
        raise PatchError(f"its lines stand in {len(places)} places")
    for number, (want, have) in enumerate(
        zip(wanted, found + [""] * len(wanted), strict=False), start=expected + 1
    ):
        if want != have:
            raise PatchError(f"line {number} is {have!r}, expected {want!r}")
    raise PatchError(f"its lines stand at line {places[0] + 1}, not {expected + 1}")


def without_positions(text: str) -> str:
    """A patch without what depends on the rest of the files: hashes and line numbers."""
    return re.sub(r"(?m)^@@ -.*$", "@@", _INDEX.sub("index", text))


@dataclasses.dataclass(frozen=True)
class Patch:
    """A patch file, read.

    Attributes:
        path: of the file; its name stands in messages.
        text: all of it.
        subject: the first line of the message, without `[PATCH]`.
        body: the message between subject and trailers.
        trailers: name -> value.
        changes: in the order of the file.
    """

    path: Path
    text: str
    subject: str
    body: str
    trailers: Mapping[str, str]
    changes: tuple[FileChange, ...]

    @property
    def name(self) -> str:
        return self.path.name


def _split_message(lines: list[str]) -> tuple[str, dict[str, str]]:
    """Body and trailers; a trailer's value may go on in lines that begin with a space."""
    trailers: dict[str, str] = {}
    last = ""
    body = "\n".join(lines).strip("\n")
    head, _, tail = body.rpartition("\n\n")
    for line in tail.splitlines():
        if match := _TRAILER.fullmatch(line):
            last = match.group(1)
            if last in trailers:
                raise PatchError(f"the trailer {last} is there twice")
            trailers[last] = match.group(2).strip()
        elif line.startswith(" ") and last:
            trailers[last] = f"{trailers[last]} {line.strip()}"
        else:
            return body, {}
    return head, trailers


def _change(patch: str, diff: PatchedFile) -> FileChange:
    info = "".join(diff.patch_info or [])
    if diff.is_rename or diff.is_removed_file or re.search(r"^(old|new) mode", info, re.MULTILINE):
        raise PatchError(f"{patch} renames, removes or changes the mode of {diff.path}")
    index = _INDEX.search(info)
    if index is None or len(index.group(1)) != 40 or len(index.group(2)) != 40:
        raise PatchError(f"{patch} has no full index hashes for {diff.path} (--full-index)")
    return FileChange(patch, diff.path, index.group(1), index.group(2), diff)


def _lines_understood(diffs: PatchSet) -> int:
    """How many lines of the text went into `diffs`."""
    total = 0
    for diff in diffs:
        total += len(diff.patch_info or []) + 2
        total += sum(1 + len(hunk) for hunk in diff)
    return total


def parse(path: Path, text: str) -> Patch:
    """Reads a patch.

    Raises:
        PatchError: it is not what `git format-patch` writes, or its hunks do not hold what their
            first lines say.
    """
    name = path.name
    if "\r" in text:
        raise PatchError(f"{name} has CRLF line ends; expected LF")
    head, found, diff_text = text.partition("\ndiff --git ")
    if not found:
        raise PatchError(f"{name} changes no file: there is no line 'diff --git'")
    diff_text = f"diff --git {diff_text}"
    lines = head.split("\n")
    blank = lines.index("") if "" in lines else len(lines)
    subjects = [m for m in map(_SUBJECT.fullmatch, lines[:blank]) if m]
    if len(subjects) != 1:
        raise PatchError(f"{name} has no line 'Subject: [PATCH] ...' on one line")
    try:
        body, trailers = _split_message(lines[blank:])
    except PatchError as error:
        raise PatchError(f"{name}: {error}") from None
    try:
        diffs = PatchSet(diff_text)
    except UnidiffParseError as error:
        raise PatchError(f"{name} is not a readable patch: {error}") from error
    understood = _lines_understood(diffs)
    if understood != len(diff_text.splitlines()):
        raise PatchError(
            f"{name} has {len(diff_text.splitlines())} lines of changes, of which the counts in "
            f"its '@@' lines cover {understood}: a hunk was edited by hand"
        )
    changes = tuple(_change(name, diff) for diff in diffs)
    return Patch(path, text, subjects[0].group("text"), body, trailers, changes)


def read(path: Path) -> Patch:
    """Reads a patch file. Raises `PatchError`."""
    try:
        return parse(path, path.read_bytes().decode("ascii"))
    except UnicodeDecodeError as error:
        raise PatchError(f"{path.name} has a byte that is not ASCII at {error.start}") from None
