# SPDX-License-Identifier: Apache-2.0
"""A series is read as it is listed, and joined to what Bazel can apply."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import checkouts
from support.patch_project import RELEASE, SHARED, Project, write
from tf_model_pool_build.errors import PatchError
from tf_model_pool_build.series import listing

ROOT = Path(__file__).resolve().parents[2]


def write_series(root: Path, text: str) -> Path:
    """A directory of patches whose series lists `text`."""
    patches = root / "patches"
    write(patches, {"v2.20/series": text, "v2.20/0001-a.patch": ""})
    return patches / "v2.20"


def test_a_series_keeps_its_order_and_finds_shared_patches(project: Project) -> None:
    found = listing.listed(project.patches / RELEASE)
    assert [path.relative_to(project.patches).as_posix() for path in found] == [
        f"{RELEASE}/Declare-the-pools.patch",
        f"shared/{SHARED}",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0002-b.patch\n", "lists 0002-b.patch, which does not exist"),
        ("# nothing\n", "lists no patch"),
    ],
)
def test_a_series_that_lists_what_is_not_there_is_refused(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(PatchError, match=says):
        listing.listed(write_series(tmp_path, text))


@pytest.mark.parametrize(
    "line",
    [
        "/etc/a.patch",
        "../a.patch",
        "../v8.8/a.patch",
        "../shared/../../a.patch",
        "../shared/sub/a.patch",
        "shared/a.patch",
        "../shared/.a.patch",
        "a.diff",
        "a.patch b.patch",
    ],
)
def test_a_series_lists_nothing_from_elsewhere(tmp_path: Path, line: str) -> None:
    with pytest.raises(PatchError, match=r"expected NAME\.patch or \.\./shared"):
        listing.listed(write_series(tmp_path, line + "\n"))


@pytest.mark.parametrize("line", ["b.patch", "../shared/b.patch"])
def test_a_link_out_of_the_patches_is_refused(tmp_path: Path, line: str) -> None:
    directory = write_series(tmp_path, line + "\n")
    (tmp_path / "outside").write_text("")
    (directory.parent / "shared").mkdir()
    (directory / line).symlink_to(tmp_path / "outside")
    with pytest.raises(PatchError, match="leads out of"):
        listing.listed(directory)


def test_a_missing_series_is_told_with_those_there_are(project: Project) -> None:
    with pytest.raises(PatchError, match=r"no series for 'v2\.15'; there are: v9\.9"):
        listing.read(project.patches, "v2.15")


def test_the_sources_come_first(project: Project) -> None:
    one = listing.read(project.patches, RELEASE)
    subjects = [patch.subject for patch in one.with_sources().patches]
    assert subjects == [
        "Bring the sources of the model pools into the tree",
        "Declare the pools",
        "Call the pools",
    ]
    assert one.with_sources().changed_files == one.changed_files


def test_the_joined_diff_leaves_out_what_stands_around_the_changes(tmp_path: Path) -> None:
    # GIVEN words that look like a patch, and lines of a hunk that look like the name of a file
    project = checkouts.make_project(tmp_path)
    joined = listing.read(project / "patches", "v2.20").with_sources().joined()
    assert "not a file" not in joined
    assert "From 0000" not in joined
    assert "+-- a comment\n" in joined
    assert [line for line in joined.splitlines() if line.startswith("# ")] == [
        "# generated-tf_allocator.patch",
        "# Add-a-rule.patch",
        "# 0002-Call-them.patch",
    ]


@pytest.mark.parametrize("release", listing.releases(ROOT / "patches"))
def test_every_series_of_the_project_is_joined_whole(release: str) -> None:
    one = listing.read(ROOT / "patches", release).with_sources()
    lines = one.joined().splitlines()
    assert [line for line in lines if line.startswith("# ")] == [f"# {p.name}" for p in one.patches]
    assert sum(line.startswith("diff --git ") for line in lines) == len(one.changes)
