# SPDX-License-Identifier: Apache-2.0
"""A series is read as it is listed, and joined to what Bazel can apply."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import checkouts
from tf_model_pool_build.checkouts import series
from tf_model_pool_build.errors import CheckoutError, SeriesError
from tf_model_pool_build.releases import pins

ROOT = Path(__file__).resolve().parents[2]
NEW_FILE = checkouts.diff("a.h", None, "one\ntwo\n")


def write_series(tmp_path: Path, listed: str, patch: str = NEW_FILE) -> Path:
    directory = tmp_path / "patches" / "v2.20"
    checkouts.write_tree(directory, {"series": listed, "0001-a.patch": patch})
    return directory


def test_a_series_keeps_its_order_and_finds_shared_patches(project: Path) -> None:
    found = series.read_series(project / "patches/v2.20")
    assert [path.relative_to(project / "patches").as_posix() for path in found] == [
        "shared/Add-sources.patch",
        "v2.20/0002-Call-them.patch",
    ]


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ("0002-b.patch\n", "lists 0002-b.patch, which does not exist"),
        ("../v2.19/0001-a.patch\n", "expected NAME.patch or ../shared/NAME.patch"),
        ("/etc/passwd\n", "expected NAME.patch"),
        ("# nothing\n", "lists no patch"),
    ],
)
def test_a_series_that_lists_something_else_is_refused(
    tmp_path: Path, listed: str, says: str
) -> None:
    with pytest.raises(SeriesError, match=says.replace("/", ".")):
        series.read_series(write_series(tmp_path, listed))


def test_a_shared_patch_may_not_lead_out_of_the_series(tmp_path: Path) -> None:
    directory = write_series(tmp_path, "../shared/out.patch\n")
    (tmp_path / "elsewhere.patch").write_text(NEW_FILE)
    (directory.parent / "shared").mkdir()
    (directory.parent / "shared/out.patch").symlink_to(tmp_path / "elsewhere.patch")
    with pytest.raises(SeriesError, match="leads out of"):
        series.read_series(directory)


def test_a_missing_series_is_told_with_those_there_are(project: Path) -> None:
    with pytest.raises(SeriesError, match=r"no patch series .*v2\.15.*there is: v2\.20"):
        series.read_series(project / "patches/v2.15")


def test_the_joined_diff_leaves_out_what_stands_around_the_changes(project: Path) -> None:
    joined = series.joined(series.read_series(project / "patches/v2.20"), project)
    assert "not a file" not in joined
    assert "From 0000" not in joined
    # Lines of a hunk that look like file headers are part of it.
    assert "+-- a comment\n" in joined
    assert [line for line in joined.splitlines() if line.startswith("# ")] == [
        "# patches/shared/Add-sources.patch",
        "# patches/v2.20/0002-Call-them.patch",
    ]


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        ("no diff at all\n", "changes no file"),
        (NEW_FILE.replace("\n", "\r\n"), "Windows line ends"),
        (NEW_FILE.replace("+1,2 @@", "+1,3 @@"), "other line counts"),
        (NEW_FILE.replace("+1,2 @@", "+1,1 @@") + "+three\n", None),
        (NEW_FILE.rsplit("+two\n", 1)[0], "other line counts"),
        ("diff --git a/e b/e\nnew file mode 100644\nindex 0..0\n", "cannot create empty files"),
        ("diff --git a/x b/y\nsimilarity index 100%\n", "expected one path"),
        ("diff --git a/../x b/../x\n", "expected one path below the sources"),
        ("diff --git a/x b/x\nGIT binary patch\nliteral 0\n", "Bazel cannot apply"),
        ("diff --git a/x b/x\nold mode 100644\nnew mode 100755\n", "Bazel cannot apply"),
    ],
)
def test_what_bazel_cannot_apply_is_refused_by_name(patch: str, says: str | None) -> None:
    if says is None:
        # A hunk that ends where it says: what follows is not part of it.
        (found,) = series.file_diffs(patch, "0001-a.patch")
        assert found.lines[-1] == "+one"
        return
    with pytest.raises(SeriesError, match=f"0001-a.patch.*{says}"):
        list(series.file_diffs(patch, "0001-a.patch"))


@pytest.mark.parametrize("name", sorted(p.parent.name for p in ROOT.glob("patches/*/series")))
def test_every_series_of_the_project_is_one_that_bazel_can_apply(name: str) -> None:
    patches = series.read_series(ROOT / "patches" / name)
    assert series.joined(patches, ROOT).count("\n# patches/") == len(patches) - 1


def test_every_known_serving_tag_and_release_has_a_series() -> None:
    wanted = {pins.minor_of(pin.tensorflow) for pin in pins.SERVING_PINS}
    wanted |= {pins.minor_of(source.version) for source in pins.TENSORFLOW_SOURCES}
    assert {f"v{minor}" for minor in wanted} == {
        path.parent.name for path in ROOT.glob("patches/*/series")
    }


@pytest.mark.parametrize("version", ["2.20.0", "v2.20.0", "2.20", "v2.20"])
def test_versions_are_read_as_people_write_them(version: str) -> None:
    assert pins.minor_of(version) == "2.20"


@pytest.mark.parametrize("version", ["", "2", "master", "2.20.0-rc1", "../v2.20"])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(CheckoutError, match="is not a version of TensorFlow"):
        pins.minor_of(version)
