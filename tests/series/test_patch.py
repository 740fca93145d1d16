# SPDX-License-Identifier: Apache-2.0
"""Reading a patch, and applying it: every line as it says, or an error that names the line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from support import patch_project
from tf_model_pool_build.errors import PatchError
from tf_model_pool_build.series import patch

HEADER = patch_project.HEADER
HEADER_TEXT = patch_project.TENSORFLOW[HEADER]


@pytest.fixture
def text(project: patch_project.Project) -> str:
    return project.patch("Declare-the-pools.patch").read_text()


def parsed(text: str) -> patch.Patch:
    return patch.parse(Path("0001-a.patch"), text)


def test_a_patch_is_read_into_message_and_changes(text: str) -> None:
    found = parsed(text)
    assert found.subject == "Declare the pools"
    assert found.body == "Nothing declares them."
    assert found.trailers == {
        "Why-Patch": "the class is TensorFlow's.",
        "Upstream": "not submitted.",
        "Drop-When": "never.",
        "Tested-By": "tests/test_a.py",
    }
    (change,) = found.changes
    assert change.path == HEADER
    assert change.added == ("  int AcquireModelPool();",)
    assert change.removed == ()


def test_a_subject_that_git_folded_is_whole(text: str) -> None:
    found = parsed(text.replace("Declare the pools\n", "Declare the pools\n of a process\n"))
    assert found.subject == "Declare the pools of a process"
    assert found.body == "Nothing declares them."
    assert patch.file_name(found.subject) == "Declare-the-pools-of-a-process.patch"


def test_a_trailer_goes_on_in_indented_lines(text: str) -> None:
    found = parsed(text.replace("Upstream: not submitted.\n", "Upstream: not\n submitted.\n"))
    assert found.trailers["Upstream"] == "not submitted."


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\n", "\r\n", "CRLF"),
        ("diff --git", "diff", "changes no file"),
        ("Subject: [PATCH] ", "Subject: ", "no line 'Subject"),
        ("Upstream: not submitted.", "Drop-When: later.", "trailer Drop-When is there twice"),
        ("@@ -7,6 +7,7 @@", "@@ -7,6 +7,8 @@", "other line counts"),
        ("@@ -7,6 +7,7 @@", "@@ -7,6 +7,6 @@", "edited by hand"),
        ("@@ -7,6 +7,7 @@", "@@ -7,5 +7,6 @@", "edited by hand"),
        ("\nindex [0-9a-f]{40}", "\nindex 0123456", "no full index hashes"),
        ("\nindex ", "\nold mode 100644\nnew mode 100755\nindex ", "changes the mode"),
        ("\nindex ", "\nGIT binary patch\nindex ", "Bazel cannot apply"),
        ("diff --git a/tensorflow", "diff --git a/x", "expected one path"),
        ("/tensorflow/core/", "/../core/", "expected one path below the sources"),
        ("@@ -7,6 +7,7 @@", "", "changes no line"),
    ],
    ids=str,
)
def test_what_git_does_not_write_is_refused(text: str, old: str, new: str, message: str) -> None:
    pattern = old if old.startswith("\nindex [") else re.escape(old)
    broken, count = re.subn(pattern, new, text)
    assert count
    with pytest.raises(PatchError, match=message):
        parsed(broken)


def test_a_byte_that_is_not_ascii_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "0001-a.patch"
    path.write_bytes(text.replace("Nothing", "Nicht\xe4").encode())
    with pytest.raises(PatchError, match=r"0001-a\.patch has a byte that is not ASCII"):
        patch.read(path)


def test_a_change_fits_the_file_that_it_was_made_from(text: str) -> None:
    (change,) = parsed(text).changes
    result = change.apply(HEADER_TEXT)
    assert result == HEADER_TEXT.replace(
        "  void Member5();\n", "  void Member5();\n  int AcquireModelPool();\n"
    )
    assert patch.blob_hash(result.encode()) == change.after


def test_in_the_file_that_it_was_made_from_a_hunk_may_not_move(text: str) -> None:
    (change,) = parsed(text.replace("@@ -7,6 +7,7 @@", "@@ -8,6 +8,7 @@")).changes
    with pytest.raises(PatchError, match="line 8 is '  void Member4"):
        change.apply(HEADER_TEXT)


def test_in_another_file_a_hunk_may_move(text: str) -> None:
    (change,) = parsed(text).changes
    result = change.apply("// one more line\n" + HEADER_TEXT)
    assert result.count("AcquireModelPool") == 1


DAMAGE: list[tuple[Callable[[str], str], str]] = [
    (lambda t: t.replace("Member4", "Member44"), "hunk 1 .* line 8 is .*Member44"),
    (lambda t: t.replace("Member6();", "Member6() ;"), r"expected '  void Member6\(\);'"),
    (lambda t: "// moved\n" + t + t, "stand in 2 places"),
    (lambda t: t.replace("\n", "\r\n"), "CRLF"),
    (lambda t: "", "hunk 1 .* line 7 is ''"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_there_is_no_fuzz(text: str, damage: Callable[[str], str], message: str) -> None:
    (change,) = parsed(text).changes
    with pytest.raises(PatchError, match=message):
        change.apply(damage(HEADER_TEXT))


def test_a_file_that_is_missing_or_in_the_way_is_named(project: patch_project.Project) -> None:
    changes = {change.path: change for change in project.series().changes}
    with pytest.raises(PatchError, match="which is not there"):
        changes[HEADER].apply(None)
    with pytest.raises(PatchError, match=r"makes tf_allocator/pool/a\.h, which is there already"):
        changes["tf_allocator/pool/a.h"].apply("")


def test_a_change_is_taken_back_in_the_file_that_has_it(text: str) -> None:
    (change,) = parsed(text).changes
    assert change.revert(change.apply(HEADER_TEXT)) == HEADER_TEXT
    moved = "// one more line\n" + HEADER_TEXT
    assert change.revert(change.apply(moved)) == moved
    with pytest.raises(PatchError, match=r"hunk 1 of .* does not fit"):
        change.revert(HEADER_TEXT)


def test_a_new_file_is_taken_back_if_it_is_as_it_was_made(project: patch_project.Project) -> None:
    changes = {change.path: change for change in project.series().changes}
    change = changes["tf_allocator/pool/a.h"]
    assert change.revert(change.apply(None)) is None
    with pytest.raises(PatchError, match=r"a\.h is not what .* makes"):
        change.revert("something else\n")


def test_exactly_means_in_no_file_elsewhere(text: str) -> None:
    (change,) = parsed(text).changes
    with pytest.raises(PatchError, match="line 7 is"):
        change.apply("// one more line\n" + HEADER_TEXT, exact=True)


def test_positions_are_all_that_another_copy_changes(text: str) -> None:
    moved = re.sub("index [0-9a-f]+", "index " + 40 * "7", text).replace("-7,6 +7,7", "-9,6 +9,7")
    assert moved != text
    assert patch.without_positions(moved) == patch.without_positions(text)
    assert patch.without_positions(text) != patch.without_positions(text.replace("int", "void"))
