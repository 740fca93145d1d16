# SPDX-License-Identifier: Apache-2.0
"""Each rule for patches, broken once; and the repository's own patches, which keep them all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import patch_project
from support.patch_project import HEADER, RELEASE, SHARED, SOURCE, Project
from tf_model_pool_build.series import check, generated, listing

OWN = "Declare-the-pools.patch"


def problems(project: Project) -> list[str]:
    return list(check.check(project.root, (RELEASE,)).problems)


def problems_with_source(project: Project) -> list[str]:
    return list(check.check(project.root, (RELEASE,), project.source).problems)


# ---- the repository's own -----------------------------------------------------------------------


def test_the_patches_of_the_repository_keep_the_rules(repository: Path) -> None:
    releases = listing.releases(repository / "patches")
    assert "v2.21" in releases
    assert check.check(repository, releases).problems == ()


# ---- a patch ------------------------------------------------------------------------------------


def test_a_whole_project_has_no_problems(project: Project) -> None:
    assert problems(project) == []
    assert check.check(project.root, (RELEASE,), project.source) == check.Findings(())


@pytest.mark.parametrize("name", ["Why-Patch", "Upstream", "Drop-When", "Tested-By"])
def test_a_missing_trailer_is_named(project: Project, name: str) -> None:
    path = project.patch(OWN)
    lines = [line for line in path.read_text().split("\n") if not line.startswith(f"{name}:")]
    path.write_text("\n".join(lines))
    assert problems(project) == [f"patches/{RELEASE}/{OWN}: there is no trailer {name}"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("Nothing declares them.\n\n", "", "there is no body"),
        ("Upstream: not submitted.", "Upstream:", "there is no trailer Upstream"),
        ("Upstream: not", "Reviewed-By: me\nUpstream: not", "unknown trailer Reviewed-By"),
        ("tests/test_a.py", "tests/test_b.py", "Tested-By names tests/test_b.py"),
        ("Declare the pools", "Declared the pools", "is not in the imperative"),
        ("Declare the pools", "Adds the pools", "is not in the imperative"),
        ("Declare the pools", "Declare the pools.", "ends in a full stop"),
        ("Declare the pools", "declare the pools", "does not begin upper case"),
        ("Declare the pools", "Declare " + 9 * "the pools", "characters, more than 72"),
        ("[PATCH] ", "[PATCH 1/2] ", "line 4 is"),
        (f"From {40 * '0'}", f"From {40 * '1'}", "line 1 is"),
        ("tf-model-pool@localhost", "me@example.org", "line 2 is"),
        ("23 Nov 2026", "24 Nov 2026", "line 3 is"),
        ("+  int AcquireModelPool();", "+  virtual int Acquire();", "a virtual function"),
        ("+  int AcquireModelPool();", "+  int Acquire() override;", "a virtual function"),
        ("+  int AcquireModelPool();", "+  int pool_;", "a data member"),
        ("+  int AcquireModelPool();", "+  std::map<int, Pool*> pools_ = {};", "a data member"),
        ("+  int AcquireModelPool();", "+  int AcquireModelPool(); ", "white space at the end"),
        ("\n   void Member5();", "\n-  void Member5();\n+  int Member5();", "removes or changes"),
    ],
    ids=str,
)
def test_a_broken_rule_is_named(project: Project, old: str, new: str, expected: str) -> None:
    path = project.patch(OWN)
    patch_project.edit(path.parent, path.name, old, new)
    assert any(expected in line and OWN in line for line in problems(project)), problems(project)


@pytest.mark.parametrize(
    "line",
    [
        "  int Acquire(const std::string& name, size_t bytes);",
        "  using Pools = std::map<int, Pool*>;",
        "  // a virtual function is what this is not; int pool_;",
        "  uint8_t model_pool() const { return static_cast<uint8_t>(value >> 24); }",
        "    value = (value & 0x00ffffffu) | 1;",
        "#include <string>",
    ],
)
def test_functions_and_comments_are_no_data(project: Project, line: str) -> None:
    path = project.patch(OWN)
    patch_project.edit(path.parent, path.name, "+  int AcquireModelPool();", f"+{line}")
    assert problems(project) == []


def test_a_long_patch_is_refused(project: Project) -> None:
    path = project.patch(OWN)
    text = path.read_text().replace("@@ -7,6 +7,7 @@", "@@ -7,6 +7,127 @@")
    path.write_text(text.replace("+  int AcquireModelPool();\n", 121 * "+  int Acquire();\n"))
    assert any("adds 121 lines, more than 120" in line for line in problems(project))


def test_new_code_outside_of_tf_allocator_is_refused(project: Project) -> None:
    path = project.patch(OWN)
    text = generated.generate(project.root).replace("tf_allocator/", "tensorflow/pools/")
    path.write_text(path.read_text() + text[text.index("diff --git") :])
    assert any("adds tensorflow/pools/pool/a.h" in line for line in problems(project))


def test_a_patch_that_is_no_patch_is_one_problem(project: Project) -> None:
    project.patch(OWN).write_text("nothing\n")
    assert problems(project) == [
        f"patches/{RELEASE}: {OWN} changes no file: there is no line 'diff --git'"
    ]


# ---- the sources ---------------------------------------------------------------------------------


def test_sources_and_targets_that_do_not_agree_are_named(project: Project) -> None:
    (project.root / "tf_allocator/pool/b.cc").write_text("int b;\n")
    assert problems(project) == ["no target of tf_allocator/BUILD has tf_allocator/pool/b.cc"]


# ---- a series -----------------------------------------------------------------------------------


def test_an_unlisted_patch_is_named(project: Project) -> None:
    extra = project.patches / RELEASE / "Forgotten.patch"
    extra.write_text(project.patch(OWN).read_text())
    assert problems(project) == [
        f"patches/{RELEASE}/series does not list {extra.name}, which lies beside it"
    ]


def test_a_shared_patch_that_nobody_lists_is_named(project: Project) -> None:
    extra = project.patches / "shared" / "Forgotten.patch"
    extra.write_text(project.patch(OWN).read_text())
    assert problems(project) == [f"patches/shared/{extra.name}: no series lists it"]


def test_a_patch_is_called_after_its_subject(project: Project) -> None:
    shared = project.patches / "shared"
    (shared / SHARED).rename(shared / "0002-Call.patch")
    patch_project.edit(project.patches / RELEASE, "series", SHARED, "0002-Call.patch")
    assert problems(project) == [
        f"patches/shared/0002-Call.patch: is not named from its subject, {SHARED}"
    ]


def test_a_patch_that_is_listed_twice_is_named(project: Project) -> None:
    with (project.patches / RELEASE / "series").open("a") as file:
        file.write(f"{OWN}\n")
    assert f"patches/{RELEASE}/series lists {OWN} more than once" in problems(project)


def test_a_listed_patch_that_is_missing_is_named(project: Project) -> None:
    project.patch(OWN).unlink()
    assert any(f"lists {OWN}, which does not exist" in line for line in problems(project))


def test_an_unknown_release_is_answered_with_the_known(project: Project) -> None:
    (problem,) = check.check(project.root, ("v1.0",)).problems
    assert "no series for 'v1.0'; there are: v9.9" in problem


# ---- the record of sources ----------------------------------------------------------------------


def test_the_record_has_every_file_and_no_other(project: Project) -> None:
    path = project.patches / "sources.json"
    record = json.loads(path.read_text())
    files = record["releases"][RELEASE]["files"]
    files["tensorflow/other.cc"] = files.pop(HEADER)
    files[SOURCE] = {"hash": 40 * "0", "origin": "hearsay"}
    path.write_text(json.dumps(record))
    found = " ".join(problems(project))
    assert f"has no {HEADER}" in found
    assert "has tensorflow/other.cc, which the series leaves alone" in found
    assert f"{SOURCE} is 000000000000" in found
    assert "'hearsay', which is not described" in found


def test_a_record_that_cannot_be_read_is_named(project: Project) -> None:
    (project.patches / "sources.json").write_text("{")
    assert any("sources.json is not readable" in line for line in problems(project))


# ---- against sources ----------------------------------------------------------------------------


def test_sources_without_a_changed_file_are_named(project: Project) -> None:
    (project.source / HEADER).unlink()
    assert problems_with_source(project) == [
        f"{project.source}: {project.source} has no {HEADER}, which the series changes"
    ]


def test_a_hunk_that_needs_fuzz_is_refused(project: Project) -> None:
    patch_project.edit(project.source, SOURCE, "// line 14\n", "// line fourteen\n")
    assert any("hunk 1 of" in line and "fourteen" in line for line in problems_with_source(project))


def test_in_another_copy_lines_may_have_moved(project: Project) -> None:
    patch_project.edit(project.source, SOURCE, "// line 0\n", "// line 0\n// line 0.5\n")
    found = check.check(project.root, (RELEASE,), project.source)
    assert found.problems == ()
    assert found.notes == (f"{SOURCE} is another version than the series was made from; it fits",)


def test_crlf_sources_are_refused(project: Project) -> None:
    path = project.source / SOURCE
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert any("CRLF line ends; expected LF" in line for line in problems_with_source(project))


def test_sources_that_are_not_utf8_are_refused(project: Project) -> None:
    (project.source / SOURCE).write_bytes(b"// line \xe4\n")
    assert any("is not UTF-8 at byte 8" in line for line in problems_with_source(project))


def test_a_hunk_with_other_lines_than_git_shows_is_refused(project: Project) -> None:
    # One line of context less is still a valid patch, but not what git exports.
    path = project.patch(OWN)
    text = path.read_text().replace("@@ -7,6 +7,7 @@", "@@ -7,5 +7,6 @@")
    path.write_text(text.replace("   void Member8();\n", ""))
    assert problems(project) == []
    assert any(f"{OWN} exported again differs" in line for line in problems_with_source(project))


def test_hashes_that_do_not_belong_to_the_files_are_refused(project: Project) -> None:
    path = project.patch(OWN)
    after = project.series().patches[1].changes[0].after
    path.write_text(path.read_text().replace(after, 40 * "5"))
    assert any("becomes 555555555555, not" in line for line in problems_with_source(project))
