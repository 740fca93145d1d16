# SPDX-License-Identifier: Apache-2.0
"""A TensorFlow Serving checkout carries the series, and is given back as it was."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from support import checkouts
from tf_model_pool.errors import ModelPoolError
from tf_model_pool_build import commands
from tf_model_pool_build import project as own
from tf_model_pool_build.checkouts import files, serving, starlark
from tf_model_pool_build.errors import BuildInterruptedError, CheckoutError, WorkspaceError

DIRECTORY = Path("third_party/tf_model_pool")
PATCH = DIRECTORY / "tensorflow.patch"
THEIRS = Path("third_party/tensorflow/tensorflow.patch")
ALL_SHAPES = sorted(checkouts.SHAPES)


@pytest.fixture(params=ALL_SHAPES)
def checkout(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """TensorFlow Serving, once for each way in which its tags declare TensorFlow."""
    return checkouts.make_serving(tmp_path / "serving", request.param)


@pytest.fixture
def patched(tmp_path: Path, project: Path) -> Path:
    """A checkout that has a patch of its own and carries the series."""
    root = checkouts.make_serving(tmp_path / "serving", "patch")
    serving.apply(root, project)
    return root


def both_ways(root: Path, project: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    """Applies the series; takes it away."""
    return lambda: serving.apply(root, project), lambda: serving.revert(root)


def label_in(root: Path) -> object:
    contents = (root / "WORKSPACE").read_bytes()
    return starlark.find_rule(contents, "org_tensorflow", "WORKSPACE").arguments.get("patch")


def test_the_archive_is_patched_by_theirs_first_and_then_the_series(
    checkout: Path, project: Path, tensorflow: Path
) -> None:
    # WHEN the series is applied, and Bazel applies what the label names
    serving.apply(checkout, project)
    assert label_in(checkout) == "//third_party/tf_model_pool:tensorflow.patch"
    patch = (checkout / PATCH).read_text()
    checkouts.apply_as_bazel(patch, tensorflow)
    # THEN the sources carry both
    theirs = (tensorflow / "tensorflow/core/theirs.cc").read_text()
    assert theirs == ("one\n2\nthree\n" if (checkout / THEIRS).exists() else "one\ntwo\nthree\n")
    assert (tensorflow / "tf_allocator/pool/pool.h").read_text() == "-- a comment\n++ another\n"
    assert "line 10\nours\n" in (tensorflow / "tensorflow/core/process_state.h").read_text()
    build = (tensorflow / "tensorflow/core/BUILD").read_text()
    assert "our rule\n" in build
    assert "rule nine\n" in build
    if (checkout / THEIRS).exists():
        assert patch.index("theirs.cc") < patch.index("tf_allocator/BUILD")
        assert (checkout / THEIRS).read_text() in patch


def test_git_reads_the_joined_patch_as_bazel_does(
    checkout: Path, project: Path, tmp_path: Path
) -> None:
    serving.apply(checkout, project)
    trees = [checkouts.make_tensorflow(tmp_path / name) for name in ("git", "bazel")]
    checkouts.commit_all(trees[0])
    checkouts.git(trees[0], "apply", str(checkout / PATCH))
    checkouts.apply_as_bazel((checkout / PATCH).read_text(), trees[1])
    assert checkouts.snapshot(trees[0]) == checkouts.snapshot(trees[1])


def test_only_the_label_and_a_directory_of_ours_change(checkout: Path, project: Path) -> None:
    before = checkouts.snapshot(checkout)
    report = serving.apply(checkout, project)
    after = checkouts.snapshot(checkout)
    assert {name for name in after if after[name] != before.get(name)} == set(report.changed)
    assert set(before) <= set(after)
    old, new = (x["WORKSPACE"].decode().splitlines() for x in (before, after))
    assert sum(line not in old for line in new) == 1
    assert sum(line not in new for line in old) <= 1


def test_applying_again_changes_nothing(checkout: Path, project: Path) -> None:
    serving.apply(checkout, project)
    before = checkouts.snapshot(checkout)
    report = serving.apply(checkout, project)
    assert report.changed == ()
    assert checkouts.snapshot(checkout) == before


def test_reverting_restores_every_byte(checkout: Path, project: Path) -> None:
    before = checkouts.snapshot(checkout)
    (checkout / "WORKSPACE").chmod(0o640)
    serving.apply(checkout, project)
    serving.revert(checkout)
    assert checkouts.snapshot(checkout) == before
    assert (checkout / "WORKSPACE").stat().st_mode & 0o777 == 0o640
    assert not (checkout / DIRECTORY).exists()
    # AND once more is no error
    assert serving.revert(checkout).changed == ()


def test_reverting_keeps_what_others_changed_in_workspace(patched: Path) -> None:
    workspace = patched / "WORKSPACE"
    workspace.write_text(workspace.read_text().replace("# =====", "# changed\n# ====="))
    report = serving.revert(patched)
    assert "# changed\n" in workspace.read_text()
    assert label_in(patched) == "//third_party/tensorflow:tensorflow.patch"
    assert any("other changes" in line for line in report.lines)


def test_check_says_whether_the_series_is_there_and_changes_nothing(
    checkout: Path, project: Path
) -> None:
    before = checkouts.snapshot(checkout)
    assert not serving.check(checkout, project).carries
    assert checkouts.snapshot(checkout) == before
    serving.apply(checkout, project)
    assert serving.check(checkout, project).carries


def test_a_changed_series_is_brought_up_to_date(patched: Path, project: Path) -> None:
    # GIVEN a newer series
    series = project / "patches/v2.20/series"
    series.write_text(series.read_text().replace("0002-Call-them.patch\n", ""))
    assert not serving.check(patched, project).carries
    # WHEN it is applied over the older one
    serving.apply(patched, project)
    # THEN it is there alone, and can still be taken away
    assert "Call-them" not in (patched / PATCH).read_text()
    assert serving.check(patched, project).carries
    serving.revert(patched)
    assert checkouts.git(patched, "status", "--porcelain") == ""


def test_a_changed_patch_of_theirs_is_brought_up_to_date(patched: Path, project: Path) -> None:
    theirs = patched / THEIRS
    theirs.write_text(theirs.read_text().replace("+2", "+zwei"))
    assert not serving.check(patched, project).carries
    serving.apply(patched, project)
    assert "+zwei\n" in (patched / PATCH).read_text()


def test_files_that_both_change_are_told(project: Path, tmp_path: Path) -> None:
    root = checkouts.make_serving(tmp_path / "serving", "patch")
    build = checkouts.TENSORFLOW["tensorflow/core/BUILD"]
    (root / THEIRS).write_text(
        checkouts.diff("tensorflow/core/BUILD", build, build.replace("rule 5\n", "rule five\n"))
    )
    checkouts.git(root, "commit", "--quiet", "--all", "--message", "theirs")
    report = serving.apply(root, project)
    assert any("both change tensorflow/core/BUILD" in line for line in report.lines)


# What is not as expected: an error that names it, and nothing changed.


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))
        checkouts.git(root, "commit", "--quiet", "--all", "--message", "edited")

    return change


def remove(name: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        checkouts.git(root, "rm", "--quiet", name)
        checkouts.git(root, "commit", "--quiet", "--message", "removed")

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (edit("WORKSPACE", checkouts.KNOWN_COMMIT, checkouts.UNKNOWN_COMMIT), "0123456789abcdef"),
        (edit("WORKSPACE", '"org_tensorflow"', '"tensorflow"'), "0 times; expected once"),
        (edit("WORKSPACE", "tensorflow_http_archive(", "http_archive("), "with http_archive"),
        (edit("WORKSPACE", "workspace(", "workspace(("), "not readable as Starlark"),
        (edit("WORKSPACE", '"//third_party/tensorflow:', '"@other//:'), "expected a file of the"),
        (
            edit("WORKSPACE", 'patch = "//third_party/tensorflow:tensorflow.patch"', "patch = P"),
            "not a label in quotes",
        ),
        (edit("WORKSPACE", f'"{checkouts.KNOWN_COMMIT}"', "COMMIT"), "no git_commit"),
        (edit("tensorflow_serving/repo.bzl", "strip = 1", "strip = 2"), "strip = 1"),
        (remove("tensorflow_serving/repo.bzl"), "has no tensorflow_serving/repo.bzl"),
        (remove("WORKSPACE"), "has no WORKSPACE"),
        (remove(THEIRS.as_posix()), "which does not exist"),
    ],
)
def test_a_checkout_of_another_kind_is_refused(
    change: Callable[[Path], None], says: str, project: Path, tmp_path: Path
) -> None:
    root = checkouts.make_serving(tmp_path / "serving", "patch")
    change(root)
    before = checkouts.snapshot(root)
    for command in (serving.apply, serving.check):
        with pytest.raises((CheckoutError, WorkspaceError), match=says):
            command(root, project)
    assert checkouts.snapshot(root) == before


def test_an_unknown_commit_gets_the_series_that_is_asked_for(project: Path, tmp_path: Path) -> None:
    root = checkouts.make_serving(tmp_path / "serving", commit=checkouts.UNKNOWN_COMMIT)
    with pytest.raises(CheckoutError, match=r"2\.20\.0.*--tensorflow-version"):
        serving.apply(root, project)
    serving.apply(root, project, tensorflow_version="2.20.0")
    # Afterwards the checkout itself says which it is.
    assert serving.check(root, project).carries
    with pytest.raises(ModelPoolError, match=r"no series for 'v2\.14'"):
        serving.check(root, project, tensorflow_version="2.14")


@pytest.mark.parametrize(
    ("tag", "notes", "hint"),
    [
        ("2.18.0", "# Release 2.17.0\n", r"2\.18"),
        ("a-branch", "# TensorFlow Serving\n\n## Release 2.17.0\n", r"2\.17"),
        ("a-branch", "nothing\n", r"X\.Y"),
    ],
)
def test_the_hint_for_an_unknown_commit_names_the_release_of_the_checkout(
    project: Path, tmp_path: Path, tag: str, notes: str, hint: str
) -> None:
    root = checkouts.make_serving(tmp_path / "serving", commit=checkouts.UNKNOWN_COMMIT)
    checkouts.git(root, "tag", tag)
    (root / "RELEASE.md").write_text(notes)
    with pytest.raises(CheckoutError, match=rf"--tensorflow-version {hint}$"):
        serving.apply(root, project)


@pytest.mark.parametrize("name", ["WORKSPACE", "tensorflow_serving/repo.bzl", THEIRS.as_posix()])
def test_uncommitted_changes_are_named(name: str, project: Path, tmp_path: Path) -> None:
    root = checkouts.make_serving(tmp_path / "serving", "patch")
    (root / name).write_text((root / name).read_text() + "# edited\n")
    before = checkouts.snapshot(root)
    with pytest.raises(CheckoutError, match=f"not committed: M {name}"):
        serving.apply(root, project)
    assert checkouts.snapshot(root) == before


def test_an_archive_without_git_is_accepted_with_a_word(project: Path, tmp_path: Path) -> None:
    root = checkouts.make_serving(tmp_path / "serving", "patch")
    (root / ".git").rename(tmp_path / "git")
    report = serving.apply(root, project)
    assert any("not a git checkout" in line for line in report.lines)
    assert serving.check(root, project).carries


def test_a_directory_of_that_name_that_is_not_ours_is_left_alone(
    project: Path, tmp_path: Path
) -> None:
    root = checkouts.make_serving(tmp_path / "serving")
    checkouts.write_tree(root / DIRECTORY, {"notes.txt": "mine\n"})
    with pytest.raises(CheckoutError, match="is not ours"):
        serving.apply(root, project)
    assert (root / DIRECTORY / "notes.txt").read_text() == "mine\n"


@pytest.mark.parametrize("name", ["tensorflow.patch", "BUILD"])
def test_what_was_edited_since_is_neither_overwritten_nor_removed(
    name: str, patched: Path, project: Path
) -> None:
    (patched / DIRECTORY / name).write_text("edited\n")
    for command in (*both_ways(patched, project), lambda: serving.check(patched, project)):
        with pytest.raises(CheckoutError, match=rf"{name} was edited since"):
            command()
    assert (patched / DIRECTORY / name).read_text() == "edited\n"


def test_a_file_that_somebody_put_beside_ours_stops_the_revert(patched: Path) -> None:
    (patched / DIRECTORY / "notes.txt").write_text("mine\n")
    before = checkouts.snapshot(patched)
    with pytest.raises(CheckoutError, match=r"notes\.txt is not ours"):
        serving.revert(patched)
    assert checkouts.snapshot(patched) == before


def test_a_rule_that_was_edited_since_stops_the_revert(patched: Path) -> None:
    workspace = patched / "WORKSPACE"
    workspace.write_text(workspace.read_text().replace("a" * 64, "b" * 64))
    before = checkouts.snapshot(patched)
    with pytest.raises(CheckoutError, match="org_tensorflow was edited since"):
        serving.revert(patched)
    assert checkouts.snapshot(patched) == before


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"schema": 2}', '{"schema": 1, "rule_before": 1}']
)
def test_a_damaged_record_is_told(text: str, patched: Path, project: Path) -> None:
    (patched / DIRECTORY / "applied.json").write_text(text)
    for command in both_ways(patched, project):
        with pytest.raises(CheckoutError, match=r"applied\.json is damaged.*git checkout"):
            command()


def test_a_lost_record_is_told(patched: Path, project: Path) -> None:
    (patched / DIRECTORY / "applied.json").unlink()
    assert not serving.check(patched, project).carries
    for command in both_ways(patched, project):
        with pytest.raises(CheckoutError, match=r"applied\.json is gone.*git checkout WORKSPACE"):
            command()


# Half of it never stays.


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied", "WORKSPACE"), BuildInterruptedError(signal.SIGTERM)],
    ids=["no permission", "interrupted"],
)
def test_nothing_stays_where_workspace_cannot_be_written(
    error: Exception, checkout: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = checkouts.snapshot(checkout)

    def refuse(path: Path, contents: bytes) -> None:
        raise error

    monkeypatch.setattr(files, "replace", refuse)
    with pytest.raises(ModelPoolError, match=r"WORKSPACE: Permission denied|signal 15"):
        serving.apply(checkout, project)
    assert checkouts.snapshot(checkout) == before
    assert not (checkout / DIRECTORY).exists()


def test_nothing_stays_where_the_directory_cannot_be_made(project: Path, tmp_path: Path) -> None:
    root = checkouts.make_serving(tmp_path / "serving")
    (root / "third_party/boost/BUILD").unlink()
    (root / "third_party/boost").rmdir()
    (root / "third_party").rmdir()
    (root / "third_party").write_text("a file\n")
    before = checkouts.snapshot(root)
    with pytest.raises(CheckoutError, match=r"cannot write .*third_party"):
        serving.apply(root, project)
    assert checkouts.snapshot(root) == before


@pytest.mark.parametrize("command", ["apply", "revert"])
def test_a_killed_run_is_taken_up_again(command: str, patched: Path, project: Path) -> None:
    # GIVEN a run that was killed after it made the directory, or before it removed it
    checkouts.git(patched, "checkout", "--quiet", "WORKSPACE")
    (patched / DIRECTORY / "BUILD").unlink()
    # THEN both ways lead on
    if command == "apply":
        serving.apply(patched, project)
        assert serving.check(patched, project).carries
        serving.revert(patched)
    else:
        serving.revert(patched)
    assert checkouts.git(patched, "status", "--porcelain") == ""


def test_the_command_prints_what_it_changed_and_exits_with_the_answer(
    tmp_path: Path,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = checkouts.make_serving(tmp_path / "serving", "patch")
    monkeypatch.setattr(own, "project_root", lambda: project)
    command = ["serving", "--serving", str(root)]
    assert commands.main([*command, "--check"]) == 1
    assert commands.main(command) == 0
    assert "WORKSPACE\n" in capsys.readouterr().out
    assert commands.main([*command, "--check"]) == 0
    assert commands.main([*command, "--revert"]) == 0
    assert commands.main(["serving", "--serving", str(tmp_path / "nowhere")]) == 1
    assert "nowhere has no WORKSPACE" in capsys.readouterr().err


def test_the_record_names_what_was_done(patched: Path) -> None:
    applied = json.loads((patched / DIRECTORY / "applied.json").read_text())
    assert applied["series"] == "v2.20"
    assert applied["tensorflow_commit"] == checkouts.KNOWN_COMMIT
    assert applied["their_label"] == "//third_party/tensorflow:tensorflow.patch"
