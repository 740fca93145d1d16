# SPDX-License-Identifier: Apache-2.0
"""The rules of patches/README.md, each a function that returns what it finds."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tf_model_pool_build.errors import PatchError
from tf_model_pool_build.series import checkout, generated, listing, sources, tree
from tf_model_pool_build.series.patch import (
    AUTHOR_LINE,
    DATE_LINE,
    FROM_LINE,
    TRAILERS,
    FileChange,
    Patch,
    blob_hash,
    file_name,
    header_lines,
    without_positions,
)

#: A patch that is longer says that code is in the wrong place.
LONGEST_PATCH = 120
LONGEST_SUBJECT = 72
_NOT_IMPERATIVE = re.compile(r"(?!(Bring|Embed|Feed|Need)\b)(\w+(ed|ing)|Adds|Makes|Lets|Fixes)\b")
#: A declaration of data: `type name;`, `type name = value;`, `type name{value};`. What has a
#: parenthesis declares a function.
_DATA = re.compile(
    r"\s*(?!return\b|using\b|typedef\b|friend\b)[\w:][\w:<>*&, ]*[\s*&>]\w[\w\[\]]*\s*([={].*)?;"
)


def header_problems(patch: Patch, project: Path) -> Iterator[str]:
    """What the header of a patch lacks."""
    lines = [*header_lines(patch.text), *(4 * [""])]
    for number, expected in enumerate((FROM_LINE, AUTHOR_LINE, DATE_LINE)):
        if lines[number] != expected:
            yield f"line {number + 1} is {lines[number]!r}, expected {expected!r}: not exported"
    if lines[3] != f"Subject: [PATCH] {patch.subject}":
        yield f"line 4 is {lines[3]!r}, expected 'Subject: [PATCH] {patch.subject}'"
    if len(patch.subject) > LONGEST_SUBJECT:
        yield f"the subject has {len(patch.subject)} characters, more than {LONGEST_SUBJECT}"
    if not patch.subject[0].isupper() or patch.subject.endswith("."):
        yield f"the subject {patch.subject!r} does not begin upper case, or ends in a full stop"
    if _NOT_IMPERATIVE.match(patch.subject):
        yield f"the subject {patch.subject!r} is not in the imperative"
    if not patch.body:
        yield "there is no body that says what is missing without the patch"
    for name in TRAILERS:
        if not patch.trailers.get(name):
            yield f"there is no trailer {name}"
    yield from (f"unknown trailer {name}" for name in patch.trailers if name not in TRAILERS)
    for test in patch.trailers.get("Tested-By", "").split():
        if not (project / test.rstrip(",")).is_file():
            yield f"Tested-By names {test}, which does not exist"


def change_problems(change: FileChange) -> Iterator[str]:
    """What a change does that no patch may: the ABI rule, and new files."""
    if change.is_new:
        yield f"adds {change.path}: new code lives in tf_allocator/"
        return
    if change.path.startswith(f"{generated.DIRECTORY}/"):
        yield f"changes {change.path}: change it in this project"
        return
    for line in change.added:
        if line != line.rstrip():
            yield f"{change.path}: white space at the end of {line!r}"
    if not change.path.endswith(".h"):
        return
    for line in change.removed:
        yield f"{change.path}: removes or changes {line.strip()!r} of a header"
    for line in change.added:
        code = line.partition("//")[0]
        if re.search(r"\bvirtual\b|\boverride\b|= 0;", code):
            yield f"{change.path}: a virtual function: {line.strip()!r}"
        elif _DATA.match(code):
            yield f"{change.path}: a data member: {line.strip()!r}"


def patch_problems(patch: Patch, project: Path) -> Iterator[str]:
    """Everything that can be said of one patch without sources."""
    yield from header_problems(patch, project)
    if patch.name != file_name(patch.subject):
        yield f"is not named from its subject, {file_name(patch.subject)}"
    paths = [change.path for change in patch.changes]
    if paths != sorted(paths) or len(paths) != len(set(paths)):
        yield "its files are not in order, or one is there twice: not exported"
    length = sum(len(change.added) for change in patch.changes)
    if length > LONGEST_PATCH:
        yield f"adds {length} lines, more than {LONGEST_PATCH}: move code to tf_allocator/"
    for change in patch.changes:
        yield from change_problems(change)


def _first_difference(patch: Patch, expected: str) -> str:
    have = patch.text.splitlines()
    want = expected.splitlines()
    for number, (a, b) in enumerate(zip(have, want, strict=False), start=1):
        if a != b:
            return f"line {number} is {a!r}, expected {b!r}"
    return f"{len(have)} lines, expected {len(want)}"


def series_problems(one: listing.Series) -> Iterator[str]:
    """What a series lacks as a whole."""
    listed = [patch.path for patch in one.patches]
    for patch in one.patches:
        if listed.count(patch.path) > 1:
            yield f"lists {listing.entry(one.directory, patch.path)} more than once"
    yield from (
        f"does not list {path.name}, which lies beside it"
        for path in sorted(one.directory.glob("*.patch"))
        if path not in listed
    )
    after: dict[str, tuple[str, str]] = {}
    for change in one.changes:
        if change.path in after and after[change.path][0] != change.before:
            yield (
                f"{change.patch} changes {change.path} {change.before[:12]}, but "
                f"{after[change.path][1]} leaves {after[change.path][0][:12]}"
            )
        after[change.path] = (change.after, change.patch)


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a check found.

    Attributes:
        problems: what breaks a rule, each with the file that does.
        notes: what is worth knowing.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


def source_findings(one: listing.Series, source: Path) -> Findings:
    """How the series fits a source tree, and whether it is the same when exported again.

    In the files that the series was made from it fits exactly. In others lines may have moved.
    """
    problems: list[str] = []
    try:
        files = tree.read(source, one.changed_files)
        others = {
            path
            for path, expected in one.first_hashes().items()
            if blob_hash(files[path].encode("utf-8")) != expected
        }
        for change in one.changes:
            files = tree.apply([change], files)
            found = blob_hash(files[change.path].encode("utf-8"))
            if change.after != found and change.path not in others:
                problems.append(
                    f"{change.patch} says that {change.path} becomes {change.after[:12]}, "
                    f"not {found[:12]}"
                )
        again = checkout.export_again(one, source)
    except PatchError as error:
        return Findings((*problems, str(error)))
    notes = (
        f"{path} is another version than the series was made from; it fits"
        for path in sorted(others)
    )
    for patch, text in zip(one.patches, again, strict=True):
        same = patch.text == text
        if others.intersection(change.path for change in patch.changes):
            same = without_positions(patch.text) == without_positions(text)
        if not same:
            problems.append(
                f"{patch.name} exported again differs: {_first_difference(patch, text)}"
            )
    return Findings(tuple(problems), tuple(notes))


def shared_problems(root: Path, every: Iterable[listing.Series]) -> Iterator[str]:
    """What is wrong with the patches that releases share, seen from all series."""
    listed = {patch.path for one in every for patch in one.patches}
    for path in sorted((root / listing.SHARED).glob("*.patch")):
        if path not in listed:
            yield f"patches/{listing.SHARED}/{path.name}: no series lists it"


def check(project: Path, releases: tuple[str, ...], source: Path | None = None) -> Findings:
    """All rules.

    Args:
        project: root of the checkout.
        releases: e.g. `v2.21`.
        source: TensorFlow's sources of the one release in `releases`; only the files that the
            series changes need to be there.
    """
    root = project / "patches"
    problems: list[str] = []
    notes: list[str] = []
    every: list[listing.Series] = []
    seen: set[Path] = set()
    problems += generated.source_problems(project)
    for release in releases:
        try:
            one = listing.read(root, release)
            every.append(one)
            problems += [f"patches/{release}/series {text}" for text in series_problems(one)]
            for patch in one.patches:
                if patch.path not in seen:
                    seen.add(patch.path)
                    name = f"patches/{patch.path.relative_to(root).as_posix()}"
                    problems += [f"{name}: {text}" for text in patch_problems(patch, project)]
            problems += sources.problems(root, one)
            if source is not None:
                found = source_findings(one.with_sources(), source)
                problems += [f"{source}: {text}" for text in found.problems]
                notes += found.notes
        except PatchError as error:
            problems.append(f"patches/{release}: {error}")
    if {one.release for one in every} == set(listing.releases(root)):
        problems += shared_problems(root, every)
    return Findings(tuple(problems), tuple(notes))
