# SPDX-License-Identifier: Apache-2.0
"""A release that the table lacks: its wheels, functions, series and row."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import types
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from support import fake_release
from tf_model_pool_build.errors import BuildError, DownloadError, PatchError, SymbolError
from tf_model_pool_build.releases import matrix, new, releases
from tf_model_pool_build.series import listing, sources
from tf_model_pool_build.series.patch import FileChange
from tf_model_pool_build.wheel import headers, source

ROOT = Path(__file__).resolve().parents[2]
TABLE = (ROOT / new.TABLE).read_text(encoding="utf-8")
NEWEST = releases.RELEASES[0]
NEXT = "2.99.0rc1"


def wheels(version: str) -> tuple[releases.ReleasedWheel, ...]:
    return tuple(
        releases.ReleasedWheel(package, version, "cp311", f"manylinux_2_40_{machine}", sha256)
        for machine, package, sha256 in [
            ("x86_64", "tensorflow-cpu", "a" * 64),
            ("x86_64", "tensorflow", "b" * 64),
            ("aarch64", "tensorflow", "c" * 64),
        ]
    )


def row(version: str, **changed: object) -> str:
    """What is written for a release with the wheels above, else like the newest."""
    changed = {"wheels": wheels(version), "functions": releases.Release.functions} | changed
    return new.row_text(dataclasses.replace(NEWEST, version=version, **changed))


def rows(text: str) -> dict[str, releases.Release]:
    """The table of a releases.py of this text."""
    module = types.ModuleType(releases.__name__)
    module.__file__ = releases.__file__
    exec(compile(text, "releases.py", "exec"), module.__dict__)
    return {row.version: row for row in module.RELEASES}


# ---- the place in the table ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "like"),
    [(NEXT, NEWEST.version), ("2.21.1", "2.21.0"), ("2.22.0", "2.22.0rc0"), ("3.0.0", "2.22.0rc0")],
)
def test_the_row_of_the_minor_version_or_the_one_before_is_the_model(
    version: str, like: str
) -> None:
    assert new.nearest(version, releases.RELEASES).version == like


@pytest.mark.parametrize("version", ["2.14.0", "2.15.0", "2.21.0rc1"])
def test_an_older_release_than_the_table_has_is_refused(version: str) -> None:
    with pytest.raises(BuildError, match=version):
        new.nearest(version, releases.RELEASES)


@pytest.mark.parametrize("release", releases.RELEASES, ids=lambda release: release.version)
def test_a_row_is_written_as_it_stands_in_the_table(release: releases.Release) -> None:
    assert new.row_text(release).removesuffix("    ),\n") in TABLE


def test_a_new_minor_version_stands_before_the_older_ones() -> None:
    found = rows(new.with_row(TABLE, NEXT, row(NEXT)))
    assert list(found) == [NEXT, *(release.version for release in releases.RELEASES)]
    assert [(w.package, w.python_tag, w.platform, w.sha256) for w in found[NEXT].wheels] == [
        (w.package, w.python_tag, w.platform, w.sha256) for w in wheels(NEXT)
    ]


def test_a_release_takes_the_place_of_its_minor_version_and_keeps_what_is_known_of_sources() -> (
    None
):
    functions = (*releases.REPLACED_FUNCTIONS, releases.LOAD_BUNDLE)
    found = rows(new.with_row(TABLE, "2.20.1", row("2.20.1", functions=functions)))
    assert "2.20.0" not in found
    assert [f.hook for f in found["2.20.1"].functions] == [f.hook for f in functions]
    pins = [pin.tag for pin in found["2.20.1"].serving]
    assert pins == [pin.tag for pin in releases.find_release("2.20.0").serving]
    assert found["2.20.1"].source is not None


# ---- wheels -------------------------------------------------------------------------------------

PIP = """#!{python}
import json, sys
arguments = sys.argv
report = arguments[arguments.index("--report") + 1]
package, version = arguments[-1].split("==")
tag = arguments[arguments.index("--abi") + 1]
machine = arguments[-2].partition("linux_2_")[2].partition("_")[2]
platform = {platforms!r}.get(tag)
if platform is None or (package, machine) == ("tensorflow-cpu", "aarch64"):
    sys.exit("ERROR: No matching distribution found")
name = f"{{package.replace('-', '_')}}-{{version}}-{{tag}}-{{tag}}-{{platform}}_{{machine}}.whl"
info = {{"url": "https://index/" + name, "archive_info": {{"hashes": {{"sha256": tag + package}}}}}}
json.dump({{"install": [{{"download_info": info}}]}}, open(report, "w"))
"""


def fake_pip(directory: Path, platforms: Mapping[str, str]) -> str:
    program = directory / "python"
    program.write_text(PIP.format(python=sys.executable, platforms=dict(platforms)))
    program.chmod(0o755)
    return str(program)


def test_the_wheels_of_all_pythons_and_of_the_next_one_are_found(tmp_path: Path) -> None:
    # GIVEN an index without the oldest Python, and with one that no release had
    tags = sorted({wheel.python_tag for wheel in NEWEST.wheels})
    later = f"cp3{int(tags[-1][3:]) + 1}"
    python = fake_pip(tmp_path, dict.fromkeys([*tags[1:], later], "manylinux_2_40"))
    found = new.find_wheels(NEXT, NEWEST, tmp_path, python)
    assert [(w.package, w.platform, w.python_tag) for w in found] == [
        (package, f"manylinux_2_40_{machine}", tag)
        for machine, package in [
            ("x86_64", "tensorflow-cpu"),
            ("x86_64", "tensorflow"),
            ("aarch64", "tensorflow"),
        ]
        for tag in [*tags[1:], later]
    ]
    assert (
        found[0].filename == f"tensorflow_cpu-{NEXT}-{tags[1]}-{tags[1]}-manylinux_2_40_x86_64.whl"
    )
    assert found[0].sha256 == f"{tags[1]}tensorflow-cpu"


@pytest.mark.parametrize(
    ("platforms", "message"),
    [
        ({}, f"pip finds no wheel of tensorflow-cpu {NEXT} for cp310, "),
        ({"cp311": "manylinux_2_27", "cp312": "manylinux_2_28"}, "expected one"),
    ],
    ids=["none", "two platforms"],
)
def test_wheels_that_make_no_row_are_an_error(
    tmp_path: Path, platforms: Mapping[str, str], message: str
) -> None:
    with pytest.raises(DownloadError, match=message):
        new.find_wheels(NEXT, NEWEST, tmp_path, fake_pip(tmp_path, platforms))


# ---- functions ----------------------------------------------------------------------------------


def libraries(directory: Path, *hooks: str) -> dict[str, Path]:
    """TensorFlow's libraries with functions of hooks.def more, called as its own are."""
    more = "".join(
        f'int {hook}(int value) __asm__("{releases.HOOKS[hook].prefix}i");\n'
        f"int {hook}(int value) {{ return value; }}\n"
        f'extern "C" int call_{hook}(int value) {{ return {hook}(value) + 1; }}\n'
        for hook in hooks
    )
    framework = directory / Path(releases.FRAMEWORK).name
    cc = directory / Path(releases.CC).name
    return {
        releases.FRAMEWORK: fake_release.compile_shared(
            fake_release.FRAMEWORK_SOURCE + more, framework
        ),
        releases.CC: fake_release.compile_shared(fake_release.CC_SOURCE, cc),
    }


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (("LOAD_BUNDLE", "LOAD_LITE", "LOAD_META_GRAPH"), ["LOAD_BUNDLE", "LOAD_LITE"]),
        (("LOAD_BUNDLE", "LOAD_META_GRAPH"), ["LOAD_BUNDLE"]),
        (("LOAD_META_GRAPH",), ["LOAD_META_GRAPH"]),
    ],
    ids=["2.17", "2.15", "2.16"],
)
def test_the_functions_that_load_are_chosen_by_what_is_bound(
    tmp_path: Path, there: tuple[str, ...], chosen: list[str]
) -> None:
    functions, lines = new.choose_functions(libraries(tmp_path, *there))
    assert functions[: len(releases.REPLACED_FUNCTIONS)] == releases.REPLACED_FUNCTIONS
    assert [f.hook for f in functions[len(releases.REPLACED_FUNCTIONS) :]] == chosen
    assert len(lines) == len(releases.HOOKS)
    said = "tensorflow::RestoreTensorsV2: a call by its name, in tensorflow/libtensorflow_cc"
    assert any(line.startswith(said) for line in lines)
    missing = releases.HOOKS.keys() - {*there, *(f.hook for f in releases.REPLACED_FUNCTIONS)}
    assert sum(line.startswith("not replaced: ") for line in lines) == len(missing)


def test_a_release_that_cannot_be_patched_is_an_error_that_names_the_function(
    tmp_path: Path,
) -> None:
    with pytest.raises(SymbolError, match=r"cannot be replaced: tensorflow::LoadMetagraphInto"):
        new.choose_functions(libraries(tmp_path))


# ---- a whole release ----------------------------------------------------------------------------


def header(change: FileChange, moved_by: int = 0) -> str:
    """A text that the change fits."""
    lines = [f"// {number}" for number in range(moved_by)]
    for hunk in change.hunks:
        lines += [f"// {number}" for number in range(len(lines), hunk.old_at + moved_by)]
        lines += hunk.before
    return "\n".join([*lines, ""])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what a release is written to."""
    root = tmp_path / "project"
    shutil.copytree(ROOT / "patches", root / "patches")
    for name in (new.TABLE, new.WORKFLOW, Path(sources.DOCUMENT), matrix.RECORDED, matrix.PAGE):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    return root


class Index:
    """A package index with one release, whose headers have other lines than the newest row's."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.members = {
            member: path.read_bytes()
            for member, path in libraries(directory, "LOAD_BUNDLE", "LOAD_LITE").items()
        }
        self.changes = headers.header_changes(
            listing.read(ROOT / "patches", NEWEST.patches).changes
        )
        self.directory = directory
        monkeypatch.setattr(new, "find_wheels", lambda version, *_: wheels(version))
        monkeypatch.setattr(source, "fetch", lambda *_: self.write())
        for index, one in enumerate(self.changes):
            self.set_header(one, header(one.change, moved_by=3 * index))

    def set_header(self, one: headers.HeaderChange, text: str) -> None:
        for name in one.files:
            self.members[releases.INCLUDE + name] = text.encode()

    def write(self) -> Path:
        path = self.directory / "released.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, contents in self.members.items():
                archive.writestr(name, contents)
        return path

    def include(self) -> Path:
        with zipfile.ZipFile(self.write()) as archive:
            archive.extractall(self.directory / "unpacked")
        return self.directory / "unpacked" / releases.INCLUDE


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    return Index(tmp_path, monkeypatch)


def test_a_new_minor_version_gets_a_row_and_a_series(
    project: Path, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    new.add(NEXT, project)
    # THEN the hunks are said to be where they are, and the series fits the headers exactly
    said = capsys.readouterr().out.splitlines()
    first, second = (one.change for one in index.changes)
    assert f"{first.path}: hunk 1 at line {first.hunks[0].old_at + 1}" in said
    before = second.hunks[0].old_at + 1
    assert f"{second.path}: hunk 1 moved from line {before} to {before + 3}" in said
    one = listing.read(project / "patches", "v2.99")
    headers.patch_headers(index.include(), one.changes)
    assert sources.problems(project / "patches", one) == []
    assert sources.document_with_table(project) == (project / sources.DOCUMENT).read_text()
    # AND shared patches stay shared
    own = {patch.name for patch in one.patches if patch.path.parent == one.directory}
    assert own == {one.change.patch for one in index.changes}
    assert NEXT in rows((project / new.TABLE).read_text())
    assert f'"{NEWEST.version}", "{NEXT}"]' in (project / new.WORKFLOW).read_text()


def test_a_release_replaces_its_candidate_with_what_was_recorded_of_it(
    project: Path, index: Index
) -> None:
    # GIVEN the table's newest row, which is a candidate
    final = NEWEST.version.partition("rc")[0]
    if final == NEWEST.version:
        pytest.skip("the newest row is no candidate")
    new.add(final, project)
    assert list(rows((project / new.TABLE).read_text()))[:2] == [
        final,
        releases.RELEASES[1].version,
    ]
    assert NEWEST.version not in (project / new.WORKFLOW).read_text()
    assert NEWEST.version not in (project / matrix.RECORDED).read_text()
    assert matrix.main(["table", "--check"], root=project) == 0


def test_a_hunk_that_does_not_fit_is_an_error_and_writes_nothing(
    project: Path, index: Index
) -> None:
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    one = index.changes[-1]
    gone = one.change.hunks[-1].before[-1]
    index.set_header(one, header(one.change).replace(f"{gone}\n", "// changed\n"))
    with pytest.raises(PatchError, match="does not fit"):
        new.add(NEXT, project)
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_a_release_of_the_table_is_left_as_it_is(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new.main([NEWEST.version], root=project) == 0
    assert capsys.readouterr().out == f"the table has {NEWEST.version} already\n"


def test_the_record_of_sources_keeps_its_form(project: Path) -> None:
    path = project / "patches" / sources.NAME
    text = path.read_text()
    assert json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n" == text
