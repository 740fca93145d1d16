# SPDX-License-Identifier: Apache-2.0
"""A series becomes commits, and commits become the series: the same bytes on every machine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from support import patch_project
from support.patch_project import HEADER, RELEASE, SHARED, SOURCE, Project, commit, edit, git
from tf_model_pool_build.errors import PatchError
from tf_model_pool_build.series import checkout

OWN = "Declare-the-pools.patch"


def contents(project: Project) -> dict[str, bytes]:
    files = sorted(path for path in project.patches.rglob("*") if path.is_file())
    return {path.relative_to(project.patches).as_posix(): path.read_bytes() for path in files}


def head(directory: Path) -> str:
    return git(directory, "rev-parse", "HEAD")


def imported(project: Project, directory: Path) -> Path:
    assert checkout.import_series(directory, project.series()) == []
    return directory


def test_import_makes_one_commit_for_each_patch(project: Project, tensorflow: Path) -> None:
    imported(project, tensorflow)
    assert git(tensorflow, "log", "--format=%s").split("\n")[:3] == [
        "Call the pools",
        "Declare the pools",
        "Bring the sources of the model pools into the tree",
    ]
    assert git(tensorflow, "status", "--porcelain") == ""
    assert "// the call" in (tensorflow / SOURCE).read_text()
    assert (tensorflow / "tf_allocator/pool/a.cc").is_file()


def test_export_after_import_changes_nothing(project: Project, tensorflow: Path) -> None:
    before = contents(project)
    imported(project, tensorflow)
    assert checkout.export_series(tensorflow, project.root, RELEASE) == ()
    assert contents(project) == before


def test_export_does_not_depend_on_settings_and_people(
    project: Project, tensorflow: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # GIVEN settings that change what git writes, everywhere that git reads them
    before = contents(project)
    settings = {
        "diff.algorithm": "histogram",
        "diff.noprefix": "true",
        "diff.context": "7",
        "diff.renames": "copies",
        "format.signOff": "true",
        "format.subjectPrefix": "SOMETHING",
        "format.attach": "true",
        "core.abbrev": "7",
        "core.autocrlf": "true",
        "color.ui": "always",
    }
    lines = (f"[{name.split('.')[0]}]\n{name.split('.')[1]} = {v}" for name, v in settings.items())
    (tmp_path / "gitconfig").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    imported(project, tensorflow)
    for name, value in settings.items():
        git(tensorflow, "config", name, value)
    git(tensorflow, "config", "core.autocrlf", "false")
    (tensorflow / ".git/info/attributes").write_text("*.h diff=cpp -text\n*.cc binary\n")
    # WHEN somebody else writes the last commit again, on another day
    monkeypatch.setenv("GIT_AUTHOR_DATE", "2001-02-03T04:05:06+0700")
    git(tensorflow, "commit", "--amend", "--quiet", "--no-edit", "--reset-author")
    # THEN the patches are the same bytes
    assert checkout.export_series(tensorflow, project.root, RELEASE) == ()
    assert contents(project) == before


def test_an_edited_commit_changes_its_patch_alone(project: Project, tensorflow: Path) -> None:
    before = contents(project)
    imported(project, tensorflow)
    git(tensorflow, "reset", "--quiet", "--hard", "HEAD~1")
    edit(tensorflow, HEADER, "AcquireModelPool", "AcquirePool")
    git(tensorflow, "add", "--all")
    git(tensorflow, "commit", "--quiet", "--amend", "--no-edit")
    edit(tensorflow, SOURCE, "// line 15\n", "// line 15\n// the call\n")
    commit(tensorflow, patch_project.MESSAGES[SOURCE])
    assert checkout.export_series(tensorflow, project.root, RELEASE) == (f"{RELEASE}/{OWN}",)
    after = contents(project)
    assert {name for name in after if after[name] != before.get(name)} == {f"{RELEASE}/{OWN}"}
    assert b"AcquirePool" in after[f"{RELEASE}/{OWN}"]


def test_a_new_commit_becomes_a_file_and_a_dropped_one_goes(
    project: Project, tensorflow: Path
) -> None:
    imported(project, tensorflow)
    git(tensorflow, "reset", "--quiet", "--hard", "HEAD~2")
    edit(tensorflow, SOURCE, "// line 3\n", "// line 3\n// more\n")
    commit(tensorflow, "Say more\n\nMore is to say.\n")
    assert checkout.export_series(tensorflow, project.root, RELEASE) == (
        f"{RELEASE}/{OWN}",
        f"{RELEASE}/Say-more.patch",
        f"{RELEASE}/series",
    )
    assert not (project.patches / RELEASE / OWN).exists()
    lines = (project.patches / RELEASE / "series").read_text().splitlines()
    assert lines[1:] == ["Say-more.patch"]


def test_a_series_moves_to_other_lines_and_says_so(project: Project, tensorflow: Path) -> None:
    before = contents(project)
    edit(tensorflow, SOURCE, "// line 0\n", "// line 0\n// line 0.5\n")
    commit(tensorflow, "another base")
    assert checkout.import_series(tensorflow, project.series()) == [SOURCE]
    # What other releases share stays as it is: the change is the same.
    assert checkout.export_series(tensorflow, project.root, RELEASE) == ()
    assert contents(project) == before


def test_a_patch_that_does_not_fit_leaves_the_checkout_as_it_was(
    project: Project, tensorflow: Path
) -> None:
    edit(tensorflow, SOURCE, "// line 15\n", "// line fifteen\n")
    commit(tensorflow, "another base")
    before = head(tensorflow)
    with pytest.raises(PatchError, match=r"v9\.9 does not fit .*save_restore_tensor\.cc"):
        checkout.import_series(tensorflow, project.series())
    assert head(tensorflow) == before
    assert git(tensorflow, "status", "--porcelain") == ""
    assert not (tensorflow / ".git/rebase-apply").exists()


def test_an_interrupted_import_leaves_the_checkout_as_it_was(
    project: Project, tensorflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN that Ctrl-C comes when git has applied a part of the series
    before = head(tensorflow)
    run = subprocess.run

    def interrupted(command: list[str], **options: Any) -> Any:
        if "am" not in command or "--abort" in command:
            return run(command, **options)
        options["input"] = options["input"].replace(b"line 14", b"line fourteen")
        assert run(command, **options).returncode != 0
        assert head(tensorflow) != before
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkout.import_series(tensorflow, project.series())
    assert head(tensorflow) == before
    assert git(tensorflow, "status", "--porcelain") == ""


def test_a_dirty_checkout_is_refused(project: Project, tensorflow: Path) -> None:
    edit(tensorflow, SOURCE, "// line 0\n", "// mine\n")
    with pytest.raises(PatchError, match=r"not committed:\n *M tensorflow/core/kernels"):
        checkout.import_series(tensorflow, project.series())
    assert "// mine" in (tensorflow / SOURCE).read_text()


def test_a_second_import_is_refused(project: Project, tensorflow: Path) -> None:
    imported(project, tensorflow)
    before = head(tensorflow)
    with pytest.raises(PatchError, match="the series is in it"):
        checkout.import_series(tensorflow, project.series())
    assert head(tensorflow) == before


def test_what_is_no_checkout_is_refused(project: Project, tensorflow: Path, tmp_path: Path) -> None:
    one = project.series()
    with pytest.raises(PatchError, match="is not a directory"):
        checkout.import_series(tmp_path / "nowhere", one)
    with pytest.raises(PatchError, match=r"git init && git add -A && git commit"):
        checkout.import_series(project.source, one)
    with pytest.raises(PatchError, match="is not the root of its git checkout"):
        checkout.import_series(tensorflow / "tensorflow", one)


def test_sources_of_another_project_are_refused(project: Project, tmp_path: Path) -> None:
    other = patch_project.write(tmp_path / "other", {"README": "hello\n"})
    git(other, "init", "--quiet")
    commit(other, "base")
    with pytest.raises(PatchError, match="which the series changes"):
        checkout.import_series(other, project.series())


def test_export_needs_a_base_and_commits(project: Project, tensorflow: Path) -> None:
    with pytest.raises(PatchError, match="no import was recorded; pass --base"):
        checkout.export_series(tensorflow, project.root, RELEASE)
    with pytest.raises(PatchError, match="'nothing' is no commit"):
        checkout.export_series(tensorflow, project.root, RELEASE, "nothing")
    with pytest.raises(PatchError, match="has no commits since"):
        checkout.export_series(tensorflow, project.root, RELEASE, "HEAD")


def test_sources_of_the_pools_are_not_changed_in_a_checkout(
    project: Project, tensorflow: Path
) -> None:
    before = contents(project)
    imported(project, tensorflow)
    edit(tensorflow, "tf_allocator/pool/a.cc", "return 1;", "return 2;")
    commit(tensorflow, "Return two\n\nOne is not enough.\n")
    with pytest.raises(PatchError, match=r"of tf_allocator/: change it in this project"):
        checkout.export_series(tensorflow, project.root, RELEASE)
    assert contents(project) == before


def test_a_shared_patch_is_not_changed_for_one_release(project: Project, tensorflow: Path) -> None:
    before = contents(project)
    imported(project, tensorflow)
    edit(tensorflow, SOURCE, "// the call\n", "// another call\n")
    git(tensorflow, "commit", "--quiet", "--all", "--amend", "--no-edit")
    with pytest.raises(PatchError, match=rf"differs from patches/shared/{SHARED}, which other"):
        checkout.export_series(tensorflow, project.root, RELEASE)
    assert contents(project) == before


def test_two_commits_of_one_subject_are_refused(project: Project, tensorflow: Path) -> None:
    imported(project, tensorflow)
    edit(tensorflow, HEADER, "AcquireModelPool", "AcquirePool")
    commit(tensorflow, patch_project.MESSAGES[HEADER])
    with pytest.raises(PatchError, match="two commits have the subject 'Declare the pools'"):
        checkout.export_series(tensorflow, project.root, RELEASE)


def test_a_merge_is_refused(project: Project, tensorflow: Path) -> None:
    imported(project, tensorflow)
    git(tensorflow, "checkout", "--quiet", "-b", "side", "HEAD~1")
    edit(tensorflow, "tensorflow/other.cc", "// not changed\n", "// changed\n")
    commit(tensorflow, "Change another file\n")
    git(tensorflow, "merge", "--quiet", "--no-edit", "-")
    with pytest.raises(PatchError, match="is a merge"):
        checkout.export_series(tensorflow, project.root, RELEASE)
