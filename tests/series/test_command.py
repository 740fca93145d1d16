# SPDX-License-Identifier: Apache-2.0
"""The command line: results on standard output, one line for an expected error, exit statuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.patch_project import HEADER, RELEASE, SOURCE, Project, commit, edit, git
from tf_model_pool_build import commands
from tf_model_pool_build import project as own


@pytest.fixture(autouse=True)
def in_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "project_root", lambda: project.root)


def patches(*arguments: str | Path) -> int:
    return commands.main(["patches", *map(str, arguments)])


def test_import_change_export_check(
    project: Project, tensorflow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ("--checkout", tensorflow, "--release", RELEASE)
    assert patches("import", *place) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"3 commits on {tensorflow}"
    assert out[1].endswith(f"./build.sh patches export --checkout {tensorflow} --release {RELEASE}")
    edit(tensorflow, HEADER, "  void Member0();\n", "  void Member0();\n  int Trim();\n")
    commit(tensorflow, "Declare more\n\nSomething lacks.\n")
    assert patches("export", *place) == 0
    new = f"patches/{RELEASE}/Declare-more.patch"
    assert capsys.readouterr().out == f"{new}\npatches/{RELEASE}/series\n"
    assert patches("check") == 1
    assert f"{new}: there is no trailer Why-Patch" in capsys.readouterr().out


def test_check_without_problems(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert patches("check", "--release", RELEASE, "--source", project.source) == 0
    assert capsys.readouterr().out == "checked v9.9: no problems\n"


def test_files_that_are_not_those_of_the_series_are_noted(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(project.source, SOURCE, "// line 0\n", "// line 0\n// line 0.5\n")
    assert patches("check", "--source", project.source) == 0
    assert capsys.readouterr().err == (
        f"note: {SOURCE} is another version than the series was made from; it fits\n"
    )


@pytest.mark.parametrize("release", ["9.9", "v9.9", "9.9.0"])
def test_a_series_is_written_as_one_patch(
    project: Project, tensorflow: Path, tmp_path: Path, release: str
) -> None:
    output = tmp_path / "a/b"
    assert patches("write", "--release", release, "--output", output) == 0
    assert sorted(path.name for path in output.iterdir()) == ["BUILD", "tensorflow.patch"]
    git(tensorflow, "apply", str(output / "tensorflow.patch"))
    assert "// the call" in (tensorflow / SOURCE).read_text()
    assert (tensorflow / "tf_allocator/pool/a.cc").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("import", "--checkout", "nowhere", "--release", RELEASE),
            "error: nowhere is not a direc",
        ),
        (("import", "--checkout", "nowhere", "--release", "v1.0"), "no series for 'v1.0'"),
        (("verify", "--source", "nowhere", "--wheel", "a.whl"), "error: a.whl is not a file"),
    ],
)
def test_an_expected_error_is_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert patches(*arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
