# SPDX-License-Identifier: Apache-2.0
"""One patch file: a header that says why, and changes that fit exactly or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from tf_model_pool_build.errors import PatchError

#: `git format-patch` writes commit, author and date; these are the same on every machine.
FROM_LINE = f"From {40 * '0'} Mon Sep 17 00:00:00 2001"
AUTHOR_LINE = "From: tf-model-pool <tf-model-pool@localhost>"
DATE_LINE = "Date: Mon, 23 Nov 2026 00:00:00 +0000"
TRAILERS = ("Why-Patch", "Upstream", "Drop-When", "Tested-By")
NO_FILE = 40 * "0"

_SUBJECT = re.compile(r"Subject: \[PATCH( \d+/\d+)?\] (?P<text>.+)")
_INDEX = re.compile(r"^index ([0-9a-f]+)\.\.([0-9a-f]+)", re.MULTILINE)
_FILE = re.compile(r"diff --git a/(\S+) b/(\S+)")
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@.*")
#: What git writes and Bazel's own patch code (PatchUtil.java of bazelbuild/bazel) cannot apply.
_REFUSED = (
    "GIT binary patch",
    "Binary files ",
    "rename from ",
    "copy from ",
    "old mode ",
    "deleted file mode ",
)
_TRAILER = re.compile(r"([A-Z][A-Za-z]*(?:-[A-Z][A-Za-z]*)?): ?(.*)")


def blob_hash(contents: bytes) -> str:
    """What git calls a file of these contents, in hexadecimal."""
    return hashlib.sha1(b"blob %d\0" % len(contents) + contents).hexdigest()


@dataclasses.dataclass(frozen=True)
class Hunk:
    """Lines that stand together, before and after.

    Attributes:
        old_at: index of the first line in the file before, from 0.
        new_at: the same in the file after.
        lines: each behind its mark: " ", "-" or "+".
    """

    old_at: int
    new_at: int
    lines: tuple[str, ...]

    @property
    def before(self) -> list[str]:
        return [line[1:] for line in self.lines if line[0] != "+"]

    @property
    def after(self) -> list[str]:
        return [line[1:] for line in self.lines if line[0] != "-"]


@dataclasses.dataclass(frozen=True)
class FileChange:
    """What a patch does to one file.

    Attributes:
        patch: name of the patch.
        path: of the file, from the root of TensorFlow's sources.
        before: hash of the file that the change was made from; `NO_FILE` for a new one.
        after: hash of the file that it gives.
        hunks: in order.
        text: as in the patch, from `diff --git` to the line feed of the last hunk.
    """

    patch: str
    path: str
    before: str
    after: str
    hunks: tuple[Hunk, ...]
    text: str

    @property
    def is_new(self) -> bool:
        return self.before == NO_FILE

    @property
    def added(self) -> tuple[str, ...]:
        """The added lines, without their line ends."""
        return tuple(line[1:] for hunk in self.hunks for line in hunk.lines if line[0] == "+")

    @property
    def removed(self) -> tuple[str, ...]:
        """The removed lines, without their line ends."""
        return tuple(line[1:] for hunk in self.hunks for line in hunk.lines if line[0] == "-")

    def apply(self, text: str | None, *, exact: bool = False) -> str:
        """The file's text with the change.

        In the file that the change was made from, every hunk stands where the patch says. In
        another file it may stand elsewhere, as `git am` allows, but in one place only, and every
        line of it has to be there: there is no fuzz.

        Args:
            text: of the file; None if there is none.
            exact: the hunks may not move in any file.

        Raises:
            PatchError: naming patch, hunk and line.
        """
        if self.is_new:
            if text is not None:
                raise PatchError(f"{self.patch} makes {self.path}, which is there already")
            return "".join(f"{line}\n" for line in self.added)
        places = [(hunk.old_at, hunk.before, hunk.after) for hunk in self.hunks]
        return self._replaced(text, places, self.before, exact=exact)

    def revert(self, text: str | None) -> str | None:
        """The file's text without the change; None if the change made the file.

        Raises:
            PatchError: the file does not have the change.
        """
        if self.is_new:
            if text != self.apply(None):
                raise PatchError(f"{self.path} is not what {self.patch} makes")
            return None
        places = [(hunk.new_at, hunk.after, hunk.before) for hunk in self.hunks]
        return self._replaced(text, places, self.after)

    def _replaced(
        self,
        text: str | None,
        places: list[tuple[int, list[str], list[str]]],
        made_from: str,
        *,
        exact: bool = False,
    ) -> str:
        if text is None:
            raise PatchError(f"{self.patch} changes {self.path}, which is not there")
        if "\r\n" in text:
            raise PatchError(f"{self.path} has CRLF line ends; expected LF, as git stores them")
        lines = text.split("\n")
        exact = exact or blob_hash(text.encode("utf-8")) == made_from
        shift = 0
        for number, (expected, wanted, instead) in enumerate(places, start=1):
            try:
                at = _place(lines, wanted, expected + shift, exact=exact)
            except PatchError as error:
                raise PatchError(
                    f"hunk {number} of {self.patch} does not fit {self.path}: {error}"
                ) from None
            lines[at : at + len(wanted)] = instead
            shift = at - expected + len(instead) - len(wanted)
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


def file_name(subject: str) -> str:
    """What a patch with this subject is called."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", subject).strip("-.") + ".patch"


def header_lines(text: str) -> list[str]:
    """The lines of the mail header; git folds a long one, and the rest begins with a space."""
    return text.partition("\n\n")[0].replace("\n ", " ").split("\n")


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


def _read_hunk(lines: list[str], at: int, name: str) -> tuple[Hunk, int]:
    """The hunk whose first line is `lines[at]`, and the index behind it."""
    match = _HUNK.fullmatch(lines[at])
    assert match is not None
    old, new = (1 if count is None else int(count) for count in match.group(2, 4))
    # Of no lines the line before is given.
    old_at, new_at = int(match[1]) - (old > 0), int(match[3]) - (new > 0)
    found: list[str] = []
    while old or new:
        at += 1
        line = lines[at] if at < len(lines) else ""
        old -= line[:1] in (" ", "-")
        new -= line[:1] in (" ", "+")
        if line[:1] not in (" ", "-", "+") or old < 0 or new < 0:
            raise PatchError(
                f"{name}: the hunk {match.group()!r} has other line counts than it says: it was "
                f"edited by hand, or is cut off; found {line!r}"
            )
        found.append(line)
    return Hunk(old_at, new_at, tuple(found)), at + 1


def _read_change(lines: list[str], start: int, name: str) -> tuple[FileChange, int]:
    """The change whose `diff --git` line is `lines[start]`, and the index behind it."""
    match = _FILE.fullmatch(lines[start])
    if not match or match[1] != match[2] or ".." in match[2].split("/"):
        raise PatchError(
            f"{name}: {lines[start]!r}; expected one path below the sources, as a/PATH b/PATH"
        )
    path, at = match[2], start + 1
    while at < len(lines) and not lines[at].startswith(("@@ ", "diff --git ")):
        if lines[at].startswith(_REFUSED):
            raise PatchError(
                f"{name} renames, removes or changes the mode of {path}, or is binary: Bazel "
                f"cannot apply {lines[at]!r}"
            )
        at += 1
    index = _INDEX.search("\n".join(lines[start:at]))
    hunks: list[Hunk] = []
    while at < len(lines) and _HUNK.fullmatch(lines[at]):
        hunk, at = _read_hunk(lines, at, name)
        hunks.append(hunk)
    if not hunks:
        raise PatchError(f"{name} changes no line of {path}: Bazel cannot create empty files")
    if at < len(lines) and not lines[at].startswith("diff --git "):
        raise PatchError(
            f"{name}: {lines[at]!r} belongs to no hunk of {path}: it was edited by hand, or the "
            "file does not end in a line feed"
        )
    if index is None or len(index.group(1)) != 40 or len(index.group(2)) != 40:
        raise PatchError(f"{name} has no full index hashes for {path} (--full-index)")
    text = "\n".join(lines[start:at]) + "\n"
    return FileChange(name, path, index.group(1), index.group(2), tuple(hunks), text), at


def _read_changes(text: str, name: str) -> tuple[FileChange, ...]:
    lines = text.removesuffix("\n").split("\n")
    changes: list[FileChange] = []
    at = 0
    while at < len(lines):
        change, at = _read_change(lines, at, name)
        changes.append(change)
    return tuple(changes)


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
    subjects = [m for m in map(_SUBJECT.fullmatch, header_lines(head)) if m]
    if len(subjects) != 1:
        raise PatchError(f"{name} has no line 'Subject: [PATCH] ...', or several")
    try:
        body, trailers = _split_message(lines[blank:])
    except PatchError as error:
        raise PatchError(f"{name}: {error}") from None
    changes = _read_changes(diff_text, name)
    return Patch(path, text, subjects[0].group("text"), body, trailers, changes)


def read(path: Path) -> Patch:
    """Reads a patch file. Raises `PatchError`."""
    try:
        return parse(path, path.read_bytes().decode("ascii"))
    except UnicodeDecodeError as error:
        raise PatchError(f"{path.name} has a byte that is not ASCII at {error.start}") from None
