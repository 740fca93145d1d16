# SPDX-License-Identifier: Apache-2.0
"""WORKSPACE declares the release that it says, with exactly the patches of its series."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import checkouts
from tf_model_pool_build.checkouts import series, starlark
from tf_model_pool_build.errors import WorkspaceError
from tf_model_pool_build.releases import pins

ROOT = Path(__file__).resolve().parents[2]


def wrong(contents: bytes, project: Path) -> list[str]:
    """What does not agree with the series and with the table of releases."""
    arguments = starlark.find_rule(contents, "org_tensorflow", "WORKSPACE").arguments
    version = str(arguments["strip_prefix"]).removeprefix("tensorflow-")
    release = pins.tensorflow_source(version)
    patches = series.read_series(project / "patches" / f"v{pins.minor_of(version)}")
    labels = [
        f"//patches:{path.resolve().relative_to((project / 'patches').resolve()).as_posix()}"
        for path in patches
    ]
    expected = {
        "sha256": release.sha256,
        "urls": [release.url],
        "patch_args": ["-p1"],
        "patches": labels,
    }
    return [
        f"{name} is {arguments.get(name)}, expected {value}"
        for name, value in expected.items()
        if arguments.get(name) != value
    ]


def test_workspace_lists_exactly_the_series_of_the_release_that_it_pins() -> None:
    assert wrong((ROOT / "WORKSPACE").read_bytes(), ROOT) == []


def test_the_check_sees_another_order_and_another_archive() -> None:
    contents = (ROOT / "WORKSPACE").read_text()
    lines = contents.splitlines(keepends=True)
    first = next(n for n, line in enumerate(lines) if '"//patches:' in line)
    lines[first], lines[first + 1] = lines[first + 1], lines[first]
    assert [line.split()[0] for line in wrong("".join(lines).encode(), ROOT)] == ["patches"]
    less = contents.replace(lines[first], "")
    assert [line.split()[0] for line in wrong(less.encode(), ROOT)] == ["patches"]
    other = contents.replace('sha256 = "ef', 'sha256 = "00')
    assert [line.split()[0] for line in wrong(other.encode(), ROOT)] == ["sha256"]


def test_workspace_calls_what_it_loads() -> None:
    contents = (ROOT / "WORKSPACE").read_text()
    for line in contents.splitlines():
        if line.startswith("load("):
            function = line.split('"')[3]
            assert f"\n{function}(" in contents, f"{function} is loaded and not called"


@pytest.mark.parametrize(
    "patch", sorted((ROOT / "patches").glob("*/*.patch")), ids=lambda path: path.name
)
def test_bazel_reads_no_file_name_in_the_words_of_a_patch(patch: Path) -> None:
    # http_archive gives Bazel the whole file, and Bazel knows no mail header.
    head = patch.read_text().split("\ndiff --git ")[0].splitlines()
    assert [line for line in head if line.startswith(("--- ", "+++ ", "@@ "))] == []


def test_the_whole_patch_file_does_what_its_changes_do(project: Path, tmp_path: Path) -> None:
    # GIVEN a patch whose words look like no change
    patch = project / "patches/shared/Add-sources.patch"
    text = patch.read_text().replace("--- this", "this").replace("+++ nor", "nor")
    trees = [checkouts.make_tensorflow(tmp_path / name) for name in ("whole", "changes")]
    checkouts.apply_as_bazel(text.replace("@@ -1 +1 @@ nor a hunk", ""), trees[0])
    checkouts.apply_as_bazel(series.joined([patch], project), trees[1])
    assert checkouts.snapshot(trees[0]) == checkouts.snapshot(trees[1])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "0 times"),
        ('a(name = "r")\nb(name = "r")\n', "2 times"),
        ('a(name = "r"\n', "not readable as Starlark"),
        ('a(name = "r")\0', "not readable as Starlark"),
    ],
)
def test_a_file_without_exactly_one_such_repository_is_refused(text: str, says: str) -> None:
    with pytest.raises(WorkspaceError, match=says):
        starlark.find_rule(text.encode(), "r", "W")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('# Ü\na(name = "r", b = "ü", p = "x")#', '# Ü\na(name = "r", b = "ü", p = "y")#'),
        ('# Ü\na(name = "r", b = "ü")', '# Ü\na(name = "r", b = "ü",\n    p = "y")'),
        ('a(\r\n  name = "r",\r\n  b = "",\r\n  p = "x",\r\n)', None),
    ],
)
def test_setting_an_argument_leaves_every_other_byte(before: str, after: str | None) -> None:
    contents = before.encode()
    rule = starlark.find_rule(contents, "r", "W")
    changed = starlark.with_argument(contents, rule, "p", "y", after="b")
    assert changed == (after or before.replace('"x"', '"y"')).encode()
